"""`doctor` on broken set-ups: it names the problem, and its mend mends it. On SQLite."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from repom import dbops
from repom.dbops import files
from repom.dbops.doctor import Report, examine
from repom.dbops.store.store import Store
from tests import requires
from tests.live.cli import invoke


@pytest.fixture
def shop(project: Path) -> Path:
    """A project whose SQLite database was backed up just now."""
    with closing(sqlite3.connect(project / "shop.db")) as database, database:
        database.executescript("CREATE TABLE item (n); INSERT INTO item VALUES (1), (2);")
    (project / ".env").write_text("DATABASE_URL=sqlite:///shop.db\n")
    (project / ".env").chmod(0o600)
    dbops.backup()
    return project


def told(report: Report) -> list[str]:
    return [f"{problem.message}. {problem.mend}" for problem in report.problems]


def mend(report: Report) -> None:
    """Run the command of the only problem, as a user would paste it."""
    assert len(report.problems) == 1, told(report)
    task = report.problems[0].mend.removeprefix("Run: ")
    if task.startswith("repom "):
        task = shlex.join([*REPOM, *task.split()[1:]])
    subprocess.run(["sh", "-c", task], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


ROOT = Path(__file__).parents[2]
REPOM = [sys.executable, "-c", "from repom.tasks import main; main()"]


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """All that lies there, with modes, sizes and times."""
    paths = [folder, *folder.rglob("*")]
    stats = {str(path): path.lstat() for path in paths}
    return {path: (s.st_mode, s.st_size, s.st_mtime_ns) for path, s in stats.items()}


def test_a_sound_project_has_no_problems(shop: Path) -> None:
    report = examine()
    assert (told(report), report.exit_status) == ([], 0)
    assert report.server["tables"] == 1
    assert report.store["of_this_database"] == 1
    assert report.store["next_backup_deletes"] == []


def test_the_next_prune_is_foretold(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = dbops.list_backups()[0]
    monkeypatch.setenv("REPOM_KEEP", "2")
    dbops.backup()
    foretold = examine().store["next_backup_deletes"]
    assert foretold == [first.name]
    dbops.backup()
    assert first.name not in [b.name for b in dbops.list_backups()]


def test_a_setting_that_is_wrong(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPOM_KEEP", "0")
    report = examine()
    assert report.exit_status == 2
    assert told(report) == [
        "REPOM_KEEP (from the environment) is '0'. Allowed: a whole number, 1 or more"
    ]


def test_a_setting_that_is_misspelt(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPOM_BAKUP_DIR", "elsewhere")
    report = examine()
    assert report.exit_status == 0
    assert "did you mean REPOM_BACKUP_DIR?" in told(report)[0]


def test_a_line_of_dotenv_that_cannot_be_parsed(shop: Path) -> None:
    (shop / ".env").write_text("DATABASE_URL='sqlite:///shop.db\n")
    report = examine()
    assert (report.exit_status, told(report)[0][:6]) == (2, ".env l")


def test_a_database_that_is_missing(shop: Path) -> None:
    (shop / "shop.db").unlink()
    report = examine()
    assert report.exit_status == invoke(shop, "db.backup").status == 4
    assert "no SQLite file shop.db" in told(report)[0]


def test_a_file_that_is_not_a_database(shop: Path) -> None:
    (shop / "shop.db").write_text("not a database" * 100)
    assert examine().exit_status == invoke(shop, "db.backup").status == 1


def test_dotenv_that_others_can_read(shop: Path) -> None:
    (shop / ".env").chmod(0o644)
    report = examine()
    assert report.exit_status == 0
    mend(report)
    assert told(examine()) == []
    assert (shop / ".env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("tracked", [False, True])
def test_backups_in_reach_of_git(shop: Path, tracked: bool) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    assert told(examine()) == []
    (shop / "backups" / ".gitignore").unlink()
    if tracked:
        subprocess.run(["git", "add", "backups"], check=True)
    mend(examine())
    assert told(examine()) == []
    subprocess.run(["git", "add", "-A"], check=True)
    tracked_now = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True)
    assert "sqlite3.zst" not in tracked_now.stdout


def test_no_backup_at_all(shop: Path) -> None:
    Store(shop / "backups").delete(dbops.list_backups()[0])
    mend(examine())
    assert told(examine()) == []


def test_no_backup_for_a_week(shop: Path) -> None:
    target, made = Store(shop / "backups"), dbops.list_backups()[0]
    target.update(replace(made, created_at=datetime.now(UTC) - timedelta(days=8)))
    report = examine()
    assert told(report) == ["The newest backup is more than a week old. Run: repom db.backup"]
    mend(report)
    assert told(examine()) == []


def test_a_store_that_cannot_be_written_to(unprivileged: Path) -> None:
    os.chdir(unprivileged)
    with closing(sqlite3.connect("shop.db")) as database:
        database.executescript("CREATE TABLE item (n)")
    Path(".env").write_text("DATABASE_URL=sqlite:///shop.db\n")
    Path(".env").chmod(0o600)
    dbops.backup()
    Path("backups").chmod(0o500)
    report = examine()
    assert (report.exit_status, len(report.problems)) == (1, 1)
    folder = unprivileged / "backups"
    assert report.problems[0].mend == f"Run: chmod u+rwx {folder}, or set REPOM_BACKUP_DIR"
    folder.chmod(0o000)
    assert f"{folder}: Permission denied" in [p.message for p in examine().problems]
    folder.chmod(0o700)
    assert examine().exit_status == 0


@pytest.mark.parametrize(("free", "status", "what"), [(200, 5, "a backup"), (20_000, 0, "restore")])
def test_a_disk_that_is_too_small(
    shop: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: int, what: str
) -> None:
    (made,) = dbops.list_backups()
    free = made.size - 1 if free == 200 else free
    usage = SimpleNamespace(free=free, total=1 << 40)
    monkeypatch.setattr(files, "shutil", SimpleNamespace(disk_usage=lambda _path: usage))
    report = examine()
    assert report.exit_status == status
    assert what in told(report)[-1 if status == 0 else 0]


# -- what it never does -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_it_changes_nothing(shop: Path, mode: str) -> None:
    with closing(sqlite3.connect(shop / "shop.db")) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
    subprocess.run(["git", "init", "-q"], check=True)
    (shop / "backups" / ".gitignore").unlink()
    (shop / "tasks.py").unlink()
    before = listing(shop)
    done = subprocess.run(
        [*REPOM, "doctor"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "tables: 1" in done.stdout
    assert listing(shop) == before


def test_it_creates_nothing_either(project: Path) -> None:
    (project / "data").mkdir()
    with closing(sqlite3.connect(project / "data" / "repom.sqlite3")) as database:
        database.execute("CREATE TABLE item (n)")
    before = listing(project)
    report = examine()
    assert told(report) == ["data/repom.sqlite3 was never backed up. Run: repom db.backup"]
    assert listing(project) == before


def test_a_database_that_another_program_writes_to_is_looked_at(shop: Path) -> None:
    with closing(sqlite3.connect(shop / "shop.db", isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = wal")
        other.execute("CREATE TABLE more (n)")
        other.execute("BEGIN IMMEDIATE")
        before = listing(shop)
        report = examine()
        assert (told(report), report.server["tables"]) == ([], 2)
        assert listing(shop) == before


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that accepts connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(5)
        yield int(listening.getsockname()[1])


@pytest.mark.slow
def test_a_hanging_engine_and_a_silent_server_do_not_hang_it(
    project: Path, silent: int, tmp_path: Path
) -> None:
    requires.need(requires.host_psql() is not None, "psql on this host")
    hanging = project / "bin" / "docker"
    hanging.parent.mkdir()
    hanging.write_text("#!/bin/sh\necho $$ >> pids\nexec sleep 600\n")
    hanging.chmod(0o755)
    env = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(silent)}
    env["PATH"] = f"{hanging.parent}{os.pathsep}{os.environ['PATH']}"
    began = time.monotonic()
    done = invoke(project, "doctor", "--json", env=env)
    assert time.monotonic() - began < 20
    assert done.status == 3
    messages = [problem["message"] for problem in json.loads(done.out)["problems"]]
    assert "The container engine does not answer (docker does not answer)" in messages
    assert f"No PostgreSQL server answers on 127.0.0.1:{silent}" in messages
    for pid in (project / "pids").read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


# -- what is shown ------------------------------------------------------------------------


def test_no_secret_is_shown(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "canary")
    monkeypatch.setenv("DATABASE_URL", "postgresql://ann:canary@db.example/shop?sslmode=require")
    monkeypatch.setenv("REPOM_DATABASE_URL", "mysql://ann:canary@db.example/shop")
    monkeypatch.setenv("REPOM_IMAGE", "postgresql://ann:canary@db.example/shop")
    for flags in ([], ["--json"]):
        given = {n: v for n, v in os.environ.items() if "canary" in v}
        done = invoke(shop, "doctor", *flags, env=given)
        assert done.status == 2
        assert "canary" not in done.out + done.err
    origins = {name: (value, origin) for name, value, origin in examine().settings}
    masked = "postgresql://ann:***@db.example:5432/shop"
    assert origins["DATABASE_URL"] == (masked, "the environment")
    assert origins["POSTGRES_PASSWORD"] == ("***", "the environment")
    assert origins["REPOM_KEEP"] == ("7", "default")


def test_the_origin_of_each_setting(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (shop / ".env").open("a") as dotenv:
        dotenv.write("REPOM_KEEP=3\n")
    origins = {name: (value, origin) for name, value, origin in examine().settings}
    assert origins["DATABASE_URL"] == ("sqlite:///shop.db", ".env")
    assert origins["REPOM_KEEP"] == ("3", ".env")
    config = {"repom": {"undo_keep": 2}}
    origins = {name: (value, origin) for name, value, origin in examine(config).settings}
    assert origins["REPOM_UNDO_KEEP"] == ("2", "Invoke's configuration")


def test_it_fits_a_terminal(shop: Path) -> None:
    done = invoke(shop, "doctor")
    lines = done.out.splitlines()
    assert len(lines) <= 24
    paths = (str(shop), ".sqlite3.zst", ".db_")  # kept whole, to be pasted
    assert [line for line in lines if len(line) > 80 and not any(p in line for p in paths)] == []
    assert lines[-1] == f"{'Problems':<10}none"


def test_a_hint_names_the_program_that_was_typed(shop: Path) -> None:
    Store(shop / "backups").delete(dbops.list_backups()[0])
    assert "Run: invoke db.backup" in invoke(shop, "doctor").out
    problems = json.loads(invoke(shop, "doctor", "--json").out)["problems"]
    assert problems[0]["mend"] == "Run: invoke db.backup"
