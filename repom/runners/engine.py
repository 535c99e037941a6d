"""Talking to the container engine: nothing else does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from repom.errors import CommandFailed, Unreachable
from repom.settings.address import Address

from .host import HostRunner

T = TypeVar("T")
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


class EngineSilent(Unreachable):
    """The engine gave no answer; the reason is fit for a `Container.state`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The container engine does not answer ({reason})", WAKE)
        self.reason = reason


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


def compose_argv(project: Path, *arguments: str) -> list[str]:
    return ["compose", "--project-directory", str(project), *arguments]


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
