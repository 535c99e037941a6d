"""The place where a client program runs, as everybody else sees it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from invoke.runners import Result

Stdin = BinaryIO | Iterable[bytes] | None
#: Asked when a program has been silent for `process.STALL` seconds. Says why the program
#: must end, or nothing when it may go on.
Watch = Callable[[], str]


class Runner(Protocol):
    """Runs programs on this host, or behind a prefix such as ``docker exec``. It has the
    shape of Invoke's ``ctx.run``, but moves bytes by file descriptor instead of as text."""

    @property
    def via(self) -> str:
        """``docker`` or ``host``, for manifests."""

    @property
    def where(self) -> str:
        """For messages: where the programs run."""

    @property
    def session(self) -> str:
        """``repom-<8 hex>``: the application name of this run's sessions in the server."""

    @property
    def dry(self) -> bool:
        """Whether commands are logged instead of run, as with Invoke's ``--dry``."""

    @property
    def trusts_local(self) -> bool:
        """Whether programs connect by the server's own socket, which needs no password."""

    @property
    def platform(self) -> str:
        """The system that the programs run on, as in `sys.platform`."""

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

        :param argv: the program and its arguments. Never a secret: other users can see it.
        :param stdin: a file to read from, or blocks of bytes; ``None`` is no input.
        :param stdout: a file for the output, complete on return; ``None`` captures text.
        :param env: variables for the program, secrets included.
        :param timeout: seconds after which it is killed.
        :param warn: return a failure instead of raising it.
        :param dry: ``False`` for a question that a dry run asks, too.
        :raises UnexpectedExit: it exited with another status than 0.
        :raises Stalled: it was silent, and `watch` said why it must end.
        :raises Unreachable: the program does not exist.
        :raises CommandFailed: it ran longer than `timeout`.
        """

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
        """Run a program with `path`, a file or folder on this host, as its last argument.

        :param listing: the content of a second file, for pg_restore's ``--use-list``.
        """

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a program that stays open, with its three streams piped.

        :raises Unreachable: the program does not exist.
        """

    def end(self, session: str, seconds: float) -> None:
        """End programs of a session that outlive the client that started them.

        :param seconds: to wait for their end.
        """

    def interactive(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Run a program on this terminal and return its exit status."""
