"""Creating, starting and stopping the project's container or Compose service."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import re
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from repom.errors import CommandFailed, Refused, RepomError, Unreachable
from repom.runners import discover, engine
from repom.runners.discover import COMPOSE, PROJECT_LABEL, Container
from repom.runners.engine import EngineSilent
from repom.runners.host import HostRunner
from repom.settings import Settings
from repom.settings.address import PORT

from . import credentials

log = logging.getLogger("repom")

HOST = "127.0.0.1"
DATA = "/var/lib/postgresql/data"
PASSWORD_FILE = "POSTGRES_PASSWORD_FILE"  # noqa: S105 - the variable's name
#: Workers of a parallel index build share memory through /dev/shm. Docker gives 64 MB,
#: no more than the default maintenance_work_mem, so that a restore would run out of it.
SHM = "256m"
#: The image's major version, then that of each cluster in the volume, in both layouts.
LOOK = "postgres --version; cat /repom/PG_VERSION /repom/*/docker/PG_VERSION 2>/dev/null; true"
#: Parts of the engines' complaints that have stayed over their versions.
TAKEN = ("port is already allocated", "address already in use", "ports are not available")
NO_COMPOSE = ("unknown flag: --project-directory", "docker compose", "'compose' is not a")


def create_argv(name: str, project: Path, image: str, mount: str, port: int) -> list[str]:
    """The arguments that make the project's container. Secrets go by name, through the
    environment. No restart policy: a developer's server runs when it is asked to."""
    return [
        *("create", "--name", name, "--label", f"{PROJECT_LABEL}={project}"),
        *("--shm-size", SHM, "--volume", f"{name}_data:{mount}"),
        *("--publish", f"{HOST}:{port}:{PORT}"),
        *("--env", "POSTGRES_USER", "--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_DB"),
        image,
    ]


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """The variables of an image or a container, from the engine's `Config`."""
    pairs = (each.partition("=") for each in config.get("Env") or ())
    return {name: value for name, _equals, value in pairs}


def data_mount(env: Mapping[str, str], mounts: Iterable[str]) -> str:
    """Which of these folders in a container holds the data; empty when none does."""
    data = PurePosixPath(env.get("PGDATA") or DATA)
    return max((each for each in mounts if data.is_relative_to(each)), key=len, default="")


def data_source(item: Mapping[str, Any]) -> str:
    """The volume's name, or the folder of this host, with an inspected container's data."""
    mounts = {each["Destination"]: each for each in item.get("Mounts") or ()}
    chosen = mounts.get(data_mount(environment(item["Config"]), mounts), {})
    return str(chosen.get("Name") or chosen.get("Source") or "")


def versions(looked: str) -> tuple[str, frozenset[str]]:
    """The image's major version and those in the volume, from what `LOOK` printed."""
    image = re.match(r"postgres \(PostgreSQL\) (\d+)", looked)
    held = frozenset(line for line in looked.splitlines()[1:] if line.isdigit())
    return (image[1] if image else ""), held


def failure(said: str) -> RepomError:
    """What a complaint of the engine means."""
    said = engine.without_secrets(said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((each for each in lines if "rror" in each), lines[-1] if lines else "no reason")
    if any(part in said.lower() for part in TAKEN):
        port = re.search(r"\d+\.\d+\.\d+\.\d+:(\d+)", said)
        return port_taken(port[1] if port else "of the container")
    if any(part in said for part in NO_COMPOSE):
        return Unreachable(
            "The container command has no Compose plugin",
            "Install it, or set REPOM_CONTAINER instead of REPOM_COMPOSE_SERVICE",
        )
    return CommandFailed(f"The container engine failed: {line}", stderr=said)


def port_taken(port: object, by: str = "") -> Refused:
    return Refused(
        f"Port {port} on this machine is taken{by}",
        "Stop what uses it, or set POSTGRES_PORT to another port",
    )


def check_port(port: int, platform: str = sys.platform) -> None:
    """That a server could listen on this port of 127.0.0.1.

    :raises Refused: somebody does already.
    """
    with socket.socket() as probe:
        if platform != "win32":  # there it would take the port from its owner
            # Connections of a server that has just stopped linger; they do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_taken(port) from None


#: Seconds for a change that brings nothing over the network; a stop waits 60 itself.
QUICK = 180


def details(docker: str, kind: str, name: str) -> dict[str, Any]:
    """What the engine knows of a container, an image or a volume; empty: no such thing.

    :raises Unreachable: it does not say, so that nobody takes what is there for absent.
    """
    try:
        return engine.inspect(docker, kind, [name], dict[str, Any])[0]
    except EngineSilent as silent:
        if silent.reason == "absent":
            return {}
        raise


def log_lines(docker: str, name: str, lines: int) -> list[str]:
    """The last lines of a container's log. It has two streams; the time joins them."""
    argv = [docker, "logs", "--timestamps", "--tail", str(lines), name]
    result = HostRunner().run(argv, warn=True, dry=False, timeout=20)
    both = [line.partition(" ") for line in (result.stdout + result.stderr).splitlines()]
    return [text for _time, _space, text in sorted(both, key=lambda line: line[0])]


def up(settings: Settings, found: Container) -> None:
    """Start the Compose service; what its file leaves open is made up first, since Compose
    takes it from `.env`."""
    discover.check_owner(found, settings.project)
    env = None if found.id else _service_environment(settings)
    if env is not None:
        open_names = {k: v for k, v in credentials.MADE_UP.items() if env.get(k) == ""}
        known = credentials.adopt(settings, {**env, **open_names})
        if env.get("POSTGRES_HOST_AUTH_METHOD") != "trust" and not env.get(PASSWORD_FILE):
            known = credentials.complete(known)
        credentials.remember(settings, known)
    if found.state == "paused":
        run(settings, "unpause", found.id)
    argv = engine.compose_argv(settings.project, "up", "-d", str(settings.compose_service))
    run(settings, *argv)


def _service_environment(settings: Settings) -> dict[str, str] | None:
    """The environment that the Compose file gives the service; ``None`` when there is
    something wrong with the file, as `up` will say."""
    argv = engine.compose_argv(settings.project, "config", "--format", "json")
    try:
        services = engine.part(json.loads(engine.ask(settings.docker, argv))["services"])
        service = services.get(str(settings.compose_service))
        if service is None:  # of a profile that is not active
            return None
        given = engine.part(engine.part(service).get("environment"))
    except EngineSilent as silent:
        lacks_values = "required variable" in silent.reason or "env file" in silent.reason
        return {} if lacks_values else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return {name: "" if value is None else str(value) for name, value in given.items()}


def wake(settings: Settings, found: Container) -> None:
    """Start an existing container, in whatever state it is.

    :raises Refused: it belongs to another project, or its port is taken.
    :raises Unreachable: it is in a state that no start leads out of.
    """
    discover.check_owner(found, settings.project)
    if found.running:
        log.info("Container %s is already running", found.name)
    elif found.state == "paused":
        run(settings, "unpause", found.id)
    elif found.state in ("created", "exited"):
        run(settings, "start", found.id)
    else:
        raise Unreachable(
            f"Container {found.name} is {found.state}",
            "See invoke postgres.logs, then invoke postgres.remove (keeps the volume) and start",
        )


def halt(settings: Settings, found: Container) -> None:
    """Stop a container; harmless when there is none, or it does not run."""
    discover.check_ours(found, settings.project)
    if found.state == "paused":
        run(settings, "unpause", found.id)
    if found.state in ("running", "paused", "restarting"):
        # Docker's ten seconds may not do for the last checkpoint of a large database.
        run(settings, "stop", "-t", "60", found.id)


def create(settings: Settings) -> None:
    """Make and start the container; on failure neither it nor a new volume stays.

    :raises Refused: the port is taken, or the volume does not fit.
    :raises Unreachable: there is no such image.
    """
    volume, port = f"{settings.container}_data", settings.port or PORT
    mount = _image_mount(settings)
    new = not _volume_fits(settings, volume)
    _check_port(settings, port)
    argv = create_argv(settings.container, settings.project, settings.image, mount, port)
    made = ""
    try:
        if new:
            label = f"{PROJECT_LABEL}={settings.project}"
            run(settings, "volume", "create", "--label", label, volume)
        env = credentials.variables(credentials.complete(settings))
        made = run(settings, *argv, env=env)
        run(settings, "start", made or settings.container)
    except BaseException:
        _undo(settings, made, volume if new else "")
        raise


def run(settings: Settings, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Have the engine do something; returns what it printed.

    :raises RepomError: it failed; see `failure`.
    """
    runner = HostRunner(echo=settings.echo, dry=settings.dry)
    patience = None if arguments[0] in ("pull", "compose") else QUICK
    argv = [settings.docker, *arguments]
    result = runner.run(argv, env=env, warn=True, timeout=patience)
    if not result.ok:
        raise failure(result.stderr or result.stdout)
    return str(result.stdout).strip()


def _undo(settings: Settings, made: str, volume: str) -> None:
    for arguments in (["rm", made], ["volume", "rm", volume]):
        if arguments[-1]:
            with contextlib.suppress(EngineSilent):
                engine.ask(settings.docker, arguments)


def _image_mount(settings: Settings) -> str:
    """The folder that the image declares as the volume of its data. It differs between
    versions: from 18 on it is the parent of what it was. Pulls the image if it is not here."""
    image = details(settings.docker, "image", settings.image)
    if not image:
        log.info("Pulling %s", settings.image)
        try:
            run(settings, "pull", settings.image)
        except CommandFailed as error:
            raise Unreachable(
                f"Image {settings.image} is not here and cannot be pulled ({error.message})",
                "See that REPOM_IMAGE names an image, and that its registry can be reached",
            ) from None
        image = details(settings.docker, "image", settings.image)
    config = image.get("Config") or {}
    return data_mount(environment(config), config.get("Volumes") or ()) or DATA


def _check_port(settings: Settings, port: int) -> None:
    # Podman has no such filter; it finds out itself when the container starts.
    with contextlib.suppress(EngineSilent):
        if names := _users(settings, f"publish={port}"):
            raise port_taken(port, f" by container {names[0]}")
    check_port(port)


def _users(settings: Settings, condition: str, *more: str) -> list[str]:
    """The names of the running containers that fulfil it, such as ``volume=NAME``."""
    question = ["ps", *more, "--filter", condition, "--format", "{{.Names}}"]
    return engine.ask(settings.docker, question).split()


def _volume_fits(settings: Settings, volume: str) -> bool:
    """Whether there is such a volume, to be used again.

    :raises Refused: it is another project's, or in use, or of another PostgreSQL major.
    """
    known = details(settings.docker, "volume", volume)
    if not known:
        return False
    _check_free(settings, volume, known.get("Labels") or {})
    look = ["run", "--rm", "--network", "none", "--user", "root", "--entrypoint", "sh"]
    look += ["--volume", f"{volume}:/repom:ro", settings.image, "-c", LOOK]
    try:
        image, held = versions(engine.ask(settings.docker, look))
    except EngineSilent:
        return True  # an image without a shell: its server has to see for itself
    if image and held and image not in held:
        raise _wrong_major(volume, max(held, key=int), image)
    return True


def _check_free(settings: Settings, volume: str, labels: Mapping[str, str]) -> None:
    """:raises Refused: the volume is of another project, which still exists, or in use."""
    other = discover.owner(labels, settings.project)
    # Labels of a volume cannot be changed, so a project that moved must get past this.
    if other and discover.is_there(other):
        raise Refused(
            f"Volume {volume} belongs to the project in {other}",
            "Set REPOM_CONTAINER to another name, from which the volume has its own",
        )
    if users := _users(settings, f"volume={volume}"):
        raise Refused(
            f"Volume {volume} is in use by container {users[0]}, and a second server would"
            " destroy its data",
            f"Set REPOM_CONTAINER to {users[0]}, or to a new name",
        )


def made_for(project: Path, volume: str, labels: Mapping[str, str], found: Container) -> bool:
    """Whether a volume was made for this project, as far as labels tell.

    Compose labels a volume with the name of its project, which other folders may share, so
    that a container of this folder has to vouch for it. A volume without labels that has
    not the name that repom gives was there before, or is an external one.
    """
    if PROJECT_LABEL in labels:
        return discover.is_labelled(labels, project)
    if name := labels.get(f"{COMPOSE}project"):
        same = name == found.labels.get(f"{COMPOSE}project")
        return same and discover.is_composed(found, project)
    if re.fullmatch("[0-9a-f]{64}", volume):  # nameless: its container's alone
        return discover.is_ours(found, project)
    return volume == f"{found.name}_data" and discover.is_labelled(found.labels, project)


def check_disposable(settings: Settings, volume: str, found: Container) -> None:
    """:raises Refused: the volume was not made for this project, or others use it, too."""
    labels = details(settings.docker, "volume", volume).get("Labels") or {}
    by_hand = f"Leave --volume out, then delete it by hand: {settings.docker} volume rm {volume}"
    if other := discover.owner(labels, settings.project):
        raise Refused(f"Volume {volume} belongs to the project in {other}", by_hand)
    if not made_for(settings.project, volume, labels, found):
        raise Refused(f"Volume {volume} was not made for this project by repom or Compose", by_hand)
    others = {*_users(settings, f"volume={volume}", "--all")} - {found.name}
    if others:
        raise Refused(f"Volume {volume} is in use by container {min(others)}, too", by_hand)


def _wrong_major(volume: str, held: str, image: str) -> Refused:
    return Refused(
        f"Volume {volume} holds the data of PostgreSQL {held}, and the image is PostgreSQL {image}",
        f"Set REPOM_IMAGE=postgres:{held}; or, to move to {image}, start {held}, back up with"
        " invoke db.backup, remove it with invoke postgres.remove --volume, start and restore",
    )
