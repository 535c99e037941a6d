"""SQLite files as people have them: with a journal beside them, with rowids that others
refer to, copied, mounted, oddly named, and restored by two at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from repom import dbops
from repom.dbops.archive.archive import recognise
from repom.dbops.archive.staging import WorkingFolder
from repom.dbops.database import Survey
from repom.dbops.sqlite import reading
from repom.dbops.sqlite.sqlite import Sqlite
from repom.dbops.undo import look
from repom.errors import Refused
from repom.settings import Settings
from tests import requires
from tests.live import faults
from tests.live.cli import Ended, environment, invoke, started

FOUND = Survey(exists=True, size=0)  # which SQLite does not need
KILLS = 6
SEED = os.environ.get("REPOM_FAULT_SEED", "ci")
WORK = """
import sqlite3, sys, time
path, mode = sys.argv[1:]
d = sqlite3.connect(path, isolation_level=None)
d.execute(f"PRAGMA journal_mode = {mode}")
d.execute("PRAGMA wal_autocheckpoint = 0")
d.execute("CREATE TABLE t (x)")
d.execute("PRAGMA cache_size = 5")
for word, end in ("committed", "COMMIT"), ("half", "SELECT 1"):
    d.execute("BEGIN")
    d.execute("UPDATE t SET x = 'half'")
    for _ in range(300):
        d.execute("INSERT INTO t VALUES (? || hex(randomblob(200)))", (word,))
    d.execute(end)
print("ready", flush=True)
time.sleep(600)
"""


@contextmanager
def working(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """A program in the middle of a transaction: 300 rows are committed, 300 are not."""
    argv = [sys.executable, "-c", WORK, str(path), mode]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


def make(path: Path, script: str = "CREATE TABLE t (x); INSERT INTO t VALUES ('old')") -> Path:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    return path


def ask(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def settings_of(project: Path, name: str = "app.db", **more: str) -> Settings:
    environ = {"DATABASE_URL": f"sqlite:///{name}", **more}
    return Settings.load(environ=environ, cwd=project)


# -- a raw file and what lies beside it ---------------------------------------------------

BESIDE = {
    "a WAL and its index": ("wal", ()),
    "a WAL": ("wal", ("-shm",)),
    "a journal": ("delete", ()),
    "a journal that stays": ("persist", ()),
}


@pytest.mark.parametrize(("mode", "without"), BESIDE.values(), ids=list(BESIDE))
def test_a_raw_file_comes_back_with_what_lies_beside_it(
    project: Path, mode: str, without: tuple[str, ...]
) -> None:
    folder = project / "theirs"
    folder.mkdir()
    with working(folder / "raw.sqlite3", mode) as child:
        child.kill()
        child.wait()
    for suffix in without:
        Path(f"{folder}/raw.sqlite3{suffix}").unlink()
    make(project / "app.db")
    before = files(folder)

    env = {"DATABASE_URL": "sqlite:///app.db"}
    task = ("db.restore", "--backup", str(folder / "raw.sqlite3"), "--yes")
    ended = invoke(project, *task, env=env)

    assert ended.status == 0, ended.err
    assert ask(project / "app.db", "SELECT count(*), min(substr(x, 1, 9)) FROM t") == [
        (300, "committed")
    ]
    assert files(folder) == before
    assert invoke(project, "db.verify", "--backup", task[2], env=env).status == 0
    assert files(folder) == before


def test_a_raw_file_that_a_program_writes_to_comes_back_as_of_its_last_commit(
    project: Path,
) -> None:
    folder = project / "theirs"
    folder.mkdir()
    make(project / "app.db")
    with working(folder / "raw.sqlite3", "wal"):
        before = files(folder)
        dbops.restore(folder / "raw.sqlite3", settings_of(project))
        assert files(folder) == before
    assert ask(project / "app.db", "SELECT count(*), min(substr(x, 1, 9)) FROM t") == [
        (300, "committed")
    ]


def test_a_raw_file_in_wal_mode_with_nothing_beside_it_stays_alone(project: Path) -> None:
    folder = project / "theirs"
    folder.mkdir()
    make(folder / "raw.sqlite3", "PRAGMA journal_mode = wal; CREATE TABLE t (x)")
    make(project / "app.db", "CREATE TABLE other (y)")
    before = files(folder)

    dbops.restore(folder / "raw.sqlite3", settings_of(project))

    assert files(folder) == before
    assert list(before) == ["raw.sqlite3"]
    assert ask(project / "app.db", "SELECT name FROM sqlite_master") == [("t",)]


def test_a_raw_file_in_a_folder_that_is_read_only(unprivileged: Path) -> None:
    folder = unprivileged / "theirs"
    folder.mkdir()
    with closing(sqlite3.connect(unprivileged / "raw.sqlite3")) as working:
        working.executescript("PRAGMA journal_mode = wal; CREATE TABLE t (x)")
        working.executescript("INSERT INTO t VALUES (1), (2), (3)")
        for suffix in ("", "-wal"):
            copied = shutil.copy(unprivileged / f"raw.sqlite3{suffix}", folder)
            Path(copied).chmod(0o400)
    folder.chmod(0o500)
    make(unprivileged / "app.db")
    before = files(folder)

    dbops.restore(folder / "raw.sqlite3", settings_of(unprivileged))

    assert files(folder) == before
    folder.chmod(0o700)
    assert ask(unprivileged / "app.db", "SELECT count(*) FROM t") == [(3,)]


def test_a_raw_file_that_a_program_keeps_locked_is_refused(project: Path) -> None:
    make(project / "app.db")
    with working(project / "raw.sqlite3", "delete"):
        task = ("db.restore", "--backup", "raw.sqlite3", "--yes")
        ended = invoke(project, *task, env={"DATABASE_URL": "sqlite:///app.db"})
    assert ended.status == 5, ended.err
    assert "raw.sqlite3 is locked" in ended.err
    assert ask(project / "app.db", "SELECT * FROM t") == [("old",)]


def test_a_raw_file_whose_wal_grows_meanwhile_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(project / "app.db")
    with working(project / "raw.sqlite3", "wal") as child:
        child.kill()
        child.wait()
    (project / "raw.sqlite3-shm").unlink()
    copy = reading.copy_raw

    def late(*given: Any) -> None:
        copy(*given)
        with (project / "raw.sqlite3-wal").open("ab") as wal:
            wal.write(bytes(4096))

    monkeypatch.setattr(reading, "copy_raw", late)
    with pytest.raises(Refused, match="changed while"):
        dbops.restore(project / "raw.sqlite3", settings_of(project))
    assert ask(project / "app.db", "SELECT * FROM t") == [("old",)]
    assert list((project / ".repom").glob("*.scratch_*")) == []


def test_a_journal_that_names_another_file_does_not_remove_it(project: Path) -> None:
    """SQLite removes the file that says whether a transaction over several databases was
    committed, and a journal of somebody's can name any."""
    make(project / "app.db")
    with working(project / "raw.sqlite3", "delete") as child:
        child.kill()
        child.wait()
    (project / "precious").write_text("precious")
    name = str(project / "precious").encode()
    journal = project / "raw.sqlite3-journal"
    end = struct.pack(">I", (1 << 30) // 4096 + 1) + name
    end += struct.pack(">II", len(name), sum(name)) + journal.read_bytes()[:8]
    journal.write_bytes(journal.read_bytes() + end)

    with pytest.raises(Refused, match="several databases"):
        dbops.restore(project / "raw.sqlite3", settings_of(project))
    assert (project / "precious").read_text() == "precious"
    # What it would have done:
    with closing(sqlite3.connect(project / "raw.sqlite3")) as database:
        database.execute("SELECT count(*) FROM t")
    assert not (project / "precious").exists()


# -- what a database is besides its rows --------------------------------------------------

PRAGMAS = ("page_size", "encoding", "auto_vacuum", "application_id", "user_version")
FACTS = """
CREATE TABLE note (text);
INSERT INTO note VALUES ('one'), ('two'), ('three'), ('four');
DELETE FROM note WHERE rowid IN (1, 3);
CREATE TABLE link (note_rowid);
INSERT INTO link SELECT rowid FROM note;
CREATE VIRTUAL TABLE found USING fts5 (text, content = 'note', content_rowid = 'rowid');
INSERT INTO found (rowid, text) SELECT rowid, text FROM note;
CREATE TABLE much AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 4000)
    SELECT i, hex(randomblob(90)) FROM n;
DELETE FROM much WHERE i % 7 = 0;
"""


def make_rich(path: Path, mode: str, page_size: int, encoding: str = "UTF-16le") -> Path:
    """A database whose rows are referred to by their rowids, with everything not default."""
    return make(
        path,
        f"PRAGMA page_size = {page_size}; PRAGMA encoding = '{encoding}';"
        f"PRAGMA auto_vacuum = 2; PRAGMA journal_mode = {mode};"
        "PRAGMA application_id = 252006673; PRAGMA user_version = 41;" + FACTS,
    )


def facts(path: Path) -> list[object]:
    """All that must come back: rowids, the full-text index, and the header's fields."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")
        database.rollback()
        queries = [f"PRAGMA {name}" for name in PRAGMAS]
        queries += ["PRAGMA integrity_check", "SELECT rowid, * FROM note", "SELECT * FROM link"]
        queries += ["SELECT rowid FROM found WHERE found MATCH 'four'"]
        queries += ["SELECT rowid, * FROM much"]
        return [database.execute(query).fetchall() for query in queries]


@pytest.mark.parametrize("mode", ["delete", "persist", "wal"])
@pytest.mark.parametrize(("old", "new"), [(1024, 4096), (4096, 1024), (512, 65536), (4096, 4096)])
def test_a_restore_and_its_undo_bring_rowids_and_the_header_back(
    project: Path, mode: str, old: int, new: int
) -> None:
    settings, path = settings_of(project), project / "app.db"
    make_rich(path, "delete", new)
    wanted = facts(path)
    made = dbops.backup(settings)
    path.unlink()
    make_rich(path, mode, old, "UTF-8")
    had = facts(path)

    dbops.restore(made, settings)

    assert facts(path) == wanted
    journal = ask(path, "PRAGMA journal_mode")
    assert journal == [("wal" if mode == "wal" else "delete",)]
    dbops.undo(settings)
    assert facts(path) == had
    assert ask(path, "PRAGMA journal_mode") == journal
    dbops.undo(settings)
    assert facts(path) == wanted


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_restore_of_another_page_size_can_be_killed_at_any_moment(mode: str) -> None:
    with faults.scene("sqlite") as at:
        at.execute(f"PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = {mode}")
        at.backups[at.generation()] = dbops.backup(at.settings).name
        for number in range(KILLS):
            seed = f"{SEED}-page size-{mode}-{number}"
            try:
                faults.kill(at, seed)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
        faults.follow_up(at)


def test_another_page_size_does_not_go_under_a_program_that_holds_a_wal(project: Path) -> None:
    settings, path = settings_of(project), project / "app.db"
    make_rich(path, "delete", 1024)
    made = dbops.backup(settings)
    path.unlink()
    make_rich(path, "wal", 4096)
    had = facts(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM note").fetchone()
        env = {"DATABASE_URL": "sqlite:///app.db"}
        ended = invoke(project, "db.restore", "--backup", made.name, "--yes", env=env)
        assert ended.status == 5, ended.err
        assert "page size" in ended.last
        assert "1024" in ended.last
        assert other.execute("SELECT count(*) FROM link").fetchone() == (2,)
    assert facts(path) == had
    assert look(settings).kept == ()
    assert invoke(project, "db.restore", "--backup", made.name, "--yes", env=env).status == 0


def test_another_page_size_goes_under_a_program_that_has_the_file_open(project: Path) -> None:
    settings, path = settings_of(project), project / "app.db"
    make_rich(path, "delete", 1024, "UTF-8")
    made = dbops.backup(settings)
    path.unlink()
    make_rich(path, "delete", 4096, "UTF-8")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("DELETE FROM link")
        dbops.restore(made, settings)
        assert other.execute("SELECT count(*) FROM link").fetchone() == (2,)
        other.execute("INSERT INTO link VALUES (9)")
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
    assert ask(path, "SELECT count(*) FROM link") == [(3,)]


# -- which database it is -----------------------------------------------------------------


def mounted(folder: Path, at: Path, *task: str, host: str, **env: str) -> Ended:
    """Run a task as in a container: a folder mounted at a path, and another host name."""
    script = 'mount --bind "$1" "$2" && hostname "$3" && cd "$2" && shift 3 && exec "$@"'
    own = ["unshare", "--mount", "--uts", "sh", "-c", script, "sh", str(folder), str(at), host]
    done = subprocess.run(
        [*own, sys.executable, "-m", "invoke", *task],
        env=environment(DATABASE_URL="sqlite:///app.db", **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def volumes(tmp_path: Path) -> tuple[Path, Path]:
    """Two projects that know nothing of each other."""
    requires.need(hasattr(os, "geteuid") and os.geteuid() == 0, "mounts")
    found = tmp_path / "one", tmp_path / "two"
    for folder in found:
        folder.mkdir()
        (folder / "tasks.py").write_text("from repom.tasks import ns\n")
        make(folder / "app.db")
    (tmp_path / "app").mkdir()
    return found


def ident(project: Path) -> str | None:
    made = dbops.backup(settings_of(project))
    return made.system_identifier


def test_two_volumes_at_the_same_path_are_two_databases(
    tmp_path: Path, volumes: tuple[Path, Path]
) -> None:
    one, two = volumes
    more = {"REPOM_BACKUP_DIR": str(tmp_path / "store"), "REPOM_KEEP": "1"}
    made = [
        mounted(folder, tmp_path / "app", "db.backup", host=f"h{n}", **more).out.strip()
        for n, folder in enumerate((one, two))
    ]
    assert all(Path(path).is_file() for path in made)

    # A container that is made anew has another host name, and the same volume.
    mounted(one, tmp_path / "app", "db.backup", host="h3", **more)
    assert [Path(path).is_file() for path in made] == [False, True]


def test_a_copied_project_gets_an_id_of_its_own_and_a_moved_one_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    make(project / "app.db")
    first = ident(project)
    assert first
    assert ident(project) == first
    shutil.copytree(project, tmp_path / "copy")
    assert not caplog.text
    assert ident(tmp_path / "copy") not in (None, first)
    assert f"was copied from {project}" in caplog.text
    (tmp_path / "copy").rename(tmp_path / "moved")
    assert ident(tmp_path / "moved") == ident(tmp_path / "moved") != first
    project.rename(tmp_path / "elsewhere")
    assert ident(tmp_path / "elsewhere") == first
    make(tmp_path / "elsewhere/second.db")
    other = dbops.backup(settings_of(tmp_path / "elsewhere", "second.db")).system_identifier
    assert other not in (None, first)


def test_a_copy_that_takes_the_place_of_the_original_is_not_the_original(tmp_path: Path) -> None:
    project, copy = tmp_path / "project", tmp_path / "copy"
    project.mkdir()
    make(project / "app.db")
    first = ident(project)
    shutil.copytree(project, copy)
    project.rename(tmp_path / "old")
    copy.rename(project)
    assert ident(project) not in (None, first)
    assert ident(tmp_path / "old") == first


def test_git_sees_nothing_of_repoms_folder(project: Path) -> None:
    make(project / "app.db")
    dbops.restore(dbops.backup(settings_of(project)), settings_of(project))
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    done = subprocess.run(status, cwd=project, check=True, capture_output=True, text=True)
    assert "repom" not in done.stdout
    assert (project / ".repom").stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (project / ".repom").iterdir())


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[1]", b'{"id": 7}', b'{"id": "../x", "path": [], "machine": 1}', b"\xff"]
)
def test_an_id_that_is_damaged_is_made_anew(project: Path, junk: bytes) -> None:
    make(project / "app.db")
    first = ident(project)
    (project / ".repom/app.db.json").write_bytes(junk)
    second = ident(project)
    assert second not in (None, first)
    assert ident(project) == second


def test_a_task_that_only_reads_makes_nothing(project: Path) -> None:
    make(project / "app.db")
    env = {"DATABASE_URL": "sqlite:///app.db"}
    before = set(project.rglob("*"))
    for task in ("db.list", "--dry db.backup", "--dry db.restore --backup app.db --yes", "db.undo"):
        invoke(project, *task.split(), env=env)
    for task in ("db.verify --backup app.db", "--dry db.undo --yes"):
        invoke(project, *task.split(), env=env)
    assert set(project.rglob("*")) == before


def test_a_drill_leaves_nothing_beside_the_database(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    make(project / "app.db")
    made = dbops.backup(settings_of(project))
    before = set((project / ".repom").iterdir())
    assert dbops.verify(made, settings_of(project), drill=True).rows == {"t": 1}
    assert set((project / ".repom").iterdir()) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_has_no_id(unprivileged: Path) -> None:
    (unprivileged / "data").mkdir()
    make(unprivileged / "data/app.db")
    (unprivileged / "data").chmod(0o500)
    settings = settings_of(unprivileged, "data/app.db")
    assert [dbops.backup(settings).system_identifier for _ in range(2)] == [None, None]
    (unprivileged / "data").chmod(0o700)


def test_what_a_killed_check_left_is_removed_by_the_next(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    make(project / "app.db")
    killed, working = WorkingFolder(), WorkingFolder()
    killed._lock.release()
    for each in (killed, working):
        make(each.path / "copy")
    dbops.verify(dbops.backup(settings_of(project)), settings_of(project))
    assert [p.name for p in (tmp_path / "temporary").iterdir()] == [working.path.name]


def test_a_table_of_a_module_that_is_missing_is_no_obstacle(project: Path) -> None:
    make(project / "app.db", "CREATE VIRTUAL TABLE found USING fts5 (a); CREATE TABLE t (x)")
    make(
        project / "app.db",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql ="
        " 'CREATE VIRTUAL TABLE found USING missing (a)' WHERE name = 'found'",
    )
    made = dbops.backup(settings_of(project))
    verified = dbops.verify(made, settings_of(project), drill=True)
    assert verified.problems == ()
    assert verified.rows["t"] == 0
    dbops.restore(made, settings_of(project))


def test_a_view_without_an_end_does_not_hold_a_backup_up(project: Path) -> None:
    make(
        project / "app.db",
        "CREATE VIEW alembic_version AS WITH RECURSIVE n (version_num) AS"
        " (SELECT 1 UNION ALL SELECT version_num + 1 FROM n) SELECT max(version_num)"
        " AS version_num FROM n",
    )
    assert invoke(project, "db.backup", env={"DATABASE_URL": "sqlite:///app.db"}).status == 0


@pytest.mark.parametrize("kind", ["link", "file", "other user"])
def test_a_folder_of_somebody_elses_is_not_used(project: Path, tmp_path: Path, kind: str) -> None:
    make(project / "app.db")
    folder, theirs = project / ".repom", tmp_path / "theirs"
    theirs.mkdir()
    stamp = "app.db.undo_20260224T150000000000Z_0123abcd"
    make(theirs / stamp, "CREATE TABLE theirs (x)")
    if kind == "link":
        folder.symlink_to(theirs)
    elif kind == "file":
        folder.touch()
    else:
        requires.need(hasattr(os, "geteuid") and os.geteuid() == 0, "another user")
        theirs.rename(folder)
        theirs.mkdir()
        os.chown(folder, 65534, 65534)
    before, env = set(theirs.iterdir()), {"DATABASE_URL": "sqlite:///app.db"}
    assert invoke(project, "db.undo", "--yes", env=env).status == 4
    made = invoke(project, "db.backup", "--json", env=env)
    assert made.status == 0
    assert json.loads(made.out)["system_identifier"] is None
    ended = invoke(project, "db.restore", "--latest", "--yes", env=env)
    assert (ended.status, len(ended.err.strip().splitlines())) == (5, 1)
    assert ".repom" in ended.err
    assert set(theirs.iterdir()) == before
    assert ask(project / "app.db", "SELECT * FROM t") == [("old",)]


# -- two at once --------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["restore", "undo"])
def test_a_second_restore_from_another_checkout_is_refused(project: Path, verb: str) -> None:
    path, env = make(project / "app.db"), {"DATABASE_URL": "sqlite:///app.db"}
    made = dbops.backup(settings_of(project))
    dbops.restore(made, settings_of(project))
    make(path, "UPDATE t SET x = 'newer'")
    task = ["db.undo"] if verb == "undo" else ["db.restore", "--backup", str(made.path)]
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT * FROM t").fetchall()
        with started(project, "db.restore", "--latest", "--yes", env=env) as first:
            wait_for(lambda: list((project / ".repom").glob("*.scratch_*")))
            ended = invoke(project, *task, "--yes", env={**env, "REPOM_BACKUP_DIR": "other"})
            first.send_signal(signal.SIGKILL)
    assert ended.status == 5, ended.err
    assert f"pid {first.pid}, restore" in ended.err
    assert ask(path, "SELECT * FROM t") == [("newer",)]
    # The kernel has freed the lock of the killed one, and its files go.
    assert invoke(project, "db.restore", "--latest", "--yes", env=env).status == 0
    assert list((project / ".repom").glob("*.scratch_*")) == []


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not found() and time.monotonic() < deadline:
        time.sleep(0.01)


# -- names --------------------------------------------------------------------------------

NAMES = [
    "new\nline.db",
    "a b?c#d%41&e=f.db",
    "-dash.db",
    "quo'te\".db",
    ".hidden",
    "größe.db",
    "*[x].db",
    "back\\slash",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_any_name_is_backed_up_restored_and_undone(project: Path, name: str) -> None:
    path, env = make(project / name), {"DATABASE_URL": f"sqlite:///{quote(name)}"}
    assert invoke(project, "db.backup", env=env).status == 0
    make(path, "UPDATE t SET x = 'newer'")
    ended = invoke(project, "db.restore", "--latest", "--yes", "--json", env=env)
    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["database"] == name
    assert ask(path, "SELECT * FROM t") == [("old",)]
    assert invoke(project, "db.undo", "--yes", env=env).status == 0
    assert ask(path, "SELECT * FROM t") == [("newer",)]
    assert len(list((project / ".repom").glob("*.undo_*"))) == 1


@pytest.mark.parametrize("name", ["x" * 240, "é" * 120, "日" * 80], ids=["x", "é", "日"])
def test_a_file_with_a_long_name_is_restored_and_undone(project: Path, name: str) -> None:
    make(project / "raw.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('newer')")
    live = Sqlite(make(project / name), name)
    with live.exclusive("restore"):
        scratch = live.load(FOUND, recognise(project / "raw.db"), None)
        kept = live.swap(FOUND, scratch, keep=1)
    assert ask(project / name, "SELECT * FROM t") == [("newer",)]
    assert [kept] == [k.name for k in live.survey().kept]
    live.swap(FOUND, str(kept), keep=1)
    assert ask(project / name, "SELECT * FROM t") == [("old",)]


def test_an_undo_copy_of_version_0_1_is_found_undone_and_retired(project: Path) -> None:
    path = make(project / "app.db", "CREATE TABLE t (x); INSERT INTO t VALUES ('newer')")
    stamp = ".app.db.repom_undo_20260224T150000000000Z_0123abcd"
    make(project / stamp)
    settings = settings_of(project)
    assert [k.name for k in look(settings).kept] == [str(project / stamp)]
    dbops.undo(settings)
    assert ask(path, "SELECT * FROM t") == [("old",)]
    assert not (project / stamp).exists()
    make(project / stamp, "CREATE TABLE older (x)")
    dbops.restore(dbops.backup(settings), settings)
    assert not (project / stamp).exists()
    assert len(look(settings).kept) == 1


ODD: dict[str, Callable[[Path], object]] = {
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: os.mknod(path, 0o20666, os.makedev(1, 3)),
    "loop": lambda path: path.symlink_to(path.name),
    "below a file": lambda path: path.parent.touch(),
    "in a folder that is missing": lambda path: None,
}
ODD_NAMES = {
    "too long": "x" * 300,
    "zero byte": "a%00b",
    "no home": "~nobodys/a.db",
    "bytes": "\udcff",
}
PATHS = {"below a file": "odd/app.db", "in a folder that is missing": "odd/app.db"}


@pytest.mark.parametrize("kind", [*ODD, *ODD_NAMES])
@pytest.mark.parametrize("verb", ["db.backup", "db.restore", "db.undo"])
def test_a_path_where_no_file_can_be_is_one_line(project: Path, kind: str, verb: str) -> None:
    make(project / "raw.db")
    if kind == "device":
        requires.need(hasattr(os, "geteuid") and os.geteuid() == 0, "devices")
    name = ODD_NAMES.get(kind)
    if kind in ODD:
        name = PATHS.get(kind, "odd")
        ODD[kind](project / str(name))
    before = {p: p.lstat().st_mode for p in project.iterdir()}
    task = [verb, "--backup", "raw.db", "--yes"] if verb == "db.restore" else [verb]
    ended = invoke(project, *task, env={"DATABASE_URL": f"sqlite:///{name}"})
    if kind == "in a folder that is missing" and verb == "db.restore":
        assert ended.status == 0
        return
    assert ended.status in (1, 2, 4, 5), ended.err
    assert (ended.out, len(ended.err.strip().splitlines())) == ("", 1), ended.err
    assert {p: p.lstat().st_mode for p in before} == before


@pytest.mark.parametrize(
    "into", ["folder", "loop", "\udcff", "x" * 300, "~nobodys/a.db", "raw.db/a.db"]
)
def test_a_new_path_where_no_file_can_be_is_one_line(project: Path, into: str) -> None:
    make(project / "raw.db")
    (project / "folder").mkdir()
    (project / "loop").symlink_to("loop")
    before = set(project.iterdir())
    task = ("db.restore", "--backup", "raw.db", "--yes", "--into", into)
    ended = invoke(project, *task, env={"DATABASE_URL": "sqlite:///app.db"})
    assert ended.status in (1, 2, 5), ended.err
    assert (ended.out, len(ended.err.strip().splitlines())) == ("", 1), ended.err
    assert set(project.iterdir()) - before <= {project / "backups"}
