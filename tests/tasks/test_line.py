"""The progress line, read from a pseudo-terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.live.cli import environment

pty = pytest.importorskip("pty")

#: Each verb on an SQLite file; each step takes a while, and what a thread draws starts at once.
SCRIPT = """
import sys, time
from contextlib import contextmanager
from repom import progress
from repom.tasks import line, console
line.DELAY, line.LOOK = 0.0, 0.01
plain, flags = line.shown, set(sys.argv)
@contextmanager
def slow(step):
    with plain(step):
        time.sleep(0.3)
        if "--warn" in flags: console.say("a warning")
        yield
        if "--fail" in flags: raise RuntimeError("broken")
line.shown = slow
sys.argv = [a for a in sys.argv if a not in ("--warn", "--fail")]
from invoke import Program
Program().run(["invoke", *sys.argv[1:]])
"""


def seen(project: Path, *args: str, **env: str) -> str:
    """What a terminal got on standard error."""
    mine, theirs = pty.openpty()
    said: list[bytes] = []

    def read() -> None:
        while True:
            try:
                block = os.read(mine, 65536)
            except OSError:
                return
            if not block:
                return
            said.append(block)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *args],
        cwd=project,
        env=environment(**{"TERM": "xterm", "COLUMNS": "100", **env}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        timeout=60,
    )
    os.close(theirs)
    reading.join(5)
    os.close(mine)
    return b"".join(said).decode()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    import sqlite3
    from contextlib import closing

    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "repom.sqlite3")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    return tmp_path


def test_each_long_step_of_sqlite_shows_a_line_that_goes(project: Path) -> None:
    told = seen(project, "db.backup")
    assert "Dumping data/repom" in told
    assert "Checking data%2Frepom" in told
    assert "\x1b[2K" in told.split("Checking data%2Frepom")[-1], "the line was not erased"
    assert "?25l" not in told, "the cursor was hidden"
    told = seen(project, "db.restore", "--latest", "--yes")
    assert "Loading data%2Frepom" in told
    assert "Replacing data/repom" in told
    told = seen(project, "db.verify", "--drill")
    assert "Reading data%2Frepom" in told
    assert "Counting rows" in told


def test_a_dumb_terminal_gets_no_line(project: Path) -> None:
    assert "Dumping" not in seen(project, "db.backup", TERM="dumb")


def test_no_color_leaves_the_line_without_colour(project: Path) -> None:
    told = seen(project, "db.backup", NO_COLOR="1")
    assert "Dumping data/repom" in told
    assert "\x1b[3" not in told


def test_a_warning_does_not_garble_the_line(project: Path) -> None:
    lines = seen(project, "db.backup", "--warn").replace("\r", "\n").split("\n")
    assert any(each.endswith("a warning") for each in lines)


def test_after_a_failure_the_line_is_gone(project: Path) -> None:
    told = seen(project, "db.backup", "--fail")
    assert "Dumping" in told
    assert "Dumping" not in told.split("\x1b[2K")[-1]
    assert "broken" in told


@pytest.mark.parametrize(
    ("env", "is_red"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_an_error_is_red_where_colours_are_wanted(
    project: Path, env: dict[str, str], is_red: bool
) -> None:
    told = seen(project, "db.restore", "--latest", "--yes", **env)
    assert told.startswith("\x1b[31mThere is no ") is is_red
    assert ("\x1b" in told) is is_red
