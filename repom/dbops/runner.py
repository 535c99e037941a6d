"""The place where a client program runs: on this host, or inside the container.

Both runners have the shape of Invoke's ``ctx.run`` and move bytes by file descriptor
instead of through text. This is the only module that starts processes.
"""

from __future__ import annotations

import codecs
import logging
import os
import secrets
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, ClassVar

from invoke import Config, Context
from invoke.exceptions import CommandTimedOut, ThreadException
from invoke.runners import Local, Result

from ..errors import CommandFailed, Hidden, RepomError, Unreachable

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

#: Removes copies that no program in the container is at work on: those of a container
#: that was killed. The brackets keep grep from finding itself.
_HEX = "[0-9a-f]" * 8
SWEEP = (
    f"for f in /tmp/repom-{_HEX}-{_HEX} /tmp/repom-{_HEX}-{_HEX}-list; do "
    '[ -e "$f" ] && ! grep -qs "repo[m]-${f#/tmp/repom-}" /proc/[0-9]*/cmdline && rm -rf "$f"; '
    "done 2>/dev/null; "
)

#: Begins a script in the container, where the server is the parent of every orphan, and up
#: to 17 takes one that a signal ended for a crashed process of its own: it ends all sessions.
#: So the workers of a killed pg_restore must not die of the pipe to it, but fail.
CALM = "trap '' PIPE; "

Stdin = BinaryIO | Iterable[bytes] | None
#: Asked when a program has been silent for `STALL` seconds: why it must end, or nothing.
Watch = Callable[[], str]


class Stalled(CommandFailed):
    """A program was silent for `STALL` seconds for no good reason, and was ended."""


class _Process(Local):
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


class HostRunner:
    """Runs programs on this host.

    :param echo: log every command, as Invoke's ``--echo``.
    :param dry: log commands instead of running them, as Invoke's ``--dry``.
    """

    via = "host"
    #: Variables of every program, besides this process's own.
    environment: ClassVar[Mapping[str, str]] = {}
    #: Whether local connections are expected to need no password.
    trusted = False

    def __init__(self, *, echo: bool = False, dry: bool = False) -> None:
        run = {"echo": echo, "dry": dry, "in_stream": False, "hide": "both"}
        self.context = Context(Config(lazy=True, overrides={"run": run}))
        self.session = f"repom-{secrets.token_hex(4)}"
        #: Where the programs are; empty means "wherever PATH says".
        self.bin = ""
        #: Why the container is not used although it is meant; empty when it is not meant.
        self.fallback = ""

    @property
    def where(self) -> str:
        """For messages: where this runner's programs run."""
        return "host"

    def program(self, name: str) -> str:
        return str(Path(self.bin, name)) if self.bin else name

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
        """Run a program to its end.

        :param argv: the program and its arguments; never a secret, since others see it.
        :param stdin: a file to read from, or blocks of bytes; ``None`` is no input.
        :param stdout: a file that takes the output, and on return holds all of it;
            ``None`` captures it as text.
        :param env: variables for the program, secrets included.
        :param timeout: seconds until it is killed.
        :param warn: return a failure instead of raising it.
        :param dry: ``False`` for a question that a dry run must ask too.
        :param watch: asked after each `STALL` seconds of silence.
        :raises UnexpectedExit: it exited with another status than 0.
        :raises Stalled: it was silent, and `watch` said why it must end.
        :raises Unreachable: there is no such program.
        :raises CommandFailed: it ran longer than `timeout`.
        """
        env = {"PGAPPNAME": self.session, **self.environment, **(env or {})}
        end = self._end_of(stdout)
        command = self._command(argv, env, end, interactive=stdin is not None)
        options = {"timeout": timeout, "warn": warn, "dry": dry}
        process = _Process(self.context, command, stdin, stdout, watch)
        result = self._execute(process, env, **options)
        if stdout and end and result.ok and not self._dry(dry):
            _strip_end(stdout, end)
        return result

    def _end_of(self, stdout: BinaryIO | None) -> bytes:
        """What must come last on `stdout`. Here it is the exit status that counts."""
        return b""

    def _command(
        self, argv: Sequence[str], env: Mapping[str, str], end: bytes, *, interactive: bool
    ) -> list[str]:
        return [self.program(argv[0]), *argv[1:]]

    def _dry(self, dry: bool | None) -> bool:
        return bool(self.context.config.run.dry if dry is None else dry)

    def run_on_file(
        self,
        argv: Sequence[str],
        path: Path,
        *,
        stdout: BinaryIO | None = None,
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        listing: bytes = b"",
    ) -> Result:
        """Run a program with `path` as its last argument, readable where it runs.

        :param listing: the content of a second file, for pg_restore's ``--use-list``.
        """
        if not listing:
            return self.run([*argv, str(path)], stdout=stdout, env=env, watch=watch)
        with tempfile.NamedTemporaryFile(prefix="repom-") as file:
            file.write(listing)
            file.flush()
            argv = [*argv, f"--use-list={file.name}", str(path)]
            return self.run(argv, stdout=stdout, env=env, watch=watch)

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a program that goes on, with its three streams piped.

        :raises Unreachable: there is no such program.
        """
        env = {"PGAPPNAME": self.session, **self.environment, **env}
        command = self._command(argv, env, b"", interactive=True)
        if self.context.config.run.echo:
            log.info("$ %s", display(command))
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(
                command,
                env=client_environment(os.environ, env),
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                **popen_options(sys.platform),
            )
        except (FileNotFoundError, PermissionError):
            raise _missing(command[0]) from None

    def end(self, session: str, seconds: float) -> None:
        """End programs of a session that outlive the client that started them. Here there
        are none."""

    def interactive(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        """Run a program on this terminal and return its exit status."""
        return self._attached([self.program(argv[0]), *argv[1:]], env or {})

    def _attached(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        try:
            return subprocess.call(list(argv), env=client_environment(os.environ, env))
        except FileNotFoundError:
            raise _missing(argv[0]) from None

    def _execute(self, process: _Process, env: Mapping[str, str], **options: Any) -> Result:
        argv, stdin = process.argv, process.stdin_from
        full = client_environment(os.environ, env)
        # An iterator, since Invoke takes an empty list for no input at all.
        blocks = iter(stdin) if is_pumped(stdin) else False  # type: ignore[arg-type]
        fixed = {"env": full, "replace_env": True, "in_stream": blocks}
        try:
            return process.run(display(argv), **fixed, **options)
        except (FileNotFoundError, PermissionError) as error:
            error.__traceback__ = None  # its frames hold the environment as bytes
            raise _missing(argv[0]) from None
        except CommandTimedOut:
            raise CommandFailed(f"{argv[0]} did not end within {options['timeout']:g} s") from None
        except ThreadException as error:
            raise _cause(error) from None


def _missing(program: str) -> Unreachable:
    return Unreachable(f"{program} was not found or cannot be executed")


def _cause(error: ThreadException) -> BaseException:
    """What went wrong while feeding the program, instead of Invoke's account of it."""
    return next((e.value for e in error.exceptions if isinstance(e.value, RepomError)), error)


class DockerRunner(HostRunner):
    """Runs programs inside a container with ``docker exec``.

    :param docker: the container command, ``docker`` or ``podman``.
    :param container: the container's full id, so that a name that changes hands between
        two steps does no harm.
    :param name: the container's name, for people.
    """

    via = "docker"
    environment: ClassVar[Mapping[str, str]] = {"PGHOST": ""}
    trusted = True

    def __init__(self, docker: str, container: str, name: str, **options: bool) -> None:
        super().__init__(**options)
        self.docker, self.container, self.name = docker, container, name

    @property
    def where(self) -> str:
        return f"container {self.name}"

    def _end_of(self, stdout: BinaryIO | None) -> bytes:
        """A proof in band that all of it arrived: `docker exec` can lose the end of a
        stream and still exit 0."""
        return secrets.token_hex(16).encode() if stdout else b""

    def _command(
        self, argv: Sequence[str], env: Mapping[str, str], end: bytes, *, interactive: bool
    ) -> list[str]:
        if end:
            argv = ["sh", "-c", '"$@" && printf %s "$0"', end.decode(), *argv]
        return exec_argv(self.docker, self.container, argv, env, interactive=interactive)

    def run_on_file(
        self,
        argv: Sequence[str],
        path: Path,
        *,
        stdout: BinaryIO | None = None,
        env: Mapping[str, str] | None = None,
        watch: Watch | None = None,
        listing: bytes = b"",
    ) -> Result:
        """Bring the file in, compare its size, run, and remove it, in one `docker exec`.

        Through ``cat`` and not ``docker cp``, which leaves no file in a tmpfs and a file
        that a user other than root cannot read, and exits 0 both times.
        """
        if path.is_dir():
            return self._run_on_folder(argv, path, stdout=stdout, env=env, watch=watch)
        inside = f"/tmp/{self.session}-{secrets.token_hex(4)}"
        # dd takes no byte more than it is told, which not every head is true of.
        first = f"dd bs=1 count={len(listing)} of={inside}-list 2>/dev/null; " if listing else ""
        argv = [*argv, f"--use-list={inside}-list"] if listing else argv
        script = (
            f"{CALM}trap 'rm -f {inside} {inside}-list' EXIT; "
            "trap 'exit 143' HUP INT TERM; umask 077; "
            f"{SWEEP}{first}"
            f"cat >{inside} || exit 74; "
            f"[ $(wc -c <{inside}) -eq $0 ] || {{ echo 'the copy is incomplete' >&2; exit 74; }}; "
            f'"$@" {inside}'
        )
        wrapped = ["sh", "-c", script, str(path.stat().st_size), *argv]
        with path.open("rb") as file:
            blocks = chain([listing], iter(lambda: file.read(1 << 20), b""))
            stdin = blocks if listing else file
            return self.run(wrapped, stdin=stdin, stdout=stdout, env=env, watch=watch)

    def end(self, session: str, seconds: float) -> None:
        """Ending the client of `docker exec` leaves the program in the container; one that
        reads a file there has no session in the server that could be ended instead.

        :param session: a part of the name of that file, ``repom-<8 hex>``.
        :param seconds: to wait for their end.
        """
        # The brackets keep grep, and this shell, from finding themselves.
        pattern = session.replace("repom", "repo[m]", 1)
        script = (
            f"for p in /proc/[0-9]*; do grep -qs '{pattern}' $p/cmdline && "
            "kill ${p#/proc/}; done 2>/dev/null; true"
        )
        with (
            suppress(RepomError, subprocess.TimeoutExpired),  # it goes on by itself
            self.open(["sh", "-c", script], {}) as process,
        ):
            try:
                process.communicate(timeout=seconds)
            finally:
                process.kill()

    def _run_on_folder(self, argv: Sequence[str], path: Path, **how: Any) -> Result:
        """The same for a directory that `pg_dump --format=directory` made."""
        inside = f"/tmp/{self.session}-{secrets.token_hex(4)}"
        size = sum(member.stat().st_size for member in path.iterdir())
        script = (
            f"{CALM}trap 'rm -rf {inside}' EXIT; trap 'exit 143' HUP INT TERM; umask 077; "
            f"{SWEEP}"
            f"mkdir {inside} && tar -xf - -C {inside} || exit 74; "
            f"[ $(cat {inside}/* | wc -c) -eq $0 ] || "
            "{ echo 'the copy is incomplete' >&2; exit 74; }; "
            f'"$@" {inside}'
        )
        return self.run(["sh", "-c", script, str(size), *argv], stdin=packed(path), **how)

    def interactive(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> int:
        env = dict(env or {})
        command = exec_argv(self.docker, self.container, argv, env, interactive=True)
        terminal = ["-t"] if sys.stdin is not None and sys.stdin.isatty() else []
        return self._attached([*command[:2], *terminal, *command[2:]], env)


def exec_argv(
    docker: str,
    container: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    interactive: bool,
) -> list[str]:
    """The `docker exec` command line: variables by name alone, never a terminal (`-t`
    would turn every line feed into two bytes), `-i` only when there is input."""
    variables = [flag for name in env for flag in ("-e", name)]
    return [docker, "exec", *(["-i"] if interactive else []), *variables, container, *argv]


def packed(folder: Path) -> Iterator[bytes]:
    """The files in a folder as a stream of tar, in blocks."""
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            member = tarfile.TarInfo(path.name)
            member.size = os.fstat(file.fileno()).st_size
            yield member.tobuf(tarfile.GNU_FORMAT)
            while block := file.read(1 << 20):
                yield block
        yield bytes(-member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _strip_end(file: BinaryIO, end: bytes) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(end)))
    if file.read() != end:
        raise CommandFailed(
            "The stream from the container ended before the program did",
            "Nothing was kept; try again",
        )
    file.truncate(size - len(end))
    file.seek(0, os.SEEK_END)
