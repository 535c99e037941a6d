"""Runs programs on this host."""

from __future__ import annotations

import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, ClassVar

from invoke.runners import Result

from . import process
from .runner import Stdin, Watch


def new_session() -> str:
    return f"repom-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class HostRunner:
    """Runs programs on this host; see `runner.Runner`.

    :param folder: where the programs are; empty means "wherever PATH says".
    :param engine: the container command that may stand in for programs that do not fit.
    """

    folder: str = ""
    echo: bool = False
    dry: bool = False
    session: str = field(default_factory=new_session)
    engine: str = ""

    via: ClassVar[str] = "host"
    where: ClassVar[str] = "host"
    trusts_local: ClassVar[bool] = False
    platform: ClassVar[str] = sys.platform

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
        return process.run(
            self._command(argv),
            env={"PGAPPNAME": self.session, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            timeout=timeout,
            warn=warn,
            watch=watch,
            echo=self.echo,
            dry=self.dry if dry is None else dry,
        )

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
        if not listing:
            return self.run([*argv, str(path)], stdout=stdout, env=env, watch=watch)
        # In a folder, since Windows lets no other program open a NamedTemporaryFile.
        with tempfile.TemporaryDirectory(prefix="repom-") as folder:
            chosen = Path(folder, "list")
            chosen.write_bytes(listing)
            command = [*argv, f"--use-list={chosen}", str(path)]
            return self.run(command, stdout=stdout, env=env, watch=watch)

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        command = self._command(argv)
        if self.echo:
            process.log.info("$ %s", process.display(command))
        return process.start(command, {"PGAPPNAME": self.session, **env}, subprocess.PIPE)

    def end(self, session: str, seconds: float) -> None:
        """On this host no program outlives the run that started it."""

    def interactive(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        return process.attached(self._command(argv), env, echo=self.echo, dry=self.dry)

    def _command(self, argv: Sequence[str]) -> list[str]:
        program = str(Path(self.folder, argv[0])) if self.folder else argv[0]
        return [program, *argv[1:]]
