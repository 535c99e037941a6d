"""Where configuration is read: flags, environment, `.env`, Invoke's file, defaults.

`Settings.load` is the one entry. It reads everything once and returns a frozen,
validated `Settings`; nothing else in repom looks at the environment for configuration.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from . import url
from .address import Address
from .dotenv import read_dotenv
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

#: More workers than any server of a developer has processors for.
MOST_JOBS = 64

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
        return Address(self.host, self.port)

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
        sources = _Sources(flags, environ, dotenv, config)
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


def legible(origin: str, value: Any) -> Any:
    """The value, if it is one that programs and files can take.

    :raises SettingsError: it is empty, or has characters that nothing takes.
    """
    text = str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise SettingsError(f"{origin} must be text or a number", "Put it between quotes")
    if not text.strip():
        raise SettingsError(f"{origin} is empty", "Give it a value, or leave it out")
    if not _is_utf8(text) or "\0" in text:
        raise SettingsError(f"{origin} is not valid UTF-8 text", "Set it again")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # other bytes of the environment, as Python keeps them
        return False
    return True


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
        section = config.get("repom")
        if section is not None and not hasattr(section, "items"):
            raise SettingsError(
                "repom in Invoke's configuration is not a section", "Write names and values"
            )
        self._config: Mapping[str, Any] = {} if section is None else section

    def variable(self, name: str) -> tuple[str | None, str]:
        """The value of an environment variable and where it came from.

        An empty one is an error: `REPOM_CONTAINER=$UNSET` must not mean the default. Only
        a password may be empty.
        """
        for origin, values in self._named:
            if name in values:
                origin = f"{name} (from {origin})"
                may_be_empty = name == "POSTGRES_PASSWORD" and not values[name]
                return values[name] if may_be_empty else legible(origin, values[name]), origin
        return None, name

    def setting(self, key: str) -> tuple[Any, str]:
        """The value of a repom setting in the order of the contract, and its origin."""
        if self._flags.get(key) is not None:
            origin = f"--{key.replace('_', '-')}"
            return legible(origin, self._flags[key]), origin
        value, origin = self.variable(f"REPOM_{key.upper()}")
        if value is None and self._config.get(key) is not None:
            origin = f"repom.{key} (from Invoke's configuration)"
            return legible(origin, self._config[key]), origin
        return value, origin

    def unknown(self) -> Iterable[str]:
        """What is spelled like a setting and is none, with what was probably meant. No
        error: it may be one of a newer version."""
        given = [name for _origin, values in self._named for name in values]
        for prefix in ("", "INVOKE_"):
            names = [n for n in given if n.startswith(f"{prefix}REPOM_")]
            yield from _misspelt(names, {f"{prefix}{each}" for each in VARIABLES})
        yield from _misspelt([f"repom.{n}" for n in self._config], {f"repom.{n}" for n in KEYS})

    def read(self, key: str, default: Any, check: Callable[[str, Any], Any]) -> Any:
        value, origin = self.setting(key)
        return default if value is None else check(origin, value)


def _misspelt(names: Iterable[str], known: Iterable[str]) -> Iterable[str]:
    for name in sorted(set(names) - set(known)):
        from difflib import get_close_matches

        near = get_close_matches(name, sorted(known), 1, 0.8)
        yield f"Unknown setting {name}{f' (did you mean {near[0]}?)' if near else ''}"


def _at_least(least: int, most: int = 999_999_999) -> Callable[[str, Any], int]:
    allowed = f"{least} or more" if most == 999_999_999 else f"{least} to {most}"

    def check(origin: str, value: Any) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            _reject(origin, value, f"a whole number, {allowed}")
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


def _path(origin: str, value: Any) -> Path:
    return expanded(origin, str(value))


def expanded(origin: str, path: str) -> Path:
    """The path, with ``~`` for a home folder.

    :raises SettingsError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = path.partition("/")[0]
        raise SettingsError(
            f"{origin} begins with {user}, and this machine has no such user",
            "Use an absolute path",
        ) from None


def _reject(origin: str, value: Any, allowed: str) -> NoReturn:
    text = str(value)
    # Who takes one variable for another may have put a URL with a password into it.
    shown = "not allowed" if "://" in text else repr(text)
    raise SettingsError(f"{origin} is {shown}", f"Allowed: {allowed}")


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
    "jobs": (min(os.cpu_count() or 1, 8), _at_least(1, MOST_JOBS)),
}


def _options(sources: _Sources, project: Path) -> dict[str, Any]:
    values = {key: sources.read(key, *rule) for key, rule in OPTIONS.items()}
    return {**values, "backup_dir": project / values["backup_dir"]}


def _database(sources: _Sources, project: Path, *, quiet: bool) -> dict[str, Any]:
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
        "port": None if port is None else _at_least(1, 65535)(port_origin, port),
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
