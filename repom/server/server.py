"""The project's own PostgreSQL server: start, stop, status, logs, remove.

It is the container or Compose service that the settings name, or, without a container
engine, a cluster that is made with this host's programs. Nothing here prints.
"""

from __future__ import annotations

from repom.errors import Refused, SettingsError, advice
from repom.runners.container import Container
from repom.runners.engine import Trouble
from repom.settings import Settings

from . import containers
from .cluster import LocalServer
from .containers import ContainerServer
from .facts import Server


def start(settings: Settings) -> Server:
    """Start the project's server, creating it if needed, and wait until the target
    database answers as the target user. What had to be made up is added to `.env`.

    :raises SettingsError: the settings name an SQLite database or another machine.
    :raises Unreachable: no engine and no programs; the server ends, or does not answer.
    :raises Refused: container, volume or port belong to others; the volume has another
        PostgreSQL major.
    """
    settings, container = containers.found(settings)
    _check_target(settings, container)
    return _server(settings, container).start()


def stop(settings: Settings) -> Server:
    """Stop the server; its clients are disconnected. Harmless when it does not run.

    :raises Refused: the container belongs to another project.
    """
    return _found(settings).stop()


def status(settings: Settings) -> Server:
    """What there is, whether it runs or not."""
    return _found(settings).describe()


def logs(settings: Settings, lines: int = 50) -> str:
    """The last lines that the server wrote.

    :raises Unreachable: there is no such container, or no engine.
    """
    return "\n".join(_found(settings).log_lines(lines))


def removable(settings: Settings, *, volume: bool = False) -> Server:
    """What `remove` would remove; raises as that does, and changes nothing."""
    return _found(settings).removable(volume=volume)


def remove(settings: Settings, *, volume: bool = False, seen: Server | None = None) -> Server:
    """Stop the server and remove its container; keep the data unless `volume` is given.

    :param volume: remove the data, too, and with them a local cluster.
    :param seen: what the user agreed to have removed.
    :returns: what there was.
    :raises Refused: container or data are another project's or not those that were seen, or
        the data is in the container itself and would be lost unasked.
    """
    found = _found(settings)
    before = found.removable(volume=volume)
    if seen and (seen.kind, seen.name, seen.data) != (before.kind, before.name, before.data):
        raise Refused(
            f"The server has changed: it is now {before.name} with its data in {before.data}",
            advice("Check {}, then run the command again", "postgres.status"),
        )
    found.remove(before.data, volume=volume)
    return before


def _found(settings: Settings) -> ContainerServer | LocalServer:
    return _server(*containers.found(settings))


def _server(settings: Settings, container: Container) -> ContainerServer | LocalServer:
    local = LocalServer(settings, container)
    return local if is_local(local) else ContainerServer(settings, container)


def is_local(local: LocalServer) -> bool:
    """Whether the server is a local cluster. What exists comes first, so that a daemon that
    runs on some days only does not move the project to an empty server. An engine that this
    user may not use is not a missing one: it may well hold the data."""
    found = local.container
    if local.settings.via == "docker":
        return False
    if found.id:
        return not found.running and local.running_port() is not None
    if found.trouble is Trouble.ABSENT:
        return local.settings.via == "host" or local.exists
    return found.trouble in (Trouble.NOT_INSTALLED, Trouble.NOT_RUNNING)


def _check_target(settings: Settings, found: Container) -> None:
    if settings.configured and settings.backend == "sqlite":
        raise SettingsError(
            f"The settings name an SQLite database ({settings.database}), which has no server",
            "Unset DATABASE_URL, or set it to postgresql://USER:PASSWORD@localhost:5432/DATABASE",
        )
    if not settings.address.is_local and settings.host not in found.names:
        raise SettingsError(
            f"The database is on host {settings.host}, and repom starts servers on this machine"
            " only",
            "Unset the host, or set it to localhost",
        )
