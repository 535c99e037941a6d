"""What others put into the store or give as a value: it is read with suspicion, and spoils
nothing but itself."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from repom import dbops
from repom.dbops import upkeep
from repom.dbops.restore import carry_out, plan_restore
from repom.dbops.store import names
from repom.dbops.store.backup import Backup
from repom.dbops.store.lock import locked
from repom.dbops.store.manifest import checksum, spelled
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, Damaged, NotFound, Refused, RepomError, SettingsError
from repom.settings import Settings
from repom.settings.address import Address
from tests.live.cli import invoke

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX's pipes, links and rights")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///shop.db\n")
    write(tmp_path / "shop.db", "CREATE TABLE album (title)", "INSERT INTO album VALUES ('first')")
    return Settings(tmp_path, sqlite="shop.db", backup_dir=tmp_path / "backups")


def write(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


def title(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT title FROM album").fetchone()[0])


def rewrite(backup: Backup, **fields: Any) -> None:
    """Change fields of a manifest, with a checksum that is right."""
    content = json.loads(backup.manifest.read_bytes())
    del content["checksum"]
    content |= fields
    content["checksum"] = checksum(content)
    backup.manifest.write_bytes(spelled(content))


# -- manifests ----------------------------------------------------------------------------

WRONG: dict[str, dict[str, Any]] = {
    "database": {"database": 5},
    "backend": {"backend": ["sqlite"]},
    "format": {"format": {}},
    "time": {"created_at": "yesterday"},
    "time without a zone": {"created_at": "2026-02-24T15:00:00"},
    "time of another type": {"created_at": 5},
    "size": {"size": "5"},
    "size below 0": {"size": -1},
    "checksum": {"sha256": 5},
    "verified": {"verified": 7},
    "verified's parts": {"verified": [["complete"]]},
    "pinned": {"pinned": "no"},
    "facts": {"facts": None},
    "facts' tables": {"facts": {"tables": "many"}},
    "facts' roles": {"facts": {"roles": {"a": 1}}},
    "facts' locale": {"facts": {"locale": [1]}},
    "facts' project": {"facts": {"project": 5}},
    "identifier": {"system_identifier": 5},
}


@pytest.mark.parametrize("fields", WRONG.values(), ids=list(WRONG))
def test_a_wrong_manifest_spoils_only_its_own_backup(
    settings: Settings, fields: dict[str, Any]
) -> None:
    good, bad = dbops.backup(settings), dbops.backup(settings)
    rewrite(bad, **fields)

    assert [bad.name, good.name] == [b.name for b in dbops.list_backups(settings)]
    assert [b.is_verified for b in dbops.list_backups(settings)] == [False, True]
    assert good.name == upkeep.find_backup(settings).name
    assert not dbops.verify(None, settings).problems
    dbops.restore(good, settings)
    made = dbops.backup(settings, keep=1)
    dbops.prune(settings, keep=1)
    assert {made.name, bad.name} == {b.name for b in dbops.list_backups(settings)}
    with pytest.raises(Damaged, match="manifest"):
        dbops.restore(bad.name, settings)


def test_the_list_says_what_is_wrong(settings: Settings) -> None:
    rewrite(dbops.backup(settings), size="5")
    short = dbops.backup(settings)
    short.path.write_bytes(b"")
    ended = invoke(settings.project, "db.list")

    assert ended.status == 0
    assert ended.out.count("damaged") == 2
    assert "does not count: The manifest of " in ended.err
    assert f"{short.name} does not count: The size of {short.name} differs" in ended.err


def test_a_manifest_beside_a_file_from_elsewhere_vouches_for_nothing_in_place(
    settings: Settings, tmp_path: Path
) -> None:
    made = dbops.backup(settings)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (made.path, made.manifest):
        (elsewhere / path.name).write_bytes(path.read_bytes())
    found = dbops.verify(elsewhere / made.name, settings)

    assert "sha256" in found.verified, "it still tells whether the file is whole"
    (elsewhere / made.name).write_bytes(b"x" * made.size)
    with pytest.raises(Damaged):
        dbops.restore(elsewhere / made.name, settings)


# -- what is in the store's place ---------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            made.bind(path.name)
        finally:
            os.chdir(before)


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """What waits for a pipe waits for ever."""

    def late(*_given: object) -> None:
        raise AssertionError(f"not done within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@posix
@pytest.mark.parametrize("kind", [pipe, folder, link, unix_socket])
@pytest.mark.parametrize("place", ["holder", "lock", "manifest", "backup", "partial"])
def test_nothing_but_a_regular_file_is_read_or_waited_for(
    settings: Settings, kind: Callable[[Path], None], place: str
) -> None:
    first = dbops.backup(settings)
    future = "shop.db_20990101T000000Z.sqlite3.zst"
    path = {
        "holder": settings.backup_dir / ".shop.db.holder",
        "lock": settings.backup_dir / ".shop.db.lock",
        "manifest": settings.backup_dir / f"{future}.json",
        "backup": settings.backup_dir / future,
        "partial": settings.backup_dir / f".{future}.partial",
    }[place]
    if place == "manifest":
        (settings.backup_dir / future).write_bytes(first.path.read_bytes())
    path.unlink(missing_ok=True)
    kind(path)

    verbs: list[Callable[[], object]] = [
        lambda: dbops.verify(None, settings),
        lambda: dbops.backup(settings),
        lambda: dbops.restore(upkeep.find_backup(settings), settings),
    ]
    with within(30):
        assert dbops.list_backups(settings)[-1].name == first.name
        for verb in verbs:
            if place == "lock":
                with pytest.raises(CommandFailed, match="regular file"):
                    verb()
            else:
                verb()
    assert title(settings.sqlite_path) == "first"


FORGED = {
    "another program's": {"pid": 1, "doing": "restore", "session": "psql"},
    "all": {"pid": 1, "doing": "restore", "session": "%"},
    "longer": {"pid": 1, "doing": "restore", "session": "repom-0123abcd' OR true --"},
    "a line more": {"pid": 1, "doing": "restore", "session": "repom-0123abcd\n"},
    "a number": {"pid": 1, "doing": "restore", "session": 5},
    "a list": {"pid": 1, "doing": "restore", "session": ["repom-0123abcd"]},
    "no process": {"pid": "1; rm", "doing": "restore", "session": "repom-0123abcd"},
    "a message": {"pid": 1, "doing": "restore\nAll is well", "session": "repom-0123abcd"},
}


@pytest.mark.parametrize("note", FORGED.values(), ids=list(FORGED))
def test_a_forged_note_ends_no_session(settings: Settings, note: dict[str, Any]) -> None:
    settings.backup_dir.mkdir()
    (settings.backup_dir / ".shop.holder").write_text(json.dumps(note))

    with locked(settings.backup_dir, "shop", "backup", "repom-00000001") as killed:
        assert killed == ""


@posix
def test_a_manifest_of_a_backup_that_is_elsewhere_today_stays(
    settings: Settings, tmp_path: Path
) -> None:
    """Such as one on a disk that is not mounted."""
    made = dbops.backup(settings)
    moved = tmp_path / "disk"
    moved.mkdir()
    made.path.rename(moved / made.name)
    made.path.symlink_to(tmp_path / "unmounted" / made.name)
    dbops.backup(settings)

    assert made.manifest.exists()


def test_a_backup_of_another_length_does_not_count(settings: Settings) -> None:
    made = [dbops.backup(settings) for _ in range(3)]
    for bad, content in ((made[1], b""), (made[2], b"x" * 10)):
        bad.path.write_bytes(content)

    assert made[0].name == upkeep.find_backup(settings).name
    dbops.backup(settings, keep=2)
    assert made[0].name in {b.name for b in dbops.list_backups(settings)}
    dbops.prune(settings, keep=2)
    assert made[0].name in {b.name for b in dbops.list_backups(settings)}


# -- names --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ф" * 31, "長" * 80, "a" * 240, "d/" * 90 + "x.db"])
def test_a_long_name_of_a_database_fits_a_file_name(tmp_path: Path, name: str) -> None:
    target = Store(tmp_path / "backups")
    now = datetime.now(UTC)
    taken = target.next_name(name, "sqlite", "L" * 40, now)
    other = target.next_name(f"{name}2", "sqlite", "L" * 40, now)

    assert names.NAME.fullmatch(taken)
    assert taken != other
    with locked(target.folder, name, "backup"), target.writing(taken) as file:
        assert Path(file.name).exists()


def test_a_backup_with_a_long_name_is_found_and_pruned(settings: Settings) -> None:
    long = replace(settings, sqlite="größe/" + "ж" * 70 + ".db")
    (settings.project / "größe").mkdir()
    write(long.sqlite_path, "CREATE TABLE album (title)", "INSERT INTO album VALUES ('long')")
    made = [dbops.backup(long, label="x" * 40, keep=2) for _ in range(3)]
    write(long.sqlite_path, "UPDATE album SET title = 'changed'")
    dbops.restore(upkeep.find_backup(long), long)

    assert title(long.sqlite_path) == "long"
    assert {b.name for b in made[1:]} == {b.name for b in dbops.list_backups(settings)}


@pytest.mark.parametrize("given", ["label", "stem", "beginning", "until the label", "of the label"])
def test_a_backup_is_named_by_its_label_or_its_beginning(settings: Settings, given: str) -> None:
    dbops.backup(settings, label="other")
    made = dbops.backup(settings, label="before-migration")
    stem = made.name.removesuffix(".sqlite3.zst")
    name = {
        "label": "before-migration",
        "stem": stem,
        "beginning": stem[:-5],
        "until the label": made.name[:-20],
        "of the label": "before-m",
    }[given]

    assert made.name == dbops.pin(name, settings).name
    assert made.name == dbops.verify(name, settings).name
    assert made.name == dbops.restore(name, settings).backup


def test_a_name_that_may_mean_several_is_an_error_that_lists_them(settings: Settings) -> None:
    made = [dbops.backup(settings, label="same") for _ in range(2)]
    for name in ("same", "shop"):
        with pytest.raises(SettingsError) as caught:
            dbops.restore(name, settings)
        assert all(b.name in str(caught.value) for b in made)
    (settings.project / "same2").write_bytes(b"")
    (settings.project / "other").write_bytes(b"")
    dbops.backup(settings, label="other")
    with pytest.raises(SettingsError, match="the file"):
        dbops.restore("other", settings)
    with pytest.raises(NotFound):
        dbops.restore("nothing-of-that-name", settings)


# -- empty and other odd values -----------------------------------------------------------

EMPTY = [
    ["db.restore", "--latest", "--yes", "--into", ""],
    ["db.restore", "--latest", "--yes", "--into", " "],
    ["db.restore", "--yes", "--backup", ""],
    ["db.restore", "--latest", "--yes", "--jobs", ""],
    ["db.restore", "--latest", "--yes", "--via", ""],
    ["db.backup", "--label", ""],
    ["db.backup", "--format", ""],
    ["db.backup", "--keep", ""],
    ["db.backup", "--via", ""],
    ["db.prune", "--keep", ""],
    ["db.prune", "--days", ""],
    ["db.pin", "--backup", ""],
    ["db.verify", "--backup", ""],
    ["postgres.logs", "--lines", ""],
]


@pytest.mark.slow
@pytest.mark.parametrize("task", EMPTY, ids=" ".join)
def test_an_empty_value_is_an_error_that_names_the_flag(
    settings: Settings, task: list[str]
) -> None:
    for _ in range(2):
        dbops.backup(settings)
    write(settings.sqlite_path, "UPDATE album SET title = 'second'")
    before = {b.name for b in dbops.list_backups(settings)}
    ended = invoke(settings.project, *task)

    assert ended.status == 2, ended.err
    assert task[-2] in ended.err
    assert ("second", before) == (
        title(settings.sqlite_path),
        {b.name for b in dbops.list_backups(settings)},
    )


GIVEN: dict[str, Callable[[Settings, Backup], object]] = {
    "into": lambda s, made: dbops.restore(made, s, into=""),
    "into a NUL": lambda s, made: dbops.restore(made, s, into="a\0b"),
    "into a folder": lambda s, made: dbops.restore(made, s, into=str(s.project)),
    "restore": lambda s, made: dbops.restore("", s),
    "verify": lambda s, made: dbops.verify("", s),
    "pin": lambda s, made: dbops.pin("", s),
    "label": lambda s, made: dbops.backup(s, label=""),
    "label of another type": lambda s, made: dbops.backup(s, label=5),  # type: ignore[arg-type]
    "format": lambda s, made: dbops.backup(s, format=""),
    "keep": lambda s, made: dbops.backup(s, keep=""),  # type: ignore[arg-type]
    "jobs": lambda s, made: dbops.restore(made, s, jobs=""),  # type: ignore[arg-type]
    "days": lambda s, made: dbops.prune(s, days=""),  # type: ignore[arg-type]
    "days below 0": lambda s, made: dbops.prune(s, days=-1),
}


@pytest.mark.parametrize("call", GIVEN.values(), ids=list(GIVEN))
def test_the_library_refuses_them_too(
    settings: Settings, call: Callable[[Settings, Backup], object]
) -> None:
    made = dbops.backup(settings)
    write(settings.sqlite_path, "UPDATE album SET title = 'second'")

    with pytest.raises(SettingsError):
        call(settings, made)

    assert title(settings.sqlite_path) == "second"
    assert len(dbops.list_backups(settings)) == 1


# -- what is confirmed is what is done ----------------------------------------------------


def swapped(made: Backup, other: Backup) -> None:
    os.replace(other.path, made.path)


def written_over(made: Backup, other: Backup) -> None:
    """In place, with the same length and the same time of the last change."""
    stat = made.path.stat()
    with made.path.open("r+b") as file:
        file.write(os.urandom(made.size))
    os.utime(made.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touched(made: Backup, other: Backup) -> None:
    made.path.unlink()


@posix
@pytest.mark.parametrize("change", [swapped, written_over, touched])
def test_a_backup_that_is_changed_while_the_question_waits_is_not_restored(
    settings: Settings, change: Callable[[Backup, Backup], None]
) -> None:
    made = dbops.backup(settings)
    write(settings.sqlite_path, "UPDATE album SET title = 'forged'")
    other = dbops.backup(settings)
    write(settings.sqlite_path, "UPDATE album SET title = 'second'")
    plan = plan_restore(made, settings)
    change(made, other)

    with pytest.raises(Refused, match="changed"):
        carry_out(plan)

    assert title(settings.sqlite_path) == "second"


def test_a_database_that_is_changed_while_the_question_waits_is_not_replaced(
    settings: Settings,
) -> None:
    made = dbops.backup(settings)
    plan = plan_restore(made, settings)
    settings.sqlite_path.rename(settings.project / "kept.db")
    with pytest.raises(Refused, match="in the meantime"):
        carry_out(plan)
    assert not settings.sqlite_path.exists()

    new = plan_restore(made, settings, into="new.db")
    write(settings.project / "new.db", "CREATE TABLE theirs (a)")
    with pytest.raises(Refused, match="in the meantime"):
        carry_out(new)

    (settings.project / "kept.db").rename(settings.sqlite_path)
    plan = plan_restore(made, settings)
    dbops.restore(made, settings)
    with pytest.raises(Refused, match="another restore"):
        carry_out(plan)


# -- the store ----------------------------------------------------------------------------


def test_the_store_is_kept_out_of_version_control(settings: Settings) -> None:
    subprocess.run(["git", "init", "-q"], cwd=settings.project, check=True)
    dbops.backup(settings)
    shown = subprocess.run(
        ["git", "status", "--porcelain", "-uall"],
        cwd=settings.project,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert "backups" not in shown
    (settings.backup_dir / ".gitignore").write_text("mine")
    dbops.backup(settings)
    assert (settings.backup_dir / ".gitignore").read_text() == "mine"


def test_a_folder_with_other_files_is_not_hidden(settings: Settings) -> None:
    here = replace(settings, backup_dir=settings.project)
    dbops.backup(here)

    assert not (settings.project / ".gitignore").exists()


@pytest.fixture
def read_only(unprivileged: Path) -> Settings:
    """A project whose store this user may read and not write."""
    settings = Settings(unprivileged, sqlite="shop.db", backup_dir=unprivileged / "backups")
    write(settings.sqlite_path, "CREATE TABLE album (title)", "INSERT INTO album VALUES ('first')")
    for _ in range(2):
        dbops.backup(settings)
    for path in settings.backup_dir.glob("*"):
        path.chmod(stat.S_IRUSR)
    settings.backup_dir.chmod(stat.S_IRUSR | stat.S_IXUSR)
    return settings


@posix
def test_a_store_that_cannot_be_written_to_is_read_from(
    read_only: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="repom")
    write(read_only.sqlite_path, "UPDATE album SET title = 'second'")

    assert len(dbops.list_backups(read_only)) == 2
    assert not dbops.verify(None, read_only).problems
    assert "Not recorded" in caplog.text
    dbops.restore(upkeep.find_backup(read_only), read_only)
    assert title(read_only.sqlite_path) == "first"
    dbops.undo(read_only)
    assert title(read_only.sqlite_path) == "second"
    for verb in (dbops.backup, dbops.prune):
        with pytest.raises(CommandFailed, match=str(read_only.backup_dir)):
            verb(read_only)
    read_only.backup_dir.chmod(0o700)


# -- dumps of other kinds -----------------------------------------------------------------

SQLITE_SCRIPT = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t(a);\nCOMMIT;\n"


@pytest.mark.parametrize("name", ["", "shop"], ids=["sqlite", "postgresql"])
def test_a_script_of_sqlites_shell_is_named_rightly(settings: Settings, name: str) -> None:
    (settings.project / "dump.sql").write_text(SQLITE_SCRIPT)
    settings = replace(settings, address=Address(database=name))

    with pytest.raises(Refused, match="SQLite's shell"):
        dbops.restore("dump.sql", settings)


def piped(settings: Settings, *args: str, file: Path) -> subprocess.CompletedProcess[str]:
    from tests.live.cli import environment

    with file.open("rb") as stream:
        return subprocess.run(
            [sys.executable, "-m", "invoke", "db.restore", "--backup", "-", *args],
            cwd=settings.project,
            env=environment(),
            stdin=stream,
            capture_output=True,
            text=True,
            timeout=60,
        )


def test_a_backup_comes_from_standard_input(settings: Settings, tmp_path: Path) -> None:
    made = dbops.backup(settings)
    write(settings.sqlite_path, "UPDATE album SET title = 'second'")

    asked = piped(settings, file=made.path)
    assert (asked.returncode, title(settings.sqlite_path)) == (5, "second"), asked.stderr
    assert "--yes" in asked.stderr
    done = piped(settings, "--yes", file=made.path)
    assert (done.returncode, title(settings.sqlite_path)) == (0, "first"), done.stderr
    into = piped(settings, "--into", "new.db", file=made.path)
    assert (into.returncode, title(settings.project / "new.db")) == (0, "first"), into.stderr
    empty = piped(settings, "--yes", file=Path(os.devnull))
    assert empty.returncode == 6, empty.stderr
    cut = tmp_path / "cut"
    cut.write_bytes(made.path.read_bytes()[:-9])
    assert piped(settings, "--yes", file=cut).returncode == 6
    assert title(settings.sqlite_path) == "first"


def test_into_what_does_not_exist_asks_nothing(settings: Settings) -> None:
    dbops.backup(settings)
    ended = invoke(settings.project, "db.restore", "--latest", "--into", "new.db")

    assert ended.status == 0, ended.err
    assert title(settings.project / "new.db") == "first"
    again = invoke(settings.project, "db.restore", "--latest", "--into", "new.db")
    assert again.status == 5


CONNECTED = """
from dataclasses import replace
from repom.tasks import ns
from repom.dbops.sqlite.sqlite import Sqlite

survey = Sqlite.survey
more = {"sessions": ("psql (ann)", "web (2)"), "notes": ("Owners change.",)}
Sqlite.survey = lambda self: replace(survey(self), **more)
"""


@pytest.mark.parametrize("task", [["db.restore", "--latest"], ["db.undo"]], ids=" ".join)
def test_the_question_says_who_is_connected_and_what_else_changes(
    settings: Settings, task: list[str]
) -> None:
    dbops.restore(dbops.backup(settings), settings)
    (settings.project / "tasks.py").write_text(CONNECTED)
    asked = invoke(settings.project, *task)

    assert asked.status == 5
    assert "psql (ann), web (2)" in asked.err
    assert "Owners change." in asked.err


# -- a dry run ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [
        ["db.backup"],
        ["db.verify"],
        ["db.verify", "--drill"],
        ["db.pin", "--backup", "one"],
        ["db.prune", "--keep", "1"],
        ["db.prune", "--keep", "1", "--all-servers"],
        ["db.undo"],
        ["db.restore", "--latest"],
    ],
    ids=" ".join,
)
def test_a_dry_run_claims_nothing(settings: Settings, task: list[str]) -> None:
    for label in ("one", "two"):
        made = dbops.backup(settings, label=label)
    dbops.restore(made, settings)
    ended = invoke(settings.project, "--dry", *task)

    assert ended.status == 0, ended.err
    assert "Would " in ended.err
    for claim in ("is pinned", "drill (", "drill,", " deleted\n", "archive"):
        assert claim not in ended.out.replace("would be deleted", "")


def test_only_damage_is_damage(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    made = dbops.backup(settings)

    def failing(*_given: object) -> None:
        raise CommandFailed("cat: write error")

    monkeypatch.setattr("repom.dbops.sqlite.sqlite.Sqlite.read", failing)
    with pytest.raises(CommandFailed) as caught:
        dbops.verify(None, settings)

    assert caught.value.exit_status == 1
    assert made.verified == dbops.list_backups(settings)[0].verified
    assert made.name == upkeep.find_backup(settings).name


def test_two_restores_at_once_are_one(settings: Settings) -> None:
    """Whichever comes second finds the lock, or what the first one changed."""
    made = dbops.backup(settings)
    plans = [plan_restore(made, settings) for _ in range(4)]
    ended: list[object] = []

    def run(plan: Any) -> None:
        try:
            ended.append(carry_out(plan))
        except RepomError as error:
            ended.append(error)

    threads = [threading.Thread(target=run, args=(plan,)) for plan in plans]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len([e for e in ended if isinstance(e, Refused)]) == 3, ended
