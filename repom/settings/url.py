"""Database URLs, of SQLAlchemy, libpq and others, read to their last character.

No message quotes any part of one: what looks like a host may be the end of a password that
was not percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from repom.errors import SettingsError

from .address import bare, is_host

#: Connection parameters of libpq that are passed on to it.
PASSED = (
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "sslsni"),
    *("sslcertmode", "sslnegotiation", "sslcompression"),
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    *("min_protocol_version", "max_protocol_version"),
    *("channel_binding", "require_auth", "requirepeer", "passfile"),
    *("gssencmode", "gsslib", "gssdelegation", "krbsrvname"),
    *("connect_timeout", "target_session_attrs", "load_balance_hosts"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    "tcp_user_timeout",
)
#: What frameworks, drivers and pools keep in a URL and what changes neither the server nor
#: the security of the connection. Others of that kind are told of in a warning.
IGNORED = frozenset(
    (
        # libpq: repom has its own
        *("application_name", "fallback_application_name", "client_encoding"),
        # SQLAlchemy, psycopg, asyncpg
        *("pool", "pool_size", "max_overflow", "pool_timeout", "pool_recycle", "pool_pre_ping"),
        *("pool_use_lifo", "echo", "isolation_level", "encoding", "charset", "async_fallback"),
        *("autocommit", "prepare_threshold", "prepared_statement_cache_size"),
        *("prepared_statement_name_func", "statement_cache_size"),
        *("max_cached_statement_lifetime", "max_cacheable_statement_size", "command_timeout"),
        "timeout",
        # Django
        *("conn_max_age", "conn_health_checks", "disable_server_side_cursors"),
        # Prisma, Supabase
        *("connection_limit", "pgbouncer", "schema", "socket_timeout", "supa"),
        # Rails, Ecto
        *("adapter", "checkout_timeout", "idle_timeout", "reaping_frequency"),
        *("prepared_statements", "statement_limit", "schema_search_path", "search_path"),
        *("min_messages", "advisory_locks", "reconnect"),
        # pgx, node-postgres, JDBC
        *("pool_max_conns", "pool_min_conns", "pool_max_conn_lifetime"),
        *("pool_max_conn_idle_time", "pool_health_check_period", "statement_cache_mode"),
        *("statement_cache_capacity", "description_cache_capacity", "default_query_exec_mode"),
        *("binary_parameters", "max", "currentSchema", "ApplicationName", "prepareThreshold"),
        *("reWriteBatchedInserts", "stringtype", "loginTimeout", "tcpKeepAlive"),
    )
)
#: Refused, with what to do instead.
REFUSED = {
    "hostaddr": "Put the address in the place of the host",
    "service": "Put host, port, user and database of the service into the URL",
    "servicefile": "Put host, port, user and database of the service into the URL",
    "sslpassword": "Use a key without a passphrase: a password must not be on a command line",
}
#: Parts of the names of parameters that choose a server or guard the way to it.
WEIGHTY = re.compile(
    "ssl|tls|auth|cert|key|crypt|gss|krb|kerberos|spn|token|secret|pass|pwd|oauth|scram"
    "|host|addr|server|service|sock|port|proxy|tunnel|ssh|user|role|database|dbname|replication",
    re.IGNORECASE,
)
#: Spellings of other drivers, as libpq takes ``ssl=true`` for JDBC's sake.
SSL = {
    **dict.fromkeys(("true", "t", "1", "yes", "on"), "require"),
    **dict.fromkeys(("false", "f", "0", "no", "off"), "disable"),
    **{m: m for m in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")},
}
#: Backends that may be named; another scheme could be anything.
OTHERS = ("mysql", "mariadb", "oracle", "mssql", "mongodb", "redis", "cockroachdb", "duckdb")
EXPECTED = "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:///PATH"
#: As SQLAlchemy, a password may hold anything but an ``@``.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://"
    r"(?:(?P<user>[^:/?#]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<ipv6>[^\]/?@]+)\]|(?P<host>[^:/?\[\]]*))"
    r"(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<database>[^?]*))?"
    r"(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_PARAMETER = re.compile(r"([A-Za-z_][\w.-]*)=.*", re.DOTALL)


@dataclass(frozen=True)
class Url:
    """What a URL says; for SQLite `database` is the path.

    :param options: further connection parameters of libpq.
    :param session: settings of the sessions, as in libpq's ``options``.
    :param unknown: names of parameters that may be left out, as far as anybody can tell.
    """

    backend: str
    database: str
    user: str = ""
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    options: tuple[tuple[str, str], ...] = ()
    session: str = ""
    unknown: tuple[str, ...] = ()


def parse(text: str, origin: str) -> Url:
    """Parse a SQLAlchemy or libpq URL.

    :param origin: where it was found, for messages.
    :raises SettingsError: it cannot be used; says why without a word of it.
    """
    parts = _URL.fullmatch(text)
    if not parts or not _is_decodable(text):
        raise SettingsError(f"{origin} is not a database URL", EXPECTED)
    backend = parts["scheme"].partition("+")[0]
    if backend == "sqlite":
        return _sqlite(parts, origin)
    if backend in ("postgresql", "postgres"):
        _check_encoding(parts, origin)
        return _postgresql(parts, _parameters(parts["query"] or "", origin), origin)
    kind = f"a {backend} URL" if backend in OTHERS else "not a URL of PostgreSQL or SQLite"
    raise SettingsError(f"{origin} is {kind}", "Allowed: postgresql://, postgres:// and sqlite:///")


def _is_decodable(text: str) -> bool:
    """Other bytes would be replaced in silence, and no server takes a NUL."""
    try:
        return "\0" not in unquote(text, errors="strict")
    except UnicodeDecodeError:
        return False


def _sqlite(parts: re.Match[str], origin: str) -> Url:
    if parts["user"] is not None:
        raise SettingsError(
            f"{origin} has a user or a password, and an SQLite file has neither", EXPECTED
        )
    if parts["host"] or parts["ipv6"] or parts["port"] is not None:
        raise SettingsError(
            f"{origin} does not name an SQLite file on disk",
            "Write sqlite:///PATH, a path to a file",
        )
    return Url("sqlite", unquote(parts["database"] or ""))


def _check_encoding(parts: re.Match[str], origin: str) -> None:
    """A special character in a password makes the rest of it look like something else."""
    host = f"{parts['ipv6'] or ''}{parts['host'] or ''}"
    behind = f"{host}{parts['port'] or ''}{parts['database'] or ''}"
    # As a password it is odd, and as a port, a database and parameters with an @ it is not.
    ambiguous = re.match(r"\d*[/?]", parts["password"] or "")
    if "@" in behind or "," in host + (parts["port"] or ""):
        if "@" in behind:
            raise _unencoded(origin)
        raise several_hosts(origin)
    if ambiguous or (host and not is_host(unquote(host))):
        raise _unencoded(origin)


def _unencoded(origin: str) -> SettingsError:
    return SettingsError(
        f"{origin} has special characters in the wrong place",
        "Percent-encode them in the user, the password and the database:"
        " @ as %40, / as %2F, ? as %3F, # as %23",
    )


def several_hosts(origin: str) -> SettingsError:
    return SettingsError(f"{origin} lists several hosts; repom supports one", "Keep one")


def _parameters(query: str, origin: str) -> dict[str, str]:
    """Name and value of each parameter; of one that is given twice, both values."""
    pieces = [piece for piece in query.split("&") if piece]
    if not all(_PARAMETER.fullmatch(piece) for piece in pieces):
        raise SettingsError(f"{origin} has a parameter that is not NAME=VALUE", EXPECTED)
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
        if not value and name != "password" and name not in IGNORED:
            raise SettingsError(
                f"The parameter {name} in {origin} is empty", "Give it a value, or remove it"
            )
    return found


def _postgresql(parts: re.Match[str], query: Mapping[str, str], origin: str) -> Url:
    def one(part: str | None, *names: str) -> str | None:
        """What the URL says in two places must be the same: libpq takes the latter, others
        the former."""
        said = [] if part is None else [unquote(part)]
        said += [query[name] for name in names if name in query]
        if len(set(said)) > 1:
            raise SettingsError(f"{origin} gives two values for {names[0]}", "Keep one of them")
        return said[0] if said else None

    host = one(parts["ipv6"] or parts["host"] or None, "host")
    port = one(parts["port"], "port")
    user = one(parts["user"], "user")
    password = one(parts["password"], "password")
    database = one(parts["database"] or None, "dbname")
    if user == "":
        raise SettingsError(f"The user in {origin} is empty", EXPECTED)
    options, session, unknown = _sorted_out(query, origin)
    user = user or "postgres"
    return Url(
        "postgresql",
        database or user,
        user,
        password or None,
        None if host is None else checked_host(host, origin),
        None if port is None else checked_port(port, origin),
        options,
        session,
        unknown,
    )


def checked_host(host: str, origin: str) -> str:
    """The host, without brackets.

    :raises SettingsError: it is none; the text may be a password's and is not shown.
    """
    if "," in host:
        raise several_hosts(origin)
    if not is_host(host):
        raise SettingsError(
            f"The host in {origin} has characters that are not allowed in a host",
            "Expected a name, an IP address or the folder of a socket",
        )
    return bare(host)


def checked_port(port: str, origin: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise SettingsError(f"The port in {origin} is not valid", "Allowed: 1 to 65535")
    return int(port)


def _sorted_out(
    query: Mapping[str, str], origin: str
) -> tuple[tuple[tuple[str, str], ...], str, tuple[str, ...]]:
    """What is passed on to libpq, what to its sessions, and names that mean nothing here."""
    rest = {
        name: value
        for name, value in query.items()
        if name not in IGNORED and name not in ("host", "port", "user", "password", "dbname")
    }
    session = rest.pop("options", "")
    passed = {name: rest.pop(name) for name in PASSED if name in rest}
    if re.fullmatch(r"0+|-\d+", passed.get("connect_timeout", "")):
        del passed["connect_timeout"]  # to wait for ever, which a task must not
    for name in ("ssl", "ssl_require"):
        if name in rest:
            _demand_tls(passed, rest.pop(name), name, origin)
    for name in rest:
        if name in REFUSED or WEIGHTY.search(name):
            raise SettingsError(
                f"{origin} has the parameter {name}, which repom does not support",
                REFUSED.get(name, "Remove it, or set REPOM_DATABASE_URL to a URL without it"),
            )
    return tuple(passed.items()), session, tuple(rest)


def _demand_tls(passed: dict[str, str], value: str, name: str, origin: str) -> None:
    mode = SSL.get(value.lower())
    if mode is None or passed.setdefault("sslmode", mode) != mode:
        raise SettingsError(
            f"The parameter {name} in {origin} is ambiguous",
            "Use sslmode=disable, prefer, require, verify-ca or verify-full instead",
        )
