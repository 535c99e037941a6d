"""A store: a name never stands for half a backup, and what is not repom's stays."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from repom.dbops.database import Facts
from repom.dbops.files import remove
from repom.dbops.store.backup import Origin
from repom.dbops.store.manifest import read
from repom.dbops.store.retention import plan
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, NotFound
from tests import requires
from tests.dbops.store.making import NOW, SHOP, draft, make, names

FOREIGN = (
    "shop.dump",
    "shop_2026-02-24.dump",
    "shop_20260224T150000.dump",
    "shop_20260224T150000Z.sql",
    "shop_20260224T150000Z.dump.bak",
    "_20260224T150000Z.dump",
    ".shop_20260224T150000Z.dump.partial",
    "shop_20260224T150000Z_a b.dump",
    "sh op_20260224T150000Z.dump",
    "notes.json",
)


def test_files_that_repom_could_not_have_named_are_not_seen_and_not_touched(target: Store) -> None:
    target.folder.mkdir()
    for name in FOREIGN:
        (target.folder / name).write_bytes(b"theirs")
    make(target, when=NOW)
    newest = make(target, when=NOW + timedelta(seconds=1))
    for gone, _reason in plan(target.backups(), keep=1).deleted:
        target.delete(gone)

    assert [newest.name] == [b.name for b in target.backups()]
    assert {*FOREIGN, newest.name, newest.manifest.name} == names(target)


# -- writing ------------------------------------------------------------------------------


def test_a_published_backup_is_what_was_written_and_said(target: Store) -> None:
    facts = Facts("17.2", 8, 3, roles=("ann",), locale={"encoding": "UTF8"}, migration="a1")
    origin = Origin("abc", "container db", "/here", {"keep": 3})
    made = make(
        target, content=bytes(range(256)), host="db.example.com", facts=facts, origin=origin
    )

    assert bytes(range(256)) == made.path.read_bytes()
    assert (made.size, made.verified, made.is_verified) == (256, ("complete", "sha256"), True)
    assert made == read(made.path)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folder_and_files_are_their_owners_alone_whatever_the_umask(
    target: Store, umask: int
) -> None:
    before = os.umask(umask)
    try:
        made = make(target)
    finally:
        os.umask(before)

    paths = (target.folder, made.path, made.manifest)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o700, 0o600, 0o600]


def test_while_it_is_written_a_backup_is_a_private_partial_file(target: Store) -> None:
    with target.writing("shop_20260224T150000Z.dump") as file:
        file.write(b"half")
        file.flush()

        assert {".shop_20260224T150000Z.dump.partial"} == names(target)
        assert target.backups() == []
        assert stat.S_IMODE(Path(file.name).stat().st_mode) == 0o600 or os.name == "nt"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, CommandFailed])
def test_a_failure_leaves_no_file(target: Store, error: type[BaseException]) -> None:
    with pytest.raises(error), target.writing("shop_20260224T150000Z.dump") as file:
        file.write(b"half")
        raise error("in the middle")

    assert set() == names(target)


def test_a_failure_of_the_rename_leaves_no_manifest(target: Store) -> None:
    name = "shop_20260224T150000Z.dump"
    with pytest.raises(CommandFailed), target.writing(name) as file:
        file.write(b"content")
        Path(file.name).unlink()  # somebody cleans up
        target.publish(file, draft(target, name))

    assert set() == names(target)


def test_a_backup_that_appeared_meanwhile_is_not_overwritten(target: Store) -> None:
    name = "shop_20260224T150000Z.dump"
    with pytest.raises(CommandFailed), target.writing(name) as file:
        file.write(b"mine")
        (target.folder / name).write_bytes(b"theirs")
        target.publish(file, draft(target, name))

    assert (target.folder / name).read_bytes() == b"theirs"
    assert {name} == names(target)


def test_a_partial_file_of_that_name_is_not_overwritten_and_not_followed(target: Store) -> None:
    target.folder.mkdir()
    victim = target.folder.parent / "victim"
    (target.folder / ".shop_20260224T150000Z.dump.partial").symlink_to(victim)

    with pytest.raises(CommandFailed), target.writing("shop_20260224T150000Z.dump"):
        raise AssertionError("the file was opened")

    assert not victim.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(CommandFailed) as caught, Store(tmp_path / "file/backups").writing("x"):
        pass

    assert str(tmp_path / "file/backups") in caught.value.message
    assert "REPOM_BACKUP_DIR" in caught.value.hint


def test_no_space_left_says_what_to_do(tmp_path: Path) -> None:
    full = Path("/dev/full")
    requires.need(full.exists(), "/dev/full")

    def write(file: BinaryIO) -> None:
        with full.open("wb", buffering=0) as device:
            device.write(file.name.encode())

    with pytest.raises(CommandFailed) as caught, Store(tmp_path / "b").writing("x") as file:
        write(file)

    assert "Free some space" in caught.value.hint


# -- reading ------------------------------------------------------------------------------


def test_a_backup_is_found_by_its_name_before_a_file_of_the_working_folder(
    target: Store,
) -> None:
    made = make(target)
    Path(made.name).write_bytes(b"not this one")

    assert made == target.find(made.name)


def test_any_file_is_found_by_its_path(target: Store, tmp_path: Path) -> None:
    (tmp_path / "theirs.sql").write_bytes(b"SELECT 1;")

    found = target.find("theirs.sql")

    assert (tmp_path / "theirs.sql", "", False) == (found.path, found.backend, found.is_verified)


@pytest.mark.parametrize("name", ["nope", "shop_20260224T150000Z.dump", "../x", "/", "a\0b"])
def test_what_is_not_there_is_not_found(target: Store, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        target.find(name)

    assert caught.value.exit_status == 4


def test_links_in_the_store_are_not_backups(target: Store, tmp_path: Path) -> None:
    made = make(target)
    moved = tmp_path / "elsewhere.dump"
    made.path.rename(moved)
    made.path.symlink_to(moved)

    assert target.backups() == []
    with pytest.raises(NotFound):
        target.find(made.name)


def test_a_store_that_is_not_there_is_empty(target: Store) -> None:
    assert target.backups() == []
    with pytest.raises(NotFound, match="no verified backup of shop"):
        target.latest(SHOP)


def test_the_times_of_the_files_do_not_count(target: Store) -> None:
    old = make(target)
    new = make(target, when=NOW + timedelta(days=1))
    os.utime(old.path, (2e9, 2e9))
    os.utime(new.path, (1e9, 1e9))

    assert [new, old] == target.backups(SHOP)


def test_the_latest_is_the_newest_that_is_proven(target: Store) -> None:
    proven = make(target)
    make(target, when=NOW + timedelta(days=1)).manifest.unlink()
    make(target, when=NOW + timedelta(days=2)).manifest.write_bytes(b"damaged")

    assert proven == target.latest(SHOP)


def test_the_latest_is_neither_partial_nor_pulled(target: Store) -> None:
    whole = make(target)
    make(target, when=NOW + timedelta(hours=1), partial=("log_*",))
    make(target, when=NOW + timedelta(hours=2), pulled=True)

    assert target.latest(SHOP) == whole
    target.delete(whole)
    with pytest.raises(NotFound, match=r"shop_.* is pulled from another server"):
        target.latest(SHOP)


def test_the_latest_of_a_new_server_is_the_one_of_the_old_server(target: Store) -> None:
    there = make(target, host="db.example.com", facts=Facts(system_identifier="1"))
    assert target.latest(SHOP, system=lambda: "2") == there

    here = make(target, when=NOW - timedelta(days=1), facts=Facts(system_identifier="2"))
    assert target.latest(SHOP, system=lambda: "2") == here
    assert target.latest(SHOP) == here
    assert target.latest(("postgresql", "shop", "db.example.com")) == there


def test_the_same_name_elsewhere_is_another_database(target: Store) -> None:
    here = make(target)
    there = make(target, host="db.example.com")
    file = make(target, backend="sqlite")

    assert [here] == target.backups(SHOP)
    assert [there] == target.backups(("postgresql", "shop", "db.example.com"))
    assert [file] == target.backups(("sqlite", "shop", None))


# -- deleting -----------------------------------------------------------------------------


def test_a_deleted_backup_takes_its_manifest_along(target: Store) -> None:
    target.delete(make(target))

    assert set() == names(target)


def test_a_backup_that_cannot_be_deleted_stays_one(
    target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(target)

    def refused(path: Path) -> None:
        if path == made.path:
            raise PermissionError(1, "Operation not permitted")
        remove(path)

    monkeypatch.setattr("repom.dbops.store.storage.remove", refused)
    with pytest.raises(CommandFailed):
        target.delete(made)

    assert [made] == target.backups()


def test_a_deletion_that_was_killed_leaves_nothing_that_the_next_run_does_not_sweep(
    target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(target)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("repom.dbops.store.storage.sync_folder", interrupted)
        target.delete(made)

    assert target.backups() == []
    target.sweep("shop")
    assert set() == names(target)


def interrupted(_path: Path) -> None:
    raise KeyboardInterrupt


def test_deleting_what_is_gone_is_no_error(target: Store) -> None:
    made = make(target)
    made.path.unlink()
    target.delete(made)

    assert set() == names(target)


# -- what killed runs leave ---------------------------------------------------------------


LEFT = (
    ".shop_20260224T150000Z.dump.partial",
    ".shop_20260224T150000Z-2_label.sql.gz.partial",
    ".shop_20260224T150000Z.dump.json.partial",
    ".shop_20260224T150000Z.sqlite3.zst.partial.copy.partial",
    ".shop_20260224T150000Z.sqlite3.zst.partial.copy.partial-wal",
    ".shop_20260224T150000Z.sqlite3.zst.partial.copy.partial-shm",
    ".shop_20260224T150000Z.sqlite3.zst.partial.copy.partial-journal",
    "shop_20260224T150000Z.dump.json",
)


@pytest.mark.parametrize("name", LEFT)
def test_what_a_killed_run_left_is_swept(target: Store, name: str) -> None:
    target.folder.mkdir()
    (target.folder / name).touch()
    target.sweep("shop")

    assert set() == names(target)


@pytest.mark.parametrize("name", [*LEFT, *FOREIGN])
def test_sweeping_one_database_leaves_everything_else(target: Store, name: str) -> None:
    target.folder.mkdir()
    (target.folder / name).touch()
    target.sweep("shop_test")
    target.sweep("sho")

    assert {name} == names(target)


def test_sweeping_leaves_backups_and_what_is_nobodys(target: Store) -> None:
    made = make(target)
    theirs = ("other.partial", ".notes.partial", "shop.json", ".shop.json.partial")
    for name in theirs:
        (target.folder / name).touch()
    target.sweep("shop")

    assert {made.name, made.manifest.name, *theirs} == names(target)


def test_sweeping_a_store_that_is_not_there_makes_none(target: Store) -> None:
    target.sweep("shop")

    assert not target.folder.exists()
