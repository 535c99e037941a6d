"""Docker or host: deciding where the client programs run."""

from __future__ import annotations

from dataclasses import dataclass

from repom.errors import RepomError, SettingsError, Unreachable, advice
from repom.settings import Settings
from repom.settings.address import PORT, Address

from .discover import Container, check_owner
from .exec import ExecRunner
from .host import HostRunner
from .runner import Runner


@dataclass(frozen=True)
class Choice:
    """Where the client programs run.

    :param reason: a line that says so; empty when there was nothing to decide.
    :param fallback: why the container is not used although the settings ask for it.
    :param warnings: what else the user should know about the decision.
    """

    runner: Runner
    reason: str = ""
    fallback: str = ""
    warnings: tuple[str, ...] = ()


def choose(settings: Settings, found: Container | None) -> Choice:
    """Decide between the container and the host.

    | the configured server is           | `auto`                 | `docker`        |
    |------------------------------------|------------------------|-----------------|
    | on another machine                 | host                   | `SettingsError` |
    | the container, which does not run  | host, with a warning   | `Unreachable`   |
    | on a port that is not its port     | host                   | `SettingsError` |
    | the running container              | container              | container       |

    :param found: the container that the settings name; ``None`` when the configured
        server is on another machine, or with `via=host`.
    :raises RepomError: with `via=docker`, when the container cannot be used.
    :raises Refused: the container belongs to another project.
    """
    on_host = HostRunner(echo=settings.echo, dry=settings.dry, engine=settings.docker)
    if settings.via == "host":
        return Choice(on_host)
    address = settings.address
    obstacle = _obstacle(settings, address, found)
    if found and not obstacle:
        runner = ExecRunner(
            settings.docker, found.id, found.name, echo=settings.echo, dry=settings.dry
        )
        return Choice(runner, f"Using Docker container: {found.name}")
    if obstacle and settings.via == "docker":
        raise obstacle
    fallback = obstacle.message if isinstance(obstacle, Unreachable) else ""
    warnings = [found.note, _other_port(found, address)] if found else []
    return Choice(on_host, "", fallback, tuple(filter(None, warnings)))


def _obstacle(settings: Settings, address: Address, found: Container | None) -> RepomError | None:
    """Why the programs cannot run in the container; nothing when they can."""
    if found is None:
        return SettingsError(
            f"REPOM_VIA is docker, but the database is on host {address.host}",
            "Unset REPOM_VIA or the host: docker exec reaches only the server in the container",
        )
    check_owner(found, settings.project, moved=True)
    if not found.running:
        return Unreachable(
            f"Container {found.name} is not running ({found.state})",
            advice("Run: {}", "postgres.start"),
        )
    # A port of this machine that the container does not publish is another server's.
    if address.is_loopback and address.port is not None and not found.publishes(address):
        where = f"port {address.port} on {address.host}"
        return SettingsError(
            f"REPOM_VIA is docker, but container {found.name} does not publish {where}",
            "Set POSTGRES_HOST and POSTGRES_PORT to what it publishes, or unset REPOM_VIA",
        )
    return None


def _other_port(found: Container, address: Address) -> str:
    """That the container has another port: a refused connection does not say so."""
    wanted = Address(address.host or "localhost", address.port or PORT)
    if not (wanted.is_loopback and found.port) or found.publishes(wanted):
        return ""
    ip = found.bindings[0][0]
    where, setting = (
        ("", "") if wanted.reaches(ip) else (f" on {ip}", f" and POSTGRES_HOST to {ip}")
    )
    return (
        f"Container {found.name} publishes port {found.port}{where}, but the settings say port"
        f" {wanted.port}; to use the container, set POSTGRES_PORT to {found.port}{setting}"
    )
