"""Runs commands as a user does, in a shell: on a pseudo-terminal of 80 columns, or piped."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

COLUMNS = 80
QUESTION = b"[y/N] "
SHELL = ["bash", "-euo", "pipefail", "-c"]
#: What moves the cursor or erases; colours are kept.
CURSOR = re.compile(r"\x1b\[[0-9;?]*[A-HJ-LSTfhlnsu]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def piped(command: str, folder: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Exit status, and both outputs in their order, of a command without a terminal."""
    done = subprocess.run(
        [*SHELL, command],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def on_terminal(
    command: str, folder: Path, env: Mapping[str, str], answer: str = "y", seconds: float = 120
) -> tuple[int, str]:
    """The same on a pseudo-terminal, where each question of yes or no gets this answer.

    :raises AssertionError: it has not ended after so many seconds.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [*SHELL, command],
        cwd=folder,
        env={**env, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, asked = b"", 0
    with suppress(OSError):  # EIO: the last program that had the terminal has ended
        while True:
            assert select.select([ours], [], [], seconds)[0], f"{command} waits: {said[-200:]!r}"
            said += os.read(ours, 65536)
            if said.endswith(QUESTION) and said.count(QUESTION) > asked:
                asked += 1
                os.write(ours, f"{answer}\n".encode())
    os.close(ours)
    return process.wait(10), settled(said.decode(errors="replace"))


def settled(text: str) -> str:
    """What stays on the screen, with its colours: a line that begins anew replaces what it
    was before, and one that ends empty, such as that of a progress, is gone."""
    lines = []
    for line in text.replace("\r\n", "\n").split("\n"):
        rewritten = "\r" in line or CURSOR.search(line)
        last = CURSOR.sub("", line.rpartition("\r")[2])
        if not rewritten or COLOUR.sub("", last).strip():
            lines.append(last)
    return "\n".join(lines)
