"""A container, as the engine describes it, and whether it is a server of PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from repom.settings.address import PORT, Address

from .engine import Engine, EngineSilent, Trouble, part, text, texts, variables

#: Label with the project folder on every container that `postgres.start` makes.
PROJECT_LABEL = "repom.project"
#: Label on a container that only runs client programs; see `oneshot`.
CLIENT_LABEL = "repom.client"
COMPOSE = "com.docker.compose."
DATA = "/var/lib/postgresql/data"
#: An address and a port of this host that lead to PostgreSQL in a container.
Binding = tuple[str, int]


@dataclass(frozen=True)
class Container:
    """What the engine says of a container.

    :param state: Docker's word for its state (``running``, ``exited``, ``paused`` …), or,
        without a container, why: ``absent``, ``docker is not installed`` …
    :param id: empty without a container; then `trouble` says why.
    :param bindings: what leads to PostgreSQL in it, or will when it runs; an empty address
        is any.
    :param published: all addresses and ports of this host that lead into it.
    :param note: why a similar container is not this one, for people.
    :param mounts: folder in the container → volume, or folder of the host.
    :param environment: may hold a password.
    :param aliases: what other containers of its networks call it.
    :param exposes: whether its image says that a program in it listens on 5432/tcp.
    :param program: what it runs, for people.
    :param is_postgres: whether it is a server of PostgreSQL, where that was asked.
    """

    name: str
    state: str
    id: str = ""
    bindings: tuple[Binding, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = field(default="", compare=False)
    trouble: Trouble | None = field(default=None, compare=False)
    image: str = ""
    hostname: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    exposes: bool = field(default=False, compare=False)
    program: str = field(default="", compare=False)
    is_postgres: bool = field(default=False, compare=False)
    published: tuple[Binding, ...] = field(default=(), compare=False)

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def port(self) -> int | None:
        """A port of this host that leads to PostgreSQL in it."""
        return self.bindings[0][1] if self.bindings else None

    @property
    def data(self) -> str:
        """The volume's name, or the folder of this host, with its data; empty when it
        is in the container itself."""
        return self.mounts.get(data_mount(self.environment, self.mounts), "")

    @property
    def service(self) -> str:
        """The Compose service that it is; empty for none."""
        return self.labels.get(f"{COMPOSE}service", "")

    @property
    def names(self) -> set[str]:
        """By what a URL of its Compose project calls it."""
        return {self.name, self.hostname, self.service, *self.aliases} - {""}

    @property
    def compose_project(self) -> str:
        return self.labels.get(f"{COMPOSE}project", "")

    @property
    def compose_folder(self) -> str:
        """The folder of the Compose project that it belongs to; empty for none."""
        return self.labels.get(f"{COMPOSE}project.working_dir", "")

    def publishes(self, address: Address) -> bool:
        """Whether host and port lead to PostgreSQL in it, and not to another server that
        has the same port of another address."""
        return any(address.port == port and address.reaches(ip) for ip, port in self.bindings)

    def has_port_of(self, address: Address) -> bool:
        """Whether it runs, and host and port lead into it, to whatever program."""
        ports = (*self.published, *self.bindings)
        return self.running and any(
            address.port == port and address.reaches(ip) for ip, port in ports
        )


def data_mount(environment: Mapping[str, str], mounts: Iterable[str]) -> str:
    """Which of these folders in a container holds the data; empty when none does."""
    data = PurePosixPath(environment.get("PGDATA") or DATA)
    return max((each for each in mounts if data.is_relative_to(each)), key=len, default="")


def parse(item: Mapping[str, Any]) -> Container:
    config, mounts = part(item.get("Config")), [part(m) for m in item.get("Mounts") or ()]
    environment = variables(config)
    networks = part(part(item.get("NetworkSettings")).get("Networks")).values()
    words = [config.get("Entrypoint") or (), config.get("Cmd") or ()]
    return Container(
        text(item["Name"]).lstrip("/"),
        text(part(item["State"])["Status"]),
        text(item["Id"]),
        _bindings(item, environment.get("PGPORT", "")),
        texts(config.get("Labels")),
        image=text(config.get("Image") or ""),
        hostname=text(config.get("Hostname") or ""),
        mounts={
            text(m["Destination"]): str(m.get("Name") or m.get("Source") or "") for m in mounts
        },
        environment=environment,
        published=_published(item),
        aliases=tuple(text(a) for net in networks for a in part(net).get("Aliases") or ()),
        exposes=f"{PORT}/tcp" in part(config.get("ExposedPorts")),
        program=" ".join(" ".join(each) if isinstance(each, list) else str(each) for each in words),
    )


def _bindings(item: Mapping[str, Any], told: str) -> tuple[Binding, ...]:
    """Addresses and ports of this host that lead to PostgreSQL in an inspected container.

    :param told: the port that the image's server is told to listen on, if any.
    """
    inner = int(told) if re.fullmatch("[0-9]{1,5}", told) else PORT
    host, network = part(item.get("HostConfig")), part(item.get("NetworkSettings"))
    if host.get("NetworkMode") == "host":
        return (("", inner),)
    # The second is what was asked for, and all there is of a stopped container.
    for ports in (network.get("Ports"), host.get("PortBindings")):
        if found := _ways(part(ports).get(f"{inner}/tcp")):
            return found
    return ()


def _published(item: Mapping[str, Any]) -> tuple[Binding, ...]:
    ports = part(part(item.get("NetworkSettings")).get("Ports"))
    return tuple(
        way for inner, made in ports.items() if inner.endswith("tcp") for way in _ways(made)
    )


def _ways(made: Any) -> tuple[Binding, ...]:
    known = [
        (str(b.get("HostIp") or ""), int(b.get("HostPort") or 0)) for b in map(part, made or ())
    ]
    return tuple(way for way in known if way[1])  # 0: any that is free


def is_postgres(engine: Engine, found: Container) -> bool:
    """Whether it is a server of PostgreSQL. Variables that a user gave it prove nothing: web
    services load those of the database, too."""
    declared = "PGDATA" in found.environment
    if found.id and found.exposes == declared:
        return declared
    if found.running and found.exposes:
        look = "command -v postgres || ls /opt/*/postgres*/bin/postgres"  # Bitnami's
        try:
            return bool(engine.ask("exec", found.id, "sh", "-c", look).strip())
        except EngineSilent:
            return False
    if found.image and any(engine.inspect("image", [found.image], _declares)):
        return True
    looks_like = re.search("postg", f"{found.image} {found.program}".lower())
    others = re.search("bouncer|pgpool|pgadmin|rest|exporter|backup", found.image.lower())
    return bool(looks_like and not others) and not declared


def _declares(item: Mapping[str, Any]) -> bool:
    return "PGDATA" in variables(part(item.get("Config")))
