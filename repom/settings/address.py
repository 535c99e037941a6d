"""Where a server is. Nobody else judges what is this machine: loopback, sockets, IPv6."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

PORT = 5432  # PostgreSQL's
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class Address:
    """Host and port as they were configured; ``None`` is what nobody named.

    :param host: a name, an IP address, or a socket's folder (or abstract name: ``@…``).
    """

    host: str | None = None
    port: int | None = None

    @property
    def is_socket(self) -> bool:
        return not self.host or self.host.startswith(("/", "@"))

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine, called by a name or address of its own."""
        if self.is_socket:
            return False
        address = ip(str(self.host))
        return address.is_loopback if address else str(self.host).lower() == "localhost"

    @property
    def is_local(self) -> bool:
        return self.is_socket or self.is_loopback

    def reaches(self, bound: str) -> bool:
        """Whether a server that listens on the address `bound` of this machine answers there.
        Without an address it listens on all."""
        wanted, there = ip(self.host or ""), ip(bound)
        if there is None:
            return not bound
        if wanted is None:  # localhost
            return there.is_unspecified or str(there) in ("127.0.0.1", "::1")
        return wanted == there or (there.is_unspecified and wanted.version == there.version)


def ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that the text is, with or without brackets; else nothing."""
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
