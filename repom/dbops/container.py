"""The project's container: finding it, and deciding between it and the host."""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CommandFailed, Refused, RepomError, SettingsError, Unreachable
from .runner import DockerRunner, HostRunner

log = logging.getLogger("repom")
T = TypeVar("T")

#: Label with the project folder on every container that `postgres.start` makes.
PROJECT_LABEL = "repom.project"
COMPOSE = "com.docker.compose."
PORT = 5432  # PostgreSQL's
WAKE = "Start the container engine, and see that this user may use it (docker info)"

#: What an engine's complaint means; only the first say that there is no such thing. Texts
#: differ between versions, so these are parts that have stayed; others are shown as they are.
COMPLAINTS = (
    ("no such container", "absent"),
    ("no such object", "absent"),
    ("no container with name", "absent"),  # podman
    ("no such volume", "absent"),
    ("no such image", "absent"),
    ("image not known", "absent"),  # podman
    ("permission denied", "no permission to use the Docker socket"),
    ("cannot connect", "the Docker daemon is not running"),
    ("is the docker daemon running", "the Docker daemon is not running"),
    ("failed to connect", "the Docker daemon is not running"),
    ("connection refused", "the Docker daemon is not running"),
)


@dataclass(frozen=True)
class Container:
    """What the engine says of a container.

    :param state: Docker's word for its state (``running``, ``exited``, ``paused`` …), or,
        when there is none to ask about, the reason: ``absent``, ``docker is not installed`` …
    :param ports: ports of this host that lead into it; ``None`` when it shares the host's network.
    :param port: of this host, that leads to PostgreSQL in it, or will when it runs.
    """

    name: str
    state: str
    id: str = ""
    ports: frozenset[int] | None = frozenset()
    labels: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None

    @property
    def running(self) -> bool:
        return self.state == "running"

    def publishes(self, port: int) -> bool:
        return self.ports is None or port in self.ports


class EngineSilent(Unreachable):
    """The engine gave no answer; the reason is fit for a `Container.state`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The container engine does not answer ({reason})", WAKE)
        self.reason = reason


def find(docker: str, name: str, service: str | None, project: Path) -> Container:
    """Ask the engine about the container of exactly this name, or about the one that is
    this Compose service of the project folder. What is missing is a state, no error.

    :raises SettingsError: several containers are the service, or the Compose file has
        no such service.
    """
    shown = f"of the Compose service {service}" if service else name
    try:
        if service:
            return _of_service(docker, service, shown, project)
        # An engine also takes the beginning of an id for a name.
        named = [c for c in inspect(docker, "container", [name], _parse) if c.name == name]
        return named[0] if named else Container(name, "absent")
    except EngineSilent as silent:
        return Container(shown, silent.reason)


def inspect(docker: str, kind: str, names: Sequence[str], parse: Callable[[Any], T]) -> list[T]:
    """What the engine says of these containers, images or volumes.

    :raises EngineSilent: there is no engine, no permission or no such thing.
    """
    answer = ask(docker, [kind, "inspect", *names])
    try:
        found = [parse(item) for item in json.loads(answer)]
    except (ValueError, TypeError, KeyError):
        found = []
    if not found:
        raise EngineSilent(f"{docker} gives answers that are not an engine's")
    return found


def ask(docker: str, arguments: Sequence[str]) -> str:
    """The standard output of a question to the engine, which a dry run asks too.

    :raises EngineSilent: it did not answer; says why.
    """
    try:
        result = HostRunner().run([docker, *arguments], warn=True, dry=False, timeout=20)
    except Unreachable:
        raise EngineSilent(f"{docker} is not installed") from None
    except CommandFailed:
        raise EngineSilent(f"{docker} does not answer") from None
    if result.ok:
        return str(result.stdout)
    said = result.stderr.strip()
    for part, reason in COMPLAINTS:
        if part in said.lower():
            raise EngineSilent(reason)
    raise EngineSilent(said.splitlines()[-1] if said else f"{docker} exited {result.exited}")


def _parse(item: Mapping[str, Any]) -> Container:
    network = item.get("NetworkSettings") or {}
    bindings = [b for each in (network.get("Ports") or {}).values() for b in each or ()]
    shared = (item.get("HostConfig") or {}).get("NetworkMode") == "host"
    return Container(
        name=item["Name"].lstrip("/"),
        state=item["State"]["Status"],
        id=item["Id"],
        ports=None if shared else frozenset(int(b["HostPort"]) for b in bindings),
        labels=item["Config"].get("Labels") or {},
        port=published(item),
    )


def published(item: Mapping[str, Any]) -> int | None:
    """The port of this host that leads to PostgreSQL in an inspected container."""
    asked, network = item.get("HostConfig") or {}, item.get("NetworkSettings") or {}
    if asked.get("NetworkMode") == "host":
        return PORT
    # The second is what was asked for, and all there is of a stopped container.
    for ports in (network.get("Ports"), asked.get("PortBindings")):
        for binding in (ports or {}).get(f"{PORT}/tcp") or ():
            if port := int(binding.get("HostPort") or 0):  # 0: any that is free
                return port
    return None


def _of_service(docker: str, service: str, shown: str, project: Path) -> Container:
    label = f"label={COMPOSE}service={service}"
    ids = ask(docker, ["ps", "-aq", "--no-trunc", "--filter", label]).split()
    made = inspect(docker, "container", ids, _parse) if ids else []
    here = [c for c in made if is_composed(c, project)]
    chosen = [c for c in here if c.running] or here
    if len(chosen) > 1:
        names = ", ".join(sorted(c.name for c in chosen))
        raise SettingsError(
            f"Several containers are the Compose service {service}: {names}",
            "Set REPOM_CONTAINER to one of them and unset REPOM_COMPOSE_SERVICE",
        )
    if not chosen:
        _check_service(docker, service, project)
        return Container(shown, "absent")
    return chosen[0]


def _check_service(docker: str, service: str, project: Path) -> None:
    """A misspelt service must not pass for one that has no container yet.

    :raises SettingsError: the Compose file has others, and not this one.
    """
    try:
        # Services of profiles that are not active count, since `up` starts them by name.
        question = compose_argv(project, "--profile", "*", "config", "--services")
        known = ask(docker, question).split()
    except EngineSilent:
        return  # no Compose, or no file that it can read: `up` will say so
    if known and service not in known:
        raise SettingsError(
            f"REPOM_COMPOSE_SERVICE is {service!r}, and the Compose file has no such service",
            f"Set it to one of: {', '.join(sorted(known))}",
        )


def compose_argv(project: Path, *arguments: str) -> list[str]:
    return ["compose", "--project-directory", str(project), *arguments]


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for this project folder (or one of its sub-folders), and
    not as a one-off of `compose run`."""
    folder = found.labels.get(f"{COMPOSE}project.working_dir", "")
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return bool(folder) and not oneoff and Path(folder).resolve().is_relative_to(project)


def owner(labels: Mapping[str, str], project: Path) -> str:
    """The folder of the other project that the labels name; empty when they name none."""
    folder = labels.get(PROJECT_LABEL)
    return folder if folder and Path(folder).resolve() != project.resolve() else ""


def is_labelled(labels: Mapping[str, str], project: Path) -> bool:
    return bool(labels.get(PROJECT_LABEL)) and not owner(labels, project)


def is_ours(found: Container, project: Path) -> bool:
    """Whether `postgres.start` or Compose made it for this project folder."""
    return is_labelled(found.labels, project) or is_composed(found, project)


def check_owner(found: Container, project: Path, *, moved: bool = False) -> None:
    """All projects share a default name, so a label says whose container it is.

    :param moved: a project folder that is gone is this one, which was moved here.
    :raises Refused: the container was made for another project.
    """
    other = owner(found.labels, project)
    if other and (Path(other).is_dir() or not moved):
        raise Refused(
            f"Container {found.name} belongs to the project in {other}",
            "Set REPOM_CONTAINER to another name (if that project was moved here, remove the"
            f" container with docker rm -f {found.name}; its volume keeps the data)",
        )


def endpoint(docker: str) -> str:
    """The engine's address, of DOCKER_HOST or of the context; empty when it has none."""
    try:
        arguments = ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
        return ask(docker, arguments).strip()
    except EngineSilent:
        return ""


def is_remote(address: str) -> bool:
    """Whether an engine's address is on another machine."""
    scheme, _, rest = address.partition("://")
    return scheme not in ("unix", "npipe", "fd", "") and not is_loopback(rest.rpartition(":")[0])


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_socket(host: str | None) -> bool:
    return host is None or host.startswith(("/", "@"))


def is_near(host: str | None, name: str, service: str | None) -> bool:
    """Whether the host can be that of the container; another machine's cannot."""
    return is_socket(host) or is_loopback(host or "") or host in (name, service)


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
    on_host = HostRunner(echo=echo, dry=dry)
    if via == "host":
        return on_host
    near = is_near(host, name, service)
    found = find(docker, name, service, project) if near else None
    obstacle = _obstacle(found, project, host, port)
    if found and not obstacle:
        log.info("Using Docker container: %s", found.name)
        return DockerRunner(docker, found.id, found.name, echo=echo, dry=dry)
    if obstacle and via == "docker":
        raise obstacle
    if isinstance(obstacle, Unreachable):
        on_host.fallback = obstacle.message
        log.warning("%s, using host %s", obstacle.message, tool)
    if found:
        _say_port(found, host, port, tool)
    return on_host


def _obstacle(
    found: Container | None, project: Path, host: str | None, port: int | None
) -> RepomError | None:
    """Why the programs cannot run in the container; nothing when they can.

    :param found: ``None`` when the server is on another machine.
    :raises Refused: the container belongs to another project.
    """
    if found is None:
        return SettingsError(
            f"REPOM_VIA is docker, but the database is on host {host}",
            "Unset one of the two: docker exec reaches only the server inside the container",
        )
    check_owner(found, project, moved=True)
    if not found.running:
        return Unreachable(
            f"Container {found.name} is not running ({found.state})",
            "Start it with: invoke postgres.start",
        )
    if _is_another(found, host, port):
        return SettingsError(
            f"REPOM_VIA is docker, but container {found.name} does not publish port {port}",
            "Set the port that it publishes, or unset one of the two",
        )
    return None


def _is_another(container: Container, host: str | None, port: int | None) -> bool:
    """Whether host and port name a server on this machine that is not the container."""
    loopback = host is not None and is_loopback(host)
    return loopback and port is not None and not container.publishes(port)


def _say_port(container: Container, host: str | None, port: int | None, tool: str) -> None:
    """A refused connection to one port does not tell that the container has another."""
    port, near = port or PORT, host is None or is_loopback(host)
    if near and container.port and container.port != port and not container.publishes(port):
        log.warning(
            "Container %s publishes port %s, and host %s uses port %s;"
            " if the container is meant, set POSTGRES_PORT to %s",
            *(container.name, container.port, tool, port, container.port),
        )
