"""What there is: containers, the project's Compose services, SQLite files. It is asked for
once, and decides nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from repom.errors import Refused, SettingsError
from repom.settings import Settings
from repom.settings.address import PORT, Address
from repom.settings.settings import MARKERS

from .engine import (
    Engine,
    EngineSilent,
    Trouble,
    compose_argv,
    endpoint,
    is_remote,
    part,
    text,
    texts,
    variables,
)

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
        # An engine also takes the beginning of an id for a name; a short one names nothing.
        is_id = re.fullmatch("[0-9a-f]{12,64}", name)
        made = engine.inspect("container", [name], _parse)
        named = [c for c in made if c.name == name or (is_id and c.id.startswith(name))]
        return named[0] if named else Container(name, "absent", trouble=Trouble.ABSENT)
    except EngineSilent as silent:
        return Container(shown, silent.reason, trouble=silent.trouble)


def _parse(item: Mapping[str, Any]) -> Container:
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
        made = [part(each) for each in part(ports).get(f"{inner}/tcp") or ()]
        known = [(str(b.get("HostIp") or ""), int(b.get("HostPort") or 0)) for b in made]
        if found := tuple(b for b in known if b[1]):  # 0: any that is free
            return found
    return ()


# -- Compose ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compose:
    """A project as Compose reads its file.

    :param services: of each a container that is ``absent``.
    """

    name: str
    services: Mapping[str, Container]


#: Files that Compose reads without being told.
DEFAULT_FILES = {f"{n}.{e}" for n in ("compose", "docker-compose") for e in ("yaml", "yml")}


def compose_files(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.glob("*compose*.y*ml") if p.is_file())
    except OSError:  # a folder that this user may not look into
        return []


def compose_folder(project: Path) -> Path | None:
    """The folder of the Compose file that belongs to the project folder: the nearest one up
    to the top of its repository, else that of a development container."""
    above = [project, *project.parents]
    top = next((n for n, folder in enumerate(above) if (folder / ".git").exists()), 0)
    inside = [folder / ".devcontainer" for folder in above[: top + 1]]
    return next((f for f in [*above[: top + 1], *inside] if compose_files(f)), None)


def in_compose(project: Path, *arguments: str, made: Container | None = None) -> list[str]:
    """The arguments of a Compose command for the project folder. Where several files could
    be meant, none is named, since Compose's own settings may say which.

    :param made: a container whose labels say with which files and project name it was made.
    """
    folder = compose_folder(project) or project
    files, name = compose_files(folder), made.compose_project if made else ""
    if made and name and (told := made.labels.get(f"{COMPOSE}project.config_files")):
        files = told.split(",")
    elif len(files) != 1 or DEFAULT_FILES & set(files):
        files, name = [], ""
    flags = [flag for each in files for flag in ("--file", str(folder / each))]
    return compose_argv(folder, *(["--project-name", name] if name else []), *flags, *arguments)


def read_compose(engine: Engine, project: Path, *flags: str) -> Compose:
    """What Compose says of a project folder.

    :raises EngineSilent: there is no Compose, or no file that it can read.
    """

    def parse(said: Any) -> Compose:
        services = part(part(said).get("services")).items()
        return Compose(text(said["name"]), {n: service(n, part(each)) for n, each in services})

    def service(name: str, said: Mapping[str, Any]) -> Container:
        values, networks = part(said.get("environment")).items(), part(said.get("networks"))
        aliases = [str(a) for net in networks.values() for a in part(net).get("aliases") or ()]
        return Container(
            f"of the Compose service {name}",
            "absent",
            labels={
                f"{COMPOSE}service": name,
                f"{COMPOSE}project.working_dir": str(compose_folder(project) or project),
            },
            trouble=Trouble.ABSENT,
            image=str(said.get("image") or ""),
            hostname=str(said.get("hostname") or ""),
            environment={key: "" if value is None else str(value) for key, value in values},
            aliases=(str(said.get("container_name") or ""), *aliases),
        )

    return engine.read(parse, *in_compose(project, *flags, "config", "--format", "json"))


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


# -- everything that there is ---------------------------------------------------------------


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
    """
    project, address = settings.project, settings.address
    if settings.configured and settings.backend == "sqlite" and not always:
        return Found()
    files = () if settings.configured or settings.is_named else sqlite_files(settings)
    if settings.via == "host" and not always:
        return Found(files=files)
    if settings.is_named:
        name, service = settings.container, settings.compose_service
        return Found(find(settings.docker, name, service, project), files=files)
    has_compose = compose_folder(project) is not None
    if not (always or has_compose or (settings.configured and address.is_local)):
        return Found(files=files)
    engine, port = Engine(settings.docker), address.port or PORT
    try:
        made = _made(engine, project, port if settings.has_place else None)
        own = tuple(c for c in made if is_labelled(c.labels, project))
        composed, unread = _composed(engine, project, made) if has_compose else ((), None)
        others = tuple(c for c in made if c not in (*composed, *own) and c.bindings)
        has_ports = settings.has_place and any(c.bindings for c in made)
        at = endpoint(settings.docker) if has_ports else ""
        composed, others = (
            tuple(replace(c, is_postgres=_is_postgres(engine, c)) for c in group)
            for group in (composed, others)
        )
    except EngineSilent as silent:
        return Found(files=files, has_compose=has_compose, silent=silent)
    return Found(None, composed, own, others, files, has_compose, is_remote(at), unread)


#: Of each container what says whether it has to be looked at.
LISTED = "[{{json .ID}},{{json .Labels}},{{json .Ports}},{{json .Networks}}]"


def _made(engine: Engine, project: Path, port: int | None) -> list[Container]:
    """The containers of this folder, and those that may publish the port."""
    folders = (project, compose_folder(project) or project)

    def parse(said: str) -> bool:
        _id, labels, ports, networks = json.loads(said)
        # Docker gives text, Podman an object, or null without any.
        shown = (
            labels if isinstance(labels, str) else ",".join(map("=".join, texts(labels).items()))
        )
        pattern = rf"(?:{COMPOSE}project\.working_dir|{PROJECT_LABEL})=(.*?)(?=,[\w./-]+=|,?$)"
        if any(is_same(found, each) for found in re.findall(pattern, shown) for each in folders):
            return True
        ranges = re.findall(r":(\d+)(?:-(\d+))?->", str(ports))
        is_near = any(int(a) <= port <= int(b or a) for a, b in ranges) if port else False
        return is_near or (port is not None and "host" in str(networks))

    for _attempt in range(3):  # another container may end between the two questions
        lines = engine.ask("ps", "--all", "--no-trunc", "--format", LISTED).splitlines()
        try:
            ids = [text(json.loads(line)[0]) for line in lines if parse(line)]
        except (ValueError, TypeError, AttributeError):
            said = f"unexpected output from {engine.program} ps"
            raise EngineSilent(Trouble.OTHER, said) from None
        if not ids:
            return []
        if made := engine.inspect("container", ids, _parse):
            return made
    return []


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


def _is_postgres(engine: Engine, found: Container) -> bool:
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


# -- SQLite files -------------------------------------------------------------------------


def sqlite_files(settings: Settings) -> tuple[str, ...]:
    """SQLite files of the project folder and the folders in it, by their first bytes. A
    folder that is hidden, a virtual environment, a project or the store does not count."""
    top, others = settings.project, (*MARKERS, "pyvenv.cfg")
    inside = [
        folder
        for folder in _entries(top)
        if folder.is_dir() and folder != settings.backup_dir and not folder.name.startswith(".")
        if not any((folder / each).exists() for each in others)
    ]
    paths = [path for folder in (top, *inside) for path in _entries(folder)]
    return tuple(sorted(p.relative_to(top).as_posix() for p in paths if _is_sqlite(p)))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # one that this user may not look into
        return []


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") if path.is_file() else nullcontext() as file:
            return file is not None and file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


# -- whose it is --------------------------------------------------------------------------


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for exactly this folder, and not as a one-off of `compose
    run`. A folder inside of it with a Compose file is another project."""
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return not oneoff and is_same(found.compose_folder, compose_folder(project) or project)


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
    if folder and not is_ours(found, project):
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
