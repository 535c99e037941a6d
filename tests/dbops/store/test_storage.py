"""The contract of a storage, which each one passes, and what only a folder promises."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from repom.dbops.store.storage import Entry, Folder, ReadOnlyStore, Storage, disk_error
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, NoSpace, Refused
from tests.dbops.store.making import NOW, SHOP, make


class Memory:
    """A storage in memory."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def entries(self) -> dict[str, Entry | None]:
        return {name: Entry(len(c), datetime.now(UTC)) for name, c in self.content.items()}

    def open(self, name: str) -> BinaryIO:
        if name not in self.content:
            raise FileNotFoundError(name)
        return io.BytesIO(self.content[name])

    @contextmanager
    def draft(self, name: str, needed: int = 0) -> Iterator[BinaryIO]:
        with tempfile.TemporaryFile() as file:
            yield file

    def put(self, name: str, draft: BinaryIO, *, replace: bool = False) -> None:
        if name in self.content and not replace:
            raise CommandFailed(f"{name} exists already")
        draft.seek(0)
        self.content[name] = draft.read()

    def delete(self, name: str) -> None:
        self.content.pop(name, None)

    def sweep(self, is_left: Callable[[str], bool]) -> None: ...


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Folder(tmp_path / "storage") if request.param == "folder" else Memory()


def put(storage: Storage, name: str, content: bytes, *, replace: bool = False) -> None:
    with storage.draft(name) as draft:
        draft.write(content)
        storage.put(name, draft, replace=replace)


def contents(storage: Storage) -> dict[str, bytes]:
    found = {}
    for name in storage.entries():
        with storage.open(name) as file:
            found[name] = file.read()
    return found


# -- the contract -------------------------------------------------------------------------


def test_what_was_put_is_listed_and_read(storage: Storage) -> None:
    put(storage, "one", bytes(range(256)))
    put(storage, "two", b"")

    assert {"one": bytes(range(256)), "two": b""} == contents(storage)
    entry = storage.entries()["one"]
    assert entry and entry.size == 256
    assert timedelta(minutes=1) > abs(datetime.now(UTC) - entry.modified)


def test_an_empty_storage_lists_nothing_and_has_nothing(storage: Storage) -> None:
    assert storage.entries() == {}
    with pytest.raises(FileNotFoundError):
        storage.open("one")


def test_a_program_writes_to_a_draft_by_its_file_descriptor(storage: Storage) -> None:
    with storage.draft("one") as draft:
        os.write(draft.fileno(), b"by a program")
        storage.put("one", draft)

    assert contents(storage) == {"one": b"by a program"}


def test_a_draft_has_no_entry_and_leaves_nothing(storage: Storage) -> None:
    with suppress(KeyboardInterrupt), storage.draft("one") as draft:
        draft.write(b"half")
        draft.flush()
        assert not storage.entries().get("one")
        raise KeyboardInterrupt

    assert storage.entries() == {}
    put(storage, "one", b"whole")
    assert contents(storage) == {"one": b"whole"}


def test_a_name_that_is_taken_is_not_overwritten(storage: Storage) -> None:
    put(storage, "one", b"theirs")
    with pytest.raises(CommandFailed, match="exists already"):
        put(storage, "one", b"mine")

    assert contents(storage) == {"one": b"theirs"}


def test_a_name_is_replaced_when_that_is_asked_for(storage: Storage) -> None:
    for content in (b"first", b"second"):
        put(storage, "one", content, replace=True)

    assert contents(storage) == {"one": b"second"}


def test_what_was_deleted_is_gone_and_may_be_deleted_again(storage: Storage) -> None:
    put(storage, "one", b"1")
    put(storage, "two", b"2")
    for _ in range(2):
        storage.delete("one")

    assert contents(storage) == {"two": b"2"}


def test_sweeping_leaves_what_was_put(storage: Storage) -> None:
    put(storage, "one", b"1")
    storage.sweep(lambda name: True)

    assert contents(storage) == {"one": b"1"}


def test_a_store_works_over_any_storage(storage: Storage) -> None:
    store = Store(Path("anywhere"), storage)
    old, new = make(store), make(store, when=NOW + timedelta(days=1))

    assert [new, old] == store.backups(SHOP)
    assert new == store.latest(SHOP) == store.find(new.name[:14])
    assert store.is_whole(old)
    put(storage, old.name, b"altered", replace=True)
    assert not store.is_whole(old)
    assert [b.is_verified for b in store.backups(SHOP)] == [True, False]
    store.delete(old)
    store.sweep("shop")
    assert {new.name, new.manifest.name} == storage.entries().keys()


# -- a folder -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "folder")


def hidden(folder: Folder) -> set[str]:
    return {path.name for path in folder.path.iterdir()} - {".gitignore"}


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_late_leaves_neither_name_nor_draft(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def failing(*_given: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os if call == "fsync" else Path, call, failing)
    with pytest.raises(CommandFailed, match="Input/output error"):
        put(folder, "one", b"1")

    assert set() == hidden(folder)


def test_a_folder_that_cannot_be_brought_to_the_disk_has_not_got_the_name(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(_path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("repom.dbops.store.storage.sync_folder", failing)
    with pytest.raises(CommandFailed, match="Input/output error"):
        put(folder, "one", b"1")

    assert set() == hidden(folder)


def test_a_disk_with_less_room_than_is_needed_is_refused_before_anything_is_written(
    folder: Folder,
) -> None:
    refused = pytest.raises(Refused, match="free, and a backup takes about")
    with refused, folder.draft("one", needed=1 << 62):
        raise AssertionError("the file was opened")

    assert set() == hidden(folder)


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are POSIX's")
@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_is_not_a_file_is_taken_and_never_opened(
    folder: Folder, tmp_path: Path, kind: str
) -> None:
    path, target = folder.path / "one", tmp_path / "target"
    folder.make()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
        if kind == "link":
            target.write_bytes(b"secret")

    assert folder.entries() == {"one": None}
    with pytest.raises(OSError, match="one") as caught:
        folder.open("one")
    assert not isinstance(caught.value, FileNotFoundError)
    with pytest.raises(CommandFailed, match="exists already"):
        put(folder, "one", b"mine")


def test_only_drafts_that_fit_are_swept(folder: Folder) -> None:
    folder.make()
    for name in (".mine.partial", ".theirs.partial", ".mine.lock", "mine.partial"):
        (folder.path / name).touch()
    (folder.path / ".mine-too.partial").mkdir()
    folder.sweep(lambda name: name.startswith("mine"))

    assert {".theirs.partial", ".mine.lock", "mine.partial", ".mine-too.partial"} == hidden(folder)


@pytest.mark.parametrize(
    ("number", "kind", "hint"),
    [
        (28, NoSpace, "Free some space"),
        (30, ReadOnlyStore, "REPOM_BACKUP_DIR"),
        (13, ReadOnlyStore, "REPOM_BACKUP_DIR"),
        (5, CommandFailed, "REPOM_BACKUP_DIR"),
    ],
)
def test_a_disks_errors_are_one_line_with_what_to_do(
    number: int, kind: type[CommandFailed], hint: str
) -> None:
    error = disk_error(OSError(number, os.strerror(number)), Path("backups"))

    assert kind is type(error)
    assert f"backups: {os.strerror(number)}" == error.message
    assert hint in error.hint
