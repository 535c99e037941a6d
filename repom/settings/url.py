"""Database URLs, of SQLAlchemy, libpq and others, read to their last character.

No message quotes any part of one: what looks like a host may be the end of a password that
was not percent-encoded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from repom.errors import SettingsError

from .address import Address, bare, is_host
from .values import is_text

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

log = logging.getLogger("repom")

#: Connection parameters of libpq that are passed on to it.
PASSED = (  # noqa: SIM905
    "sslmode sslrootcert sslcert sslkey sslcrl sslcrldir sslsni sslcertmode sslnegotiation"
    " sslcompression ssl_min_protocol_version ssl_max_protocol_version min_protocol_version"
    " max_protocol_version channel_binding require_auth requirepeer passfile gssencmode gsslib"
    " gssdelegation krbsrvname connect_timeout target_session_attrs load_balance_hosts keepalives"
    " keepalives_idle keepalives_interval keepalives_count tcp_user_timeout"
).split()
#: Parameters of frameworks, drivers and pools that change neither the server nor the
#: security of the connection. Unknown ones of that kind are left out with a warning.
IGNORED = frozenset(
    (  # noqa: SIM905
        # libpq: repom has its own
        "application_name fallback_application_name client_encoding"
        # SQLAlchemy, psycopg, asyncpg
        " pool pool_size max_overflow pool_timeout pool_recycle pool_pre_ping pool_use_lifo echo"
        " isolation_level encoding charset async_fallback autocommit prepare_threshold"
        " prepared_statement_cache_size prepared_statement_name_func statement_cache_size"
        " max_cached_statement_lifetime max_cacheable_statement_size command_timeout timeout"
        # Django
        " conn_max_age conn_health_checks disable_server_side_cursors"
        # Prisma, Supabase
        " connection_limit pgbouncer schema socket_timeout supa"
        # Rails, Ecto
        " adapter checkout_timeout idle_timeout reaping_frequency prepared_statements"
        " statement_limit schema_search_path search_path min_messages advisory_locks reconnect"
        # pgx, node-postgres, JDBC
        " pool_max_conns pool_min_conns pool_max_conn_lifetime pool_max_conn_idle_time"
        " pool_health_check_period statement_cache_mode statement_cache_capacity"
        " description_cache_capacity default_query_exec_mode binary_parameters max currentSchema"
        " ApplicationName prepareThreshold reWriteBatchedInserts stringtype loginTimeout"
        " tcpKeepAlive"
    ).split()
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
#: Values of other drivers' ``ssl``, as libpq takes ``ssl=true`` for JDBC's sake.
SSL = {
    **dict.fromkeys(("true", "t", "1", "yes", "on"), "require"),
    **dict.fromkeys(("false", "f", "0", "no", "off"), "disable"),
    **{m: m for m in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")},
}
#: Backends that a message may name; any other scheme could be a part of a password.
OTHERS = ("mysql", "mariadb", "oracle", "mssql", "mongodb", "redis", "cockroachdb", "duckdb")
EXPECTED = "Expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:///PATH"
#: As SQLAlchemy, a password may hold anything but an ``@``.
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][\w+.-]*)://"
    r"(?:(?P<user>[^:/?#]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<ipv6>[^\]/?@]+)\]|(?P<host>[^:/?\[\]]*))"
    r"(?::(?P<port>[^/?]*))?"
    r"(?:/(?P<dbname>[^?]*))?"
    r"(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_PARAMETER = re.compile(r"[A-Za-z_][\w.-]*=.*", re.DOTALL)
_FIELDS = ("host", "port", "user", "password", "dbname")


def parse(text: str, origin: str, *, quiet: bool = False) -> Address | str:
    """Read a SQLAlchemy or libpq URL.

    :param origin: where it was found, for messages.
    :param quiet: do not warn of parameters that are left out.
    :returns: the address of a PostgreSQL database, or the path of an SQLite file.
    :raises SettingsError: it cannot be used; says why without a word of it.
    """
    parts = _URL.fullmatch(text)
    if not parts or not _is_decodable(text):
        raise SettingsError(f"{origin} is not a database URL", EXPECTED)
    if _backend(parts["scheme"].partition("+")[0], origin) == "sqlite":
        if parts["user"] is not None:
            raise SettingsError(
                f"{origin} has a user or a password, and an SQLite file has neither", EXPECTED
            )
        elsewhere = parts["host"] or parts["ipv6"] or parts["port"] is not None
        return _file("" if elsewhere else unquote(parts["dbname"] or ""), origin)
    _check_encoding(parts, origin)
    given = {**parts.groupdict(), "host": parts["ipv6"] or parts["host"]}
    decoded = {name: unquote(given[name]) for name in _FIELDS if given[name] is not None}
    return _address(decoded, _parameters(parts["query"] or "", origin), origin, quiet)


def parse_source(text: str, origin: str) -> Address | str:
    """The same of a database to copy from, which must be named: libpq's default, a database
    called as the user, may be an empty one."""
    parts = _URL.fullmatch(text)
    target = parse(text, origin, quiet=True)
    assert parts
    named = parts["dbname"] or dict(parse_qsl(parts["query"] or "")).get("dbname")
    if isinstance(target, Address) and not named:
        raise SettingsError(f"{origin} does not name a database", EXPECTED)
    return target


def of_sqlalchemy(url: URL) -> Address | str:
    """Read the URL that SQLAlchemy has parsed, or a program has put together.

    :returns: the address of a PostgreSQL database, or the absolute path of an SQLite file.
    :raises SettingsError: as `parse`.
    """
    origin = "SQLAlchemy's URL"
    if _backend(url.get_backend_name(), origin) == "sqlite":
        return str(Path(_file(url.database or "", origin)).absolute())
    port = None if url.port is None else str(url.port)
    given = zip(_FIELDS, (url.host, port, url.username, url.password, url.database), strict=True)
    query = {n: v if isinstance(v, str) else ",".join(v) for n, v in url.query.items()}
    return _address({n: v for n, v in given if v is not None}, query, origin, quiet=False)


def _backend(name: str, origin: str) -> str:
    if name in ("sqlite", "postgresql", "postgres"):
        return name
    kind = f"a {name} URL" if name in OTHERS else "not a URL of PostgreSQL or SQLite"
    raise SettingsError(f"{origin} is {kind}", "Allowed: postgresql://, postgres:// and sqlite:///")


def _is_decodable(text: str) -> bool:
    try:
        return is_text(unquote(text, errors="strict"))
    except UnicodeDecodeError:
        return False


def _file(path: str, origin: str) -> str:
    if path in ("", ":memory:") or path.startswith("file:"):
        raise SettingsError(
            f"{origin} does not name an SQLite file on disk",
            "Write sqlite:///PATH, a path to a file",
        )
    return path


def _check_encoding(parts: re.Match[str], origin: str) -> None:
    """A special character in a password makes the rest of it look like something else."""
    host, port = parts["ipv6"] or parts["host"], parts["port"] or ""
    if "," in host + port and "@" not in host + port + (parts["dbname"] or ""):
        raise _several_hosts(origin)
    # As a password this is odd; as a port, a database and parameters with an @ it is not.
    ambiguous = re.match(r"\d*[/?]", parts["password"] or "")
    behind_an_at = "@" in host + port + (parts["dbname"] or "")
    if ambiguous or behind_an_at or (host and not is_host(unquote(host))):
        raise SettingsError(
            f"{origin} has special characters in the wrong place",
            "Percent-encode them in the user, the password and the database:"
            " @ as %40, / as %2F, ? as %3F, # as %23",
        )


def _several_hosts(origin: str) -> SettingsError:
    return SettingsError(f"{origin} lists several hosts; repom supports one", "Keep one")


def _parameters(query: str, origin: str) -> dict[str, str]:
    """Name and value of each parameter; of one that is given twice, both values."""
    if not all(_PARAMETER.fullmatch(piece) for piece in query.split("&") if piece):
        raise SettingsError(f"{origin} has a parameter that is not NAME=VALUE", EXPECTED)
    found: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _address(
    given: Mapping[str, str], query: Mapping[str, str], origin: str, quiet: bool
) -> Address:
    """The address that the parts of a URL give, all decoded.

    :param given: of `_FIELDS`, those that stand before the parameters.
    """
    if not all(map(is_text, (*given.values(), *query.values()))):
        raise SettingsError(f"{origin} is not a database URL", EXPECTED)
    for name, value in query.items():
        if not value and name != "password" and name not in IGNORED:
            raise SettingsError(
                f"The parameter {name} in {origin} is empty", "Give it a value, or remove it"
            )
    found: dict[str, str] = {}
    for name in _FIELDS:
        said = [each[name] for each in (given, query) if name in each]
        if name in ("host", "dbname"):
            said = [value for value in said if value]
        if len(set(said)) > 1:  # libpq takes the latter, others the former
            raise SettingsError(f"{origin} gives two values for {name}", "Keep one of them")
        if said:
            found[name] = said[0]
    if found.get("user") == "":
        raise SettingsError(f"The user in {origin} is empty", EXPECTED)
    passed, session = _options(query, origin, quiet)
    user = found.get("user", "postgres")
    return Address(
        host=checked_host(found["host"], origin) if "host" in found else None,
        port=_checked_port(found["port"], origin) if "port" in found else None,
        user=user,
        database=found.get("dbname", user),
        password=found.get("password") or None,
        options=passed,
        session=session,
    )


def checked_host(host: str, origin: str) -> str:
    """The host, without brackets.

    :raises SettingsError: it is not one; the text may be a password's and is not shown.
    """
    if "," in host:
        raise _several_hosts(origin)
    if not is_host(host):
        raise SettingsError(
            f"The host in {origin} has characters that are not allowed in a host",
            "Allowed: a host name, an IP address or a socket's folder",
        )
    return bare(host)


def _checked_port(port: str, origin: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise SettingsError(f"The port in {origin} is not valid", "Allowed: 1 to 65535")
    return int(port)


def _options(
    query: Mapping[str, str], origin: str, quiet: bool
) -> tuple[tuple[tuple[str, str], ...], str]:
    """What is passed on to libpq, and what to its sessions."""
    rest = {n: v for n, v in query.items() if n not in IGNORED and n not in _FIELDS}
    session = rest.pop("options", "")
    passed = {name: rest.pop(name) for name in PASSED if name in rest}
    if re.fullmatch(r"0+|-\d+", passed.get("connect_timeout", "")):
        del passed["connect_timeout"]  # it means to wait for ever, which a task must not
    for name in ("ssl", "ssl_require"):
        if name in rest:
            mode = SSL.get(rest.pop(name).lower())
            if mode is None or passed.setdefault("sslmode", mode) != mode:
                raise SettingsError(
                    f"The parameter {name} in {origin} is ambiguous",
                    "Use sslmode=disable, prefer, require, verify-ca or verify-full instead",
                )
    for name in rest:
        if name in REFUSED or WEIGHTY.search(name):
            raise SettingsError(
                f"{origin} has the parameter {name}, which repom does not support",
                REFUSED.get(name, "Remove it, or set REPOM_DATABASE_URL to a URL without it"),
            )
    if rest and not quiet:
        log.warning("Ignoring parameters of %s: %s", origin, ", ".join(rest))
    return tuple(passed.items()), session
