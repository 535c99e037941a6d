"""One psql that stays open, for what has to hold between two scripts: a lock."""

from __future__ import annotations

import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.errors import CommandFailed

KEPT = 1 << 16  # bytes of what it says on standard error


class Session:
    """Scripts go in, their lines come out, each answer closed by a line that only this
    process knows.

    :param process: a psql that reads its standard input, all three streams piped; it ends
        at the first error, and at the end of its input when this process is killed.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = 0  # of the server's process
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._stderr = b""
        threading.Thread(target=self._read, args=(process.stdout,), daemon=True).start()
        self._listener = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        self._listener.start()

    def ask(
        self, script: str, variables: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> list[str]:
        """The lines that a script prints.

        :param variables: of psql, set before.
        :param timeout: seconds to wait for the answer.
        :raises UnexpectedExit: psql ended, which it does at an error.
        :raises CommandFailed: no answer came in time.
        """
        end = secrets.token_hex(16)
        given = "".join(set_variable(n, v) for n, v in (variables or {}).items())
        with suppress(OSError):  # it has ended; the answer tells why
            assert self._process.stdin
            self._process.stdin.write(f"{given}{script}\n\\echo {end}\n".encode())
            self._process.stdin.flush()
        return self._answer(end, timeout)

    def _answer(self, end: str, timeout: float | None) -> list[str]:
        lines: list[str] = []
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                raise CommandFailed(f"psql did not answer within {timeout:g} s") from None
            if line is None:
                raise UnexpectedExit(self._result())
            if line == end:
                return lines
            lines.append(line)

    def close(self) -> None:
        """End psql, and with it what its session held."""
        with suppress(OSError):
            assert self._process.stdin
            self._process.stdin.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(1)
        self._listener.join(1)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _result(self) -> Result:
        self._listener.join(1)
        exited = self._process.wait(5)
        return Result(stderr=self._stderr.decode("utf-8", "replace"), exited=exited or 1)

    def _read(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):  # closed meanwhile
            for line in stream:
                self._lines.put(line.decode("utf-8", "replace").removesuffix("\n"))
        self._lines.put(None)

    def _listen(self, stream: IO[bytes]) -> None:
        with suppress(ValueError, OSError):
            for line in stream:
                self._stderr = (self._stderr + line)[-KEPT:]


def set_variable(name: str, value: str) -> str:
    """The line that sets a variable of psql to any text."""
    quoted = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"\\set {name} '{quoted.replace(chr(13), chr(92) + 'r')}'\n"
