"""What is known of the project's server."""

from __future__ import annotations

from dataclasses import dataclass, replace

from repom.settings import Settings

HOST = "127.0.0.1"  # where every server that repom makes listens, and nowhere else


@dataclass(frozen=True)
class Server:
    """What is known of the project's server.

    :param kind: ``container``, ``compose`` or ``local``.
    :param name: the container's name, or the folder of the local cluster.
    :param state: ``running`` when it runs, else the engine's word, or why that is unknown.
    :param version: PostgreSQL's, as far as it is known without asking the server.
    :param port: of this host; ``None`` when none leads to the server.
    :param url: with the password masked; empty without a port.
    :param data: the volume or folder with the data; empty when there is none, or when it
        is in the container itself.
    """

    kind: str
    name: str
    state: str
    image: str
    version: str
    host: str
    port: int | None
    user: str
    database: str
    url: str
    data: str


def masked_url(login: Settings, port: int | None) -> str:
    """The URL of the target database, without its password; empty without a port."""
    return replace(login.address, host=HOST, port=port).masked_url() if port else ""
