from __future__ import annotations

import io
import os
import re
import shutil
import sqlite3
import sqlite3.dump
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repom import dbops
from repom.dbops.archive.archive import recognise
from repom.dbops.archive.staging import WorkingFolder
from repom.dbops.database import Facts, Survey
from repom.dbops.files import create_private
from repom.dbops.sqlite import copying, home, replacing, sqlite
from repom.dbops.sqlite.sqlite import Sqlite
from repom.errors import CommandFailed, Damaged, NotFound, Refused
from repom.settings import Settings
from tests import requires

FOUND = Survey(exists=True, size=0)  # which SQLite does not need
ROOT = Path(__file__).parents[3]
SCHEMA = """
CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, face BLOB);
CREATE TABLE empty (x);
CREATE INDEX by_name ON artist (name);
CREATE VIEW names AS SELECT name FROM artist;
CREATE TRIGGER quiet AFTER INSERT ON empty BEGIN DELETE FROM empty; END;
"""
MODES = ("delete", "wal", "truncate", "persist")
SIZES = (512, 4096, 65536)


def build(path: Path, *, mode: str = "delete", page_size: int = 4096, rows: int = 300) -> Path:
    """A database with every kind of object and bytes of every value."""
    with closing(sqlite3.connect(path)) as made:
        made.execute(f"PRAGMA page_size = {page_size}")
        made.execute(f"PRAGMA journal_mode = {mode}")
        made.executescript(SCHEMA)
        made.executemany(
            "INSERT INTO artist (name, face) VALUES (?, ?)",
            ((f"Ärtist {n}", bytes(range(256)) * (n % 9)) for n in range(rows)),
        )
        made.commit()
    return path


def content(path: Path) -> list[str]:
    """All that is in a database, as SQL."""
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


def change(path: Path, script: str = "DROP TABLE artist; CREATE TABLE other (y);") -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    return content(path)


def dump(path: Path, target: Path | None = None) -> Path:
    target = target or path.with_name(f"{path.name}.backup")
    with create_private(target) as file:
        Sqlite(path, path.name).dump(file, "sqlite")
    return target


def load_and_swap(backup: Path, path: Path) -> str | None:
    live = Sqlite(path, path.name)
    scratch = live.load(FOUND, recognise(backup), None)
    return live.swap(FOUND, scratch, keep=9)


def hidden(folder: Path) -> list[str]:
    """Files that a run left beside the database; what `undo` needs is not among them."""
    return [p.name for p in folder.rglob("*") if ".scratch_" in p.name or "partial" in p.name]


def left(folder: Path) -> list[str]:
    """The same with what `undo` needs."""
    return [*hidden(folder), *(p.name for p in folder.rglob("*.undo_*"))]


WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
for line in sys.stdin:
    if line.strip() == "quit":
        database.close()
        break
    print(database.execute(line).fetchall(), flush=True)
"""


@contextmanager
def writer(path: Path) -> Iterator[Callable[[str], str]]:
    """Another process that has the database open, and runs one statement after the other."""
    argv = [sys.executable, "-c", WRITER, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as child:

        def run(sql: str) -> str:
            assert child.stdin and child.stdout
            child.stdin.write(f"{sql}\n")
            child.stdin.flush()
            return child.stdout.readline().strip()

        run("SELECT 1")
        yield run
        child.kill()


# -- dump, damage, restore ----------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page_size", SIZES)
def test_what_was_dumped_comes_back_and_what_was_there_is_kept(
    tmp_path: Path, mode: str, page_size: int
) -> None:
    path = build(tmp_path / "shop.db", mode=mode, page_size=page_size)
    before, backup = content(path), dump(path)
    damaged = change(path)

    kept = load_and_swap(backup, path)

    assert before == content(path)
    assert kept and damaged == content(Path(kept))
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("rows", [0, 1, 5_000], ids=["schema alone", "one row", "many steps"])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_any_size_comes_back(tmp_path: Path, mode: str, rows: int) -> None:
    path = build(tmp_path / "shop.db", mode=mode, rows=rows)
    before, backup = content(path), dump(path)
    damaged = change(path)

    kept = load_and_swap(backup, path)

    assert (before, damaged) == (content(path), content(Path(str(kept))))


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("auto_vacuum", [0, 1, 2])
def test_a_database_without_a_table_comes_back(tmp_path: Path, mode: str, auto_vacuum: int) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as empty:
        empty.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        empty.execute(f"PRAGMA journal_mode = {mode}")
        empty.execute("PRAGMA user_version = 7")
    backup = dump(path)
    change(path, "CREATE TABLE other (y)")

    kept = load_and_swap(backup, path)

    with closing(sqlite3.connect(path)) as restored:
        assert restored.execute("PRAGMA user_version").fetchone() == (7,)
        assert restored.execute("SELECT name FROM sqlite_master").fetchall() == []
    assert any("other" in line for line in content(Path(str(kept))))


@pytest.mark.parametrize("old", SIZES)
@pytest.mark.parametrize("new", SIZES)
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_the_live_file_may_have_another_page_size(
    tmp_path: Path, old: int, new: int, mode: str
) -> None:
    backup = dump(build(tmp_path / "from.db", page_size=new))
    path = build(tmp_path / "shop.db", page_size=old, mode=mode, rows=5)

    load_and_swap(backup, path)

    assert content(tmp_path / "from.db") == content(path)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("empty", ["from.db", "shop.db", "both"])
@pytest.mark.parametrize(("old", "new"), [(512, 4096), (4096, 512)])
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_page_size_changes_with_the_smallest_files_and_whatever_is_kept(
    tmp_path: Path, mode: str, old: int, new: int, empty: str, keep: int
) -> None:
    for name, size in (("from.db", new), ("shop.db", old)):
        build(tmp_path / name, page_size=size, mode=mode)
        if empty in (name, "both"):
            script = "DROP VIEW names; DROP TABLE artist; DROP TABLE empty; VACUUM"
            change(tmp_path / name, script)
    backup, path = dump(tmp_path / "from.db"), tmp_path / "shop.db"
    live, had = Sqlite(path, "shop.db"), content(path)

    kept = live.swap(FOUND, live.load(FOUND, recognise(backup), None), keep=keep)

    assert content(tmp_path / "from.db") == content(path)
    with closing(sqlite3.connect(path)) as restored:
        assert (new,) == restored.execute("PRAGMA page_size").fetchone()
        assert (mode,) == restored.execute("PRAGMA journal_mode").fetchone()
    assert [had] * keep == [content(Path(k.name)) for k in live.survey().kept]
    assert keep == (kept is not None)


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_backup_of_either_mode_goes_into_a_file_of_the_other(tmp_path: Path, mode: str) -> None:
    backup = dump(build(tmp_path / "from.db", mode=mode))
    path = build(tmp_path / "shop.db", mode="wal" if mode == "delete" else "delete", rows=2)
    had = content(path)

    kept = load_and_swap(backup, path)

    assert content(tmp_path / "from.db") == content(path)
    assert had == content(Path(str(kept)))


def test_what_only_the_wal_holds_is_backed_up(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal", rows=0)
    with writer(path) as run:
        run("INSERT INTO artist (name) VALUES ('only in the WAL')")
        backup = dump(path)
    load_and_swap(backup, tmp_path / "new.db")

    assert any("only in the WAL" in line for line in content(tmp_path / "new.db"))


def test_an_uncommitted_change_is_not_backed_up(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal")
    before = content(path)
    with writer(path) as run:
        run("BEGIN IMMEDIATE")
        run("DELETE FROM artist")
        backup = dump(path)
    load_and_swap(backup, tmp_path / "new.db")

    assert before == content(tmp_path / "new.db")


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_process_that_has_the_file_open_sees_the_restored_data(tmp_path: Path, mode: str) -> None:
    path = build(tmp_path / "shop.db", mode=mode)
    before, backup = content(path), dump(path)
    with writer(path) as run:
        run("DELETE FROM artist")
        load_and_swap(backup, path)

        assert run("SELECT count(*) FROM artist") == "[(300,)]"
        assert run("INSERT INTO artist (name) VALUES ('later')") == "[]"
    change(path, "DELETE FROM artist WHERE name = 'later'")
    assert before == content(path)


def test_a_reader_in_a_transaction_keeps_what_it_saw(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal")
    backup = dump(path)
    change(path, "DELETE FROM artist WHERE id > 10")
    with writer(path) as run:
        run("BEGIN")
        run("SELECT count(*) FROM artist")
        load_and_swap(backup, path)

        assert run("SELECT count(*) FROM artist") == "[(10,)]"
        run("COMMIT")
        assert run("SELECT count(*) FROM artist") == "[(300,)]"


def test_a_backup_taken_while_others_write_is_one_moment(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal", rows=2_000)
    change(path, "CREATE TABLE a (n); CREATE TABLE b (n); INSERT INTO a VALUES (0), (0)")
    stop = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=10)) as database:
            while not stop.is_set():
                with database:
                    database.execute("INSERT INTO a VALUES (1)")
                    database.execute("INSERT INTO b VALUES (1)")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        backup = dump(path)
    finally:
        stop.set()
        thread.join()
    load_and_swap(backup, tmp_path / "new.db")

    with closing(sqlite3.connect(tmp_path / "new.db")) as new:
        count = "SELECT (SELECT count(*) FROM a) - (SELECT count(*) FROM b)"
        assert new.execute(count).fetchone() == (2,)


def test_what_only_the_wal_holds_is_kept(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal")
    backup = dump(path)
    with writer(path) as run:
        run("PRAGMA wal_autocheckpoint = 0")
        run("INSERT INTO artist (name) VALUES ('in the WAL')")
        before = content(path)
        kept = load_and_swap(backup, path)
        assert run("SELECT count(*) FROM artist") == "[(300,)]"

    assert before == content(Path(str(kept)))
    assert not list(tmp_path.glob(".repom/*-wal"))


@pytest.mark.slow
def test_what_is_kept_while_others_write_is_one_moment(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", mode="wal", rows=20_000)
    change(path, "CREATE TABLE a (n); CREATE TABLE b (n)")
    backup = dump(path)
    script = (
        "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)\n"
        "d.execute('PRAGMA wal_autocheckpoint = 20')\n"
        "while True: d.executescript('BEGIN IMMEDIATE; INSERT INTO a SELECT hex(randomblob(900));"
        " INSERT INTO b SELECT * FROM a ORDER BY rowid DESC LIMIT 1; COMMIT')"
    )
    argv = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(argv) as child:
        kept = [load_and_swap(backup, path) for _ in range(8)]
        assert child.poll() is None
        child.kill()
    for each in kept:
        with closing(sqlite3.connect(str(each))) as old:
            assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            same = "SELECT (SELECT group_concat(n) FROM a) IS (SELECT group_concat(n) FROM b)"
            assert old.execute(same).fetchone() == (1,)


def test_other_connections_of_this_process_keep_their_locks(tmp_path: Path) -> None:
    requires.need(os.name == "posix", "locks that a process has, and not a descriptor")
    path = build(tmp_path / "shop.db", mode="wal")
    backup = dump(path)
    with closing(sqlite3.connect(path)) as mine:
        mine.execute("SELECT count(*) FROM artist").fetchone()
        load_and_swap(backup, path)
        mine.execute("INSERT INTO artist (name) VALUES ('mine')")
        mine.commit()
        with writer(path) as run:
            assert run("SELECT count(*) FROM artist") == "[(301,)]"
            run("quit")

        # The last one to leave removes it, and that was not the other process.
        assert Path(f"{path}-wal").exists()


# -- the file that is replaced ------------------------------------------------------------


def test_a_file_that_is_missing_is_made_with_its_folder(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    backup = dump(path)

    kept = load_and_swap(backup, tmp_path / "new/folder/shop.db")

    assert kept is None
    assert content(path) == content(tmp_path / "new/folder/shop.db")


@pytest.mark.parametrize(
    "junk", [b"no database", b"SQLite format 3\x00 and then junk" * 99], ids=len
)
def test_a_file_that_is_no_database_is_put_aside_and_pushes_nothing_out(
    tmp_path: Path, junk: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    backup = dump(build(tmp_path / "from.db"))
    path = build(tmp_path / "shop.db")
    good = load_and_swap(backup, path)
    path.write_bytes(junk)
    live = Sqlite(path, "shop.db")

    assert live.swap(FOUND, live.load(FOUND, recognise(backup), None), keep=1) is None
    assert content(tmp_path / "from.db") == content(path)
    assert [good] == [k.name for k in live.survey().kept]
    [aside] = tmp_path.glob(".repom/shop.db.damaged_*")
    assert junk == aside.read_bytes()
    assert str(aside) in caplog.text


@pytest.mark.parametrize("junk", [None, b"no database"])
def test_a_scratch_file_that_cannot_be_synced_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, junk: bytes | None
) -> None:
    backup = dump(build(tmp_path / "from.db"))
    path = tmp_path / "shop.db"
    if junk:
        path.write_bytes(junk)
    live = Sqlite(path, "shop.db")
    scratch = live.load(FOUND, recognise(backup), None)

    def failing(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sqlite, "sync_file", failing)
    with pytest.raises(OSError, match="Input/output error"):
        live.swap(FOUND, scratch, keep=1)

    assert junk == (path.read_bytes() if path.exists() else None)
    assert not list(tmp_path.glob(".repom/shop.db.damaged_*"))


def test_an_interrupted_restore_leaves_no_copy_to_undo(tmp_path: Path) -> None:
    """It would be the newest, and the same as the live one: an undo of nothing."""
    path = build(tmp_path / "shop.db", mode="wal", rows=20_000)
    backup = dump(path)
    change(path, "DELETE FROM artist WHERE id > 10000")
    before, live = content(path), Sqlite(path, "shop.db")
    scratch = live.load(FOUND, recognise(backup), None)
    copy_pages = replacing.copy_pages

    def interrupted(*given: Any, before_commit: Any = None, **how: Any) -> None:
        def late() -> None:
            before_commit()
            raise KeyboardInterrupt

        how["before_commit"] = late
        copy_pages(*given, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacing, "copy_pages", interrupted)
        with pytest.raises(KeyboardInterrupt):
            live.swap(FOUND, scratch, keep=1)
    assert live.survey().kept == ()
    assert before == content(path)


def test_the_journal_mode_that_counts_is_that_under_the_lock(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    backup = dump(path)
    live = Sqlite(path, "shop.db")
    scratch = live.load(FOUND, recognise(backup), None)
    look = replacing.page_size_of
    with writer(path) as run:

        def late(looked_at: Path) -> int:
            size = look(looked_at)
            assert run("PRAGMA journal_mode = wal") == "[('wal',)]"
            run("INSERT INTO artist (name) VALUES ('only in the WAL')")
            return size

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replacing, "page_size_of", late)
            kept = live.swap(FOUND, scratch, keep=1)
    assert any("only in the WAL" in line for line in content(Path(str(kept))))


@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-shm"])
@pytest.mark.parametrize("there", [False, True], ids=["missing", "no database"])
def test_stale_side_files_are_not_played_into_the_restored_file(
    tmp_path: Path, suffix: str, there: bool
) -> None:
    source = build(tmp_path / "from.db", mode="wal" if suffix == "-wal" else "delete")
    backup = dump(source)
    path = tmp_path / "shop.db"
    side = Path(f"{path}{suffix}")
    side.write_bytes(real_side_file(tmp_path / "other.db", suffix))
    if there:
        path.write_bytes(b"no database")

    load_and_swap(backup, path)

    assert content(source) == content(path)
    assert not side.exists() or side.stat().st_size == 0


def real_side_file(path: Path, suffix: str) -> bytes:
    """The side file of a process that was killed: it would be played in if it could."""
    build(path, mode="wal" if suffix in ("-wal", "-shm") else "delete", rows=5)
    with writer(path) as run:
        run("PRAGMA cache_spill = 1")
        run("BEGIN")
        run("UPDATE artist SET name = name || 'x', face = zeroblob(9000)")
        if suffix != "-journal":
            run("COMMIT")
        side = Path(f"{path}{suffix}")
        return side.read_bytes() if side.exists() else b"\0" * 512


LOCKS = {
    "reads, rollback": ("delete", ["BEGIN", "SELECT count(*) FROM artist"]),
    "writes, rollback": ("delete", ["BEGIN IMMEDIATE", "DELETE FROM artist WHERE id = 1"]),
    "exclusive, rollback": ("delete", ["BEGIN EXCLUSIVE"]),
    "writes, WAL": ("wal", ["BEGIN IMMEDIATE", "DELETE FROM artist WHERE id = 1"]),
}


@pytest.mark.parametrize(("mode", "held"), LOCKS.values(), ids=list(LOCKS))
def test_a_locked_file_is_refused_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, held: list[str]
) -> None:
    monkeypatch.setattr("repom.dbops.sqlite.copying.PATIENCE", 0.3)
    settings = Settings(tmp_path, sqlite="shop.db", backup_dir=tmp_path / "backups")
    path = build(tmp_path / "shop.db", mode=mode)
    made = dbops.backup(settings)
    change(path, "DELETE FROM artist WHERE id > 10")
    before = content(path)
    with writer(path) as run:
        for statement in held:
            run(statement)
        with pytest.raises(Refused, match="locked") as caught:
            dbops.restore(made, settings)

    assert caught.value.exit_status == 5
    assert before == content(path)
    assert left(tmp_path) == []


def test_a_lock_that_goes_is_waited_for(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    with writer(path) as run:
        run("BEGIN EXCLUSIVE")
        threading.Timer(0.6, run, ["ROLLBACK"]).start()
        assert recognise(dump(path)).kind == "sqlite"


def test_a_locked_file_cannot_be_dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PATIENCE", 0.3)
    path = build(tmp_path / "shop.db")
    with writer(path) as run:
        run("BEGIN EXCLUSIVE")
        with pytest.raises(Refused, match=r"shop.db is locked"):
            dump(path)


# -- what cannot be backed up -------------------------------------------------------------


@pytest.mark.parametrize(
    ("junk", "error", "said"),
    [
        (None, NotFound, "no SQLite file shop.db"),
        (b"", CommandFailed, "shop.db is empty"),
        (b"junk" * 300, CommandFailed, "shop.db is not an SQLite database"),
        (b"PGDMP" + b"\0" * 900, CommandFailed, "shop.db is not an SQLite database"),
    ],
    ids=["missing", "empty", "text", "an archive"],
)
def test_a_file_that_is_no_database_cannot_be_backed_up(
    tmp_path: Path, junk: bytes | None, error: type[Exception], said: str
) -> None:
    path = tmp_path / "shop.db"
    if junk is not None:
        path.write_bytes(junk)
    with pytest.raises(error, match=said) as caught:
        Sqlite(path, "shop.db").identify()

    assert {NotFound: 4, CommandFailed: 1}[error] == caught.value.exit_status  # type: ignore[attr-defined]
    assert (junk is None) == (not path.exists())


def test_a_folder_in_the_files_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.db").mkdir()

    with pytest.raises(NotFound, match=r"shop.db"):
        Sqlite(tmp_path / "shop.db", "shop.db").identify()


class Full(io.BytesIO):
    """A file on a disk that is full; `seen` are the files in a folder at the first write."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.seen = folder, list[str]()

    def write(self, _block: Any) -> int:
        self.seen = [str(p.relative_to(self.folder)) for p in self.folder.rglob("copy*")]
        raise OSError(28, "No space left on device")


def test_a_working_copy_lies_beside_the_database_and_does_not_stay(tmp_path: Path) -> None:
    """The file that it dumps to may be any, also one without a name."""
    path, file = build(tmp_path / "shop.db"), Full(tmp_path)
    with pytest.raises(OSError, match="No space"):
        Sqlite(path, "shop.db").dump(file, "sqlite")

    assert [re.fullmatch(r"\.repom/[^/]+/copy", name) is not None for name in file.seen] == [True]
    assert list(tmp_path.rglob("copy*")) == []


@pytest.mark.parametrize("verb", ["dump", "sweep"])
def test_a_working_copy_of_a_killed_run_is_swept(tmp_path: Path, verb: str) -> None:
    path = build(tmp_path / "shop.db")
    script = (
        "import os, sys; from pathlib import Path; from repom.dbops.sqlite import sqlite\n"
        "sqlite.check = lambda *_: os.kill(os.getpid(), 9)\n"
        "sqlite.Sqlite(Path(sys.argv[1]), 'shop.db').dump(open(sys.argv[2], 'wb'), 'sqlite')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path / "x")], env=env)
    assert [path.stat().st_size] == [p.stat().st_size for p in tmp_path.rglob("copy")]

    if verb == "dump":
        dump(path)
    else:
        Sqlite(path, "shop.db").sweep(FOUND)
    assert list(tmp_path.rglob("copy*")) == []


def test_a_working_copy_in_use_is_not_swept(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    dump(path)
    with WorkingFolder(tmp_path / ".repom") as folder:
        Sqlite(path, "shop.db").sweep(FOUND)
        dump(path, tmp_path / "second")
        assert folder.is_dir()


def test_a_database_without_room_for_a_working_copy_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build(tmp_path / "shop.db")
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1000))
    with pytest.raises(Refused, match=r"\.repom has 1\.0 kB free, and the working copy"):
        dump(path)

    assert list(tmp_path.rglob("copy*")) == []


def test_a_damaged_database_makes_no_backup(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    with path.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096 * 3)

    with pytest.raises((Damaged, CommandFailed)):
        dump(path)
    assert [p.name for p in tmp_path.iterdir() if "copy" in p.name] == []


def test_a_read_only_file_is_backed_up_all_the_same(unprivileged: Path) -> None:
    path = build(unprivileged / "shop.db")
    path.chmod(0o400)

    assert recognise(dump(path)).kind == "sqlite"


def test_a_restore_into_a_read_only_file_says_so_and_changes_nothing(unprivileged: Path) -> None:
    path = build(unprivileged / "shop.db")
    settings = Settings(
        unprivileged, sqlite="shop.db", backup_dir=unprivileged / "backups", undo_keep=1
    )
    made = dbops.backup(settings)
    before = change(path)
    path.chmod(0o400)

    with pytest.raises(CommandFailed, match=r"shop.db.*(read-?only|permission)"):
        dbops.restore(made, settings)
    assert before == content(path)
    assert left(unprivileged) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_a_restore_into_a_read_only_folder_says_so_and_changes_nothing(
    unprivileged: Path, earlier: bool
) -> None:
    (unprivileged / "data").mkdir()
    path = build(unprivileged / "data/shop.db")
    settings = Settings(unprivileged, sqlite="data/shop.db", backup_dir=unprivileged / "b")
    made = dbops.backup(settings)
    if not earlier:
        shutil.rmtree(path.parent / ".repom")
    before = change(path)
    path.parent.chmod(0o500)

    with pytest.raises(CommandFailed, match=r"data.*write to .*folder"):
        dbops.restore(made, settings)
    assert recognise(dbops.backup(settings).path).kind == "sqlite"
    path.parent.chmod(0o700)
    assert before == content(path)
    assert left(path.parent) == []


@pytest.mark.parametrize("at", [0, 100, 4096 + 50])
def test_a_backup_with_altered_pages_is_not_restored(tmp_path: Path, at: int) -> None:
    path = build(tmp_path / "shop.db")
    altered = bytearray(path.read_bytes())
    altered[at : at + 40] = b"\xff" * 40
    (tmp_path / "altered").write_bytes(bytes(altered))
    live = Sqlite(path, "shop.db")
    before = content(path)

    with pytest.raises((Damaged, CommandFailed, Refused)):
        live.load(FOUND, recognise(tmp_path / "altered"), None)
    assert before == content(path)
    assert hidden(tmp_path) == []


# -- files of its own ---------------------------------------------------------------------


def test_scratch_and_kept_files_are_their_owners_alone(tmp_path: Path) -> None:
    requires.need(os.name == "posix", "POSIX's modes of files")
    path = build(tmp_path / "shop.db")
    backup = dump(path)
    live = Sqlite(path, "shop.db")
    scratch = live.load(FOUND, recognise(backup), None)
    kept = live.survey().kept

    assert stat.S_IMODE(Path(scratch).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / ".repom").stat().st_mode) == 0o700
    assert kept == ()
    live.swap(FOUND, scratch, keep=1)
    assert [stat.S_IMODE(Path(k.name).stat().st_mode) for k in live.survey().kept] == [0o600]


def test_a_restored_file_keeps_the_mode_of_the_live_one(tmp_path: Path) -> None:
    requires.need(os.name == "posix", "POSIX's modes of files")
    path = build(tmp_path / "shop.db")
    backup = dump(path)
    path.chmod(0o664)
    load_and_swap(backup, path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o664


@pytest.mark.parametrize("name", ["shop.db", "sh[o]p*?.db", "größe.db", "a b'c\"=x#%.db"])
def test_kept_files_are_found_again_whatever_the_name(tmp_path: Path, name: str) -> None:
    path = build(tmp_path / name)
    backup = dump(path)
    build(tmp_path / "other.db")
    kept = [load_and_swap(backup, path) for _ in range(3)]

    live = Sqlite(path, name)
    assert kept[::-1] == [k.name for k in live.survey().kept]
    assert Sqlite(tmp_path / "other.db", "other.db").survey().kept == ()
    live.discard(str(kept[0]))
    assert kept[:0:-1] == [k.name for k in live.survey().kept]


def test_what_was_replaced_last_comes_first_whatever_the_clock_said(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    backup = dump(path)
    before = Path(str(load_and_swap(backup, path)))
    ahead = before.with_name(re.sub(r"undo_\d{4}", "undo_2999", before.name))
    before.rename(ahead)
    last = load_and_swap(backup, path)

    assert [last, str(ahead)] == [k.name for k in Sqlite(path, "shop.db").survey().kept]


@pytest.mark.parametrize("fits", [True, False])
def test_a_disk_without_room_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    path = build(tmp_path / "shop.db")
    backup, live = dump(path), Sqlite(path, "shop.db")
    size = path.stat().st_size
    free = 3 * size - (0 if fits else 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=free))
    monkeypatch.setattr(sqlite, "check_not_full", lambda _folder: None)
    expected = nullcontext() if fits else pytest.raises(Refused, match="free, and a restore takes")
    with expected:
        live.discard(live.load(FOUND, recognise(backup), Facts(size=size)))

    assert hidden(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_memory_does_not_grow_with_the_database(tmp_path: Path, mode: str) -> None:
    requires.need(sys.platform == "linux", "a peak of memory in kilobytes")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE noise (a)")
        database.executemany("INSERT INTO noise VALUES (?)", [(os.urandom(1 << 20),)] * 150)
    script = (
        "from repom import dbops; from repom.settings import Settings;"
        "dbops.restore(dbops.backup(s), s) if (s := Settings.load()) else None;"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    env = {**os.environ, "DATABASE_URL": "sqlite:///shop.db", "PYTHONPATH": str(ROOT)}
    (tmp_path / "tasks.py").touch()
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 90_000  # kB; the database has 157,000


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("rows", [1, 300, 5_000])
def test_what_is_kept_is_on_the_disk_before_the_new_data_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, rows: int
) -> None:
    path = build(tmp_path / "shop.db", mode=mode, rows=rows)
    backup = dump(path)
    change(path, "DELETE FROM artist")
    before, seen = content(path), list[str]()

    def failing(kept: Path) -> None:
        seen.append(kept.name)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(replacing, "sync_file", failing)
    live = Sqlite(path, "shop.db")
    with pytest.raises(OSError, match="Input/output error"):
        live.swap(FOUND, live.load(FOUND, recognise(backup), None), keep=1)

    assert len(seen) == 1
    assert before == content(path)
    assert live.survey().kept == ()


def test_a_link_is_no_kept_database(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")
    build(tmp_path / "theirs.db")
    (tmp_path / ".repom").mkdir(mode=0o700)
    for number, target in enumerate(("theirs.db", "nowhere")):
        stamp = f"20260224T15000000000{number}Z_0123abcd"
        (tmp_path / f".shop.db.repom_undo_{stamp}").symlink_to(tmp_path / target)
        (tmp_path / f".repom/shop.db.undo_{stamp}").symlink_to(tmp_path / target)

    assert Sqlite(path, "shop.db").survey().kept == ()


def test_what_is_no_longer_needed_may_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = build(tmp_path / "shop.db")
    before, backup = content(path), dump(path)
    change(path, "DELETE FROM artist")
    live = Sqlite(path, "shop.db")
    scratch = live.load(FOUND, recognise(backup), None)

    def failing(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(home, "remove", failing)
    assert live.swap(FOUND, scratch, keep=1)
    assert before == content(path)
    assert "could not be removed: Input/output error" in caplog.text


def test_what_is_gone_can_be_discarded(tmp_path: Path) -> None:
    Sqlite(tmp_path / "shop.db", "shop.db").discard(str(tmp_path / "gone"))


def test_only_the_scratch_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".repom").mkdir(mode=0o700)
    mine = [f".repom/shop.db.scratch_01234567{suffix}" for suffix in ("", "-wal", "-journal")]
    others = [
        ".repom/other.db.scratch_01234567",
        ".repom/shop.db.scratch_notes",
        ".repom/shop.db.undo_20260224T150000000000Z_0123abcd",
        ".shop.db.repom_scratch_01234567.999",
    ]
    old = ".shop.db.repom_scratch_76543210.1"
    for name in (*mine, *others, old):
        (tmp_path / name).touch()
    os.utime(tmp_path / old, (0, 0))
    working, next_one = (Sqlite(tmp_path / "shop.db", "shop.db") for _ in range(2))

    with working.exclusive("restore"):
        next_one.sweep(FOUND)
        assert all((tmp_path / name).exists() for name in (*mine, *others))
        assert not (tmp_path / old).exists()  # of repom 0.1, and from another year
    next_one.sweep(FOUND)

    assert [name for name in mine if (tmp_path / name).exists()] == []
    assert all((tmp_path / name).exists() for name in others)


def test_a_link_to_the_file_stays_a_link(tmp_path: Path) -> None:
    build(tmp_path / "real.db")
    (tmp_path / "link.db").symlink_to("real.db")
    settings = Settings(tmp_path, sqlite="link.db", backup_dir=tmp_path / "backups")
    made = dbops.backup(settings)
    change(tmp_path / "real.db")
    dbops.restore(made, settings)

    assert (tmp_path / "link.db").is_symlink()
    assert any("Ärtist" in line for line in content(tmp_path / "real.db"))


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_as_many_replaced_files_stay_as_are_wanted(tmp_path: Path, mode: str, keep: int) -> None:
    path = build(tmp_path / "shop.db", mode=mode)
    backup, live = dump(path), Sqlite(path, "shop.db")
    for _ in range(3):
        kept = live.swap(FOUND, live.load(FOUND, recognise(backup), None), keep=keep)

    assert keep == len(live.survey().kept)
    assert (str(kept) if keep else None) == next((k.name for k in live.survey().kept), None)


@pytest.mark.parametrize("content", [None, b"", b"junk", b"1234567"], ids=repr)
def test_a_survey_tells_what_there_is_and_opens_nothing(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "shop.db").write_bytes(content)

    survey = Sqlite(tmp_path / "shop.db", "shop.db").survey()

    assert (content is not None, len(content or b"")) == (survey.exists, survey.size)


def test_alembics_revision_is_among_the_facts(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db")

    assert Sqlite(path, "shop.db").identify().migration is None
    change(
        path,
        "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('ae10')",
    )
    assert Sqlite(path, "shop.db").identify().migration == "ae10"


def test_the_rows_of_every_table_are_counted(tmp_path: Path) -> None:
    path = build(tmp_path / "shop.db", rows=3)
    change(path, 'CREATE TABLE "a ""b" (x); INSERT INTO "a ""b" VALUES (1)')

    assert Sqlite(path, "shop.db").rows(str(path)) == {"artist": 3, "empty": 0, 'a "b': 1}


def test_reading_a_backup_checks_it_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    path = build(tmp_path / "shop.db")
    altered = bytearray(path.read_bytes())
    altered[4096 + 50 : 4096 + 90] = b"\xff" * 40
    (tmp_path / "altered").write_bytes(bytes(altered))
    live = Sqlite(path, "shop.db")

    live.read(recognise(dump(path)))
    with pytest.raises(Damaged):
        live.read(recognise(tmp_path / "altered"))
    assert list((tmp_path / "temporary").iterdir()) == []
