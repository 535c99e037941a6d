"""Where configuration is read: flags, environment, `.env`, Invoke's file, defaults.

`Settings.load` is the one entry. It reads everything once and returns a frozen,
validated `Settings`; nothing else in repom looks at the environment for configuration.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from repom.errors import Hidden, SettingsError

from . import url, values
from .address import Address
from .dotenv import read_dotenv
from .sources import KEYS, Sources

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine

log = logging.getLogger("repom")

MARKERS = (".env", "tasks.py", ".git")
FORMATS = ("custom", "plain")
VIAS = ("auto", "docker", "host")
MOST_JOBS = 64  # more workers than a developer's server has processors for

VARIABLES = ("DATABASE_URL", *(f"POSTGRES_{n}" for n in ("USER", "PASSWORD", "DB", "HOST", "PORT")))
VARIABLES += tuple(f"REPOM_{key.upper()}" for key in KEYS)

NOWHERE = Address()
_URL = ("sqlalchemy.engine.url", "URL")
#: What names a database in Python; ``None`` means the configured one.
Source: TypeAlias = "Settings | Engine | URL | None"


@dataclass(frozen=True)
class Settings:
    """All that is configured, validated.

    :param project: the project folder; relative paths belong to it.
    :param address: the PostgreSQL database; without a name in it, SQLite is configured.
    :param sqlite: the SQLite file: its path in the project folder, or an absolute one.
    :param configured: whether a database was named at all, or this is the default.
    :param left_open: ``user``, ``database``: which of these no setting gives, so that what
        the address says of them is only a default.
    :param is_named: whether a setting names the container or the Compose service.
    :param after_load: scripts that run in a restored database before it takes over.
    :param pull_url: the database that `db.pull` copies from.
    :param dry: say what would be done, and write nothing.
    :param echo: show every command on standard error.
    """

    project: Path
    address: Address = NOWHERE
    sqlite: str = "data/repom.sqlite3"
    configured: bool = True
    left_open: tuple[str, ...] = ()
    is_named: bool = False
    container: str = "repom_postgres"
    compose_service: str | None = None
    image: str = "postgres:18"
    via: str = "auto"
    docker: str = "docker"
    backup_dir: Path = Path("backups")
    keep: int = 7
    undo_keep: int = 1
    format: str = "custom"
    jobs: int = min(os.cpu_count() or 1, 8)
    after_load: tuple[Path, ...] = ()
    pull_url: Address | str | None = None
    dry: bool = False
    echo: bool = False

    @property
    def backend(self) -> str:
        """``postgresql`` or ``sqlite``."""
        return "postgresql" if self.address.database else "sqlite"

    @property
    def database(self) -> str:
        """The database's name, or the path of the SQLite file as in `sqlite`."""
        return self.address.database or self.sqlite

    @property
    def host(self) -> str | None:
        return self.address.host

    @property
    def port(self) -> int | None:
        return self.address.port

    @property
    def user(self) -> str:
        return self.address.user

    @property
    def password(self) -> str | None:
        return self.address.password

    @property
    def has_place(self) -> bool:
        """Whether a setting gives a host or a port."""
        return self.host is not None or self.port is not None

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file, absolute. Links are followed here, once: SQLite names its side
        files after the path that it is given."""
        return _resolved(self.project, self.sqlite, "The SQLite file")

    @property
    def remote_host(self) -> str | None:
        """The server's host, unless it can be this machine or the project's container."""
        near = self.address.is_near(self.compose_service or self.container)
        return None if near else self.host

    def remote_from(self, via: str) -> str | None:
        """The server's host, when it is another machine for programs that run `via`
        ``docker`` or ``host``: on the host, a container's name may lead anywhere."""
        return None if via == "docker" or self.address.is_local else self.host

    @classmethod
    def load(
        cls,
        config: Any = None,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        quiet: bool = False,
        target: Address | str | None = None,
        **flags: str | int | None,
    ) -> Settings:
        """Read every source.

        :param config: Invoke's configuration, or a mapping like it, for its sections
            ``repom`` and ``run``.
        :param environ: instead of the process's environment.
        :param cwd: where the search for the project folder starts, instead of the
            working directory.
        :param quiet: do not log warnings, since an earlier call did.
        :param target: instead of the configured database: an address, or an SQLite path.
        :param flags: values from the command line; ``None`` means not given.
        :raises SettingsError: for a value that is not allowed; names its source, and
            shows it unless it could hold a secret.
        """
        project = find_project(cwd or Path.cwd())
        environ = hidden(os.environ if environ is None else environ)
        config = config or {}
        sources = Sources(flags, environ, hidden(read_dotenv(project / ".env", environ)), config)
        for name in [] if quiet else sources.unknown():
            log.warning("Unknown setting %s", name)
        run = config.get("run") or {}
        settings = cls(project, dry=bool(run.get("dry")), echo=bool(run.get("echo")))
        if target is not None:
            settings = _with_target(settings, target, "The given database")
        else:
            settings = _with_database(settings, sources, quiet=quiet)
        return _with_options(settings, sources)

    @classmethod
    def of(cls, source: Source = None) -> Settings:
        """Settings for what a Python program works with.

        An engine's or a URL's database takes the place of the configured one; all other
        settings are loaded as usual. What an engine got besides its URL (``connect_args``,
        ``creator``) is not seen, and SQLite's relative paths start in the working
        directory, as for the engine.

        :raises SettingsError: as `load`, or the URL is not of a database that repom supports.
        :raises TypeError: the source is something else.
        """
        if isinstance(source, Settings):
            return source
        if source is None:
            return cls.load()
        given: Any = getattr(source, "url", source)
        # Importing SQLAlchemy takes 0.2 s, which only those who use it should spend.
        if not any((c.__module__, c.__name__) == _URL for c in type(given).__mro__):
            raise TypeError(f"expected Settings, or SQLAlchemy's Engine or URL, not {type(source)}")
        return cls.load(target=url.of_sqlalchemy(given))

    def having(
        self,
        *,
        format: str | None = None,
        via: str | None = None,
        keep: str | int | None = None,
        jobs: str | int | None = None,
    ) -> Settings:
        """These settings with some replaced; ``None`` leaves one as it is.

        :raises SettingsError: a value is not allowed.
        """
        return _with_options(
            self, Sources({"format": format, "via": via, "keep": keep, "jobs": jobs})
        )

    def with_database(self, database: str) -> Settings:
        """These settings for another database of the server, or another SQLite file."""
        if self.backend == "sqlite":
            return replace(self, sqlite=database)
        return replace(self, address=replace(self.address, database=database))


def listed(config: Any = None) -> list[tuple[str, str, str]]:
    """Name, value and origin of each setting that can be read, with secrets masked.

    :raises SettingsError: `.env` cannot be read.
    """
    project, environ = find_project(Path.cwd()), hidden(os.environ)
    sources = Sources({}, environ, hidden(read_dotenv(project / ".env", environ)), config)
    found = []
    for name in VARIABLES:
        key = name.lower().removeprefix("repom_")
        is_own = name.startswith("REPOM_")
        default = getattr(Settings, key, None) if is_own else None
        with suppress(SettingsError):
            value, origin = sources.setting(key) if is_own else sources.variable(name)
            origin = "default" if value is None else origin.partition(" (from ")[2][:-1]
            value = default if value is None else value
            found += [] if value is None else [(name, _masked(name, str(value)), origin)]
    return found


def _masked(name: str, value: str) -> str:
    """A URL or a password may also have been put into the wrong variable."""
    if name.endswith("_URL"):
        with suppress(SettingsError):
            target = url.parse(value, name, quiet=True)
            return target.masked_url() if isinstance(target, Address) else value
    return "***" if "://" in value or name.endswith(("_URL", "_PASSWORD")) else value


def hidden(variables: Mapping[str, str]) -> dict[str, str]:
    """The same values, which no traceback shows."""
    return {name: Hidden(value) for name, value in variables.items()}


def find_project(start: Path) -> Path:
    """The nearest folder at or above `start` with one of `MARKERS`, else `start`.

    The search cannot leave a repository, since its top has `.git`.
    """
    start = start.resolve()
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in MARKERS):
            return folder
    return start


def _with_options(settings: Settings, sources: Sources) -> Settings:
    """The settings with what the sources say, except for the database."""
    read = sources.read
    named = [sources.setting(key) for key in ("container", "compose_service")]
    if all(value is not None for value, _origin in named):
        raise SettingsError(
            f"Both {named[0][1]} and {named[1][1]} are set", "Unset one: each names the database"
        )
    return replace(
        settings,
        is_named=settings.is_named or any(value is not None for value, _origin in named),
        container=read("container", settings.container, values.spelled, "_.-"),
        compose_service=read("compose_service", settings.compose_service, values.spelled, "_.-"),
        image=read("image", settings.image, values.spelled, "_.:/@-"),
        via=read("via", settings.via, values.one_of, *VIAS),
        docker=read("docker", settings.docker, values.legible),
        backup_dir=settings.project / read("backup_dir", settings.backup_dir, values.expanded),
        keep=read("keep", settings.keep, values.at_least, 1),
        undo_keep=read("undo_keep", settings.undo_keep, values.at_least, 0),
        format=read("format", settings.format, values.one_of, *FORMATS),
        jobs=read("jobs", settings.jobs, values.at_least, 1, MOST_JOBS),
        after_load=read("after_load", settings.after_load, values.files, settings.project),
        pull_url=read("pull_url", settings.pull_url, lambda o, v: url.parse_source(v, o)),
    )


def _with_database(settings: Settings, sources: Sources, *, quiet: bool) -> Settings:
    """The settings with the database: a URL, else the official image's variables, else
    the default."""
    value, origin = sources.variable("REPOM_DATABASE_URL")
    if value is None:
        value, origin = sources.variable("DATABASE_URL")
    if value is None:  # a flag, or Invoke's configuration
        value, origin = sources.setting("database_url")
    if value is not None:
        return _with_target(settings, url.parse(value, origin, quiet=quiet), origin)
    if address := _from_variables(sources):
        names = {"user": "POSTGRES_USER", "database": "POSTGRES_DB"}
        open = (key for key, name in names.items() if sources.variable(name)[0] is None)
        return replace(settings, address=address, left_open=tuple(open))
    settings = _with_target(settings, settings.sqlite, "The default SQLite file")
    return replace(settings, configured=False, left_open=("user", "database"))


def _with_target(settings: Settings, target: Address | str, origin: str) -> Settings:
    if isinstance(target, Address):
        return replace(settings, address=target)
    project = settings.project
    path = _resolved(project, str(values.expanded(origin, target)), origin)
    inside = path.is_relative_to(project)
    return replace(settings, sqlite=path.relative_to(project).as_posix() if inside else str(path))


def _resolved(project: Path, path: str, origin: str) -> Path:
    """The path, absolute, with links followed.

    :raises SettingsError: it holds a NUL or what is not Unicode, or links in a circle.
    """
    try:
        path.encode()
        return Path(project, path).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(f"{origin} cannot be used as a path: {error}") from None


def _from_variables(sources: Sources) -> Address | None:
    """What the official image's variables say; an empty password alone says nothing."""
    user, _ = sources.variable("POSTGRES_USER")
    password, _ = sources.variable("POSTGRES_PASSWORD")
    database, _ = sources.variable("POSTGRES_DB")
    host, host_origin = sources.variable("POSTGRES_HOST")
    port, port_origin = sources.variable("POSTGRES_PORT")
    if not any((user, password, database, host, port)):
        return None
    user = user or "postgres"
    return Address(
        host=None if host is None else url.checked_host(host, host_origin),
        port=None if port is None else values.at_least(port_origin, port, 1, 65535),
        user=user,
        database=database or user,
        password=password or None,
    )
