"""Where configuration is read: flags, environment, `.env`, Invoke's file, defaults.

`Settings.load` is the one entry. It reads everything once and returns a frozen,
validated `Settings`; nothing else in repom looks at the environment for configuration.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from .errors import Hidden, SettingsError

log = logging.getLogger("repom")

MARKERS = (".env", "tasks.py", ".git")
FORMATS = ("custom", "plain")
VIAS = ("auto", "docker", "host")
DEFAULT_SQLITE = "data/repom.sqlite3"

#: Keys of the `repom:` section of Invoke's configuration, each the lower-case rest of a
#: `REPOM_*` variable. Mountable collections declare them all with `None`, because Invoke
#: only reads `INVOKE_REPOM_*` for keys that are declared, and casts by the old value.
KEYS = (
    "database_url",
    "container",
    "compose_service",
    "image",
    "via",
    "docker",
    "backup_dir",
    "keep",
    "undo_keep",
    "format",
    "jobs",
)

VARIABLES = frozenset(f"REPOM_{key.upper()}" for key in KEYS)

#: Connection parameters of libpq that a URL may carry and that are passed on. Others
#: belong to an ORM or a pool, and libpq would reject them.
LIBPQ_OPTIONS = (
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslcrl",
    "channel_binding",
    "gssencmode",
    "connect_timeout",
    "target_session_attrs",
    "options",
)

_DOCKER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_IMAGE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]*")


@dataclass(frozen=True)
class Settings:
    """Everything repom was told, validated.

    :param project: the project folder; relative paths belong to it.
    :param backend: ``postgresql`` or ``sqlite``.
    :param database: the database's name; for SQLite its path relative to the project.
    :param host: as configured; ``None`` when nobody named one.
    :param port: as configured; ``None`` when nobody named one.
    :param configured: whether a database was named at all, or this is the default.
    :param dry: say what would be done, and write nothing.
    :param echo: show every command on standard error.
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

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file, absolute; links are followed once, here, since SQLite names
        its side files after the path it was given."""
        return _resolved(self.project, self.database, "The SQLite file")

    @property
    def remote_host(self) -> str | None:
        """The server's host, when that is another machine than this one."""
        own = {None, "", self.container, self.compose_service}
        if self.host in own or str(self.host).lower() == "localhost":
            return None
        if str(self.host).startswith(("/", "@")):
            return None
        try:
            return None if ipaddress.ip_address(str(self.host)).is_loopback else self.host
        except ValueError:
            return self.host

    @classmethod
    def load(
        cls,
        config: Any = None,
        *,
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        **flags: Any,
    ) -> Settings:
        """Read every source and return what holds.

        :param config: Invoke's configuration, or a mapping like it: its sections ``repom``
            and ``run`` count.
        :param environ: instead of the process's environment.
        :param cwd: instead of the working directory, for finding the project folder.
        :param flags: values from the command line; ``None`` means not given.
        :raises SettingsError: for a value that is not allowed; names its source, and
            shows it unless it could hold a secret.
        """
        project = find_project(cwd or Path.cwd())
        environ = hidden(os.environ if environ is None else environ)
        config = config or {}
        dotenv = hidden(read_dotenv(project / ".env", environ))
        sources = _Sources(flags, environ, dotenv, config)
        run = config.get("run") or {}
        return cls(
            project=project,
            dry=bool(run.get("dry")),
            echo=bool(run.get("echo")),
            **_database(sources, project),
            **_options(sources, project),
        )

    def having(self, **flags: Any) -> Settings:
        """These settings with some replaced; ``None`` leaves one as it is.

        :raises SettingsError: a value is not allowed.
        """
        given = {key: value for key, value in flags.items() if value is not None}
        return replace(self, **{k: OPTIONS[k][1](k, value) for k, value in given.items()})


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


def read_dotenv(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Parse a `.env` file as Compose does, without touching the environment.

    `${NAME}` and `${NAME:-default}` are expanded from `environ` and the lines above,
    but not between single quotes and never in POSTGRES_PASSWORD.

    :raises SettingsError: for a line that cannot be parsed; names its number only.
    """
    if not path.is_file():
        return {}
    from dotenv.variables import parse_variables

    values: dict[str, str] = {}
    for key, value, text in _assignments(path):
        literal = re.match(r"[^=]*=\s*'", text) or key == "POSTGRES_PASSWORD"
        if not literal:
            known = {**values, **environ}
            value = "".join(atom.resolve(known) for atom in parse_variables(value))
        values[key] = value
        if key.startswith("REPOM_") and key not in VARIABLES:
            log.warning("%s in %s is no setting of repom", key, path.name)
    return values


def _assignments(path: Path) -> Iterator[tuple[str, str, str]]:
    """Name, value and text of each line of a `.env` file that sets something."""
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8-sig") as stream:
            bindings = list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({type(error).__name__})") from None
    for binding in bindings:
        text = binding.original.string
        if binding.error:
            blank = text[: len(text) - len(text.lstrip())].count("\n")
            raise SettingsError(
                f"{path.name} line {binding.original.line + blank} cannot be parsed",
                "Write NAME=value, and quote a value that has spaces or quotes",
            )
        if binding.key is not None and binding.value is not None:
            yield binding.key, binding.value, text


class _Sources:
    """Looks a setting up in order, and remembers where it was found."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
        dotenv: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> None:
        self._flags = flags
        self._named = (("the environment", environ), (".env", dotenv))
        self._config = config.get("repom") or {}

    def variable(self, name: str) -> tuple[str | None, str]:
        """The value of an environment variable and where it came from; empty is unset."""
        for origin, values in self._named:
            if values.get(name):
                return str(values[name]), f"{name} (from {origin})"
        return None, name

    def setting(self, key: str) -> tuple[Any, str]:
        """The value of a repom setting in the order of the contract, and its origin."""
        if self._flags.get(key) is not None:
            return self._flags[key], f"--{key.replace('_', '-')}"
        value, origin = self.variable(f"REPOM_{key.upper()}")
        if value is None and self._config.get(key) not in (None, ""):
            return self._config[key], f"repom.{key} (from Invoke's configuration)"
        return value, origin

    def read(self, key: str, default: Any, check: Callable[[str, Any], Any]) -> Any:
        value, origin = self.setting(key)
        return default if value is None else check(origin, value)


def _at_least(least: int) -> Callable[[str, Any], int]:
    def check(origin: str, value: Any) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < least:
            _reject(origin, value, f"a whole number, {least} or more")
        return int(text)

    return check


def whole_number(origin: str, value: Any, least: int = 0) -> int | None:
    """A whole number that may be left out.

    :raises SettingsError: it is none, or less than `least`.
    """
    return None if value is None else _at_least(least)(origin, value)


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(origin: str, value: Any) -> str:
        if value not in allowed:
            _reject(origin, value, " or ".join(allowed))
        return str(value)

    return check


def _matching(pattern: re.Pattern[str]) -> Callable[[str, Any], str]:
    def check(origin: str, value: Any) -> str:
        if not pattern.fullmatch(str(value)):
            _reject(origin, value, "letters, digits and . _ -, starting with one of the former")
        return str(value)

    return check


def _path(_origin: str, value: Any) -> Path:
    return Path(str(value)).expanduser()


def _reject(origin: str, value: Any, allowed: str) -> NoReturn:
    raise SettingsError(f"{origin} is {str(value)!r}", f"Allowed: {allowed}")


def _text(_origin: str, value: Any) -> str:
    return str(value)


#: Setting → default and check. The default of `jobs` is this machine's.
OPTIONS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "container": ("repom_postgres", _matching(_DOCKER_NAME)),
    "compose_service": (None, _matching(_DOCKER_NAME)),
    "image": ("postgres:18", _matching(_IMAGE_NAME)),
    "via": ("auto", _one_of(VIAS)),
    "docker": ("docker", _text),
    "backup_dir": (Path("backups"), _path),
    "keep": (7, _at_least(1)),
    "undo_keep": (1, _at_least(0)),
    "format": ("custom", _one_of(FORMATS)),
    "jobs": (min(os.cpu_count() or 1, 8), _at_least(1)),
}


def _options(sources: _Sources, project: Path) -> dict[str, Any]:
    values = {key: sources.read(key, *rule) for key, rule in OPTIONS.items()}
    return {**values, "backup_dir": project / values["backup_dir"]}


def _database(sources: _Sources, project: Path) -> dict[str, Any]:
    """Which database: a URL, else the official image's variables, else the default."""
    for value, origin in (
        sources.variable("REPOM_DATABASE_URL"),
        sources.variable("DATABASE_URL"),
        sources.setting("database_url"),
    ):
        if value:
            return _from_url(str(value), origin, project)
    names = ("USER", "PASSWORD", "DB", "HOST", "PORT")
    given = {name: sources.variable(f"POSTGRES_{name}") for name in names}
    if any(value for value, _origin in given.values()):
        return _from_variables(given)
    return {**_sqlite(DEFAULT_SQLITE, "the default", project), "configured": False}


def _from_variables(given: Mapping[str, tuple[str | None, str]]) -> dict[str, Any]:
    user = given["USER"][0] or "postgres"
    port, origin = given["PORT"]
    host = given["HOST"][0]
    if host and "," in host:
        raise SettingsError(f"{given['HOST'][1]} names several hosts", "Name one")
    return {
        "backend": "postgresql",
        "database": given["DB"][0] or user,
        "user": user,
        "password": given["PASSWORD"][0],
        "host": host,
        "port": None if port is None else _port(origin, port),
    }


def _port(origin: str, value: Any) -> int:
    number = _at_least(1)(origin, value)
    if number > 65535:
        _reject(origin, value, "a port, 1 to 65535")
    return number


def _from_url(text: str, origin: str, project: Path) -> dict[str, Any]:
    """Parse a SQLAlchemy or libpq URL. Its text is in no message: it can hold a password."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # what it says would quote the URL
        url = None
    if url is None:
        authority = text.partition("://")[2].rpartition("@")[2].partition("/")[0]
        if "," in authority:
            raise SettingsError(f"{origin} names several hosts", "Name one")
        raise SettingsError(
            f"{origin} is not a database URL",
            "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:///PATH",
        )
    backend = url.drivername.partition("+")[0]
    if backend == "sqlite":
        return _sqlite("" if url.host else url.database or "", origin, project)
    if backend not in ("postgresql", "postgres"):
        raise SettingsError(
            f"{origin} is a {backend} URL", "Allowed: postgresql://, postgres:// and sqlite:///"
        )
    if url.database and make_url("x://h/%41").database != "A":  # SQLAlchemy before 2.1
        url = url.set(database=unquote(url.database))
    query = {k: v if isinstance(v, str) else ",".join(v) for k, v in url.query.items()}
    return _postgresql(url, query, origin)


def _postgresql(url: Any, query: Mapping[str, str], origin: str) -> dict[str, Any]:
    host = unquote(url.host) if url.host else query.get("host")
    if host and "," in host:
        raise SettingsError(f"{origin} names several hosts", "Name one")
    port = url.port if url.port is not None else query.get("port")
    user = url.username or query.get("user") or "postgres"
    password = query.get("password") if url.password is None else str(url.password)
    return {
        "backend": "postgresql",
        "database": url.database or query.get("dbname") or user,
        "user": user,
        "password": password or None,
        "host": host or None,
        "port": None if port is None else _port(f"The port in {origin}", port),
        "options": tuple((k, query[k]) for k in LIBPQ_OPTIONS if k in query),
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
            f"{origin} names no SQLite file on disk", "Write sqlite:///PATH, a path to a file"
        )
    absolute = _resolved(project, path, origin)
    inside = absolute.is_relative_to(project)
    name = absolute.relative_to(project).as_posix() if inside else str(absolute)
    return {"backend": "sqlite", "database": name}
