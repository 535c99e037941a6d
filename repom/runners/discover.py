"""The project's container: found by its name or by its Compose service."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from repom.errors import Refused, SettingsError
from repom.settings.address import PORT, Address

from .engine import Engine, EngineSilent, Trouble, compose_argv, part, text, texts, variables

#: Label with the project folder on every container that `postgres.start` makes.
PROJECT_LABEL = "repom.project"
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
    :param note: why a similar container is not this one, for people.
    :param mounts: folder in the container → volume, or folder of the host.
    :param environment: may hold a password.
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


def data_mount(environment: Mapping[str, str], mounts: Iterable[str]) -> str:
    """Which of these folders in a container holds the data; empty when none does."""
    data = PurePosixPath(environment.get("PGDATA") or DATA)
    return max((each for each in mounts if data.is_relative_to(each)), key=len, default="")


def find(docker: str, name: str, service: str | None, project: Path) -> Container:
    """Ask the engine about the container of exactly this name, or about the one that is
    this Compose service of the project folder. A missing one is a state, not an error.

    :raises SettingsError: several containers are the service, or the Compose file has
        no such service.
    """
    engine, shown = Engine(docker), f"of the Compose service {service}" if service else name
    try:
        if service:
            return _of_service(engine, service, shown, project)
        # An engine also takes the beginning of an id for a name.
        named = [c for c in engine.inspect("container", [name], _parse) if c.name == name]
        return named[0] if named else Container(name, "absent", trouble=Trouble.ABSENT)
    except EngineSilent as silent:
        return Container(shown, silent.reason, trouble=silent.trouble)


def _parse(item: Mapping[str, Any]) -> Container:
    config, mounts = part(item.get("Config")), [part(m) for m in item.get("Mounts") or ()]
    environment = variables(config)
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
        made = [part(each) for each in part(ports).get(f"{inner}/tcp") or ()]
        known = [(str(b.get("HostIp") or ""), int(b.get("HostPort") or 0)) for b in made]
        if found := tuple(b for b in known if b[1]):  # 0: any that is free
            return found
    return ()


# -- Compose ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compose:
    """A project as Compose reads its file.

    :param services: of each service the environment that the file gives it.
    """

    name: str
    services: Mapping[str, Mapping[str, str]]


def read_compose(engine: Engine, project: Path, *flags: str) -> Compose:
    """What Compose says of a project folder.

    :raises EngineSilent: there is no Compose, or no file that it can read.
    """

    def parse(said: Any) -> Compose:
        services = part(part(said).get("services")).items()
        return Compose(text(said["name"]), {name: given(part(each)) for name, each in services})

    def given(service: Mapping[str, Any]) -> dict[str, str]:
        values = part(service.get("environment")).items()
        return {name: "" if value is None else str(value) for name, value in values}

    return engine.read(parse, *compose_argv(project, *flags, "config", "--format", "json"))


def _of_service(engine: Engine, service: str, shown: str, project: Path) -> Container:
    label = f"label={COMPOSE}service={service}"
    ids = engine.ask("ps", "-aq", "--no-trunc", "--filter", label).split()
    made = engine.inspect("container", ids, _parse) if ids else []
    here = [c for c in made if is_composed(c, project)]
    try:
        # Services of profiles that are not active count, since `up` starts them by name.
        compose = read_compose(engine, project, "--profile", "*")
    except EngineSilent:
        compose = None
    # Two Compose projects may share a folder (`-p`); only Compose knows its own name here.
    named = [c for c in here if compose is None or c.compose_project == compose.name]
    chosen = [c for c in named if c.running] or named
    if len(chosen) > 1 or len({c.compose_project for c in named}) > 1:
        names = ", ".join(sorted(c.name for c in named))
        raise SettingsError(
            f"Several containers run the Compose service {service}: {names}",
            "Set REPOM_CONTAINER to one of them and unset REPOM_COMPOSE_SERVICE",
        )
    if chosen:
        return chosen[0]
    # A misspelt service must not pass for one that has no container yet.
    if compose and compose.services and service not in compose.services:
        raise SettingsError(
            f"REPOM_COMPOSE_SERVICE is {service!r}, and the Compose file has no such service",
            f"Set it to one of: {', '.join(sorted(compose.services))}",
        )
    note = _elsewhere(service, here, made)
    return Container(shown, "absent", note=note, trouble=Trouble.ABSENT)


def _elsewhere(service: str, here: Sequence[Container], made: Sequence[Container]) -> str:
    """What tells a user of a container of another Compose project that could be it."""
    if not here and len(made) != 1:
        return ""
    near = (here or made)[0]
    other = f"in {shown_folder(near.compose_folder)}"
    if here:
        other = f"{near.compose_project}, but Compose gives this folder another project name"
    return (
        f"Container {near.name} is the service {service} of the Compose project {other}; to use"
        f" it, set REPOM_CONTAINER to {near.name}"
    )


# -- whose it is --------------------------------------------------------------------------


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for exactly this folder, and not as a one-off of `compose
    run`. A folder inside of it with a Compose file is another project."""
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return not oneoff and is_same(found.compose_folder, project)


def is_same(folder: str, project: Path) -> bool:
    """Whether a label names the project folder, also by another path that leads to it."""
    if not Path(folder).is_absolute():
        return False
    try:  # not Path.resolve, which fails for a link to itself before Python 3.13
        named, own = Path(os.path.realpath(folder)), Path(os.path.realpath(project))
        return named == own or named.samefile(own)
    except (OSError, ValueError):
        return False


def is_there(folder: str) -> bool:
    """Whether the folder that a label names exists. One in a neighbour's home, which this
    user may not look into, counts."""
    try:
        return Path(folder).exists()
    except OSError:
        return True


def shown_folder(folder: str) -> str:
    """A folder that a label names, without control characters: labels come from others."""
    return folder if folder.isprintable() else repr(folder)


def owner(labels: Mapping[str, str], project: Path) -> str:
    """The folder of the other project that the labels name; empty when they name none."""
    folder = labels.get(PROJECT_LABEL, "")
    return folder if folder and not is_same(folder, project) else ""


def is_labelled(labels: Mapping[str, str], project: Path) -> bool:
    """Whether `postgres.start` made it for this project folder."""
    return is_same(labels.get(PROJECT_LABEL, ""), project)


def is_ours(found: Container, project: Path) -> bool:
    """Whether `postgres.start` or Compose made it for this project folder."""
    return is_labelled(found.labels, project) or is_composed(found, project)


def check_ours(found: Container, project: Path) -> None:
    """Check that it may be stopped and removed from this project folder. A neighbour's
    container may be used, once a setting names it, but only the neighbour ends it.

    :raises Refused: the container was made for another project.
    """
    check_owner(found, project)
    folder = found.compose_folder
    if folder and not is_same(folder, project) and not is_labelled(found.labels, project):
        raise Refused(
            f"Container {found.name} belongs to the Compose project in {shown_folder(folder)}",
            "Run the task in that folder, or use the container command yourself",
        )


def check_owner(found: Container, project: Path, *, moved: bool = False) -> None:
    """Check the label that says whose container it is: all projects share a default name.

    :param moved: take a project folder that is gone for this one, which was moved here.
    :raises Refused: the container was made for another project.
    """
    other = owner(found.labels, project)
    if other and (not moved or is_there(other)):
        raise Refused(
            f"Container {found.name} belongs to the project in {shown_folder(other)}",
            "Set REPOM_CONTAINER to another name (if that project was moved here, remove the"
            f" container with docker rm -f {found.name}; its volume keeps the data)",
        )
