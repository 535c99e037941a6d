"""The project's container: found by its name or by its Compose service."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repom.errors import Refused, SettingsError
from repom.settings.address import PORT, Address

from .engine import EngineSilent, ask, compose_argv, inspect, part, texts

#: Label with the project folder on every container that `postgres.start` makes.
PROJECT_LABEL = "repom.project"
COMPOSE = "com.docker.compose."
#: An address and a port of this host that lead to PostgreSQL in a container.
Binding = tuple[str, int]


@dataclass(frozen=True)
class Container:
    """What the engine says of a container.

    :param state: Docker's word for its state (``running``, ``exited``, ``paused`` …), or,
        when there is none to ask about, the reason: ``absent``, ``docker is not installed`` …
    :param bindings: what leads to PostgreSQL in it, or will when it runs; an empty address
        is any.
    :param note: why another one is not it, for people.
    """

    name: str
    state: str
    id: str = ""
    bindings: tuple[Binding, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = field(default="", compare=False)

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def port(self) -> int | None:
        """A port of this host that leads to PostgreSQL in it."""
        return self.bindings[0][1] if self.bindings else None

    def publishes(self, address: Address) -> bool:
        """Whether host and port lead to PostgreSQL in it, and not to another server that
        has the same port of another address."""
        return any(address.port == port and address.reaches(ip) for ip, port in self.bindings)


def find(docker: str, name: str, service: str | None, project: Path) -> Container:
    """Ask the engine about the container of exactly this name, or about the one that is
    this Compose service of the project folder. What is missing is a state, no error.

    :raises SettingsError: several containers are the service, or the Compose file has
        no such service.
    """
    shown = f"of the Compose service {service}" if service else name
    try:
        if service:
            return _of_service(docker, service, shown, project)
        # An engine also takes the beginning of an id for a name.
        named = [c for c in inspect(docker, "container", [name], _parse) if c.name == name]
        return named[0] if named else Container(name, "absent")
    except EngineSilent as silent:
        return Container(shown, silent.reason)


def _parse(item: Mapping[str, Any]) -> Container:
    name, state, id = item["Name"], item["State"]["Status"], item["Id"]
    texts({"name": name, "state": state, "id": id})
    labels = item["Config"]["Labels"]
    return Container(name.lstrip("/"), state, id, bindings(item), labels)


def bindings(item: Mapping[str, Any]) -> tuple[Binding, ...]:
    """Addresses and ports of this host that lead to PostgreSQL in an inspected container."""
    inner = _inner_port(item["Config"]["Env"])
    if item["HostConfig"].get("NetworkMode") == "host":
        return (("", inner),)
    # The second is what was asked for, and all there is of a stopped container.
    for ports in (item["NetworkSettings"].get("Ports"), item["HostConfig"].get("PortBindings")):
        made = [part(each) for each in part(ports).get(f"{inner}/tcp") or ()]
        known = [(str(b.get("HostIp") or ""), int(b.get("HostPort") or 0)) for b in made]
        if found := tuple(b for b in known if b[1]):  # 0: any that is free
            return found
    return ()


def _inner_port(environment: Sequence[str]) -> int:
    """The port that the server listens on inside; its image may be told another one."""
    told = [each.partition("=")[2] for each in environment if each.startswith("PGPORT=")]
    return int(told[-1]) if told and re.fullmatch("[0-9]{1,5}", told[-1]) else PORT


def _of_service(docker: str, service: str, shown: str, project: Path) -> Container:
    label = f"label={COMPOSE}service={service}"
    ids = ask(docker, ["ps", "-aq", "--no-trunc", "--filter", label]).split()
    made = inspect(docker, "container", ids, _parse) if ids else []
    compose = _compose(docker, project)
    here = [c for c in made if is_composed(c, project)]
    named = [c for c in here if compose is None or _name(c) == compose.name]
    chosen = [c for c in named if c.running] or named
    if len(chosen) > 1 or len({_name(c) for c in named}) > 1:
        names = ", ".join(sorted(c.name for c in named))
        raise SettingsError(
            f"Several containers are the Compose service {service}: {names}",
            "Set REPOM_CONTAINER to one of them and unset REPOM_COMPOSE_SERVICE",
        )
    if not chosen:
        _check_service(compose, service)
        return Container(shown, "absent", note=_elsewhere(service, here, made))
    return chosen[0]


def _name(found: Container) -> str:
    return found.labels.get(f"{COMPOSE}project", "")


@dataclass(frozen=True)
class _Compose:
    """What Compose says of a project folder: the project's name and its services."""

    name: str
    services: frozenset[str]


def _compose(docker: str, project: Path) -> _Compose | None:
    """Two Compose projects may have one folder (``-p``); only Compose knows which it means.
    Nothing when there is no Compose, or no file that it can read: `up` will say so."""
    # Services of profiles that are not active count, since `up` starts them by name.
    question = compose_argv(project, "--profile", "*", "config", "--format", "json")
    try:
        said = part(json.loads(ask(docker, question)))
        name = texts({"name": said["name"]})["name"]
        return _Compose(name, frozenset(part(said.get("services"))))
    except (EngineSilent, ValueError, TypeError, KeyError, RecursionError):
        return None


def _check_service(compose: _Compose | None, service: str) -> None:
    """A misspelt service must not pass for one that has no container yet.

    :raises SettingsError: the Compose file has others, and not this one.
    """
    if compose and compose.services and service not in compose.services:
        raise SettingsError(
            f"REPOM_COMPOSE_SERVICE is {service!r}, and the Compose file has no such service",
            f"Set it to one of: {', '.join(sorted(compose.services))}",
        )


def _elsewhere(service: str, here: Sequence[Container], made: Sequence[Container]) -> str:
    """That a container is nearly the one, since its project was started in another way."""
    if here:
        return (
            f"Container {here[0].name} belongs to the Compose project {_name(here[0])}, and Compose"
            f" uses another name here; to use it, set REPOM_CONTAINER to {here[0].name}"
        )
    if len(made) == 1:
        return (
            f"Container {made[0].name} is the service {service} of the Compose project in"
            f" {shown_folder(_folder(made[0]))}; to use it, set REPOM_CONTAINER to {made[0].name}"
        )
    return ""


def _folder(found: Container) -> str:
    """The folder of the Compose project that a container is of; empty when it is of none."""
    return found.labels.get(f"{COMPOSE}project.working_dir", "")


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for exactly this folder, and not as a one-off of `compose
    run`. A folder inside of it with a Compose file is another project."""
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return not oneoff and is_same(_folder(found), project)


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
    """Whether the folder that a label names exists; one that this user may not look into,
    such as in a neighbour's home, does."""
    try:
        return Path(folder).exists()
    except OSError:
        return True


def shown_folder(folder: str) -> str:
    """A folder that a label names: anybody can write one, with anything in it."""
    return folder if folder.isprintable() else repr(folder)


def owner(labels: Mapping[str, str], project: Path) -> str:
    """The folder of the other project that the labels name; empty when they name none."""
    folder = labels.get(PROJECT_LABEL, "")
    return folder if folder and not is_same(folder, project) else ""


def is_labelled(labels: Mapping[str, str], project: Path) -> bool:
    return bool(labels.get(PROJECT_LABEL)) and not owner(labels, project)


def is_ours(found: Container, project: Path) -> bool:
    """Whether `postgres.start` or Compose made it for this project folder."""
    return is_labelled(found.labels, project) or is_composed(found, project)


def check_ours(found: Container, project: Path) -> None:
    """That it may be stopped and removed here: nobody else has made it for himself. To use
    a neighbour's database is a setting away; to end it is his.

    :raises Refused: the container was made for another project.
    """
    check_owner(found, project)
    folder = _folder(found)
    if folder and not is_same(folder, project) and not is_labelled(found.labels, project):
        raise Refused(
            f"Container {found.name} belongs to the Compose project in {shown_folder(folder)}",
            "Run the task in that folder, or use the container command yourself",
        )


def check_owner(found: Container, project: Path, *, moved: bool = False) -> None:
    """All projects share a default name, so a label says whose container it is.

    :param moved: a project folder that is gone is this one, which was moved here.
    :raises Refused: the container was made for another project.
    """
    other = owner(found.labels, project)
    if other and (not moved or is_there(other)):
        raise Refused(
            f"Container {found.name} belongs to the project in {shown_folder(other)}",
            "Set REPOM_CONTAINER to another name (if that project was moved here, remove the"
            f" container with docker rm -f {found.name}; its volume keeps the data)",
        )
