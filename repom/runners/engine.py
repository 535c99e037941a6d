"""The container engine, Docker or Podman. Only this module talks to it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from repom.errors import CommandFailed, Refused, RepomError, Unreachable
from repom.settings.address import Address

from .host import HostRunner

T = TypeVar("T")
WAKE = "Start the container engine, and check that this user may use it (docker info)"
#: Seconds for an answer, and for a change that loads nothing over the network: a stop
#: takes up to 60 itself.
QUESTION, CHANGE = 20, 180


class Trouble(Enum):
    """What an engine's complaint means, as far as repom acts on it."""

    ABSENT = "absent"
    FORBIDDEN = "no permission to use the Docker socket"
    NOT_RUNNING = "the Docker daemon is not running"
    NOT_INSTALLED = "not installed"
    PORT_TAKEN = "a port is taken"
    NO_COMPOSE = "no Compose plugin"
    VALUE_MISSING = "the Compose file wants a value that is not set"
    PROGRAM_MISSING = "the container lacks a program"
    OTHER = ""


#: Texts differ between versions; these parts of them, in lower case, have stayed.
COMPLAINTS = {
    Trouble.ABSENT: "no such (container|object|volume|image)"
    "|no container with name|image not known",  # podman
    Trouble.FORBIDDEN: "permission denied",
    Trouble.NOT_RUNNING: "cannot connect|is the docker daemon running"
    "|failed to connect|connection refused",
    Trouble.PORT_TAKEN: "port is already allocated|address already in use|ports are not available",
    Trouble.NO_COMPOSE: "unknown flag: --project-directory"
    "|unknown command: docker compose|'compose' is not a|unrecognized command .?podman compose",
    Trouble.VALUE_MISSING: "required variable|env file",
    Trouble.PROGRAM_MISSING: "executable file not found",
}
#: Meanings that say more than the engine's own words.
PLAIN = (Trouble.ABSENT, Trouble.FORBIDDEN, Trouble.NOT_RUNNING, Trouble.NO_COMPOSE)
#: Complaints of Compose that quote a `.env` file from here on.
_QUOTING = re.compile(r"(unterminated quoted value|variable name|invalid template|value:).*", re.I)


def meaning(said: str) -> Trouble:
    """What a complaint of the engine means."""
    meant = (kind for kind, parts in COMPLAINTS.items() if re.search(parts, said.lower()))
    return next(meant, Trouble.OTHER)


class EngineSilent(Unreachable):
    """The engine gave no answer.

    :param reason: the same for people.
    """

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(f"The container engine does not answer ({reason})", WAKE)
        self.trouble, self.reason = trouble, reason


@dataclass(frozen=True)
class Engine:
    """An engine by its command line program.

    :param program: ``docker`` or ``podman``.
    :param echo: log every change.
    :param dry: log changes instead of making them. Questions are asked all the same.
    """

    program: str
    echo: bool = False
    dry: bool = False

    def ask(self, *arguments: str, timeout: float = QUESTION) -> str:
        """The standard output of a question.

        :param timeout: seconds.
        :raises EngineSilent: it failed, or took longer.
        """
        argv = [self.program, *arguments]
        try:
            result = HostRunner().run(argv, warn=True, dry=False, timeout=timeout)
        except Unreachable:
            reason = f"{self.program} is not installed"
            raise EngineSilent(Trouble.NOT_INSTALLED, reason) from None
        except CommandFailed:
            raise EngineSilent(Trouble.OTHER, f"{self.program} does not answer") from None
        if result.ok:
            return str(result.stdout)
        said = without_secrets(result.stderr).strip()
        words = said.splitlines()[-1] if said else f"{self.program} exited {result.exited}"
        kind = meaning(said)
        raise EngineSilent(kind, kind.value if kind in PLAIN else words)

    def do(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        """Change something, and return what the engine printed.

        :param env: variables for the engine's program, secrets included.
        :raises RepomError: it failed; see `failure`.
        """
        runner = HostRunner(echo=self.echo, dry=self.dry)
        timeout = None if arguments[0] in ("pull", "compose") else CHANGE
        argv = [self.program, *arguments]
        result = runner.run(argv, env=env, warn=True, timeout=timeout)
        if not result.ok:
            raise failure(result.stderr or result.stdout)
        return str(result.stdout).strip()

    def read(self, parse: Callable[[Any], T], *arguments: str, timeout: float = QUESTION) -> T:
        """The answer to a question, which the engine gives as JSON.

        :param parse: makes something of it, or raises `TypeError`, `ValueError` or
            `KeyError` for what does not come from an engine.
        :raises EngineSilent: there is no answer, or it has another shape.
        """
        answer = self.ask(*arguments, timeout=timeout)
        try:
            return parse(json.loads(answer))
        except (ValueError, TypeError, KeyError, RecursionError):
            question = " ".join([self.program, *arguments[:2]])
            raise EngineSilent(Trouble.OTHER, f"unexpected output from {question}") from None

    def inspect(
        self, kind: str, names: Sequence[str], parse: Callable[[dict[str, Any]], T]
    ) -> list[T]:
        """What the engine says of these containers, images or volumes; empty when one of
        them does not exist.

        :raises EngineSilent: it gave no answer, so they may well exist.
        """

        def parse_all(items: Any) -> list[T]:
            if not items:
                raise ValueError
            return [parse(part(item)) for item in items]

        try:
            return self.read(parse_all, kind, "inspect", *names)
        except EngineSilent as silent:
            if silent.trouble is Trouble.ABSENT:
                return []
            raise

    def log_lines(self, container: str, lines: int) -> list[str]:
        """The last lines of a container's log. It has two streams; the time joins them."""
        argv = [self.program, "logs", "--timestamps", "--tail", str(lines), container]
        result = HostRunner().run(argv, warn=True, dry=False, timeout=QUESTION)
        both = [line.partition(" ") for line in (result.stdout + result.stderr).splitlines()]
        return [text for _time, _space, text in sorted(both, key=lambda line: line[0])]


def part(value: Any) -> dict[str, Any]:
    """A part of an answer; what the engine left out is empty.

    :raises TypeError: it has another type, so no engine has answered.
    """
    if value is not None and not isinstance(value, dict):
        raise TypeError
    return value or {}


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def texts(value: Any) -> dict[str, str]:
    return {name: text(each) for name, each in part(value).items()}


def variables(config: Mapping[str, Any]) -> dict[str, str]:
    """The environment of an image or a container, from its `Config`."""
    pairs = (text(each).partition("=") for each in config.get("Env") or ())
    return {name: value for name, _equals, value in pairs}


def failure(said: str) -> RepomError:
    """The error for a change that failed, from what the engine said."""
    said = without_secrets(said)
    kind = meaning(said)
    if kind is Trouble.PORT_TAKEN:
        port = re.search(r"\d+\.\d+\.\d+\.\d+:(\d+)", said)
        return port_taken(port[1] if port else "of the container")
    if kind is Trouble.NO_COMPOSE:
        return Unreachable(
            "The container command has no Compose plugin",
            "Install it, or set REPOM_CONTAINER instead of REPOM_COMPOSE_SERVICE",
        )
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((each for each in lines if "rror" in each), lines[-1] if lines else "no reason")
    return CommandFailed(f"The container engine failed: {line}", stderr=said)


def port_taken(port: object, by: str = "") -> Refused:
    return Refused(
        f"Port {port} on this machine is taken{by}",
        "Stop the program that uses it, or set POSTGRES_PORT to another port",
    )


def without_secrets(said: str) -> str:
    """A complaint of the engine or of Compose without what it quotes of a `.env` file."""
    return _QUOTING.sub(r"\1 (not shown)", said)


def compose_argv(project: Path, *arguments: str) -> list[str]:
    return ["compose", "--project-directory", str(project), *arguments]


def described(program: str, timeout: float) -> str:
    """The engine with its version and, for Docker, its context; for people.

    :param timeout: seconds.
    :raises EngineSilent: it gave no answer.
    """

    def parse(said: Any) -> str:
        client, server = (part(part(said).get(key)) for key in ("Client", "Server"))
        context = f", context {client['Context']}" if client.get("Context") else ""
        return f"{program} {text((server or client)['Version'])}{context}"  # Podman has no server

    return Engine(program).read(parse, "version", "--format", "{{json .}}", timeout=timeout)


def endpoint(program: str) -> str:
    """The engine's address, of DOCKER_HOST or of the context; empty when it has none."""
    try:
        question = ("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        return Engine(program).ask(*question).strip()
    except EngineSilent:
        return ""


def is_remote(address: str) -> bool:
    """Whether an engine's address is on another machine."""
    scheme, _, rest = address.partition("://")
    host = rest.rpartition("@")[2].partition("/")[0]
    host = host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
    return scheme not in ("unix", "npipe", "fd", "") and not Address(host).is_local
