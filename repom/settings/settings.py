"""Where configuration is read: flags, environment, `.env`, Invoke's file, defaults.

`Settings.load` is the one entry. It reads everything once and returns a frozen,
validated `Settings`; nothing else in repom looks at the environment for configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repom.errors import Hidden, SettingsError

from . import url
from .address import Address
from .dotenv import read_dotenv
from .sources import OPTIONS, Sources
from .values import at_least, expanded, legible

log = logging.getLogger("repom")

MARKERS = (".env", "tasks.py", ".git")
DEFAULT_SQLITE = "data/repom.sqlite3"


@dataclass(frozen=True)
class Settings:
    """Everything repom was told, validated.

    :param project: the project folder; relative paths belong to it.
    :param backend: ``postgresql`` or ``sqlite``.
    :param database: the database's name; for SQLite its path relative to the project.
    :param host: as configured; ``None`` when nobody named one.
    :param port: as configured; ``None`` when nobody named one.
    :param options: connection parameters of libpq, besides those that have a field.
    :param configured: whether a database was named at all, or this is the default.
    :param dry: say what would be done, and write nothing.
    :param echo: show every command on standard error.
    :param session_options: settings of the sessions, as in libpq's ``options``.
    """

    project: Path
    backend: str
    database: str
    user: str = ""
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    configured: bool = True
    container: str = "repom_postgres"
    compose_service: str | None = None
    image: str = "postgres:18"
    via: str = "auto"
    docker: str = "docker"
    backup_dir: Path = Path("backups")
    keep: int = 7
    undo_keep: int = 1
    format: str = "custom"
    jobs: int = 1
    dry: bool = False
    echo: bool = False
    session_options: str = ""

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file, absolute; links are followed once, here, since SQLite names
        its side files after the path it was given."""
        return _resolved(self.project, self.database, "The SQLite file")

    @property
    def address(self) -> Address:
        """Where the server is, as configured."""
        return Address(
            *(self.host, self.port, self.user, self.database, self.password),
            *(self.options, self.session_options),
        )

    @property
    def remote_host(self) -> str | None:
        """The server's host, when that is another machine than this one."""
        own_name = self.compose_service or self.container
        return None if self.host == own_name else self.remote_from("host")

    def remote_from(self, via: str) -> str | None:
        """The server's host, when that is another machine for programs that run `via`
        ``docker`` or ``host``: what a container's name leads to on the host, nobody knows."""
        return None if via == "docker" or self.address.is_local else self.host

    @classmethod
    def load(
        cls,
        config: Any = None,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        quiet: bool = False,
        **flags: Any,
    ) -> Settings:
        """Read every source and return what holds.

        :param config: Invoke's configuration, or a mapping like it: its sections ``repom``
            and ``run`` count.
        :param environ: instead of the process's environment.
        :param cwd: instead of the working directory, for finding the project folder.
        :param quiet: do not warn, since it has been done.
        :param flags: values from the command line; ``None`` means not given.
        :raises SettingsError: for a value that is not allowed; names its source, and
            shows it unless it could hold a secret.
        """
        project = find_project(cwd or Path.cwd())
        environ = hidden(os.environ if environ is None else environ)
        config = config or {}
        dotenv = hidden(read_dotenv(project / ".env", environ))
        sources = Sources(flags, environ, dotenv, config)
        for warning in [] if quiet else sources.unknown():
            log.warning("%s", warning)
        run = config.get("run") or {}
        return cls(
            project=project,
            dry=bool(run.get("dry")),
            echo=bool(run.get("echo")),
            **_database(sources, project, quiet=quiet),
            **_options(sources, project),
        )

    def having(self, **flags: Any) -> Settings:
        """These settings with some replaced; ``None`` leaves one as it is.

        :raises SettingsError: a value is not allowed.
        """
        given = {key: value for key, value in flags.items() if value is not None}
        checked = {k: OPTIONS[k][1](k, legible(k, value)) for k, value in given.items()}
        return replace(self, **checked)


def hidden(values: Mapping[str, str]) -> dict[str, str]:
    """The same values, which no traceback shows."""
    return {name: Hidden(value) for name, value in values.items()}


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` with one of `MARKERS`, else `start`.

    The search cannot leave a repository, since its top has `.git`.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in MARKERS):
            return folder
    return start


def _options(sources: Sources, project: Path) -> dict[str, Any]:
    values = {key: sources.read(key, *rule) for key, rule in OPTIONS.items()}
    return {**values, "backup_dir": project / values["backup_dir"]}


def _database(sources: Sources, project: Path, *, quiet: bool) -> dict[str, Any]:
    """Which database: a URL, else the official image's variables, else the default."""
    for look in (
        lambda: sources.variable("REPOM_DATABASE_URL"),
        lambda: sources.variable("DATABASE_URL"),
        lambda: sources.setting("database_url"),
    ):
        value, origin = look()
        if value is not None:
            return _from_url(url.parse(str(value), origin), origin, project, quiet=quiet)
    names = ("USER", "PASSWORD", "DB", "HOST", "PORT")
    given = {name: sources.variable(f"POSTGRES_{name}") for name in names}
    if any(value for value, _origin in given.values()):  # an empty password alone is none
        return _from_variables(given)
    return {**_sqlite(DEFAULT_SQLITE, "the default", project), "configured": False}


def _from_variables(given: Mapping[str, tuple[str | None, str]]) -> dict[str, Any]:
    user = given["USER"][0] or "postgres"
    host, host_origin = given["HOST"]
    port, port_origin = given["PORT"]
    return {
        "backend": "postgresql",
        "database": given["DB"][0] or user,
        "user": user,
        "password": given["PASSWORD"][0] or None,
        "host": None if host is None else url.checked_host(host, host_origin),
        "port": None if port is None else at_least(1, 65535)(port_origin, port),
    }


def _from_url(found: url.Url, origin: str, project: Path, *, quiet: bool) -> dict[str, Any]:
    if found.backend == "sqlite":
        return _sqlite(found.database, origin, project)
    if found.unknown and not quiet:
        log.warning("Ignoring parameters of %s: %s", origin, ", ".join(found.unknown))
    return {
        "backend": found.backend,
        "database": found.database,
        "user": found.user,
        "password": found.password,
        "host": found.host,
        "port": found.port,
        "options": found.options,
        "session_options": found.session,
    }


def _resolved(project: Path, path: str, origin: str) -> Path:
    """Absolute, links followed; an unknown user's home, a zero byte or links in a circle
    are no path at all, and what is not Unicode has no place in a manifest."""
    try:
        path.encode()
        return Path(project, Path(path).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{origin} cannot be used as a path: {error}") from None


def _sqlite(path: str, origin: str, project: Path) -> dict[str, Any]:
    if path in ("", ":memory:") or path.startswith("file:"):
        raise SettingsError(
            f"{origin} does not name an SQLite file on disk",
            "Write sqlite:///PATH, a path to a file",
        )
    absolute = _resolved(project, str(expanded(origin, path)), origin)
    inside = absolute.is_relative_to(project)
    name = absolute.relative_to(project).as_posix() if inside else str(absolute)
    return {"backend": "sqlite", "database": name}
