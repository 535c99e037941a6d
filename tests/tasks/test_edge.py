"""Where tasks meet people, pipes and signals: nothing that happens there turns a
success into a failure, a failure into a traceback, or an end into a wait."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from repom.errors import NotFound, advice
from tests.live.cli import environment, invoke

posix = pytest.mark.skipif(os.name != "posix", reason="a POSIX shell")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return made(tmp_path)


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "tasks.py").write_text("from repom.tasks import ns\n")
    (folder / "data").mkdir()
    with closing(sqlite3.connect(folder / "data" / "repom.sqlite3")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    return folder


def shell(project: Path, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which $R is how the tasks are started."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"],
        cwd=project,
        env=environment(R=f"{sys.executable} -m invoke", **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )


# -- pipes and streams --------------------------------------------------------------------


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "script",
    ["$R db.backup | true", "$R db.list | head -c 1 >/dev/null", "$R db.backup --json | true"],
)
def test_a_reader_that_leaves_is_no_failure(project: Path, script: str) -> None:
    for _ in range(3):
        assert invoke(project, "db.backup").status == 0
    done = shell(project, script)
    assert done.returncode in (0, 141), done.stderr
    assert "Broken pipe" not in done.stderr
    assert "Exception ignored" not in done.stderr


@posix
def test_a_reader_of_messages_that_leaves_is_no_failure(project: Path) -> None:
    assert shell(project, "$R db.backup 2>&1 >/dev/null | true").returncode in (0, 141)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_receive_nothing_and_harm_nothing(project: Path, closed: str) -> None:
    done = shell(project, f"$R db.backup {closed}")
    assert done.returncode == 0
    assert "Backup created" not in done.stdout, "a message among the results"
    verified = invoke(project, "db.verify")
    assert verified.status == 0, verified.err


@pytest.mark.slow
@posix
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_character_that_the_encoding_lacks_is_escaped(tmp_path: Path, encoding: str) -> None:
    project = made(tmp_path / "größe \N{SNOWMAN}")
    for task in ("db.backup", "db.list", "db.verify"):
        done = shell(project, f"$R {task}", PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert done.stdout
    listed = shell(project, "$R db.list --json", PYTHONIOENCODING=encoding)
    assert json.loads(listed.stdout)[0]["path"].startswith(str(project))


# -- failures -----------------------------------------------------------------------------


BROKEN = """
from repom.tasks import ns
import repom.dbops.upkeep as upkeep

def broken(settings=None):
    raise ZeroDivisionError("a b\\nc")

upkeep.list_backups = broken
"""


def test_an_unforeseen_error_is_one_line_and_shows_its_traceback_on_request(
    project: Path,
) -> None:
    (project / "tasks.py").write_text(BROKEN)
    ended = invoke(project, "db.list")
    assert (ended.status, ended.out) == (1, "")
    assert len(ended.err.strip().splitlines()) == 1
    assert "ZeroDivisionError: a b c" in ended.err
    assert "--debug" in ended.err
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "--debug", "db.list"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "in broken" in done.stderr


def test_names_that_drive_a_terminal_are_shown_and_not_obeyed(project: Path) -> None:
    ended = invoke(project, "db.restore", "--backup", "a\x1b[31mb", "--yes")
    assert ended.status == 4
    assert "\x1b" not in ended.err
    assert "a\\x1b[31mb" in ended.err


# -- hints --------------------------------------------------------------------------------


def script_named(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_text(f"#!{sys.executable}\nfrom repom.tasks import main\nmain()\n")
    path.chmod(0o755)
    return path


@posix
@pytest.mark.parametrize(("name", "typed"), [("repom", "repom"), ("other", "repom")])
def test_a_hint_names_the_program_that_was_typed(project: Path, name: str, typed: str) -> None:
    path = script_named(project, name)
    done = subprocess.run(
        [path, "db.restore", "--latest"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 4
    assert f"{typed} db.backup" in done.stderr
    assert "invoke" not in done.stderr
    assert "invoke db.backup" in invoke(project, "db.restore", "--latest").err


@posix
def test_a_path_that_looks_like_a_hint_stays_as_it_is(tmp_path: Path) -> None:
    project = made(tmp_path / "invoke demo" / "invoke db.list")
    path = script_named(project, "repom")
    for task in (["db.restore", "--latest"], ["db.restore", "--backup", "./invoke db.x"]):
        done = subprocess.run(
            [path, *task],
            cwd=project,
            env=environment(REPOM_BACKUP_DIR="invoke db.list"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 4
        assert "invoke db." in done.stderr
        assert "repom demo" not in done.stderr


def test_in_python_a_hint_names_the_console_script() -> None:
    error = NotFound("There is no {} backup", advice("Make one: {} or {}", "db.backup", "demo"))
    assert str(error) == "There is no {} backup. Make one: repom db.backup or repom demo"
    assert error.told("inv") == "There is no {} backup. Make one: inv db.backup or inv demo"


# -- signals ------------------------------------------------------------------------------

LOADING = """
import sys, time
from repom.__main__ import main
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "repom.tasks":
            print("loading", flush=True)
            time.sleep(20)
sys.meta_path.insert(0, Slow())
main()
"""


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_the_tasks_are_loaded_ends_quietly(project: Path, name: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOADING, "db.list"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout and child.stderr and child.stdout.readline() == b"loading\n"
        child.send_signal(getattr(signal, name))
        assert child.wait(10) == 128 + getattr(signal, name)
        assert child.stderr.read() == b""


def test_the_package_runs_as_the_console_script(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "repom", "db.restore", "--latest"],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.endswith("Make one with: repom db.backup\n")


STUCK = """
import time
from repom.tasks import ns
import repom.dbops.upkeep as upkeep

def stuck(settings=None):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        {cleaning}

upkeep.list_backups = stuck
"""
CLEANING = {
    "asleep": "time.sleep(60)",
    "deaf": "import sqlite3; sqlite3.connect(':memory:').execute('WITH RECURSIVE n(i) AS"
    " (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n').fetchone()",
}


@pytest.mark.slow
@posix
@pytest.mark.parametrize("cleaning", CLEANING)
@pytest.mark.parametrize("signals", [1, 2])
def test_cleaning_up_has_an_end_and_a_second_signal_ends_it_at_once(
    project: Path, cleaning: str, signals: int
) -> None:
    (project / "tasks.py").write_text(STUCK.format(cleaning=CLEANING[cleaning]))
    with subprocess.Popen(
        [sys.executable, "-m", "invoke", "db.list"],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout and child.stdout.readline() == b"at work\n"
        started = time.monotonic()
        for _ in range(signals):
            child.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        child.wait(20)
        took = time.monotonic() - started
    assert child.returncode == 143
    assert took < (4 if signals == 1 else 1.5)
