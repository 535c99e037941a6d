"""What there is: containers, the project's Compose services, SQLite files. This module looks
once, and decides nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repom.errors import SettingsError
from repom.settings import Settings
from repom.settings.address import PORT, Address

from .compose import compose_folder, read_compose
from .container import CLIENT_LABEL, COMPOSE, Container, is_postgres, parse
from .engine import Engine, EngineSilent, Trouble, endpoint, is_remote
from .ownership import is_composed, is_labelled, shown_folder
from .sqlite_files import sqlite_files


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
        # An engine also takes the beginning of an id for a name; a short one names nothing.
        is_id = re.fullmatch("[0-9a-f]{12,64}", name)
        made = engine.inspect("container", [name], parse)
        named = [c for c in made if c.name == name or (is_id and c.id.startswith(name))]
        return named[0] if named else Container(name, "absent", trouble=Trouble.ABSENT)
    except EngineSilent as silent:
        return Container(shown, silent.reason, trouble=silent.trouble)


def _of_service(engine: Engine, service: str, shown: str, project: Path) -> Container:
    label = f"label={COMPOSE}service={service}"
    ids = engine.ask("ps", "-aq", "--no-trunc", "--filter", label).split()
    made = engine.inspect("container", ids, parse) if ids else []
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


@dataclass(frozen=True)
class Found:
    """What there is for a project, as far as its settings leave anything to look for.

    :param named: what is called as the settings say, be it only a state.
    :param composed: the containers of this folder's Compose project, and for each of its
        services that has none one that is ``absent``.
    :param own: what `postgres.start` made for this folder.
    :param others: other containers; they matter by the port that they publish.
    :param files: SQLite files, as paths in the project folder.
    :param has_compose: whether the folder has a Compose file.
    :param is_elsewhere: whether the engine is on another machine, with ports of its own.
    :param silent: why the engine gave no answer, or Compose none on a project that has no
        container yet.
    """

    named: Container | None = None
    composed: tuple[Container, ...] = ()
    own: tuple[Container, ...] = ()
    others: tuple[Container, ...] = ()
    files: tuple[str, ...] = ()
    has_compose: bool = False
    is_elsewhere: bool = False
    silent: EngineSilent | None = None


def look(settings: Settings, *, always: bool = False) -> Found:
    """Look for what the settings could mean. An engine that is not needed is not asked.

    :param always: ask also where nothing says that the project has a server.
    :raises SettingsError: the Compose service that a setting names is not clear.
    :raises EngineSilent: the named container does not run, and the engine does not say which
        container has its port.
    """
    project, address = settings.project, settings.address
    if settings.configured and settings.backend == "sqlite" and not always:
        return Found()
    files = () if settings.configured or settings.is_named else sqlite_files(settings)
    if settings.via == "host" and not always:
        return Found(files=files)
    if settings.is_named:
        name, service = settings.container, settings.compose_service
        named = find(settings.docker, name, service, project)
        return Found(named, others=_in_its_place(settings, named), files=files)
    has_compose = compose_folder(project) is not None
    if not (always or has_compose or (settings.configured and address.is_local)):
        return Found(files=files)
    engine, wanted = (
        Engine(settings.docker),
        Address(address.host or "localhost", address.port or PORT),
    )
    try:
        made = _made(engine)
        own = tuple(c for c in made if is_labelled(c.labels, project))
        composed, unread = _composed(engine, project, made) if has_compose else ((), None)
        near = [c for c in made if settings.has_place and c.has_port_of(wanted)]
        others = tuple(c for c in near if c not in (*composed, *own))
        at = endpoint(settings.docker) if near else ""
        composed, others = (
            tuple(replace(c, is_postgres=is_postgres(engine, c)) for c in group)
            for group in (composed, others)
        )
    except EngineSilent as silent:
        return Found(files=files, has_compose=has_compose, silent=silent)
    return Found(None, composed, own, others, files, has_compose, is_remote(at), unread)


def _in_its_place(settings: Settings, named: Container) -> tuple[Container, ...]:
    """The containers that have the configured port while the one that is meant does not run."""
    if named.running or (not named.id and named.trouble is not Trouble.ABSENT):
        return ()
    wanted = Address(settings.host or "localhost", settings.port or PORT)
    return tuple(c for c in _made(Engine(settings.docker)) if c.has_port_of(wanted))


def _made(engine: Engine) -> list[Container]:
    """All containers that may hold a server.

    :raises EngineSilent: they change too quickly to be known.
    """
    for _attempt in range(3):  # a container may be removed between the two questions
        ids = engine.ask("ps", "--all", "--quiet", "--no-trunc").split()
        if not ids:
            return []
        if made := engine.inspect("container", ids, parse):
            return [c for c in made if CLIENT_LABEL not in c.labels]
    raise EngineSilent(Trouble.OTHER, "containers come and go too quickly to be looked at")


def _composed(
    engine: Engine, project: Path, made: Sequence[Container]
) -> tuple[tuple[Container, ...], EngineSilent | None]:
    """The containers of this folder's project and its services without one; or, where there
    are none to show it, why Compose does not say which it has."""
    here = [c for c in made if is_composed(c, project)]
    try:
        compose = read_compose(engine, project)
    except EngineSilent as silent:
        return tuple(here), None if here else silent
    # Two Compose projects may share a folder (`-p`), and editors give that of a development
    # container a name that only they know.
    if (folder := compose_folder(project)) and folder.name != ".devcontainer":
        here = [c for c in here if c.compose_project == compose.name]
    running = {c.service for c in here if c.running}
    current = [c for c in here if c.running or c.service not in running]
    known = {c.service for c in here}
    return (*current, *(c for n, c in compose.services.items() if n not in known)), None
