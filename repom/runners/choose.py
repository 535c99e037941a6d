"""Deciding between the container and the host."""

from __future__ import annotations

import logging
from pathlib import Path

from repom.errors import RepomError, SettingsError, Unreachable
from repom.settings.address import PORT, Address

from .discover import Container, check_owner, find
from .exec import DockerRunner
from .host import HostRunner

log = logging.getLogger("repom")


def choose(
    *,
    via: str,
    docker: str,
    name: str,
    service: str | None,
    project: Path,
    host: str | None,
    port: int | None,
    tool: str,
    echo: bool = False,
    dry: bool = False,
) -> HostRunner:
    """Decide where the client programs run: DESIGN, section 2, "Which server".

    | the configured server is           | `auto`                 | `docker`        |
    |------------------------------------|------------------------|-----------------|
    | on another machine                 | host                   | `SettingsError` |
    | the container, which does not run  | host, with a warning   | `Unreachable`   |
    | on a port that is not its port     | host                   | `SettingsError` |
    | the running container              | container              | container       |

    :param host: the configured host; ``None`` when there is none, then the container is meant.
    :param tool: the program that is about to run, for the messages.
    """
    on_host, address = HostRunner(echo=echo, dry=dry), Address(host, port)
    if via == "host":
        return on_host
    found = find(docker, name, service, project) if address.is_near(service or name) else None
    obstacle = _obstacle(found, project, address)
    if found and not obstacle:
        log.info("Using Docker container: %s", found.name)
        return DockerRunner(docker, found.id, found.name, echo=echo, dry=dry)
    if obstacle and via == "docker":
        raise obstacle
    if found and found.note:
        log.warning("%s", found.note)
    if isinstance(obstacle, Unreachable):
        on_host.fallback = obstacle.message
        log.warning("%s, using host %s", obstacle.message, tool)
    if found:
        _say_port(found, address, tool)
    return on_host


def _obstacle(found: Container | None, project: Path, address: Address) -> RepomError | None:
    """Why the programs cannot run in the container; nothing when they can.

    :param found: ``None`` when the server is on another machine.
    :raises Refused: the container belongs to another project.
    """
    if found is None:
        return SettingsError(
            f"REPOM_VIA is docker, but the database is on host {address.host}",
            "Unset one of the two: docker exec reaches only the server inside the container",
        )
    check_owner(found, project, moved=True)
    if not found.running:
        return Unreachable(
            f"Container {found.name} is not running ({found.state})",
            "Start it with: invoke postgres.start",
        )
    if _is_another(found, address):
        where = f"port {address.port} on {address.host}"
        return SettingsError(
            f"REPOM_VIA is docker, but container {found.name} does not publish {where}",
            "Set the address and port that it publishes, or unset one of the two",
        )
    return None


def _is_another(container: Container, address: Address) -> bool:
    """Whether host and port name a server on this machine that is not the container."""
    named = address.is_loopback and address.port is not None
    return named and not container.publishes(address)


def _say_port(container: Container, address: Address, tool: str) -> None:
    """A refused connection to one port does not tell that the container has another."""
    wanted = Address(address.host or "localhost", address.port or PORT)
    if wanted.is_loopback and container.port and not container.publishes(wanted):
        ip = container.bindings[0][0]
        log.warning(
            "Container %s publishes port %s%s, and host %s uses port %s;"
            " to use the container, set POSTGRES_PORT to %s%s",
            *(container.name, container.port, "" if wanted.reaches(ip) else f" on {ip}"),
            *(tool, wanted.port, container.port),
            "" if wanted.reaches(ip) else f" and POSTGRES_HOST to {ip}",
        )
