"""The project's own PostgreSQL server: start, stop, status, logs, remove.

It is the Compose service or the container that the settings name, a container that is
made for the project (`repom.docker`), or, with no container engine, a cluster of this
host's programs (`repom.cluster`). Nothing here prints; the verbs return a `Server`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repom.errors import CommandFailed, Refused, SettingsError, Unreachable
from repom.runners import discover, engine
from repom.runners.discover import PROJECT_LABEL, Container
from repom.runners.exec import DockerRunner
from repom.runners.host import HostRunner
from repom.settings import Settings
from repom.settings.address import PORT

from . import cluster, credentials
from . import containers as docker
from .containers import HOST

log = logging.getLogger("repom")

PATIENCE = 60  # seconds until a server that does not answer has failed
SETTLED = 3  # seconds until an answer of `FINAL` is believed
PROBE = ("-X", "-w", "-A", "-t", "-c", "SELECT 1")
#: Answers that waiting does not change, unless an image sets its database up late.
FINAL = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "executable file not found",
)
NO_ENGINE = ("is not installed", "the Docker daemon is not running")


@dataclass(frozen=True)
class Server:
    """What is known of the project's server.

    :param kind: ``container``, ``compose`` or ``local``.
    :param name: the container's name, or the folder of the local cluster.
    :param state: ``running`` when it runs, else the engine's word, or why nobody knows.
    :param version: PostgreSQL's, as far as it can be told without asking the server.
    :param port: of this host; ``None`` when none leads to the server.
    :param url: with the password masked; empty without a port.
    :param data: the volume or folder with the data; empty when there is none, or only
        inside the container.
    """

    kind: str
    name: str
    state: str
    image: str
    version: str
    host: str
    port: int | None
    user: str
    database: str
    url: str
    data: str


def start(settings: Settings) -> Server:
    """Start the project's server, making it if there is none, and wait until the target
    database answers as the target user. What had to be made up is added to `.env`.

    :raises SettingsError: the settings name an SQLite database or another machine.
    :raises Unreachable: no engine and no programs; the server ends, or does not answer.
    :raises Refused: a container, a volume or a port that belongs to somebody else; a
        volume of another PostgreSQL major.
    :raises CommandFailed: the engine or a program failed.
    """
    _check_target(settings)
    found = _find(settings)
    if _is_local(settings, found):
        return _start_local(settings, found)
    _check_engine(found)
    if settings.compose_service:
        docker.up(settings, found)
    elif found.id:
        docker.wake(settings, found)
    else:
        _create(settings)
    found = _find(settings)
    return _describe(settings, found) if settings.dry else _await_container(settings, found)


def stop(settings: Settings) -> Server:
    """Stop the server; its clients are disconnected. Harmless when it does not run.

    :raises Refused: the container belongs to another project.
    :raises Unreachable: the engine does not answer.
    :raises CommandFailed: the server did not stop.
    """
    found = _find(settings)
    if _is_local(settings, found):
        if cluster.running_port(settings.project) is not None:
            cluster.stop(settings)
        return _describe_local(settings)
    _check_engine(found)
    docker.halt(settings, found)
    return _describe(settings, _find(settings))


def status(settings: Settings) -> Server:
    """What there is, whether it runs or not."""
    found = _find(settings)
    local = _is_local(settings, found)
    return _describe_local(settings) if local else _describe(settings, found)


def logs(settings: Settings, lines: int = 50) -> str:
    """The last lines that the server wrote.

    :raises Unreachable: there is no such container, or no engine.
    """
    found = _find(settings)
    if _is_local(settings, found):
        return "\n".join(cluster.log_lines(settings.project, lines))
    _check_engine(found)
    if not found.id:
        raise Unreachable(f"There is no container {found.name}", "Run: invoke postgres.start")
    return "\n".join(docker.log_lines(settings.docker, found.id, lines))


def removable(settings: Settings, *, volume: bool = False) -> Server:
    """What `remove` would remove; raises as that does, and changes nothing."""
    found = _find(settings)
    if _is_local(settings, found):
        return _describe_local(settings)
    _check_engine(found)
    before = _describe(settings, found)
    _check_removable(settings, found, before, volume)
    return before


def remove(settings: Settings, *, volume: bool = False, seen: Server | None = None) -> Server:
    """Stop the server and remove its container; the data stay unless told otherwise.

    :param volume: remove the data, too, and with them a local cluster.
    :param seen: what somebody agreed to have removed.
    :returns: what there was.
    :raises Refused: container or data are not this project's, or the data are in the
        container itself and would be lost with it, or they are not those that were seen.
    """
    before = removable(settings, volume=volume)
    if seen and (seen.kind, seen.name, seen.data) != (before.kind, before.name, before.data):
        raise Refused(
            f"The server has changed: it is now {before.name} with its data in {before.data}",
            "See invoke postgres.status, then run it again",
        )
    found = _find(settings)
    if before.kind == "local":
        before = stop(settings)
        if volume and before.data and not settings.dry:
            cluster.discard(settings.project)
        return before
    if found.id:
        docker.halt(settings, found)
        # With the data go the nameless volumes, which nobody would find again.
        nameless = ["--volumes"] if volume and discover.is_ours(found, settings.project) else []
        docker.run(settings, "rm", *nameless, found.id)
    if volume and before.data and docker.details(settings.docker, "volume", before.data):
        docker.run(settings, "volume", "rm", before.data)
    return before


def _find(settings: Settings) -> Container:
    return discover.find(
        settings.docker, settings.container, settings.compose_service, settings.project
    )


def _is_local(settings: Settings, found: Container) -> bool:
    """Whether it is a local cluster. What exists comes first, so that a daemon that runs
    on some days only does not move the project to an empty server. An engine that this
    user may not use is not a missing one: it may well hold the data."""
    if settings.via == "docker":
        return False
    if found.id:
        return not found.running and cluster.running_port(settings.project) is not None
    if found.state == "absent":
        return settings.via == "host" or cluster.exists(settings.project)
    return found.state.endswith(NO_ENGINE)


def _check_engine(found: Container) -> None:
    if not found.id and found.state != "absent":
        message = f"Container {found.name} cannot be reached ({found.state})"
        raise Unreachable(message, engine.WAKE)


def _check_target(settings: Settings) -> None:
    if settings.configured and settings.backend == "sqlite":
        raise SettingsError(
            f"The settings name an SQLite database ({settings.database}), which has no server",
            "Unset DATABASE_URL, or set it to postgresql://USER:PASSWORD@localhost:5432/DATABASE",
        )
    host = settings.host
    if not settings.address.is_near(settings.compose_service or settings.container):
        raise SettingsError(
            f"The database is on host {host}, and repom starts servers on this machine only",
            "Unset the host, or set it to localhost",
        )


def _check_removable(settings: Settings, found: Container, server: Server, volume: bool) -> None:
    discover.check_ours(found, settings.project)
    if found.id and not server.data and not volume:
        raise Refused(
            f"The data of container {found.name} are in the container itself and would go with it",
            "Back up with invoke db.backup, then add --volume",
        )
    if volume and engine.is_remote(address := engine.endpoint(settings.docker)):
        raise Refused(
            f"The container engine is on another machine ({address})",
            "Leave --volume out, or run the task on that machine",
        )
    if volume and Path(server.data).is_absolute():
        raise Refused(
            f"The data are in the folder {server.data}, which repom did not make",
            "Leave --volume out, and remove the folder yourself",
        )
    if volume and settings.compose_service and not found.id:
        raise Refused(
            f"There is no container {found.name} that tells which volume has its data",
            "Run invoke postgres.start first, or delete the volumes of all of its services:"
            f" {settings.docker} compose down --volumes",
        )
    if volume and server.data:
        docker.check_disposable(settings, server.data, found)


def _create(settings: Settings) -> None:
    try:
        docker.create(settings)
    except (Refused, CommandFailed):
        found = _find(settings)
        if not found.id:
            raise
        log.info("Container %s was made by another start meanwhile", found.name)
        docker.wake(settings, found)


def _await_container(settings: Settings, found: Container) -> Server:
    item = docker.details(settings.docker, "container", found.id) if found.id else {}
    if not item:
        raise Unreachable(f"Container {found.name} ended at once and is gone")
    known = _known(settings, found, item)
    credentials.remember(settings, known, found.port)
    _say_differences(settings, found, item)
    runner = DockerRunner(settings.docker, found.id, found.name, echo=settings.echo)
    login = credentials.login(known, HOST)
    if problem := _wait(lambda: _answer(runner, "psql", login), lambda: _find(settings).state):
        lines = docker.log_lines(settings.docker, found.id, 20)
        raise _given_up(f"Container {found.name} {problem}", lines, known)
    _check_password(runner, item, known)
    return _describe(known, found)


def _known(settings: Settings, found: Container, item: Mapping[str, Any]) -> Settings:
    """The settings with what the container was made with. The password of a container
    that somebody else made is not looked up when the settings manage without one."""
    if settings.configured and PROJECT_LABEL not in found.labels:
        return settings
    return credentials.adopt(settings, docker.environment(item["Config"]))


def _say_differences(settings: Settings, found: Container, item: Mapping[str, Any]) -> None:
    """A container keeps the image and the port that it was made with."""
    anew = "invoke postgres.remove and start make it anew, with the same data"
    if settings.port and settings.port != found.port:
        log.warning(
            "Container %s publishes %s, and port %s is configured; %s",
            *(found.name, f"port {found.port}" if found.port else "no port", settings.port, anew),
        )
    image = item["Config"].get("Image")
    if PROJECT_LABEL in found.labels and image != settings.image:
        log.warning(
            "Container %s is of image %s, and %s is configured; %s",
            *(found.name, image, settings.image, anew),
        )


def _check_password(runner: DockerRunner, item: Mapping[str, Any], known: Settings) -> None:
    """That the password is the right one, which the server asks for only when it is
    called by another address than 127.0.0.1. A volume keeps the password it was made with."""
    login = credentials.login(known, str(item["Config"].get("Hostname") or HOST))
    if "password authentication failed" in _answer(runner, "psql", login):
        raise Unreachable(
            f"The server in container {runner.name} does not take the password of '{known.user}',"
            " which it got when its data were made",
            "Set POSTGRES_PASSWORD to that one, or change it:"
            rf' docker exec -it {runner.name} psql -U {known.user} -d postgres -c "\password"',
        )


def _start_local(settings: Settings, found: Container) -> Server:
    project, port = settings.project, settings.port or PORT
    programs = _local_programs(settings, found)
    if settings.backend == "sqlite" and cluster.exists(project):
        raise SettingsError(
            f"{cluster.folder(project)} is there, but no setting names its user and password",
            "Put POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB into .env",
        )
    known = settings if cluster.exists(project) else credentials.complete(settings)
    running = cluster.running_port(project)
    if running is None:
        docker.check_port(port)
        cluster.launch(known, port)
        credentials.remember(settings, known)
    elif running != port:
        raise Refused(
            f"The local cluster runs on port {running}, and port {port} is configured",
            "Run invoke postgres.stop, then start it again",
        )
    return _describe_local(known) if settings.dry else _await_local(known, port, programs)


def _local_programs(settings: Settings, found: Container) -> str:
    try:
        programs = cluster.programs_for(cluster.version(settings.project))
    except Unreachable as error:
        raise Unreachable(f"{_why_local(found)}, and {error.message}", error.hint) from None
    log.info("%s, so the server is a local cluster", _why_local(found))
    return programs


def _why_local(found: Container) -> str:
    if found.id or found.state == "absent":
        return f"Container {found.name} does not run ({found.state})"
    return found.state[0].upper() + found.state[1:]


def _await_local(known: Settings, port: int, programs: str) -> Server:
    runner = HostRunner(echo=known.echo)
    psql = str(Path(programs, "psql"))
    login = credentials.login(known, HOST, port)
    if f'database "{known.database}" does not exist' in _answer(runner, psql, login):
        cluster.create_database(known, login)
    if problem := _wait(lambda: _answer(runner, psql, login), lambda: _describe_local(known).state):
        lines = cluster.log_lines(known.project, 20)
        raise _given_up(f"The local cluster {problem}", lines, known)
    return _describe_local(known)


def _wait(answer: Callable[[], str], state: Callable[[], str]) -> str:
    """Wait until the target answers twice, so that a server that is about to go away
    again does not count; returns what is wrong, or nothing."""
    deadline = time.monotonic() + PATIENCE
    answers = 0
    while True:
        complaint = answer()
        answers = 0 if complaint else answers + 1
        if answers == 2:
            return ""
        now_in = state() if complaint else "running"
        if now_in != "running":
            return f"does not stay up ({now_in})"
        if any(part in complaint for part in FINAL):
            deadline = min(deadline, time.monotonic() + SETTLED)
        if time.monotonic() > deadline:
            return f"does not answer ({complaint or 'only once'})"
        time.sleep(0.5)


def _given_up(message: str, lines: Iterable[str], known: Settings) -> Unreachable:
    for line in lines:
        log.warning("  %s", line.replace(known.password or "\0", "***"))
    return Unreachable(message, "Its last log lines are above")


def _answer(runner: HostRunner, psql: str, login: Mapping[str, str]) -> str:
    """Ask the target database over TCP; returns its complaint, or nothing."""
    try:
        result = runner.run([psql, *PROBE], env=login, warn=True, dry=False, timeout=10)
    except CommandFailed as error:
        return error.message
    return "" if result.ok else cluster.last_line(result, f"exit status {result.exited}")


def _describe(settings: Settings, found: Container) -> Server:
    item = docker.details(settings.docker, "container", found.id) if found.id else {}
    config = item.get("Config") or {}
    env = docker.environment(config)
    other = discover.owner(found.labels, settings.project)
    return _server(
        credentials.adopt(settings, env),
        found.port if item else settings.port or PORT,
        kind="compose" if settings.compose_service else "container",
        name=found.name,
        state=f"{found.state}, of the project in {other}" if other else found.state,
        image=config.get("Image") or ("" if settings.compose_service else settings.image),
        version=env.get("PG_VERSION") or env.get("PG_MAJOR") or "",
        data=docker.data_source(item) if item else _kept_volume(settings, found),
    )


def _kept_volume(settings: Settings, found: Container) -> str:
    """The volume that a container left behind. An engine that does not answer is not
    asked again, and Compose's own names of volumes are not known."""
    volume = f"{settings.container}_data"
    asked = found.state == "absent" and not settings.compose_service
    return volume if asked and docker.details(settings.docker, "volume", volume) else ""


def _describe_local(settings: Settings) -> Server:
    project = settings.project
    there, running = cluster.exists(project), cluster.running_port(project)
    return _server(
        credentials.adopt(settings, {}),
        running or settings.port or PORT,
        kind="local",
        name=str(cluster.folder(project)),
        state="running" if running else "stopped" if there else "absent",
        image="",
        version=cluster.version(project),
        data=str(cluster.folder(project)) if there else "",
    )


def _server(login: Settings, port: int | None, **facts: str) -> Server:
    return Server(
        host=HOST,
        port=port,
        user=login.user,
        database=login.database,
        url=replace(login.address, host=HOST, port=port).masked_url() if port else "",
        **facts,
    )
