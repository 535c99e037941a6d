"""Stand-ins for what a unit test cannot have: a server's client programs and an engine."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.runners import process
from repom.runners.runner import Stdin, Watch
from tests import requires


@dataclass(frozen=True)
class Call:
    """What a `FakeRunner` was asked to run."""

    argv: list[str]
    env: dict[str, str]
    stdin: bytes | None
    dry: bool | None = None


@dataclass
class Answer:
    """What a program says and how it ends."""

    stdout: str = ""
    stderr: str = ""
    exited: int = 0


@dataclass
class FakeRunner:
    """Runs nothing: records every call, and answers with the next answer for its program."""

    answers: Mapping[str, Sequence[Answer]] = field(default_factory=dict)
    trusts_local: bool = False
    dry: bool = False
    via: str = "docker"
    where: str = "nowhere"
    session: str = "repom-00000000"
    platform: str = "linux"
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._next = {program: iter(answers) for program, answers in self.answers.items()}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: Stdin = None,
        stdout: BinaryIO | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        warn: bool = False,
        dry: bool | None = None,
        watch: Watch | None = None,
    ) -> Result:
        said = None if stdin is None else b"".join(stdin)
        self.calls.append(Call(list(argv), dict(env or {}), said, dry))
        answer = next(self._next[argv[0]])
        if stdout:
            stdout.write(answer.stdout.encode())
        out = "" if stdout else answer.stdout
        result = Result(stdout=out, stderr=answer.stderr, exited=answer.exited)
        if answer.exited and not warn:
            raise UnexpectedExit(result)
        return result

    def run_on_file(self, argv: Sequence[str], path: Path, **how: Any) -> Result:
        return self.run([*argv, str(path)])

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Real, so that a session can be had from a script in place of psql."""
        return process.start(argv, env, subprocess.PIPE)

    def end(self, session: str, seconds: float) -> None:
        pass

    def interactive(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        return 0


class FakeDocker:
    """An executable in place of `docker`, with canned answers by how its arguments begin."""

    def __init__(self, folder: Path) -> None:
        requires.need(os.name == "posix", "a POSIX shell")
        folder.mkdir()
        self.folder, self.rules = folder, list[str]()
        self.program = str(folder / "docker")
        self.answers("", stderr="docker: not expected by this test", status=64)
        self.answers("ps --all --quiet")  # no other containers

    def answers(self, start: str, stdout: str = "", stderr: str = "", status: int = 0) -> None:
        out, err = shlex.quote(stdout), shlex.quote(stderr)
        self.runs(start, f"printf %s {out}; printf %s {err} >&2; exit {status}")

    def runs(self, start: str, script: str) -> None:
        """From now on, arguments that begin with `start` run this; the last rule counts."""
        self.rules.insert(0, f'case "$*" in {shlex.quote(start)}*) {script}; exit ;; esac')
        log = f"printf '%s\\n' \"$*\" >> {shlex.quote(str(self.folder / 'calls'))}"
        path = Path(self.program)
        path.write_text("\n".join(["#!/bin/sh", log, *self.rules, ""]))
        path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def inspected(
    name: str = "repom_postgres",
    state: str = "running",
    ports: Sequence[int] = (5432,),
    labels: Mapping[str, str] | None = None,
    network: str = "bridge",
) -> dict[str, Any]:
    """One element of what `docker container inspect` prints."""
    bindings = [{"HostIp": "127.0.0.1", "HostPort": str(port)} for port in ports]
    return {
        "Id": f"id-of-{name}",
        "Name": f"/{name}",
        "State": {"Status": state},
        "Config": {"Labels": dict(labels or {})},
        "HostConfig": {"NetworkMode": network},
        "NetworkSettings": {"Ports": {"5432/tcp": bindings or None}},
    }
