"""Runs programs on this host."""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from invoke import Config, Context
from invoke.exceptions import CommandTimedOut, ThreadException
from invoke.runners import Result

from repom.errors import CommandFailed

from .process import (
    Process,
    Stdin,
    Watch,
    cause,
    client_environment,
    display,
    is_pumped,
    missing,
    popen_options,
    strip_end,
)

log = logging.getLogger("repom")


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
        process = Process(self.context, command, stdin, stdout, watch)
        result = self._execute(process, env, **options)
        if stdout and end and result.ok and not self._dry(dry):
            strip_end(stdout, end)
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
            raise missing(command[0]) from None

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
            raise missing(argv[0]) from None

    def _execute(self, process: Process, env: Mapping[str, str], **options: Any) -> Result:
        argv, stdin = process.argv, process.stdin_from
        full = client_environment(os.environ, env)
        # An iterator, since Invoke takes an empty list for no input at all.
        blocks = iter(stdin) if is_pumped(stdin) else False  # type: ignore[arg-type]
        fixed = {"env": full, "replace_env": True, "in_stream": blocks}
        try:
            return process.run(display(argv), **fixed, **options)
        except (FileNotFoundError, PermissionError) as error:
            error.__traceback__ = None  # its frames hold the environment as bytes
            raise missing(argv[0]) from None
        except CommandTimedOut:
            raise CommandFailed(f"{argv[0]} did not end within {options['timeout']:g} s") from None
        except ThreadException as error:
            raise cause(error) from None
