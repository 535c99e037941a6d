"""Where a database is and how to log in to it. The only judge of what is this machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote

PORT = 5432  # PostgreSQL's
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Address:
    """One PostgreSQL database, as it was configured; ``None`` is what was left open.

    :param host: a name, an IP address, or a socket's folder (or abstract name: ``@…``).
    :param options: further connection parameters of libpq.
    :param session: settings of the sessions, as in libpq's parameter ``options``.
    """

    host: str | None = None
    port: int | None = None
    user: str = ""
    database: str = ""
    password: str | None = field(default=None, repr=False)
    options: tuple[tuple[str, str], ...] = ()
    session: str = ""

    @property
    def is_socket(self) -> bool:
        return not self.host or self.host.startswith(("/", "@"))

    @property
    def is_socket_folder(self) -> bool:
        """Whether a socket is named, rather than left to a default."""
        return bool(self.host) and self.is_socket

    @property
    def is_loopback(self) -> bool:
        """Whether the host is a name or an IP address by which this machine calls itself."""
        if self.is_socket:
            return False
        address = ip(str(self.host))
        return address.is_loopback if address else str(self.host).lower() == "localhost"

    @property
    def is_local(self) -> bool:
        return self.is_socket or self.is_loopback

    def is_near(self, container: str) -> bool:
        """Whether the server can be in the container or Compose service of this name;
        another machine's cannot."""
        return self.is_local or self.host == container

    def reaches(self, bound: str) -> bool:
        """Whether a server answers here that listens on the address `bound` of this
        machine; an empty one means all of its addresses."""
        wanted, there = ip(self.host or ""), ip(bound)
        if there is None:
            return not bound
        if wanted is None:  # localhost
            return there.is_unspecified or str(there) in ("127.0.0.1", "::1")
        return wanted == there or (there.is_unspecified and wanted.version == there.version)

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return f"{self.host or 'localhost'}:{self.port or PORT}"

    def conninfo(self, database: str, *, local: bool) -> str:
        """A libpq connection string, without the password. The name is always written as
        ``dbname='…'``: libpq takes a bare name with ``=`` in it for a connection string.

        :param local: inside the container: its socket, so neither host nor port.
        """
        parts = [("dbname", database), ("user", self.user)]
        if local:  # said here, variables of the container have no say
            parts += [("host", ""), ("hostaddr", ""), ("sslmode", "prefer")]
            parts += [("target_session_attrs", "any")]
        else:
            parts += [("host", self.host or "localhost"), ("port", str(self.port or PORT))]
            parts += self.options
        return " ".join(f"{key}={quoted(value)}" for key, value in parts)

    def masked_url(self) -> str:
        """The URL of the database, with ``***`` for the password."""
        secret = ":***" if self.password else ""
        is_ipv6 = ":" in (self.host or "") and not self.is_socket
        host = quote(self.host or "localhost", safe=":" if is_ipv6 else "")
        host = f"[{host}]" if is_ipv6 else host
        user, database = quote(self.user, safe=""), quote(self.database, safe="")
        return f"postgresql://{user}{secret}@{host}:{self.port or PORT}/{database}"


def quoted(value: str) -> str:
    """A value of a libpq connection string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that the text is, with or without brackets; else ``None``."""
    try:
        found = ipaddress.ip_address(bare(host))
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def bare(host: str) -> str:
    """The host without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_host(text: str) -> bool:
    """Whether it could be a host: a socket, an IP address or a name."""
    return text.startswith(("/", "@")) or ip(text) is not None or bool(_NAME.fullmatch(text))
