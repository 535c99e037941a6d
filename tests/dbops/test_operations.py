"""The use cases, on SQLite: whole or not at all, and never the wrong database."""

from __future__ import annotations

import gzip
import logging
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from repom import dbops
from repom.dbops import upkeep
from repom.dbops.restore import plan_restore
from repom.dbops.store import store
from repom.dbops.store.backup import Backup
from repom.dbops.undo import look
from repom.errors import (
    CommandFailed,
    Damaged,
    NoSpace,
    NotFound,
    Refused,
    RepomError,
    SettingsError,
)
from repom.settings import Settings
from repom.settings.address import Address
from tests.dbops.store.making import holder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ROOT = Path(__file__).parents[2]
Change = Callable[[bytes], bytes]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    found = Settings(tmp_path, sqlite="shop.db", backup_dir=tmp_path / "backups")
    write(found, "CREATE TABLE album (title)", "INSERT INTO album VALUES ('first')")
    return found


@pytest.fixture
def postgresql(settings: Settings) -> Settings:
    """A server that nobody asks: whatever is refused is refused before."""
    return replace(settings, address=Address(user="ann", database="shop"), via="host")


def write(settings: Settings, *statements: str) -> None:
    with closing(sqlite3.connect(settings.sqlite_path)) as database, database:
        for statement in statements:
            database.execute(statement)


def rename(settings: Settings, title: str) -> None:
    write(settings, f"UPDATE album SET title = '{title}'")


def title(settings: Settings) -> str:
    with closing(sqlite3.connect(settings.sqlite_path)) as database:
        return str(database.execute("SELECT title FROM album").fetchone()[0])


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for what keeps the store locked and out of Git."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".lock", ".holder") and path.name != ".gitignore"
    }


def stored(settings: Settings) -> set[str]:
    return {backup.name for backup in dbops.list_backups(settings)}


# -- backup -------------------------------------------------------------------------------


def test_a_backup_is_in_the_store_and_proven(settings: Settings) -> None:
    made = dbops.backup(settings, label="first")

    assert [made.as_json()] == [backup.as_json() for backup in dbops.list_backups(settings)]
    assert (
        made.backend,
        made.database,
        made.format,
        made.via,
        made.label,
    ) == ("sqlite", "shop.db", "sqlite", "file", "first")
    assert (made.path.stat().st_size, True) == (made.size, made.is_verified)
    assert sqlite3.sqlite_version == made.server_version == made.tool_version
    assert {made.name, made.manifest.name} == files(settings.backup_dir).keys()


def test_the_library_prints_nothing_and_asks_nothing(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    dbops.undo(settings)
    dbops.verify(made.name, settings)
    dbops.prune(settings)

    assert capfd.readouterr() == ("", "")


def test_without_settings_those_of_the_working_directory_hold(settings: Settings) -> None:
    Path(".env").write_text("DATABASE_URL=sqlite:///shop.db\n")

    made = dbops.backup()
    rename(settings, "second")
    dbops.restore(made.name)

    assert (settings.backup_dir, "first") == (made.path.parent, title(settings))


def test_the_newest_backups_of_this_database_stay(settings: Settings) -> None:
    other = replace(settings, sqlite="shop_test.db")
    write(other, "CREATE TABLE album (title)")
    theirs = [dbops.backup(other).name for _ in range(2)]
    made = [dbops.backup(settings, keep=2).name for _ in range(4)]

    assert {*made[2:], *theirs} == stored(settings)


def test_a_pinned_backup_stays_on_top(settings: Settings) -> None:
    first = dbops.backup(settings).name
    dbops.pin(first, settings)
    made = [dbops.backup(settings, keep=1).name for _ in range(2)]

    assert {first, made[-1]} == stored(settings)
    dbops.pin(first, settings, off=True)
    assert {made[-1]} == {b.name for b, _reason in dbops.prune(settings, keep=1).kept}


@pytest.mark.parametrize(
    "loss", ["DROP TABLE album", "DELETE FROM album"], ids=["no table left", "hardly a byte left"]
)
def test_a_backup_that_has_lost_most_pushes_nothing_out(
    settings: Settings, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    write(settings, "INSERT INTO album SELECT hex(randomblob(60000))")
    before = dbops.backup(settings, keep=1)
    write(settings, loss)
    with closing(sqlite3.connect(settings.sqlite_path)) as database:
        database.execute("VACUUM")
    after = dbops.backup(settings, keep=1)

    assert {before.name, after.name} == stored(settings)
    assert "nothing was pruned" in caplog.text


def test_a_backup_is_made_also_when_the_folder_cannot_be_pruned(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(*_given: object, **_how: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("repom.dbops.store.retention.plan", failing)

    assert dbops.backup(settings).is_verified
    assert "not pruned: Input/output error" in caplog.text


def test_a_disk_that_is_full_says_nothing_of_the_backup(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dbops.backup(settings)
    monkeypatch.setattr("repom.dbops.files.SPARE", 1 << 62)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1, total=1 << 62)
    )
    with pytest.raises(NoSpace):
        dbops.verify(None, settings)

    assert made.verified == dbops.list_backups(settings)[0].verified


@pytest.fixture
def other(settings: Settings) -> Settings:
    """Another project, with a database of the same name and the same folder of backups."""
    elsewhere = settings.project / "other"
    elsewhere.mkdir()
    found = replace(settings, project=elsewhere)
    write(found, "CREATE TABLE t (n)")
    return found


def test_two_projects_with_one_folder_leave_each_others_backups_alone(
    settings: Settings, other: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = {dbops.backup(other).name for _ in range(2)}
    mine = [dbops.backup(settings, keep=1).name for _ in range(3)]

    assert "they belong to another server or project" in caplog.text
    assert theirs | {mine[-1]} == stored(settings)
    assert [b.name for b, _ in dbops.prune(settings, keep=1).deleted] == []
    assert len(dbops.prune(other, keep=1).deleted) == 1


def test_the_latest_is_not_another_projects(
    settings: Settings, other: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = other.project
    mine = dbops.backup(settings)
    theirs = dbops.backup(other)

    assert mine.name == upkeep.find_backup(settings).name
    assert f"Left out: {theirs.name} (made in {elsewhere})" in caplog.text
    store.Store(settings.backup_dir).delete(mine)
    assert theirs.name == upkeep.find_backup(settings).name
    assert f"{theirs.name} is a backup of the project in {elsewhere}" in caplog.text
    assert list(dbops.prune(settings, keep=1).deleted) == []
    shutil.rmtree(elsewhere)  # it was moved here
    assert theirs.name == upkeep.find_backup(settings).name


def test_a_file_of_another_length_is_not_listed_as_verified(settings: Settings) -> None:
    made = dbops.backup(settings)
    made.path.write_bytes(made.path.read_bytes()[:-1])

    assert [b.verified for b in dbops.list_backups(settings)] == [()]


def test_what_is_only_put_aside_is_not_said_to_push_a_kept_one_out(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="repom")
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    settings.sqlite_path.write_bytes(b"junk" * 300)
    dbops.restore(made, settings)

    assert "Deleting the older undo copy" not in caplog.text
    assert len(look(settings).kept) == 1
    dbops.restore(made, settings)
    assert "Deleting the older undo copy" in caplog.text


def test_an_in_place_restore_of_sqlite_is_kept_for_an_undo_like_any_other(
    settings: Settings,
) -> None:
    settings = replace(settings, undo_keep=2)
    made = dbops.backup(settings)
    for text in ("second", "third"):
        rename(settings, text)
        assert dbops.restore(made, settings, in_place=True).replaced

    assert len(look(settings).kept) == 2


def test_what_backup_returns_can_be_verified_and_pinned(settings: Settings) -> None:
    made = dbops.backup(settings)

    assert not dbops.verify(made, settings).problems
    assert dbops.pin(made, settings).pinned


def test_a_backup_from_the_future_is_told_and_not_deleted(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    made = dbops.backup(settings)
    ahead = replace(made, created_at=made.created_at + timedelta(days=3650))
    store.Store(settings.backup_dir).update(ahead)
    after = dbops.backup(settings, keep=1)

    assert f"{made.name} is dated in the future" in caplog.text
    assert after.name == upkeep.find_backup(settings).name
    assert [b.name for b, _ in dbops.prune(settings, keep=1).deleted] == []
    assert {made.name, after.name} == stored(settings)


def test_the_manifest_says_where_a_backup_comes_from(settings: Settings) -> None:
    origin = dbops.backup(replace(settings, address=Address(password="canary"), keep=3)).origin

    assert str(settings.project) == origin.project
    assert tuple(origin.settings[k] for k in ("format", "keep", "host")) == ("custom", 3, None)
    assert "canary" not in str(origin)


BROKEN = {
    "missing": (None, NotFound),
    "empty": (b"", CommandFailed),
    "no database": (b"junk" * 300, CommandFailed),
}


@pytest.mark.parametrize(("content", "error"), BROKEN.values(), ids=list(BROKEN))
def test_a_failed_backup_writes_nothing_and_deletes_nothing(
    settings: Settings, content: bytes | None, error: type[RepomError]
) -> None:
    for _ in range(2):
        dbops.backup(settings)
    settings.sqlite_path.unlink()
    if content is not None:
        settings.sqlite_path.write_bytes(content)
    before = files(settings.project)

    with pytest.raises(error):
        dbops.backup(settings, keep=1)

    assert before == files(settings.project)


@pytest.mark.parametrize(
    "given", [{"label": "a b"}, {"keep": 0}, {"format": "tar"}, {"via": "ssh"}], ids=str
)
def test_a_wrong_value_is_refused_before_anything_is_written(
    settings: Settings, given: dict[str, object]
) -> None:
    before = files(settings.project)

    with pytest.raises(SettingsError):
        dbops.backup(settings, **given)  # type: ignore[arg-type]

    assert before == files(settings.project)


def test_a_backup_folder_that_cannot_be_written_is_named(unprivileged: Path) -> None:
    settings = Settings(unprivileged, sqlite="shop.db", backup_dir=unprivileged / "backups")
    write(settings, "CREATE TABLE album (title)")
    settings.backup_dir.mkdir(mode=0o500)

    with pytest.raises(CommandFailed, match=str(settings.backup_dir)) as caught:
        dbops.backup(settings)

    assert "REPOM_BACKUP_DIR" in caught.value.hint


# -- restore ------------------------------------------------------------------------------


NAMED: dict[str, Callable[[Backup], str | Path | Backup]] = {
    "object": lambda made: made,
    "name": lambda made: made.name,
    "path": lambda made: f"backups/{made.name}",
    "absolute path": lambda made: made.path,
}


@pytest.mark.parametrize("named", NAMED.values(), ids=list(NAMED))
def test_a_backup_is_restored_by_its_name_or_path(
    settings: Settings, named: Callable[[Backup], str | Path | Backup]
) -> None:
    made = dbops.backup(settings)
    rename(settings, "second")

    done = dbops.restore(named(made), settings)

    assert title(settings) == "first"
    assert ("shop.db", made.name) == (done.database, done.backup)
    assert done.replaced
    assert title(replace(settings, sqlite=done.replaced)) == "second"


FOREIGN: dict[str, Change] = {
    "theirs.sqlite3": lambda content: content,
    "theirs.sqlite3.gz": gzip.compress,
    "theirs.sqlite3.zst": zstd.compress,
    "no extension": zstd.compress,
    "wrong.sql": gzip.compress,
}


@pytest.mark.parametrize(("name", "packed"), FOREIGN.items(), ids=list(FOREIGN))
def test_any_sqlite_file_is_restored_whatever_its_name(
    settings: Settings, tmp_path: Path, name: str, packed: Change
) -> None:
    (tmp_path / name).write_bytes(packed(settings.sqlite_path.read_bytes()))
    rename(settings, "second")

    assert plan_restore(name, settings).foreign
    dbops.restore(name, settings)
    assert title(settings) == "first"


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"PGDMP\x01\x10\x00" + bytes(200), Refused, "PostgreSQL, and the database is SQLite"),
        (b"SELECT 1;\n", Refused, "PostgreSQL, and the database is SQLite"),
        (gzip.compress(b"SELECT 1;\n"), Refused, "PostgreSQL, and the database is SQLite"),
        (b"", Damaged, "empty"),
        (b"\x00\xff" * 99, Damaged, "unrecognized"),
        (b"SQLite format 3\x00" + b"\xff" * 900, Damaged, "damaged|no SQLite database"),
        (zstd.compress(b"SQLite format 3\x00" + bytes(9000))[:-9], Damaged, "cut short"),
    ],
    ids=["custom", "plain", "plain in gzip", "empty", "noise", "a head alone", "cut short"],
)
def test_what_cannot_be_restored_changes_nothing(
    settings: Settings, tmp_path: Path, content: bytes, error: type[RepomError], said: str
) -> None:
    (tmp_path / "theirs").write_bytes(content)
    before = files(settings.project)

    with pytest.raises(error, match=said):
        dbops.restore("theirs", settings)

    assert before == files(settings.project)


def test_a_backup_of_sqlite_does_not_go_into_postgresql(
    settings: Settings, postgresql: Settings
) -> None:
    made = dbops.backup(settings)

    with pytest.raises(Refused, match="SQLite, and the database is PostgreSQL"):
        dbops.restore(made, postgresql)


def test_a_restore_on_another_machine_must_be_meant(postgresql: Settings) -> None:
    Path("theirs.sql").write_text("SELECT 1;\n")

    with pytest.raises(Refused, match=r"db\.example\.com") as caught:
        dbops.restore(
            "theirs.sql", replace(postgresql, address=Address("db.example.com", database="shop"))
        )

    assert "--remote" in caught.value.hint


def test_an_undo_on_another_machine_must_be_meant(postgresql: Settings) -> None:
    with pytest.raises(Refused, match=r"db\.example\.com") as caught:
        dbops.undo(replace(postgresql, address=Address("db.example.com", database="shop")))

    assert "--remote" in caught.value.hint


DAMAGE: dict[str, Change] = {
    "a flipped bit": lambda content: content[:-30] + bytes([content[-30] ^ 1]) + content[-29:],
    "cut short": lambda content: content[:-1],
    "longer": lambda content: content + b"\0",
    "empty": lambda content: b"",
    "another": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("change", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_backup_is_found_before_anything_is_touched(
    settings: Settings, change: Change
) -> None:
    made = dbops.backup(settings)
    made.path.write_bytes(change(made.path.read_bytes()))
    rename(settings, "second")
    before = files(settings.project)

    with pytest.raises(Damaged) as caught:
        dbops.restore(made.name, settings)

    assert caught.value.exit_status == 6
    assert before == files(settings.project)


def test_a_restore_into_a_new_file_leaves_the_database_alone(settings: Settings) -> None:
    made = dbops.backup(settings)
    rename(settings, "second")

    done = dbops.restore(made, settings, into="copy.db")

    assert (title(settings), title(replace(settings, sqlite="copy.db"))) == ("second", "first")
    assert done.replaced is None


def test_a_restore_into_something_that_exists_is_refused(settings: Settings) -> None:
    made = dbops.backup(settings)
    before = files(settings.project)

    with pytest.raises(Refused, match="exists already"):
        dbops.restore(made, settings, into="shop.db")

    assert before == files(settings.project)


def test_a_database_that_is_gone_comes_back(settings: Settings) -> None:
    made = dbops.backup(settings)
    settings.sqlite_path.unlink()

    assert dbops.restore(made, settings).replaced is None
    assert title(settings) == "first"


def test_a_backup_of_another_database_may_be_restored(settings: Settings) -> None:
    made = dbops.backup(settings)
    other = replace(settings, sqlite="other.db")
    write(other, "CREATE TABLE album (title)", "INSERT INTO album VALUES ('theirs')")

    dbops.restore(made, other)

    assert (title(other), title(settings)) == ("first", "first")


# -- undo ---------------------------------------------------------------------------------


def test_an_undo_is_its_own_inverse(settings: Settings) -> None:
    made = dbops.backup(settings)
    rename(settings, "second")
    dbops.restore(made, settings)

    seen = []
    for _ in range(4):
        dbops.undo(settings)
        seen.append(title(settings))
        assert len(look(settings).kept) == 1

    assert seen == ["second", "first", "second", "first"]


def test_nothing_to_undo_is_4(settings: Settings) -> None:
    dbops.backup(settings)

    with pytest.raises(NotFound, match=r"There is no undo copy of shop\.db") as caught:
        dbops.undo(settings)

    assert caught.value.exit_status == 4


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_as_many_replaced_databases_are_kept_as_configured(settings: Settings, keep: int) -> None:
    settings = replace(settings, undo_keep=keep)
    made = dbops.backup(settings)
    for number in range(4):
        rename(settings, f"number {number}")
        going = plan_restore(made, settings).to_delete
        done = dbops.restore(made, settings)

        assert (1 if keep and number >= keep else 0) == len(going)

    kept = look(settings).kept
    assert keep == len(kept)
    assert (kept[0].name if keep else None) == done.replaced
    assert [f"number {n}" for n in (3, 2, 1)][:keep] == [
        title(replace(settings, sqlite=each.name)) for each in kept
    ]


# -- verify, prune and pin ----------------------------------------------------------------


def test_a_good_backup_passes_and_that_is_written_down(settings: Settings) -> None:
    made = dbops.backup(settings)

    found = dbops.verify(None, settings)

    assert (made.name, ()) == (found.name, found.problems)
    assert {"complete", "sha256", "archive"} == set(found.verified)
    assert found.verified == dbops.list_backups(settings)[0].verified


def test_a_drill_restores_for_real_and_leaves_nothing(settings: Settings) -> None:
    dbops.backup(settings)
    rename(settings, "second")
    before = files(settings.project).keys()

    found = dbops.verify(None, settings, drill=True)

    assert "drill" in found.verified
    assert found.rows == {"album": 1}
    assert ("second", before) == (title(settings), files(settings.project).keys())


@pytest.mark.parametrize("change", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_backup_no_longer_counts(settings: Settings, change: Change) -> None:
    good, bad = dbops.backup(settings), dbops.backup(settings)
    bad.path.write_bytes(change(bad.path.read_bytes()))

    found = dbops.verify(bad.name, settings)

    assert found.verified == ()
    assert found.problems
    assert [b.is_verified for b in dbops.list_backups(settings)] == [False, True]
    assert good.name == dbops.verify(None, settings).name


def test_a_backup_that_was_repaired_counts_again(settings: Settings) -> None:
    made = dbops.backup(settings)
    content = made.path.read_bytes()
    made.path.write_bytes(content[:-1] + b"?")
    assert dbops.verify(made.name, settings).problems
    made.path.write_bytes(content)
    assert dbops.verify(made.name, settings).problems == ()
    assert dbops.list_backups(settings)[0].is_verified


def test_a_file_from_elsewhere_is_read_and_never_proven(settings: Settings) -> None:
    Path("theirs").write_bytes(settings.sqlite_path.read_bytes())
    before = files(settings.project).keys()

    found = dbops.verify("theirs", settings)

    assert (found.verified, found.problems) == (("archive",), ())
    assert before == files(settings.project).keys()


def test_what_is_not_there_cannot_be_verified_pinned_or_restored(settings: Settings) -> None:
    use: list[Callable[[], object]] = [
        lambda: dbops.verify(None, settings),
        lambda: dbops.verify("nothing", settings),
        lambda: dbops.pin("nothing", settings),
        lambda: dbops.restore("nothing", settings),
    ]
    for each in use:
        with pytest.raises(NotFound):
            each()


def test_a_backup_without_a_manifest_cannot_be_pinned(settings: Settings) -> None:
    made = dbops.backup(settings)
    made.manifest.unlink()

    with pytest.raises(Refused, match="not a verified backup"):
        dbops.pin(made.name, settings)


def test_prune_says_what_stays_and_what_goes_and_why(settings: Settings) -> None:
    made = [dbops.backup(settings).name for _ in range(3)]

    done = dbops.prune(settings, keep=1)

    assert [made[2]] == [b.name for b, _reason in done.kept]
    assert {made[0], made[1]} == {b.name for b, _reason in done.deleted}
    assert all(reason for _backup, reason in (*done.kept, *done.deleted))
    assert {made[2]} == stored(settings)


# -- a dry run ----------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_says_what_it_would_do(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="repom")
    made = [dbops.backup(settings) for _ in range(2)]
    rename(settings, "second")
    dbops.restore(made[0], settings)
    before, dry = files(settings.project), replace(settings, dry=True)

    planned = dbops.backup(dry)
    dbops.restore(made[0], dry)
    dbops.undo(dry)
    going = dbops.prune(dry, keep=1).deleted
    dbops.verify(None, dry)

    assert before == files(settings.project)
    assert [made[0].name] == [b.name for b, _reason in going]
    for said in (planned.name, f"Would restore {made[0].path}", "Would put"):
        assert said in caplog.text


def test_a_dry_run_in_a_fresh_project_makes_no_folder(settings: Settings) -> None:
    dry = replace(settings, dry=True)
    dbops.backup(dry)
    dbops.prune(dry)

    assert [path.name for path in settings.project.iterdir()] == ["shop.db"]


def test_a_dry_pin_pins_nothing(settings: Settings) -> None:
    made = dbops.backup(settings)
    dbops.pin(made.name, replace(settings, dry=True))

    assert [b.pinned for b in dbops.list_backups(settings)] == [False]


# -- one at a time ------------------------------------------------------------------------


WORK: dict[str, Callable[[Settings, Backup], object]] = {
    "backup": lambda settings, made: dbops.backup(settings),
    "restore": lambda settings, made: dbops.restore(made, settings),
    "undo": lambda settings, made: dbops.undo(settings),
    "prune": lambda settings, made: dbops.prune(settings),
    "drill": lambda settings, made: dbops.verify(made.name, settings, drill=True),
}


@pytest.mark.parametrize("work", WORK.values(), ids=list(WORK))
def test_while_another_is_at_work_nothing_is_done(
    settings: Settings, work: Callable[[Settings, Backup], object]
) -> None:
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    rename(settings, "second")
    before = files(settings.project)

    with (
        holder(settings.backup_dir, "shop.db"),
        pytest.raises(Refused, match=r"using shop\.db") as caught,
    ):
        work(settings, made)

    assert caught.value.exit_status == 5
    assert before == files(settings.project)


def test_a_backup_is_not_restored_while_prune_of_its_database_is_at_work(
    settings: Settings,
) -> None:
    made = dbops.backup(settings)

    with holder(settings.backup_dir, "shop.db"), pytest.raises(Refused, match=r"using shop\.db"):
        dbops.restore(made, replace(settings, sqlite="other.db"))


def test_other_databases_of_the_store_can_be_worked_on(settings: Settings) -> None:
    with holder(settings.backup_dir, "shop.d"), holder(settings.backup_dir, "shop.db2"):
        assert dbops.backup(settings).is_verified


def test_what_a_killed_run_left_goes_with_the_next_backup(settings: Settings) -> None:
    first = dbops.backup(settings)
    left = settings.backup_dir / f".{first.name}.partial"
    left.write_bytes(b"half")
    dbops.backup(settings)

    assert not left.exists()
