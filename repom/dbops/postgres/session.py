"""One psql that stays open: each start of it costs 60 ms and more in a container."""

from __future__ import annotations

import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.errors import CommandFailed

PID = "SELECT pg_catalog.pg_backend_pid();"
PATIENCE = 5.0  # seconds for an answer to the question whether the server is there
KEPT = 1 << 16  # bytes of what a psql that failed had said
Lines = queue.Queue[str | None]


@dataclass(frozen=True)
class Answer:
    """What a script printed, and what psql said on standard error."""

    stdout: str
    stderr: str


class Session:
    """Scripts go in, answers come out, each closed by a line that only this process knows.

    :param process: a psql that reads its standard input, all three streams piped. It ends
        at the first error, and at the end of its input when this process is killed.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = 0  # of the server's process
        self._is_busy = False
        self._out, self._err = _lines_of(process.stdout), _lines_of(process.stderr)

    def ask(
        self, script: str, variables: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Answer:
        """Run a script.

        :param variables: of psql, set before.
        :param timeout: seconds to wait for the answer; after that the session is unusable.
        :raises UnexpectedExit: psql ended, which it does at an error.
        :raises CommandFailed: no answer came in time.
        """
        self._is_busy = True
        end = secrets.token_hex(16)
        given = "".join(set_variable(n, v) for n, v in (variables or {}).items())
        closing = f"\n\\echo {end}\n\\! echo {end}>&2\n"
        with suppress(OSError):  # it has ended; the answer tells why
            assert self._process.stdin
            self._process.stdin.write(f"{given}{script}{closing}".encode())
            self._process.stdin.flush()
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            stdout = self._until(end, self._out, deadline)
            stderr = self._until(end, self._err, deadline)
        except queue.Empty:
            raise CommandFailed(
                f"psql did not answer within {timeout:g} s", "Check the server, then try again"
            ) from None
        self._is_busy = False
        return Answer(stdout, stderr)

    def is_alive(self) -> bool:
        """Whether the server has not ended the session while nothing was asked."""
        try:
            return self.ask(PID, timeout=PATIENCE).stdout.strip() == str(self.pid)
        except (UnexpectedExit, CommandFailed):
            return False

    def _until(self, end: str, source: Lines, deadline: float | None) -> str:
        lines: list[str] = []
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            line = source.get(timeout=left)
            if line is None:
                raise UnexpectedExit(self._failed(lines if source is self._err else []))
            if line.rstrip("\r ") == end:
                return "".join(f"{each}\n" for each in lines)
            lines.append(line)

    def _failed(self, said: list[str]) -> Result:
        with suppress(queue.Empty):
            while (line := self._err.get(timeout=1)) is not None:
                said.append(line)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        exited = self._process.poll()
        return Result(stderr="\n".join(said)[-KEPT:], exited=exited or 1)

    def close(self) -> None:
        """End psql, and with it what its session held. One that has not answered yet would
        first finish what it was asked."""
        if self._is_busy:
            self._process.kill()
        with suppress(OSError):
            assert self._process.stdin
            self._process.stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(1)

    def __del__(self) -> None:
        if self._process.returncode is None:
            self.close()


def _lines_of(stream: IO[bytes] | None) -> Lines:
    """The lines of a stream, read by a thread; ``None`` is its end."""
    lines: Lines = queue.Queue()
    threading.Thread(target=_read, args=(stream, lines), daemon=True).start()
    return lines


def _read(stream: IO[bytes] | None, lines: Lines) -> None:
    assert stream
    with stream:  # closed here: whoever else closes it waits for this reader
        for line in stream:
            lines.put(line.decode("utf-8", "replace").removesuffix("\n"))
    lines.put(None)


def set_variable(name: str, value: str) -> str:
    """The line that sets a variable of psql to any text."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"\\set {name} '{quoted.replace(chr(13), chr(92) + 'r')}'\n"
