"""One run of one program: started, fed, read, watched and ended. Nothing else starts one."""

from __future__ import annotations

import errno
import io
import logging
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom import progress
from repom.errors import CommandFailed, Hidden, Unreachable

from .runner import Stdin, Watch

log = logging.getLogger("repom")

#: Environment of libpq that stays: files that the user keeps secrets and certificates in,
#: and what they demand of a connection. Every other PG* variable would silently redirect
#: a program to another server.
KEPT_PG = (
    *("PGPASSFILE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSSLCRL"),
    *("PGSSLMODE", "PGREQUIREAUTH", "PGCHANNELBINDING", "PGSSLMINPROTOCOLVERSION"),
    *("PGSSLCRLDIR", "PGREQUIREPEER", "PGGSSENCMODE", "PGSSLNEGOTIATION", "PGSSLCERTMODE"),
)
STALL = 60.0  # seconds without a byte after which a dump or a load has stalled
ASLEEP = 1.0  # seconds between two looks that show that this process itself was stopped
LOOK = 0.05  # seconds between two looks at a running program
BLOCK = 1 << 16  # bytes read at a time
SAID = 1 << 21  # bytes that are kept of what a program says


class Stalled(CommandFailed):
    """A program was silent for `STALL` seconds for no good reason, and was ended."""


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: Stdin = None,
    stdout: BinaryIO | None = None,
    timeout: float | None = None,
    warn: bool = False,
    watch: Watch | None = None,
    echo: bool = False,
    dry: bool = False,
) -> Result:
    """Run a program to its end; the parameters are those of `Runner.run`."""
    if echo or dry:
        log.info("$ %s", display(argv))
    if dry:
        return Result(command=display(argv))
    process = Process(argv, env, stdin, stdout)
    result = process.finished(timeout, watch)
    if not result.ok and not warn:
        raise UnexpectedExit(result)
    return result


class Process:
    """A program at work."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], stdin: Stdin, stdout: BinaryIO | None
    ) -> None:
        self.argv, self._stdout, self._fed = list(argv), stdout, 0
        is_pumped = stdin is not None and not hasattr(stdin, "fileno")
        #: A file that the program reads by itself: its offset says how far it has come.
        self._read = stdin if isinstance(stdin, io.IOBase) and stdin.seekable() else None
        source: Any = (
            subprocess.PIPE if is_pumped else subprocess.DEVNULL if stdin is None else stdin
        )
        self._process = start(argv, env, source, stdout or subprocess.PIPE)
        self._failure: BaseException | None = None
        self._said = Tail(self._process.stdout), Tail(self._process.stderr)
        if is_pumped:
            feeding = threading.Thread(target=self._feed, args=(stdin,), daemon=True)
            feeding.start()

    def finished(self, timeout: float | None, watch: Watch | None) -> Result:
        """Wait for its end; leave no process behind, however this ends."""
        try:
            self._wait(timeout, watch)
        finally:
            self._stop()
        if self._failure:
            raise self._failure
        stdout, stderr = (tail.text() for tail in self._said)
        exited = self._process.returncode
        return Result(stdout=stdout, stderr=stderr, exited=exited, command=display(self.argv))

    def _feed(self, blocks: Iterable[bytes]) -> None:
        """Write the blocks. If making one fails, the program must not take the end of its
        input for the end of the data, so it is killed first."""
        pipe = self._process.stdin
        assert pipe
        try:
            for block in blocks:
                pipe.write(block)
                self._fed += len(block)
            pipe.close()
        except BaseException as error:
            # The program stopped reading (EINVAL on Windows): its own message says why.
            broken = (errno.EPIPE, errno.ECONNRESET, errno.EINVAL)
            if not isinstance(error, OSError) or error.errno not in broken:
                self._failure = error
                self._signal("SIGKILL")

    def _wait(self, timeout: float | None, watch: Watch | None) -> None:
        began = looked = since = time.monotonic()
        moved = self._moved()
        while self._process.poll() is None:
            if self._said[1].is_open:
                self._said[1].wait(LOOK)
            else:  # a program that closed its streams and goes on, or ends this moment
                time.sleep(0.002)
            now = time.monotonic()
            if timeout is not None and now - began > timeout:
                raise CommandFailed(f"{self.argv[0]} did not end within {timeout:g} s")
            if now - looked > ASLEEP:  # the program may have been stopped, too
                since += now - looked
            looked = now
            if (known := self._moved()) != moved:
                progress.advance(known - moved)
                moved, since = known, now
            elif now - since > STALL:
                self._check_stall(watch)
                since = looked = time.monotonic()

    def _moved(self) -> int:
        """Bytes that went in or out so far."""
        written = os.fstat(self._stdout.fileno()).st_size if self._stdout else 0
        read = os.lseek(self._read.fileno(), 0, os.SEEK_CUR) if self._read else 0
        return self._fed + read + written

    def _check_stall(self, watch: Watch | None) -> None:
        """A program that loads may be silent for long: an index takes the time it takes.
        Its `watch` knows whether the server is at work. A question is waited for."""
        if watch is None and self._stdout is None:
            return
        why = watch() if watch else f"no data moved for {STALL:g} s"
        if why:
            raise Stalled(f"{Path(self.argv[0]).name} was ended: {why}", "Try again")

    def _stop(self) -> None:
        if self._process.poll() is None:
            self._signal("SIGTERM")  # lets pg_dump cancel its query in the server
            try:
                self._process.wait(0.5)
            except subprocess.TimeoutExpired:
                self._signal("SIGKILL")
                self._process.wait()
        for tail in self._said:
            tail.wait(1)  # not longer: a child of the program may still have the stream open
        with suppress(OSError):  # what was left in the buffer has no reader any more
            if self._process.stdin:
                self._process.stdin.close()

    def _signal(self, name: str) -> None:
        if self._process.poll() is not None:
            return  # another process may have its number now
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, getattr(signal, name))
            else:
                self._process.terminate()


class Tail:
    """What a program says on a stream, read by a thread; of a flood the first block and the
    last `SAID` bytes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        self._first = b""
        self._last = bytearray()
        self._is_cut = False
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: Any) -> None:
        if stream is None:
            return
        with stream:
            while block := stream.read1(BLOCK):
                self._first = self._first or block
                self._last += block
                if len(self._last) > 2 * SAID:
                    self._is_cut = True
                    del self._last[:-SAID]

    def wait(self, seconds: float) -> None:
        """Wait for the end of the stream."""
        self._thread.join(seconds)

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def text(self) -> str:
        said = (self._first if self._is_cut else b"") + self._last
        return said.decode("utf-8", "replace")


def start(
    argv: Sequence[str], env: Mapping[str, str], stdin: Any, stdout: Any = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """Start a program.

    :raises Unreachable: it does not exist, or may not be executed.
    """
    options = popen_options(sys.platform)
    env = client_environment(os.environ, env)
    try:
        return subprocess.Popen(
            list(argv), env=env, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, **options
        )
    except OSError as error:
        error.__traceback__ = None  # its frames hold the environment as bytes
        if error.errno in (errno.E2BIG, errno.ENOMEM, errno.EAGAIN, errno.EMFILE):
            raise CommandFailed(f"{argv[0]} could not be started: {error.strerror}") from None
    raise Unreachable(f"{argv[0]} was not found or cannot be executed")


def attached(
    argv: Sequence[str], env: Mapping[str, str], *, echo: bool = False, dry: bool = False
) -> int:
    """Run a program on this terminal and return its exit status. Ctrl-C is the program's
    meanwhile: psql cancels a query.

    :raises Unreachable: it does not exist, or may not be executed.
    """
    if echo or dry:
        log.info("$ %s", display(argv))
    if dry:
        return 0
    # Not SIG_IGN, which the program would inherit.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    waker = signal.set_wakeup_fd(-1)
    try:
        return subprocess.call(list(argv), env=client_environment(os.environ, env))
    except (FileNotFoundError, PermissionError):
        raise Unreachable(f"{argv[0]} was not found or cannot be executed") from None
    finally:
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGINT, before)


def popen_options(platform: str) -> dict[str, Any]:
    """Children in a group of their own: Ctrl-C reaches repom alone, which then decides."""
    if platform == "win32":
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}


def display(argv: Sequence[str], platform: str = sys.platform) -> str:
    """The command line as someone would type it on `platform`."""
    return subprocess.list2cmdline(argv) if platform == "win32" else shlex.join(argv)


def inherited() -> dict[str, str]:
    """The variables of libpq that stay, of those that this process has."""
    return {name: os.environ[name] for name in KEPT_PG if name in os.environ}


def client_environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program: without this process's PG* variables, messages in
    English."""
    kept = {k: v for k, v in environ.items() if not k.startswith("PG") or k in KEPT_PG}
    full = {**kept, "LC_ALL": "C", "LANGUAGE": "C", **extra}
    return {name: Hidden(value) for name, value in full.items()}
