"""The project's container: finding it, and deciding between it and the host."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..address import Address
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


#: Complaints of Compose that quote a `.env` file from here on.
_QUOTING = re.compile(r"(unterminated quoted value|variable name|invalid template|value:).*", re.I)

#: An address and a port of this host that lead to PostgreSQL in a container.
Binding = tuple[str, int]


@dataclass(frozen=True)
class Container:
    """What the engine says of a container.

    :param state: Docker's word for its state (``running``, ``exited``, ``paused`` …), or,
        when there is none to ask about, the reason: ``absent``, ``docker is not installed`` …
    :param bindings: what leads to PostgreSQL in it, or will when it runs; an empty address
        is any.
    :param note: why another one is not it, for people.
    """

    name: str
    state: str
    id: str = ""
    bindings: tuple[Binding, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    note: str = field(default="", compare=False)

    @property
    def running(self) -> bool:
        return self.state == "running"

    @property
    def port(self) -> int | None:
        """A port of this host that leads to PostgreSQL in it."""
        return self.bindings[0][1] if self.bindings else None

    def publishes(self, address: Address) -> bool:
        """Whether host and port lead to PostgreSQL in it, and not to another server that
        has the same port of another address."""
        return any(address.port == port and address.reaches(ip) for ip, port in self.bindings)


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
        found = [parse(shaped(item)) for item in json.loads(answer)]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = []
    if not found:
        raise EngineSilent(f"unexpected output from {docker} {kind} inspect")
    return found


def shaped(item: Any) -> dict[str, Any]:
    """An inspected thing with its parts of the types that are relied on. What is left out
    is empty; what has another type comes from no engine.

    :raises TypeError: a part has another type.
    """
    item = part(item)
    config = part(item.get("Config"))
    environment = config.get("Env") or []
    mounts = [part(mount) for mount in item.get("Mounts") or []]
    if not all(isinstance(each, str) for each in environment):
        raise TypeError
    config = {
        **config,
        "Env": environment,
        "Labels": texts(config.get("Labels")),
        "Volumes": part(config.get("Volumes")),
    }
    parts = {name: part(item.get(name)) for name in ("HostConfig", "NetworkSettings", "State")}
    labels = texts(item.get("Labels"))
    mounts = [mount for mount in mounts if texts({"": mount.get("Destination")})]
    return {**item, **parts, "Config": config, "Labels": labels, "Mounts": mounts}


def part(value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise TypeError
    return value or {}


def texts(value: Any) -> dict[str, str]:
    if not all(isinstance(each, str) for each in part(value).values()):
        raise TypeError
    return part(value)


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
    said = without_secrets(result.stderr).strip()
    for words, reason in COMPLAINTS:
        if words in said.lower():
            raise EngineSilent(reason)
    raise EngineSilent(said.splitlines()[-1] if said else f"{docker} exited {result.exited}")


def without_secrets(said: str) -> str:
    """A complaint of the engine or of Compose without what it quotes of a `.env` file."""
    return _QUOTING.sub(r"\1 (not shown)", said)


def _parse(item: Mapping[str, Any]) -> Container:
    name, state, id = item["Name"], item["State"]["Status"], item["Id"]
    texts({"name": name, "state": state, "id": id})
    labels = item["Config"]["Labels"]
    return Container(name.lstrip("/"), state, id, bindings(item), labels)


def bindings(item: Mapping[str, Any]) -> tuple[Binding, ...]:
    """Addresses and ports of this host that lead to PostgreSQL in an inspected container."""
    inner = _inner_port(item["Config"]["Env"])
    if item["HostConfig"].get("NetworkMode") == "host":
        return (("", inner),)
    # The second is what was asked for, and all there is of a stopped container.
    for ports in (item["NetworkSettings"].get("Ports"), item["HostConfig"].get("PortBindings")):
        made = [part(each) for each in part(ports).get(f"{inner}/tcp") or ()]
        known = [(str(b.get("HostIp") or ""), int(b.get("HostPort") or 0)) for b in made]
        if found := tuple(b for b in known if b[1]):  # 0: any that is free
            return found
    return ()


def _inner_port(environment: Sequence[str]) -> int:
    """The port that the server listens on inside; its image may be told another one."""
    told = [each.partition("=")[2] for each in environment if each.startswith("PGPORT=")]
    return int(told[-1]) if told and re.fullmatch("[0-9]{1,5}", told[-1]) else PORT


def _of_service(docker: str, service: str, shown: str, project: Path) -> Container:
    label = f"label={COMPOSE}service={service}"
    ids = ask(docker, ["ps", "-aq", "--no-trunc", "--filter", label]).split()
    made = inspect(docker, "container", ids, _parse) if ids else []
    compose = _compose(docker, project)
    here = [c for c in made if is_composed(c, project)]
    named = [c for c in here if compose is None or _name(c) == compose.name]
    chosen = [c for c in named if c.running] or named
    if len(chosen) > 1 or len({_name(c) for c in named}) > 1:
        names = ", ".join(sorted(c.name for c in named))
        raise SettingsError(
            f"Several containers are the Compose service {service}: {names}",
            "Set REPOM_CONTAINER to one of them and unset REPOM_COMPOSE_SERVICE",
        )
    if not chosen:
        _check_service(compose, service)
        return Container(shown, "absent", note=_elsewhere(service, here, made))
    return chosen[0]


def _name(found: Container) -> str:
    return found.labels.get(f"{COMPOSE}project", "")


@dataclass(frozen=True)
class _Compose:
    """What Compose says of a project folder: the project's name and its services."""

    name: str
    services: frozenset[str]


def _compose(docker: str, project: Path) -> _Compose | None:
    """Two Compose projects may have one folder (``-p``); only Compose knows which it means.
    Nothing when there is no Compose, or no file that it can read: `up` will say so."""
    # Services of profiles that are not active count, since `up` starts them by name.
    question = compose_argv(project, "--profile", "*", "config", "--format", "json")
    try:
        said = part(json.loads(ask(docker, question)))
        name = texts({"name": said["name"]})["name"]
        return _Compose(name, frozenset(part(said.get("services"))))
    except (EngineSilent, ValueError, TypeError, KeyError, RecursionError):
        return None


def _check_service(compose: _Compose | None, service: str) -> None:
    """A misspelt service must not pass for one that has no container yet.

    :raises SettingsError: the Compose file has others, and not this one.
    """
    if compose and compose.services and service not in compose.services:
        raise SettingsError(
            f"REPOM_COMPOSE_SERVICE is {service!r}, and the Compose file has no such service",
            f"Set it to one of: {', '.join(sorted(compose.services))}",
        )


def _elsewhere(service: str, here: Sequence[Container], made: Sequence[Container]) -> str:
    """That a container is nearly the one, since its project was started in another way."""
    if here:
        return (
            f"Container {here[0].name} belongs to the Compose project {_name(here[0])}, and Compose"
            f" uses another name here; to use it, set REPOM_CONTAINER to {here[0].name}"
        )
    if len(made) == 1:
        return (
            f"Container {made[0].name} is the service {service} of the Compose project in"
            f" {shown_folder(_folder(made[0]))}; to use it, set REPOM_CONTAINER to {made[0].name}"
        )
    return ""


def compose_argv(project: Path, *arguments: str) -> list[str]:
    return ["compose", "--project-directory", str(project), *arguments]


def _folder(found: Container) -> str:
    """The folder of the Compose project that a container is of; empty when it is of none."""
    return found.labels.get(f"{COMPOSE}project.working_dir", "")


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for exactly this folder, and not as a one-off of `compose
    run`. A folder inside of it with a Compose file is another project."""
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return not oneoff and is_same(_folder(found), project)


def is_same(folder: str, project: Path) -> bool:
    """Whether a label names the project folder, also by another path that leads to it."""
    if not Path(folder).is_absolute():
        return False
    try:  # not Path.resolve, which fails for a link to itself before Python 3.13
        named, own = Path(os.path.realpath(folder)), Path(os.path.realpath(project))
        return named == own or named.samefile(own)
    except (OSError, ValueError):
        return False


def is_there(folder: str) -> bool:
    """Whether the folder that a label names exists; one that this user may not look into,
    such as in a neighbour's home, does."""
    try:
        return Path(folder).exists()
    except OSError:
        return True


def shown_folder(folder: str) -> str:
    """A folder that a label names: anybody can write one, with anything in it."""
    return folder if folder.isprintable() else repr(folder)


def owner(labels: Mapping[str, str], project: Path) -> str:
    """The folder of the other project that the labels name; empty when they name none."""
    folder = labels.get(PROJECT_LABEL, "")
    return folder if folder and not is_same(folder, project) else ""


def is_labelled(labels: Mapping[str, str], project: Path) -> bool:
    return bool(labels.get(PROJECT_LABEL)) and not owner(labels, project)


def is_ours(found: Container, project: Path) -> bool:
    """Whether `postgres.start` or Compose made it for this project folder."""
    return is_labelled(found.labels, project) or is_composed(found, project)


def check_ours(found: Container, project: Path) -> None:
    """That it may be stopped and removed here: nobody else has made it for himself. To use
    a neighbour's database is a setting away; to end it is his.

    :raises Refused: the container was made for another project.
    """
    check_owner(found, project)
    folder = _folder(found)
    if folder and not is_same(folder, project) and not is_labelled(found.labels, project):
        raise Refused(
            f"Container {found.name} belongs to the Compose project in {shown_folder(folder)}",
            "Run the task in that folder, or use the container command yourself",
        )


def check_owner(found: Container, project: Path, *, moved: bool = False) -> None:
    """All projects share a default name, so a label says whose container it is.

    :param moved: a project folder that is gone is this one, which was moved here.
    :raises Refused: the container was made for another project.
    """
    other = owner(found.labels, project)
    if other and (not moved or is_there(other)):
        raise Refused(
            f"Container {found.name} belongs to the project in {shown_folder(other)}",
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
    host = rest.rpartition("@")[2].partition("/")[0]
    host = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    return scheme not in ("unix", "npipe", "fd", "") and not Address(host).is_local


def is_near(address: Address, name: str, service: str | None) -> bool:
    """Whether it can be that of the container; another machine's cannot."""
    return address.is_local or address.host == (service or name)


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
    near = is_near(address, name, service)
    found = find(docker, name, service, project) if near else None
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
