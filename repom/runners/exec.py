"""Runs programs inside a container, behind ``docker exec`` or ``podman exec``."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, ClassVar

from invoke.runners import Result

from repom import progress
from repom.errors import CommandFailed, RepomError

from . import process
from .host import new_session
from .runner import Stdin, Watch

_HEX = "[0-9a-f]" * 8
#: Removes copies that no program in the container is at work on: those of a run that was
#: killed. The brackets keep grep from finding itself.
SWEEP = (
    f"for f in /tmp/repom-{_HEX}-{_HEX} /tmp/repom-{_HEX}-{_HEX}-list; do "
    '[ -e "$f" ] && ! grep -qs "repo[m]-${f#/tmp/repom-}" /proc/[0-9]*/cmdline && rm -rf "$f"; '
    "done 2>/dev/null; "
)
#: The server is the parent of every orphan in its container, and up to 17 it takes one that
#: a signal ended for a crashed process of its own, and ends all sessions. So the workers of
#: a killed pg_restore must not die of the broken pipe to it, but fail.
CALM = "trap '' PIPE; "


@dataclass(frozen=True)
class ExecRunner:
    """Runs programs inside a container; see `runner.Runner`.

    :param engine: the container command, ``docker`` or ``podman``.
    :param container: the container's full id, so that a name that changes hands between
        two steps does no harm.
    :param name: the container's name, for people.
    :param trusts_local: connect by the socket of its server; else to any server from there.
    """

    engine: str
    container: str
    name: str
    echo: bool = False
    dry: bool = False
    session: str = field(default_factory=new_session)
    trusts_local: bool = True

    via: ClassVar[str] = "docker"
    platform: ClassVar[str] = "linux"

    @property
    def where(self) -> str:
        return f"container {self.name}"

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
        """`docker exec` can lose the end of a stream and still exit 0. So what is written to
        `stdout` ends with a proof that all of it arrived, which is taken off again."""
        dry = self.dry if dry is None else dry
        env = self._environment(env or {})
        proof = secrets.token_hex(16) if stdout else ""
        if proof:
            argv = ["sh", "-c", '"$@" && printf %s "$0"', proof, *argv]
        command = self._command(argv, env, interactive=stdin is not None)
        result = process.run(
            command,
            env=env,
            stdin=stdin,
            stdout=stdout,
            timeout=timeout,
            warn=warn,
            watch=watch,
            echo=self.echo,
            dry=dry,
        )
        if stdout and result.ok and not dry:
            strip_proof(stdout, proof.encode())
        return result

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
        inside = f"/tmp/{self.session}-{secrets.token_hex(4)}"
        if path.is_dir():
            size = sum(member.stat().st_size for member in path.iterdir())
            progress.rename(f"Copying into {self.where}", size)
            wrapped = _staged(argv, inside, FOLDER, size)
            return self.run(wrapped, stdin=packed(path), stdout=stdout, env=env, watch=watch)
        # dd takes no byte more than it is told, which not every head is true of.
        first = f"dd bs=1 count={len(listing)} of=$f-list 2>/dev/null; " if listing else ""
        argv = [*argv, f"--use-list={inside}-list"] if listing else argv
        size = path.stat().st_size
        progress.rename(f"Copying into {self.where}", size)
        wrapped = _staged(argv, inside, first + FILE, size)
        with path.open("rb") as file:
            blocks = chain([listing], iter(lambda: file.read(1 << 20), b""))
            stdin: Stdin = blocks if listing else file
            return self.run(wrapped, stdin=stdin, stdout=stdout, env=env, watch=watch)

    def open(self, argv: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        env = self._environment(env)
        command = self._command(argv, env, interactive=True)
        if self.echo:
            process.log.info("$ %s", process.display(command))
        return process.start(command, env, subprocess.PIPE)

    def end(self, session: str, seconds: float) -> None:
        """Ending the client of `docker exec` leaves the program in the container. One that
        reads a file there has no session in the server that could be ended instead."""
        # The brackets keep grep, and this shell, from finding themselves.
        pattern = session.replace("repom", "repo[m]", 1)
        script = (
            f"for p in /proc/[0-9]*; do grep -qs '{pattern}' $p/cmdline && "
            "kill ${p#/proc/}; done 2>/dev/null; true"
        )
        with suppress(RepomError):  # it goes on by itself
            self.run(["sh", "-c", script], timeout=seconds, warn=True)

    def interactive(self, argv: Sequence[str], env: Mapping[str, str]) -> int:
        env = {"PGAPPNAME": self.session, "PGHOST": "", **env}
        command = self._command(argv, env, interactive=True)
        terminal = ["-t"] if sys.stdin is not None and sys.stdin.isatty() else []
        command = [*command[:2], *terminal, *command[2:]]
        return process.attached(command, env, echo=self.echo, dry=self.dry)

    def _environment(self, env: Mapping[str, str]) -> dict[str, str]:
        # English, since `failures` knows what programs say by their words.
        return {"PGAPPNAME": self.session, "PGHOST": "", "LC_ALL": "C", **env}

    def _command(
        self, argv: Sequence[str], env: Mapping[str, str], *, interactive: bool
    ) -> list[str]:
        """Variables go by name alone. Never a terminal (`-t` would turn every line feed into
        two bytes), and `-i` only when there is input."""
        variables = [flag for name in env for flag in ("-e", name)]
        flags = [*(["-i"] if interactive else []), *variables]
        return [self.engine, "exec", *flags, self.container, *argv]


#: How a file, or a directory of `pg_dump --format=directory`, comes in as $f; true when it
#: has as many bytes as $0 says.
FILE = "cat >$f || exit 74; [ $(wc -c <$f) -eq $0 ]"
FOLDER = "mkdir $f && tar -xf - -C $f || exit 74; [ $(cat $f/* | wc -c) -eq $0 ]"


def _staged(argv: Sequence[str], inside: str, bring: str, size: int) -> list[str]:
    """The command that brings `size` bytes in as `inside`, runs `argv` on it and removes it."""
    script = (
        f"{SWEEP}f={inside}; {CALM}trap 'rm -rf $f $f-list' EXIT; trap 'exit 143' HUP INT TERM; "
        f"umask 077; {bring} || {{ echo 'the copy is incomplete' >&2; exit 74; }}; "
        '"$@" $f'
    )
    return ["sh", "-c", script, str(size), *argv]


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


def strip_proof(file: BinaryIO, proof: bytes) -> None:
    """Take the proof off the end of a stream.

    :raises CommandFailed: the stream does not end with it.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(proof)))
    if file.read() != proof:
        raise CommandFailed(
            "The stream from the container ended before the program finished",
            "Nothing was kept; try again",
        )
    file.truncate(size - len(proof))
    file.seek(0, os.SEEK_END)
