"""Which server is meant, and where the programs run that talk to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from repom.errors import Refused, RepomError, SettingsError, Unreachable, advice
from repom.settings import Settings
from repom.settings.address import PORT, Address

from . import discover, ownership
from .container import Container
from .discover import Found
from .engine import Engine, EngineSilent, Trouble
from .exec import ExecRunner
from .host import HostRunner
from .runner import Runner

START = advice("Run: {}", "postgres.start")


@dataclass(frozen=True)
class Choice:
    """Which database is used, and why.

    :param rule: the number of the rule that matched, as in the documentation; 0 for an
        SQLite file that a setting names.
    :param reason: a line that says what is used.
    :param container: the container that is meant, also when it does not run.
    :param whose: its Compose service, or the folder of the project that it is of.
    :param fallback: why the host's programs are used although a container may be meant.
    :param problem: why the database cannot be used at all.
    :param refusal: why it may be read, but not changed; empty when it may be changed.
    :param sqlite: the SQLite file that was found, or the default one.
    :param warnings: what else the user should know about the decision.
    :param rejected: what was considered and why it is not used, a line each.
    """

    rule: int = 0
    reason: str = ""
    container: Container | None = None
    whose: str = ""
    fallback: str = ""
    problem: RepomError | None = None
    refusal: str = ""
    sqlite: str | None = None
    warnings: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()

    @property
    def is_inside(self) -> bool:
        """Whether the programs run in the container."""
        return self.container is not None and self.container.running and not self.fallback

    def runner(self, settings: Settings) -> Runner:
        """:raises RepomError: see `problem`."""
        if self.problem:
            raise self.problem
        echo, dry, found = settings.echo, settings.dry, self.container
        if found is None or not self.is_inside:
            return HostRunner(echo=echo, dry=dry, engine=settings.docker)
        return ExecRunner(settings.docker, found.id, found.name, echo=echo, dry=dry)


@dataclass(frozen=True)
class Located(Settings):
    """Settings, completed by what they left open, with the choice that it came from."""

    choice: Choice = Choice()

    @property
    def remote_host(self) -> str | None:
        """The server's host, when it is neither this machine nor a container."""
        return None if self.choice.container or self.address.is_local else self.host


def locate(settings: Settings) -> Located:
    """Ask the engine, and choose. What is located already is not asked for again.

    :raises SettingsError: the Compose service that a setting names is not clear.
    """
    if isinstance(settings, Located):
        return settings
    choice = choose(settings, discover.look(settings))
    known = replace(settings, sqlite=choice.sqlite) if choice.sqlite else settings
    known = completed(known, choice.container) if choice.container else known
    return Located(**{f.name: getattr(known, f.name) for f in fields(known)}, choice=choice)


def choose(settings: Settings, found: Found) -> Choice:
    """Decide which server is meant. The first rule that matches wins.

    With `via=docker`, what the host's programs would have to reach is a problem; with
    `via=host`, no container is considered.
    """
    address, forced = settings.address, settings.via == "docker"
    if settings.configured and settings.backend == "sqlite":
        return Choice()
    inside = settings.via != "host"
    if inside and (named := found.named):  # 1
        return _named(settings, named, found)
    composed = [c for c in found.composed if c.is_postgres]
    ours = sorted([*composed, *found.own], key=lambda c: not c.running)
    if inside and address.host and not address.is_local:  # 2
        called = [c for c in (*ours, *found.composed) if address.host in c.names]
        if called:
            return _used(settings, 2, called[0], found)
    on_host = _on_host(settings, found, ours)
    if address.host and not address.is_local:  # 3
        return _forced(address, 3, found) if forced else on_host
    if inside and settings.has_place and not address.is_socket_folder and not found.is_elsewhere:
        wanted = _wanted(address)
        near = [c for c in ours if c.publishes(wanted)]
        far = [c for c in found.others if c.is_postgres and c.running and c.publishes(wanted)]
        if near or far:  # 4
            return _used(settings, 4, (near or far)[0], found)
    if inside and not settings.has_place and composed:  # 5
        made = [c for c in composed if c.id] or composed
        if len(made) > 1:
            return Choice(5, problem=_several(made))
        return _used(settings, 5, made[0], found)
    for own in found.own if inside else ():  # 6
        is_near = address.port is None or own.publishes(_wanted(address))
        if is_near and not address.is_socket_folder:
            return _used(settings, 6, own, found)
    if settings.configured:  # 7
        return _forced(address, 7, found) if forced else on_host
    return _sqlite(found)  # 8


def _wanted(address: Address) -> Address:
    return Address(address.host or "localhost", address.port or PORT)


def _named(settings: Settings, named: Container, there: Found) -> Choice:
    """Rule 1: the container that a setting names, unless another setting leads elsewhere."""
    address = settings.address
    try:
        ownership.check_owner(named, settings.project, moved=True)
    except Refused as refused:
        return Choice(1, container=named, problem=refused)
    is_far = not address.is_local and address.host not in {
        *named.names,
        settings.compose_service,
        settings.container,
    }
    is_other = named.bindings and address.is_loopback and address.port is not None
    if is_far or (is_other and not named.publishes(address)):
        return _other(settings, named)
    return _used(settings, 1, named, there)


def _other(settings: Settings, named: Container) -> Choice:
    """The configured server is not the container that a setting names."""
    address = settings.address
    if settings.via == "docker" and not address.is_local:
        return _forced(address, 1, Found())
    if settings.via == "docker":
        where = f"port {address.port} on {address.host}"
        problem = SettingsError(
            f"REPOM_VIA is docker, but container {named.name} does not publish {where}",
            "Set POSTGRES_HOST and POSTGRES_PORT to what it publishes, or unset REPOM_VIA",
        )
        return Choice(1, problem=problem)
    setting = "REPOM_COMPOSE_SERVICE" if settings.compose_service else "REPOM_CONTAINER"
    line = _other_port(named, address) or (
        f"{setting} names container {named.name}, but the host is {address.host}; to use the"
        " container, unset the host"
    )
    return Choice(1, _host_reason(address), warnings=(line,), rejected=(line,))


def _used(settings: Settings, rule: int, found: Container, there: Found) -> Choice:
    """The container; or, when it does not run, the host's programs where they lead to it."""
    whose, other = _whose(settings, found), _other_folder(settings, found)
    is_found = rule == 4 and not ownership.is_composed(found, settings.project)
    port = f"it publishes port {_wanted(settings.address).port}" if is_found else ""
    why = "; ".join(filter(None, (whose, port)))
    reason = f"Using Docker container: {found.name}{f' ({why})' if why else ''}"
    refusal = f"Container {found.name} belongs to the project in {other}"
    choice = Choice(rule, reason, found, whose, refusal=refusal if rule == 4 and other else "")
    if found.running:
        return choice
    message = f"Container {found.name} is not running ({found.state})"
    address = settings.address
    if found.id:
        # A port that it does not publish leads to another server, which is compared with
        # the one of the last backup before anything is changed there.
        leads = found.publishes(_wanted(address)) or bool(found.bindings and address.port)
        leads = leads or address.is_socket_folder
    else:
        leads = found.trouble is not Trouble.ABSENT or settings.has_place
    near = (c for c in there.others if c.has_port_of(_wanted(address)))
    if taken := next((c.name for c in near if c.id != found.id), ""):
        message = f"{message}, and container {taken} has its port"
    if settings.via == "docker" or taken or not (leads and settings.configured and rule != 2):
        return replace(choice, problem=Unreachable(message, START))
    notes = (found.note, _other_port(found, address))
    return replace(choice, fallback=message, warnings=tuple(filter(None, notes)))


def _whose(settings: Settings, found: Container) -> str:
    if ownership.is_composed(found, settings.project):
        return f"service {found.service} of this folder's Compose project"
    other = _other_folder(settings, found)
    return f"of the project in {other}" if other else ""


def _other_folder(settings: Settings, found: Container) -> str:
    """The folder of another project that it was made for; empty when there is none. A folder
    that is gone was moved, and may be this one."""
    if ownership.is_ours(found, settings.project):
        return ""
    labelled = ownership.owner(found.labels, settings.project)
    other = found.compose_folder or (labelled if ownership.is_there(labelled) else "")
    return ownership.shown_folder(other) if other else ""


def _several(made: Sequence[Container]) -> SettingsError:
    services = sorted({c.service for c in made})
    names = ", ".join(sorted(c.service if len(services) > 1 else c.name for c in made))
    setting = "REPOM_COMPOSE_SERVICE" if len(services) > 1 else "REPOM_CONTAINER"
    return SettingsError(
        f"This folder's Compose project has several PostgreSQL servers: {names}",
        f"Set {setting} to one of them",
    )


def _host_reason(address: Address) -> str:
    return f"Using the server on {address.where}, with programs of this host"


def _on_host(settings: Settings, found: Found, ours: Sequence[Container]) -> Choice:
    """Rules 3 and 7: the configured server, by the host's programs."""
    address, default = settings.address, settings.container
    lines = [line for c in ours if c.id and (line := _unused(c, address))]
    if found.silent and found.has_compose:
        lines.append(f"This folder's Compose project is unknown ({found.silent.reason})")
    far = address.host and not address.is_local
    state = found.silent.reason if found.silent else "absent"
    if settings.via == "host":
        return Choice(7)
    reason, rejected = _host_reason(address), tuple(lines)
    if far:
        return Choice(3, reason, rejected=rejected)
    fallback = f"Container {ours[0].name if ours else default} is not "
    fallback += f"on {address.where}" if ours else f"running ({state})"
    # Another program of a container, such as a pooler, has the port.
    others = [_other_folder(settings, c) for c in found.others if c.has_port_of(_wanted(address))]
    taken = f"Port {_wanted(address).port} belongs to the project in "
    refusal = next((taken + folder for folder in others if folder), "")
    return Choice(
        7, reason, fallback=fallback, refusal=refusal, warnings=rejected, rejected=rejected
    )


def _unused(found: Container, address: Address) -> str:
    """Why a container of this project is not the configured server, and what changes it."""
    if line := _other_port(found, address):
        return line
    setting = "REPOM_COMPOSE_SERVICE" if found.service else "REPOM_CONTAINER"
    why = f"does not publish {address.where}" if found.bindings else "publishes no port"
    return (
        f"Container {found.name} of this folder {why}; to use it, set {setting} to"
        f" {found.service or found.name}"
    )


def _forced(address: Address, rule: int, found: Found) -> Choice:
    """With `via=docker`, no container is the configured server."""
    if found.silent:
        return Choice(rule, problem=found.silent)
    if address.is_local and not address.is_loopback:
        return Choice(rule, problem=Unreachable("There is no container of this project", START))
    problem = SettingsError(
        f"REPOM_VIA is docker, but the database is on host {address.where}",
        "Unset REPOM_VIA or the host: docker exec reaches only the server in the container",
    )
    return Choice(rule, problem=problem)


def _sqlite(found: Found) -> Choice:
    """Rule 8: the one SQLite file, or the default one."""
    if len(found.files) > 1:
        files = ", ".join(found.files)
        hint = f"Set DATABASE_URL to one of them: sqlite:///{found.files[0]}"
        return Choice(8, problem=SettingsError(f"There are several SQLite files: {files}", hint))
    if found.files and found.files[0] != Settings.sqlite:
        return Choice(8, f"Using SQLite file: {found.files[0]}", sqlite=found.files[0])
    # What the Compose file would have said is not known.
    return Choice(8, problem=found.silent if found.has_compose else None)


def _other_port(found: Container, address: Address) -> str:
    """That the container has another port: a refused connection does not say so."""
    wanted = _wanted(address)
    if not (wanted.is_loopback and found.port) or found.publishes(wanted):
        return ""
    ip = found.bindings[0][0]
    where, setting = (
        ("", "") if wanted.reaches(ip) else (f" on {ip}", f" and POSTGRES_HOST to {ip}")
    )
    return (
        f"Container {found.name} publishes port {found.port}{where}, but the settings say port"
        f" {wanted.port}; to use the container, set POSTGRES_PORT to {found.port}{setting}"
    )


# -- what the settings leave open ---------------------------------------------------------

#: The official image's variables, then Bitnami's.
USER = ("POSTGRES_USER", "POSTGRESQL_USERNAME")
DATABASE = ("POSTGRES_DB", "POSTGRESQL_DATABASE")
PASSWORD = ("POSTGRES_PASSWORD", "POSTGRESQL_PASSWORD")


def completed(settings: Settings, found: Container) -> Settings:
    """The settings, with what the container was made with for what they leave open. The
    password is only used where the server's local connections demand one."""
    if not settings.left_open:
        return settings
    address = settings.address
    user, database = address.user, address.database
    if "user" in settings.left_open:
        user = value_of(settings, found, USER) or "postgres"
    if "database" in settings.left_open:
        database = value_of(settings, found, DATABASE) or user
    password = settings.password or value_of(settings, found, PASSWORD) or None
    return replace(
        settings, address=replace(address, user=user, database=database, password=password)
    )


def value_of(settings: Settings, found: Container, names: Sequence[str]) -> str:
    """The first of these variables that a container has, or what the file holds that its
    ``_FILE`` variant names; empty when there is none, or it cannot be read."""
    for name in names:
        if value := found.environment.get(name):
            return value
        if (path := found.environment.get(f"{name}_FILE")) and found.running:
            try:
                return Engine(settings.docker).ask("exec", found.id, "cat", path).strip("\r\n")
            except EngineSilent:
                return ""
    return ""
