"""The tasks as people and scripts meet them, on SQLite."""

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

from tests.live.cli import environment, invoke

KEYS = [
    "name",
    "path",
    "database",
    "backend",
    "format",
    "label",
    "created_at",
    "size",
    "sha256",
    "via",
    "server_version",
    "tool_version",
    "system_identifier",
    "pinned",
    "verified",
    "duration_s",
    "partial",
    "pulled",
    "where",
    "commit",
    "branch",
    "migration",
    "problem",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    (tmp_path / "data").mkdir()
    with closing(sqlite3.connect(tmp_path / "data" / "repom.sqlite3")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (1), (2);")
    return tmp_path


def rows(project: Path) -> int:
    with closing(sqlite3.connect(project / "data" / "repom.sqlite3")) as database:
        return int(database.execute("SELECT count(*) FROM t").fetchone()[0])


def damage(project: Path) -> None:
    with closing(sqlite3.connect(project / "data" / "repom.sqlite3")) as database, database:
        database.execute("DELETE FROM t")


def files(project: Path) -> set[str]:
    return {str(p.relative_to(project)) for p in project.rglob("*") if "__pycache__" not in str(p)}


def test_with_no_configuration_the_embedded_default_is_backed_up(project: Path) -> None:
    ended = invoke(project, "db.backup")
    assert ended.status == 0, ended.err
    path = Path(ended.out.strip())
    assert path.parent == project / "backups"
    assert path.name.startswith("data%2Frepom.sqlite3_")
    assert "Backup created: data%2Frepom.sqlite3_" in ended.err


def test_json_has_the_keys_of_the_contract(project: Path) -> None:
    made = json.loads(invoke(project, "db.backup", "--json", "--label", "one").out)
    assert list(made) == KEYS
    assert (made["via"], made["format"], made["label"]) == ("file", "sqlite", "one")
    assert made["verified"] == ["complete", "sha256"]
    assert json.loads(invoke(project, "db.list", "--json").out) == [made]

    restored = json.loads(invoke(project, "db.restore", "--latest", "--yes", "--json").out)
    assert list(restored) == ["database", "backup", "replaced", "duration_s"]
    assert list(json.loads(invoke(project, "db.undo", "--yes", "--json").out)) == list(restored)
    verified = json.loads(invoke(project, "db.verify", "--json").out)
    assert (verified["name"], verified["problems"]) == (made["name"], [])
    pruned = json.loads(invoke(project, "db.prune", "--json").out)
    assert [k["name"] for k in pruned["kept"]] == [made["name"]]
    assert pruned["deleted"] == []


def test_a_dry_run_writes_nothing(project: Path) -> None:
    assert invoke(project, "db.backup").status == 0
    damage(project)
    before = files(project)
    for task in (["db.backup"], ["db.restore", "--latest"], ["db.prune", "--keep", "1"]):
        ended = invoke(project, "--dry", *task)
        assert ended.status == 0, ended.err
    assert files(project) == before
    assert rows(project) == 0


@pytest.mark.slow
def test_prune_with_dry_only_says_what_it_would_delete(project: Path) -> None:
    made = [Path(invoke(project, "db.backup").out.strip()).name for _ in range(3)]
    would = invoke(project, "--dry", "db.prune", "--keep", "1")
    for name in made[:2]:
        assert f"Would delete {name}: not among the newest 1" in would.err
    assert invoke(project, "db.pin", "--backup", made[0]).status == 0
    done = invoke(project, "db.prune", "--keep", "1")
    assert f"Deleted {made[1]}" in done.err
    assert done.out.strip() == "2 kept, 1 deleted"
    assert invoke(project, "db.prune", "--keep", "1", "--days", "1").out.startswith("2 kept, 0")


@pytest.mark.parametrize(
    ("task", "status"),
    [
        (["db.restore"], 2),
        (["db.restore", "--latest"], 4),
        (["db.restore", "--backup", "nothing", "--yes"], 4),
        (["db.undo", "--yes"], 4),
        (["db.verify"], 4),
        (["db.pin"], 2),
        (["db.backup", "--format", "tar"], 2),
        (["db.backup", "--label", "not a label"], 2),
        (["db.prune", "--days", "soon"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_failure_is_one_line_and_the_status_of_the_contract(
    project: Path, task: list[str], status: int
) -> None:
    ended = invoke(project, *task)
    assert ended.status == status, ended.err
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1


def test_without_a_terminal_nothing_is_replaced_unasked(project: Path) -> None:
    assert invoke(project, "db.backup").status == 0
    damage(project)
    ended = invoke(project, "db.restore", "--latest")
    assert ended.status == 5
    assert "--yes" in ended.err
    assert rows(project) == 0


def test_a_closed_standard_input_is_no_terminal(project: Path) -> None:
    command = f"exec {sys.executable} -m invoke db.backup <&-"
    done = subprocess.run(
        ["sh", "-c", command], cwd=project, env=environment(), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("value", ["0", "abc"])
@pytest.mark.parametrize("name", ["REPOM_KEEP", "INVOKE_REPOM_KEEP"])
def test_a_bad_number_is_2_wherever_it_comes_from(project: Path, name: str, value: str) -> None:
    ended = invoke(project, "db.backup", env={name: value})
    assert ended.status == 2
    assert repr(value) in ended.err
    assert not (project / "backups").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(("name", "status"), [("HUP", 129), ("INT", 130), ("TERM", 143)])
def test_an_interrupted_restore_leaves_the_old_data(project: Path, name: str, status: int) -> None:
    """It waits for the lock of a program that holds the file when the signal arrives."""
    path = project / "data" / "repom.sqlite3"
    assert invoke(project, "db.backup").status == 0
    damage(project)
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT * FROM t").fetchall()
        with subprocess.Popen(
            [sys.executable, "-m", "invoke", "db.restore", "--latest", "--yes"],
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as child:
            while not list(path.parent.rglob("*.scratch_*")) and child.poll() is None:
                time.sleep(0.01)
            sent = time.monotonic()
            child.send_signal(getattr(signal, f"SIG{name}"))
            out, err = child.communicate(timeout=20)
    assert time.monotonic() - sent < 2
    assert (child.returncode, out) == (status, "")
    assert "Traceback" not in err
    assert rows(project) == 0
    assert {p.name for p in path.parent.iterdir()} == {path.name, ".repom"}
    assert not list(path.parent.rglob("*.scratch_*"))


def at_a_terminal(project: Path, *task: str, answers: str, **env: str) -> str:
    """Run a task at a terminal, type the answers, and return what was seen."""
    pty = pytest.importorskip("pty", reason="missing on this machine: pseudo-terminals")
    main, other = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", *task],
        cwd=project,
        env=environment(**{"TERM": "dumb", **env}),
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    seen = b""
    for answer in answers:
        while not seen.rstrip().endswith(b"]"):
            seen += os.read(main, 4096)
        os.write(main, f"{answer}\n".encode())
        time.sleep(0.05)
        seen += b" "
    while process.poll() is None or seen:
        try:
            data = os.read(main, 4096)
        except OSError:  # the other end is closed
            break
        seen += data
    os.close(main)
    assert process.wait(20) == 0, seen.decode()
    return seen.decode()


def test_the_menu_restores_what_is_chosen(project: Path) -> None:
    for label in ("first", "second"):
        assert invoke(project, "db.backup", "--label", label).status == 0
    damage(project)
    seen = at_a_terminal(project, "db.restore", answers="92y")
    assert seen.count("latest") == 1
    assert "9 is not a number between 1 and 2" in seen
    assert "last backed up just now) will be replaced; db.undo brings it back." in seen
    assert "_first" in seen.partition("Restored: ")[2]
    assert rows(project) == 2
    seen = at_a_terminal(project, "db.undo", answers="y")
    assert "is again what it was before" in seen
    assert rows(project) == 0


@pytest.mark.parametrize("answers", ["q", "1n"])
def test_the_menu_can_be_left(project: Path, answers: str) -> None:
    assert invoke(project, "db.backup").status == 0
    damage(project)
    assert "Nothing was restored" in at_a_terminal(project, "db.restore", answers=answers)
    assert rows(project) == 0


@pytest.mark.parametrize(
    ("env", "is_bold"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({}, False)],
)
def test_a_question_shows_bold_what_will_be_lost(
    project: Path, env: dict[str, str], is_bold: bool
) -> None:
    assert invoke(project, "db.backup").status == 0
    seen = at_a_terminal(project, "db.restore", "--latest", answers="n", **env)
    lost = "The current database (8.2 kB, 1 table, last backed up just now)"
    start, end = ("\x1b[1m", "\x1b[0m") if is_bold else ("", "")
    assert f"? {start}{lost}{end} will be replaced; db.undo brings it back. [y/N]" in seen
    refused = invoke(project, "db.restore", "--latest", env=env)
    assert (refused.status, "\x1b" in refused.err) == (5, False)
    assert f"? {lost} will be replaced; db.undo brings it back. No terminal" in refused.err


def test_the_collections_can_be_mounted(project: Path) -> None:
    (project / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "from repom.tasks import db, postgres\n"
        "@task\ndef mine(c):\n    print('mine')\n"
        "ns = Collection(mine, db, postgres)\n"
    )
    (project / "invoke.yaml").write_text("repom:\n  backup_dir: elsewhere\n")
    assert invoke(project, "mine").out == "mine\n"
    assert Path(invoke(project, "db.backup").out.strip()).parent == project / "elsewhere"
    ended = invoke(project, "db.backup", env={"INVOKE_REPOM_BACKUP_DIR": "third"})
    assert Path(ended.out.strip()).parent == project / "third"


def test_the_console_script_needs_no_tasks_file(project: Path) -> None:
    (project / "tasks.py").unlink()
    command = [sys.executable, "-c", "from repom.tasks import main; main()", "db.backup"]
    done = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_file()


def test_the_demo_brings_every_row_back(project: Path) -> None:
    for _ in range(2):
        ended = invoke(project, "demo")
        assert ended.status == 0, ended.err
        assert "Every row came back" in ended.err
    assert rows(project) == 2


def test_with_json_a_failure_is_json_too(project: Path) -> None:
    failed = invoke(project, "db.restore", "--latest", "--yes", "--json")
    error = json.loads(failed.out)["error"]
    assert list(error) == ["message", "hint", "exit_status"]
    assert error["exit_status"] == failed.status == 4
    assert failed.err.strip() == f"{error['message']}. {error['hint']}"


def test_a_failed_check_is_one_json_object_with_the_result_and_the_error(project: Path) -> None:
    made = json.loads(invoke(project, "db.backup", "--json").out)
    Path(made["path"]).write_bytes(Path(made["path"]).read_bytes()[:-1] + b"?")
    failed = invoke(project, "db.verify", "--json", "--backup", made["name"])
    told = json.loads(failed.out)
    assert list(told) == ["name", "verified", "problems", "error"]
    assert told["problems"] == [told["error"]["message"]]
    assert told["error"]["exit_status"] == failed.status == 6


@pytest.mark.parametrize("detached", [False, True])
def test_a_backup_tells_commit_and_branch(project: Path, detached: bool) -> None:
    def git(*args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        argv = ["git", "-C", str(project), *who, *args]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q", "-b", "feature/pay")
    git("commit", "-q", "--allow-empty", "-m", "one")
    if detached:
        git("checkout", "-q", "--detach")
    made = json.loads(invoke(project, "db.backup", "--json").out)
    assert made["commit"] == git("rev-parse", "HEAD")
    assert made["branch"] == (None if detached else "feature/pay")
    assert json.loads(invoke(project, "db.list", "--json").out) == [made]
