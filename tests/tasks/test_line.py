"""The progress line, read from a pseudo-terminal."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.lines import in_order, seen

pytest.importorskip("pty")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "repom.sqlite3")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    return tmp_path


def test_each_long_step_of_sqlite_shows_a_line_that_goes(project: Path) -> None:
    steps = ["Dumping data/repom", "Checking data%2Frepom"]
    steps += ["Checking data%2Frepom", "Loading data%2Frepom", "Replacing data/repom"]
    steps += ["Reading data%2Frepom", "Loading data%2Frepom", "Counting rows"]
    verbs = ("db.backup", "db.restore", "--latest", "--yes", "db.verify", "--drill")
    status, told = seen(project, *verbs)
    assert status == 0, told
    assert in_order(told, *steps) == steps
    assert "\x1b[2K" in told.split("Counting rows")[-1], "the line was not erased"
    assert "?25l" not in told, "the cursor was hidden"


def test_a_dumb_terminal_gets_no_line(project: Path) -> None:
    assert "Dumping" not in seen(project, "db.backup", env={"TERM": "dumb"})[1]


def test_no_color_leaves_the_line_without_colour(project: Path) -> None:
    _status, told = seen(project, "db.backup", env={"NO_COLOR": "1"})
    assert "Dumping data/repom" in told
    assert "\x1b[3" not in told


def test_a_warning_does_not_garble_the_line(project: Path) -> None:
    lines = seen(project, "db.backup", "--warn")[1].replace("\r", "\n").split("\n")
    assert any(each.endswith("a warning") for each in lines)


def test_after_a_failure_the_line_is_gone(project: Path) -> None:
    _status, told = seen(project, "db.backup", "--fail")
    assert "Dumping" in told
    assert "Dumping" not in told.split("\x1b[2K")[-1]
    assert "broken" in told


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_after_an_interrupt_the_line_is_gone(project: Path, number: int, status: int) -> None:
    ended, told = seen(project, "db.backup", "--hang", signal_at=(b"hanging", number))
    assert ended == status
    assert "Dumping" in told
    assert told.split("\x1b[2K")[-1].strip("\r\n") == "\x1b[31mInterrupted\x1b[0m"
    assert list((project / "backups").glob("*.zst")) == []


@pytest.mark.parametrize(
    ("env", "is_red"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_an_error_is_red_where_colours_are_wanted(
    project: Path, env: dict[str, str], is_red: bool
) -> None:
    _status, told = seen(project, "db.restore", "--latest", "--yes", env=env)
    assert told.startswith("\x1b[31mThere is no ") is is_red
    assert ("\x1b" in told) is is_red
