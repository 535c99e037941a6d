"""The place where a client program runs: on this host, or inside the container.

Both runners have the shape of Invoke's ``ctx.run`` and move bytes by file descriptor
instead of through text. This is the only module that starts processes.
"""

from __future__ import annotations

import codecs
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from invoke import Context
from invoke.exceptions import ThreadException
from invoke.runners import Local

from repom.errors import CommandFailed, Hidden, RepomError, Unreachable

log = logging.getLogger("repom")

#: Environment of libpq that may stay: files the user keeps secrets and certificates in,
#: and what they demand of a connection.
#: Every other PG* variable would silently redirect a program to another server.
KEPT_PG = (
    *("PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"),
    *("PGSSLMODE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGSSLMINPROTOCOLVERSION"),
    *("PGSSLCRLDIR", "PGREQUIREPEER", "PGGSSENCMODE", "PGSSLNEGOTIATION", "PGSSLCERTMODE"),
)
#: A role or a database may carry settings that end a dump or a load half way.
SESSION = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c default_transaction_read_only=off -c standard_conforming_strings=on"
)
#: Seconds without a byte after which a dump or a load has stalled.
STALL = 60.0
#: Seconds between two looks that tell that this process was stopped, and perhaps the
#: program with it: then they are not counted.
ASLEEP = 1.0
Stdin = BinaryIO | Iterable[bytes] | None
#: Asked when a program has been silent for `STALL` seconds: why it must end, or nothing.
Watch = Callable[[], str]


class Stalled(CommandFailed):
    """A program was silent for `STALL` seconds for no good reason, and was ended."""


class Process(Local):
    """One run of one program: Invoke's machinery over file descriptors and argv."""

    read_chunk_size = 1 << 16
    input_sleep = 0.002  # seconds between two looks whether the program has ended

    def __init__(
        self, context: Context, argv: Sequence[str], stdin: Stdin, stdout: Any, watch: Watch | None
    ):
        super().__init__(context)
        self.argv, self.stdin_from, self.stdout_to = list(argv), stdin, stdout
        self.watch = watch
        self.process: subprocess.Popen[bytes] | None = None  # type: ignore[assignment]

    def start(self, command: str, shell: str, env: dict[str, Any]) -> None:
        stdin = self.stdin_from if self.stdin_from is not None else subprocess.DEVNULL
        options: dict[str, Any] = {
            "stdin": subprocess.PIPE if is_pumped(self.stdin_from) else stdin,
            "stdout": self.stdout_to or subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **popen_options(sys.platform),
        }
        self.process = subprocess.Popen(self.argv, env=env, **options)

    def handle_stdin(self, input_: Iterable[bytes], output: IO[str], echo: bool = False) -> None:
        """Write the blocks of `input_`; if making them fails, the program must not take
        the end of its input for the end of the data, so it is killed first."""
        assert self.process and self.process.stdin
        try:
            for block in input_:
                self.process.stdin.write(block)
            self.process.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the program stopped reading; its own message says why
        except OSError as error:
            if error.errno != 22:  # EINVAL: Windows' broken pipe
                self.kill()
                raise
        except BaseException:
            self.kill()
            raise

    def wait(self) -> None:
        """Wait for the end, and for `STALL` seconds without a byte, of a program that
        writes a file or is watched. Others, such as a question, are waited for."""
        seen: float = -1
        since = looked = time.monotonic()
        while not (self.process_is_finished or self.has_dead_threads):
            moved, now = self._moved(), time.monotonic()
            if now - looked > ASLEEP:
                since += now - looked
            looked = now
            if moved != seen:
                seen, since = moved, now
            elif now - since > STALL:
                self._end_if_stalled()
                since = looked = time.monotonic()
            time.sleep(self.input_sleep)

    def _end_if_stalled(self) -> None:
        """One that reads may be silent for long: an index takes the time it takes. Then
        whoever watches it knows whether the server is at work."""
        why = self.watch() if self.watch else f"it moved no byte for {STALL:g} s"
        if why:
            self.stop()
            raise Stalled(f"{Path(self.argv[0]).name} was ended: {why}", "Try again")

    def _moved(self) -> float:
        """How far it has come; the clock where nobody wants to know."""
        if self.stdout_to:
            return os.fstat(self.stdout_to.fileno()).st_size
        return 0 if self.watch else time.monotonic()

    def read_proc_output(self, reader: Any) -> Generator[str, None, None]:
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        while data := reader(self.read_chunk_size):
            yield decoder.decode(data)

    def respond(self, buffer_: list[str]) -> None:
        """Called after each chunk. There are no watchers, and joining the whole buffer
        for them is quadratic; what there is to do is to bound it, at about 4 MB."""
        if len(buffer_) > 64:
            del buffer_[1:-32]

    def echo(self, command: str) -> None:
        log.info("$ %s", command)

    def send_interrupt(self, interrupt: KeyboardInterrupt) -> None:
        self.stop()
        raise interrupt

    def stop(self) -> None:
        """Leave no process behind, however `run` ends."""
        super().stop()
        if self.process and self.process.poll() is None:
            self._signal(signal.SIGTERM)  # lets pg_dump cancel its query in the server
            try:
                self.process.wait(0.5)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process:
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                _close(pipe)

    def kill(self) -> None:
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))

    def _signal(self, signum: int) -> None:
        assert self.process
        try:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signum)
            else:
                self.process.terminate()
        except (ProcessLookupError, PermissionError):
            pass


def is_pumped(stdin: Stdin) -> bool:
    """Whether `stdin` is blocks that this process makes, and not a file to hand over."""
    return stdin is not None and not hasattr(stdin, "fileno")


def _close(pipe: IO[bytes] | None) -> None:
    try:
        if pipe:
            pipe.close()
    except OSError:
        pass  # what was left in the buffer had no reader any more


def popen_options(platform: str) -> dict[str, Any]:
    """Children in a group of their own: Ctrl-C reaches repom alone, which then decides."""
    if platform == "win32":
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def display(argv: Sequence[str], platform: str = sys.platform) -> str:
    """The command line as someone would type it on `platform`."""
    return subprocess.list2cmdline(argv) if platform == "win32" else shlex.join(argv)


def client_environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: without anybody's PG* variables, messages in English."""
    kept = {k: v for k, v in environ.items() if not k.startswith("PG") or k in KEPT_PG}
    full = {**kept, "LC_ALL": "C", "LANGUAGE": "C", **extra}
    return {name: Hidden(value) for name, value in full.items()}


def missing(program: str) -> Unreachable:
    return Unreachable(f"{program} was not found or cannot be executed")


def cause(error: ThreadException) -> BaseException:
    """What went wrong while feeding the program, instead of Invoke's account of it."""
    return next((e.value for e in error.exceptions if isinstance(e.value, RepomError)), error)


def strip_end(file: BinaryIO, end: bytes) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(end)))
    if file.read() != end:
        raise CommandFailed(
            "The stream from the container ended before the program did",
            "Nothing was kept; try again",
        )
    file.truncate(size - len(end))
    file.seek(0, os.SEEK_END)
