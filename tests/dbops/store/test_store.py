from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from repom.dbops.database import Facts
from repom.dbops.files import remove
from repom.dbops.store import backup
from repom.dbops.store.backup import Backup, Drill, Origin
from repom.dbops.store.manifest import check, checksum, guess, read, spelled
from repom.dbops.store.names import encoded
from repom.dbops.store.retention import plan_prune
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, Damaged, NotFound, Refused, SettingsError
from tests import requires

NOW = datetime(2026, 2, 24, 15, 0, 0, tzinfo=UTC)
SHOP = ("postgresql", "shop", None)
posix = pytest.mark.skipif(os.name != "posix", reason="modes of files are POSIX's")


def draft(target: Store, name: str, database: str = "shop", **more: object) -> Backup:
    known: dict[str, object] = {"backend": "postgresql", "format": "custom", "created_at": NOW}
    return Backup(name, target.folder / name, database, size=0, **{**known, **more})  # type: ignore[arg-type]


def make(
    target: Store,
    database: str = "shop",
    *,
    when: datetime = NOW,
    content: bytes = b"PGDMP content",
    label: str | None = None,
    **more: object,
) -> Backup:
    """Publish a backup of these bytes."""
    name = target.next_name(database, "custom", label, when)
    with target.writing(name) as file:
        file.write(content)
        described = draft(target, name, database, created_at=when, label=label, **more)
        return target.publish(file, described)


def names(target: Store) -> set[str]:
    return {path.name for path in target.folder.iterdir()} - {".gitignore"}


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store(tmp_path / "backups")


# -- names --------------------------------------------------------------------------------


ENCODED = {
    "shop": "shop",
    "My-Shop_2.0": "My-Shop_2.0",
    "data/shop.sqlite3": "data%2Fshop.sqlite3",
    "50%": "50%25",
    "größe": "gr%C3%B6%C3%9Fe",
    "a b'c\"=x": "a%20b%27c%22%3Dx",
    ".hidden": "%2Ehidden",
    "..": "%2E.",
    "~": "%7E",
    "a\nb": "a%0Ab",
    "C:\\shop": "C%3A%5Cshop",
}


@pytest.mark.parametrize(("database", "part"), ENCODED.items(), ids=list(ENCODED.values()))
def test_a_databases_name_is_encoded_in_the_files_name(database: str, part: str) -> None:
    assert part == encoded(database)


@pytest.mark.parametrize("database", ENCODED, ids=list(ENCODED.values()))
def test_a_files_name_tells_which_database_it_is_of(target: Store, database: str) -> None:
    made = make(target, database)
    made.manifest.unlink()

    assert database == guess(made.path).database
    assert [made.name] == [b.name for b in target.backups()]


@pytest.mark.parametrize(
    ("format", "label", "name"),
    [
        ("custom", None, "shop_20260224T150000Z.dump"),
        ("plain", None, "shop_20260224T150000Z.sql.gz"),
        ("sqlite", None, "shop_20260224T150000Z.sqlite3.zst"),
        ("custom", "before-2.0", "shop_20260224T150000Z_before-2.0.dump"),
    ],
)
def test_a_name_says_database_time_and_label(
    target: Store, format: str, label: str | None, name: str
) -> None:
    assert name == target.next_name("shop", format, label, NOW)


@pytest.mark.parametrize("label", ["", "a b", "a/b", "a_b", "ä", "x" * 41, "a\n"])
def test_a_label_that_a_name_cannot_hold_is_refused(target: Store, label: str) -> None:
    with pytest.raises(SettingsError, match="--label"):
        target.next_name("shop", "custom", label, NOW)


def test_later_backups_in_the_same_second_are_numbered_and_newer(target: Store) -> None:
    made = [make(target) for _ in range(12)]

    assert ["shop_20260224T150000Z.dump", "shop_20260224T150000Z-2.dump"] == [
        b.name for b in made[:2]
    ]
    assert [b.name for b in reversed(made)] == [b.name for b in target.backups(SHOP)]


def test_a_label_does_not_change_which_backup_of_a_second_is_the_newest(target: Store) -> None:
    first = make(target, label="before-the-migration")
    second = make(target)

    assert f"{first.name.split('_before')[0]}-2.dump" == second.name
    assert second.name == target.latest(SHOP).name


@pytest.mark.parametrize("there", ["", ".json"])
def test_a_name_that_is_taken_is_not_given(target: Store, there: str) -> None:
    target.folder.mkdir()
    (target.folder / f"shop_20260224T150000Z.dump{there}").touch()

    assert "shop_20260224T150000Z-2.dump" == target.next_name("shop", "custom", None, NOW)


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
    for gone, _reason in plan_prune(target.backups(), keep=1).deleted:
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
    assert (256, ("complete", "sha256"), True) == (made.size, made.verified, made.is_verified)
    assert made == read(made.path)


def test_a_manifest_shows_no_path_and_is_one_json_object(target: Store) -> None:
    made = make(target)
    content = json.loads(made.manifest.read_bytes())

    assert f"{made.name}.json" == made.manifest.name
    assert "2026-02-24T15:00:00Z" == content["created_at"]
    assert content.pop("checksum") == checksum(content)
    assert str(target.folder) not in made.manifest.read_text()


@posix
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
    assert [0o700, 0o600, 0o600] == [stat.S_IMODE(path.stat().st_mode) for path in paths]


def test_while_it_is_written_a_backup_is_a_private_partial_file(target: Store) -> None:
    with target.writing("shop_20260224T150000Z.dump") as file:
        file.write(b"half")
        file.flush()

        assert {".shop_20260224T150000Z.dump.partial"} == names(target)
        assert [] == target.backups()
        assert 0o600 == stat.S_IMODE(Path(file.name).stat().st_mode) or os.name == "nt"


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

    assert b"theirs" == (target.folder / name).read_bytes()
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


def test_a_pin_is_written_down_and_changes_nothing_else(target: Store) -> None:
    made = make(target)
    target.update(replace(made, pinned=True))

    assert replace(made, pinned=True) == read(made.path)
    assert {made.name, made.manifest.name} == names(target)


# -- reading ------------------------------------------------------------------------------


def flipped(path: Path) -> Iterator[None]:
    """The file with each of its bits flipped, one at a time."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([byte ^ 1 << bit]))
                yield
            file.seek(at)
            file.write(bytes([byte]))


def test_every_flipped_bit_of_a_manifest_is_found(target: Store) -> None:
    made = make(target, "größe", facts=Facts(tables=3), duration_s=1e-05)
    for _ in flipped(made.manifest):
        with pytest.raises(Damaged):
            read(made.path)
    assert made == read(made.path)


def test_every_flipped_bit_of_a_backup_is_found(target: Store) -> None:
    made = make(target)
    for _ in flipped(made.path):
        with pytest.raises(Damaged, match="checksum"):
            check(made)
    check(made)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_another_size_is_found(target: Store, change: Callable[[bytes], bytes]) -> None:
    made = make(target)
    made.path.write_bytes(change(made.path.read_bytes()))

    with pytest.raises(Damaged, match=f"instead of {made.size}"):
        check(made)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'"text"'])
def test_a_manifest_that_is_none_is_damage(target: Store, content: bytes) -> None:
    made = make(target)
    made.manifest.write_bytes(content)

    with pytest.raises(Damaged, match="manifest"):
        target.find(made.name)
    assert [False] == [b.is_verified for b in target.backups()]


def test_a_manifest_of_a_newer_repom_is_read(target: Store) -> None:
    made = make(target)
    content = json.loads(made.manifest.read_bytes())
    del content["checksum"]
    content["invented_later"] = [1]
    made.manifest.write_bytes(spelled({**content, "checksum": checksum(content)}))

    assert made == read(made.path)


#: As version 0.1 wrote it, byte for byte.
MANIFEST_0_1 = b"""{
  "name": "shop_20260224T150000Z.dump",
  "database": "shop",
  "backend": "postgresql",
  "format": "custom",
  "label": null,
  "created_at": "2026-02-24T15:00:00Z",
  "size": 13,
  "sha256": "SHA256",
  "via": "docker",
  "server_version": "17.2",
  "tool_version": "17.2",
  "system_identifier": "7300000000000000001",
  "pinned": true,
  "verified": [
    "complete",
    "sha256",
    "archive",
    "drill"
  ],
  "duration_s": 0.5,
  "host": null,
  "facts": {
    "size": 7800000,
    "tables": 3,
    "extensions": {
      "citext": "1.6"
    },
    "roles": [
      "ann"
    ],
    "locale": {
      "encoding": "UTF8"
    },
    "migration": null,
    "commit": null,
    "where": "container shop_db",
    "project": "/home/ann/shop",
    "settings": {
      "format": "custom",
      "keep": 7
    },
    "drill": {
      "rows": {
        "public.item": 1000
      },
      "duration_s": 1.5
    }
  },
  "checksum": "CHECKSUM"
}"""


def test_a_manifest_of_0_1_is_read_and_keeps_its_shape(target: Store) -> None:
    content = b"PGDMP content"
    raw = MANIFEST_0_1.replace(b"SHA256", hashlib.sha256(content).hexdigest().encode())
    known = json.loads(raw)
    del known["checksum"]
    raw = raw.replace(b"CHECKSUM", checksum(known).encode())
    target.folder.mkdir()
    path = target.folder / "shop_20260224T150000Z.dump"
    path.write_bytes(content)
    backup.manifest_of(path).write_bytes(raw)

    [found] = target.backups(SHOP)
    target.update(found)

    assert raw == found.manifest.read_bytes()
    assert Drill({"public.item": 1000}, 1.5) == found.drill
    assert ("17.2", "7300000000000000001") == (found.server_version, found.system_identifier)
    assert (7800000, 3, ("ann",)) == (found.facts.size, found.facts.tables, found.facts.roles)
    assert ("container shop_db", {"format": "custom", "keep": 7}) == (
        found.origin.where,
        found.origin.settings,
    )


def test_a_file_without_a_manifest_is_described_by_its_name_and_does_not_count(
    target: Store,
) -> None:
    made = make(target, label="before")
    made.manifest.unlink()

    found = target.find(made.name)

    assert ("shop", "postgresql", "custom", NOW) == (
        found.database,
        found.backend,
        found.format,
        found.created_at,
    )
    assert ("before", (), False) == (found.label, found.verified, found.is_verified)


def test_a_renamed_backup_keeps_its_manifest_if_that_goes_along(target: Store) -> None:
    made = make(target)
    other = made.path.with_name("mailed.dump")
    made.path.rename(other)
    made.manifest.rename(backup.manifest_of(other))

    found = target.find(str(other))

    assert ("mailed.dump", other, True) == (found.name, found.path, found.is_verified)


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

    assert 4 == caught.value.exit_status


def test_links_in_the_store_are_not_backups(target: Store, tmp_path: Path) -> None:
    made = make(target)
    moved = tmp_path / "elsewhere.dump"
    made.path.rename(moved)
    made.path.symlink_to(moved)

    assert [] == target.backups()
    with pytest.raises(NotFound):
        target.find(made.name)


def test_a_store_that_is_not_there_is_empty(target: Store) -> None:
    assert [] == target.backups()
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


DATABASES = ("a", "a_b", "a.b", "a_test", "a_20260224T150000Z", "A", "a%2Fb")


def test_databases_of_one_store_never_mix(target: Store) -> None:
    made = {d: [make(target, d), make(target, d, when=NOW + timedelta(hours=1))] for d in DATABASES}
    for database, (old, new) in made.items():
        which = ("postgresql", database, None)

        plan = plan_prune(target.backups(which), keep=1)
        assert ([new], [old]) == ([b for b, _ in plan.kept], [b for b, _ in plan.deleted])
        assert [new, old] == target.backups(which)


def test_the_same_name_elsewhere_is_another_database(target: Store) -> None:
    here = make(target)
    there = make(target, host="db.example.com")
    file = make(target, backend="sqlite")

    assert [here] == target.backups(SHOP)
    assert [there] == target.backups(("postgresql", "shop", "db.example.com"))
    assert [file] == target.backups(("sqlite", "shop", None))


def test_of_a_name_that_two_servers_share_only_the_own_ones_go(target: Store) -> None:
    """A server made anew is another one; two checkouts that use one server are not."""
    made = {
        (server, project): [
            make(target, facts=Facts(system_identifier=server), origin=Origin(project=project))
            for _ in range(2)
        ]
        for server in ("1", "2")
        for project in ("/here", "/there")
    }
    unknown = make(target)
    for like in made["2", "/here"]:
        plan = plan_prune(target.backups(SHOP), keep=1, like=like)

        gone = {b.name for b, _ in plan.deleted}
        assert {b.name for f in ("/here", "/there") for b in made["2", f]} == gone
        assert unknown in [b for b, _ in plan.kept]
        assert ["of another server or project"] * 4 == [
            why for _, why in plan.kept if "another" in why
        ]


def test_what_an_accident_left_pushes_no_backup_with_tables_out(target: Store) -> None:
    full = [make(target, facts=Facts(tables=3)) for _ in range(3)]
    empty = [make(target, facts=Facts(tables=0)) for _ in range(3)]

    deleted = {b.name for b, _ in plan_prune(target.backups(SHOP), keep=2).deleted}
    assert {full[0].name} == deleted
    assert {empty[0].name} == {b.name for b, _ in plan_prune(empty[::-1], keep=2).deleted}


def test_a_server_on_a_copied_volume_is_another_one(target: Store) -> None:
    """It has the original's identifier; what tells is another folder at another address."""
    one, two = (
        make(target, facts=Facts(system_identifier="1"), origin=Origin(project=p, where=w))
        for p, w in (("/here", "container a"), ("/there", "container b"))
    )
    other_checkout = make(
        target,
        facts=Facts(system_identifier="1"),
        origin=Origin(project="/third", where="container a"),
    )

    gone = [b for b, _ in plan_prune(target.backups(SHOP), keep=1, like=one).deleted]
    assert two not in gone
    assert one in gone
    assert other_checkout.is_same_database_as(one)


# -- prune --------------------------------------------------------------------------------


PROVEN, PINNED, UNPROVEN = "proven", "pinned", "unproven"
PRUNE = {
    "none": ([], 3, []),
    "fewer than the limit": ([PROVEN] * 2, 3, []),
    "as many": ([PROVEN] * 3, 3, []),
    "one more": ([PROVEN] * 4, 3, [3]),
    "many more": ([PROVEN] * 5, 2, [2, 3, 4]),
    "never below one": ([PROVEN] * 3, 0, [1, 2]),
    "nor for a negative limit": ([PROVEN] * 2, -5, [1]),
    "unproven ones neither count nor go": ([UNPROVEN, PROVEN, UNPROVEN, PROVEN], 1, [3]),
    "only unproven ones": ([UNPROVEN] * 4, 1, []),
    "pinned ones neither count nor go": ([PINNED, PROVEN, PROVEN, PINNED], 1, [2]),
}


@pytest.mark.parametrize(("kinds", "keep", "going"), PRUNE.values(), ids=list(PRUNE))
def test_prune_takes_only_proven_backups_beyond_the_limit(
    kinds: list[str], keep: int, going: list[int]
) -> None:
    backups = [
        replace(
            draft(Store(Path()), f"shop_{number}"),
            verified=() if kind == UNPROVEN else ("complete", "sha256"),
            pinned=kind == PINNED,
        )
        for number, kind in enumerate(kinds)
    ]

    assert [backups[n] for n in going] == [b for b, _ in plan_prune(backups, keep=keep).deleted]


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

    monkeypatch.setattr("repom.dbops.store.store.remove", refused)
    with pytest.raises(CommandFailed):
        target.delete(made)

    assert [made] == target.backups()


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


# -- the lock -----------------------------------------------------------------------------


HOLD = """
import sys; from pathlib import Path; from repom.dbops.store.store import Store
with Store(Path(sys.argv[1])).lock(sys.argv[2], "backup"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(target: Store, database: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of a database."""
    argv = [sys.executable, "-c", HOLD, str(target.folder), database]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=env) as child:
        assert child.stdout and b"held\n" == child.stdout.readline()
        yield child
        child.kill()


def test_a_second_process_is_refused_and_told_who_holds_the_lock(target: Store) -> None:
    with (
        holder(target, "shop") as child,
        pytest.raises(Refused, match=rf"shop is in use .*process {child.pid}, backup"),
        target.lock("shop", "restore"),
    ):
        raise AssertionError("both hold the lock")


def test_a_lock_is_of_one_database(target: Store) -> None:
    with holder(target, "shop"), target.lock("shop_test", "restore"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_holder_blocks_nobody(target: Store) -> None:
    with holder(target, "shop") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with target.lock("shop", "restore"):
            pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_who_has_no_session_leaves_a_killed_ones_note_to_who_can_end_it(target: Store) -> None:
    with target.lock("shop", "restore", "repom-0000dead"):
        note = (target.folder / ".shop.holder").read_bytes()
    (target.folder / ".shop.holder").write_bytes(note)  # as a SIGKILL leaves it
    with target.lock("shop", "pin") as killed:
        assert "repom-0000dead" == killed
    with target.lock("shop", "backup", "repom-00000001") as killed:
        assert "repom-0000dead" == killed
    with target.lock("shop", "backup", "repom-00000002") as killed:
        assert "" == killed


def test_a_lock_can_be_waited_for(target: Store) -> None:
    with holder(target, "shop") as child:
        threading.Timer(0.3, child.kill).start()
        with target.lock("shop", "pin", wait=10):
            pass


def test_a_lock_ends_with_its_block_whatever_happens_in_it(target: Store) -> None:
    with pytest.raises(KeyboardInterrupt), target.lock("shop", "backup"):
        raise KeyboardInterrupt
    with target.lock("shop", "backup"):
        pass


def test_the_locks_own_files_are_no_backups_and_survive_a_sweep(target: Store) -> None:
    with target.lock("shop", "backup"):
        before = names(target)
        target.sweep("shop")

        assert before == names(target)
        assert [] == target.backups()


def test_the_lock_of_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(CommandFailed, match="file"),
        Store(tmp_path / "file/backups").lock("shop", "backup"),
    ):
        raise AssertionError("locked")


def test_no_space_left_says_what_to_do(tmp_path: Path) -> None:
    full = Path("/dev/full")
    requires.need(full.exists(), "/dev/full")

    def write(file: BinaryIO) -> None:
        with full.open("wb", buffering=0) as device:
            device.write(file.name.encode())

    with pytest.raises(CommandFailed) as caught, Store(tmp_path / "b").writing("x") as file:
        write(file)

    assert "Free some space" in caught.value.hint


def test_waiting_for_nobody_takes_no_time(target: Store) -> None:
    with holder(target, "shop"):
        started = time.monotonic()
        with pytest.raises(Refused), target.lock("shop", "restore"):
            pass
        assert time.monotonic() - started < 1
