"""Runs programs inside the container, with `docker exec`."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

from invoke.runners import Result

from repom.errors import RepomError

from .host import HostRunner
from .process import Watch

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
