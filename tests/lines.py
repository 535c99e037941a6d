"""Runs tasks on a pseudo-terminal with a progress line that is drawn at once, not after a second,
and waits until each part of a step was drawn."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.live.cli import environment

SCRIPT = """
import os, sys, threading
from contextlib import contextmanager
from rich.progress import Progress
from repom import progress
from repom.tasks import line, console
line.DELAY, line.LOOK = 0.0, 0.01
plain, flags = line.shown, set(sys.argv)
limit = 0.2 if os.environ["TERM"] == "dumb" else 5
drawn, add_task, rename = threading.Event(), Progress.add_task, progress.rename
def added(self, *given, **more):
    made = add_task(self, *given, **more)
    drawn.set()
    return made
def renamed(*given):
    drawn.clear()
    rename(*given)
    drawn.wait(limit)
@contextmanager
def slow(step):
    drawn.clear()
    with plain(step):
        drawn.wait(limit)
        if "--warn" in flags: console.say("a warning")
        yield
        if "--fail" in flags: raise RuntimeError("broken")
        if "--hang" in flags:
            console.say("hanging")
            threading.Event().wait(60)
line.shown, Progress.add_task, progress.rename = slow, added, renamed
sys.argv = [a for a in sys.argv if a not in ("--warn", "--fail", "--hang")]
from invoke import Program
Program().run(["invoke", *sys.argv[1:]])
"""


def seen(
    project: Path,
    *args: str,
    env: Mapping[str, str] | None = None,
    signal_at: tuple[bytes, int] | None = None,
) -> tuple[int, str]:
    """The exit status, and what a terminal got on standard error.

    :param signal_at: what is waited for, and the signal that is sent then.
    """
    pty = pytest.importorskip("pty")
    mine, theirs = pty.openpty()
    said: list[bytes] = []
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *args],
        cwd=project,
        env=environment(**{"TERM": "xterm", "COLUMNS": "100", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    ended = threading.Timer(60, process.kill)
    ended.start()
    try:
        while block := os.read(mine, 65536):
            said.append(block)
            if signal_at and signal_at[0] in b"".join(said):
                process.send_signal(signal_at[1])
                signal_at = None
    except OSError:  # the process has ended
        pass
    finally:
        status = process.wait()
        ended.cancel()
        os.close(mine)
    return status, b"".join(said).decode()


def in_order(text: str, *parts: str) -> list[str]:
    """Those of the parts that are in the text, each behind the one before."""
    found, at = [], 0
    for part in parts:
        if (there := text.find(part, at)) >= 0:
            found.append(part)
            at = there + len(part)
    return found
