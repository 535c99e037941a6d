"""Copying SQLite databases page by page, so that rowids and the header stay as they are.

Nothing here runs VACUUM: it renumbers the rows of a table without INTEGER PRIMARY KEY, and
full-text indexes and other tables refer to these numbers.
"""

from __future__ import annotations

import io
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from repom.dbops.archive.archive import HINT, SQLITE
from repom.dbops.files import copy_bytes, create_private
from repom.errors import CommandFailed, Damaged, Refused

BUSY = 0.2  # seconds that SQLite itself waits for a lock before repom checks the time
PATIENCE = 5.0  # seconds that repom waits for a lock
STEP = 1 << 19  # bytes copied at once; fewer than `CACHE`, so that nothing of a restore
# reaches the file before the old data have been kept
CACHE = 1 << 24  # bytes that a restore may hold in memory before it writes them
HEADER = 100  # bytes
WAL = b"\2"  # the write version, at byte 18 of the header, of a database in WAL mode
WAIT = "Close the program that holds it, or try again"


class NotADatabase(CommandFailed):
    """The file is not a database, so no program can have it open as one."""


def connect(path: Path, options: str = "mode=rw") -> sqlite3.Connection:
    """Open an existing file; never create one."""
    uri = f"{path.as_uri()}?{options}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)


def untouched(path: Path) -> str:
    """Options for a look that changes no file. What a killed program left is not read then:
    that would first be played back."""
    with path.open("rb") as file:
        in_wal_mode = file.read(HEADER)[18:19] == WAL
    left = Path(f"{path}-journal").exists() or in_wal_mode
    in_use = in_wal_mode and Path(f"{path}-shm").exists()
    return "mode=ro&readonly_shm=1" if in_use else f"mode=ro&immutable={left:d}"


@contextmanager
def opened(path: Path, name: str, options: str = "mode=rw") -> Iterator[sqlite3.Connection]:
    """A database that other programs may have open. It is opened for writing even to be
    read, since a WAL needs its index."""
    with explained(name), closing(connect(path, options)) as database:
        wait_for_lock(database)
        yield database


def wait_for_lock(database: sqlite3.Connection) -> None:
    """Read something; waits up to `PATIENCE` seconds for a program that, say, recovers a
    WAL."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise


def error_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    return error_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn SQLite's errors about a live database into repom's."""
    try:
        yield
    except sqlite3.Error as error:
        code = error_code(error)
        if is_busy(error):
            raise Refused(f"{name} is locked by another program", WAIT) from None
        if code == sqlite3.SQLITE_NOTADB:
            raise NotADatabase(f"{name} is not an SQLite database") from None
        if code == sqlite3.SQLITE_CORRUPT:
            raise NotADatabase(f"{name} is damaged: {error}") from None
        hint = "Allow this user to write to the file and its folder"
        hint = hint if code == sqlite3.SQLITE_READONLY else ""
        raise CommandFailed(f"SQLite cannot open {name}: {error}", hint) from None


@contextmanager
def explained_backup(name: str) -> Iterator[None]:
    """Turn SQLite's errors about a file that is to be restored into repom's."""
    try:
        yield
    except sqlite3.Error as error:
        if is_busy(error):
            raise Refused(f"{name} is locked by another program", WAIT) from None
        raise Damaged(f"{name} is damaged: {error}", HINT) from None


def copy_database(live: sqlite3.Connection, target: Path) -> None:
    """Copy a snapshot into an existing file. An open read transaction keeps commits of other
    programs from making the copy start again."""
    live.execute("BEGIN")
    live.execute("SELECT count(*) FROM sqlite_master").fetchone()
    try:
        with closing(connect(target)) as copy:
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = OFF")
            copy_pages(live, copy)
    finally:
        live.execute("ROLLBACK")


def copy_pages(
    source: sqlite3.Connection,
    target: sqlite3.Connection,
    on_lock: Callable[[], None] = lambda: None,
    before_commit: Callable[[], None] = lambda: None,
) -> None:
    """Copy a whole database in steps, in one transaction of the target.

    :param on_lock: called once, when the target is locked and still unchanged.
    :param before_commit: called once, before the step that commits.
    :raises Refused: the target stayed locked for `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    count = pragma(source, "page_count")
    # Never all pages in the first step, since the last step commits.
    pages = max(1, min(STEP // pragma(source, "page_size"), count - 1))
    calls = [on_lock, before_commit]

    def progress(status: int, remaining: int, _total: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            if time.monotonic() > deadline:
                raise Refused("The SQLite file is locked by another program", WAIT)
            return
        if len(calls) == 2:
            calls.pop(0)()
        if calls and 0 < remaining <= pages:
            calls.pop()()

    source.backup(target, pages=pages, progress=progress, sleep=0.05)
    if count > 1 and calls:
        raise CommandFailed("The new data was written before the copy of the old data was complete")


#: Descriptors that `opened_raw` keeps open, by device and inode.
_RAW: dict[tuple[int, int], int] = {}


@contextmanager
def opened_raw(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a live database, to read from. In POSIX, closing any descriptor of a file
    releases all locks of this process on it, those of its other connections included. So
    the file stays open and is used again."""
    if os.name != "posix":
        with path.open("rb") as file:
            yield file
        return
    stat = path.stat()
    key = stat.st_dev, stat.st_ino
    if key not in _RAW:
        _RAW[key] = os.open(path, os.O_RDONLY)
    yield cast(BinaryIO, io.FileIO(_RAW[key], closefd=False))


def copy_raw(raw: BinaryIO, kept: Path) -> None:
    """Copy the file of a database that this process has locked for writing and not changed
    yet; its WAL is copied after it. Meanwhile another process may move pages from the WAL
    into the file, but it cannot restart the WAL without the write lock, so every such page
    is in both."""
    with create_private(kept) as out:
        raw.seek(0)
        copy_bytes(raw, out)


def fold(path: Path) -> None:
    """Move the WAL of a copied database into its file. The caller syncs it."""
    with closing(connect(path)) as copy:
        copy.execute("PRAGMA synchronous = OFF")
        if pragma(copy, "journal_mode = delete") != "delete":
            raise CommandFailed("SQLite could not move the copy's WAL into its file")


def check(path: Path, name: str, how: str) -> None:
    """:param how: ``integrity_check`` or ``quick_check``.
    :raises Damaged: the file at `path` is not a whole SQLite database.
    """
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            raise Damaged(f"{name} is not an SQLite database", HINT)
    with explained_backup(name), closing(connect(path)) as database:
        result = pragma(database, f"{how}(1)")
    if result != "ok":
        raise Damaged(f"{name} is damaged: {result}", HINT)


def pragma(database: sqlite3.Connection, name: str) -> Any:
    """The value of a setting; with ``name = value``, after trying to set it."""
    return database.execute(f"PRAGMA {name}").fetchone()[0]


def page_size_of(path: Path) -> int:
    """Of a database that other programs may have open."""
    with closing(connect(path)) as database:
        wait_for_lock(database)
        return int(pragma(database, "page_size"))


def same_header(new: Path, raw: BinaryIO) -> bool:
    """Whether two databases agree in page size, number of pages, encoding, auto_vacuum,
    user_version and application_id."""
    with new.open("rb") as file:
        wanted = file.read(HEADER)
    raw.seek(0)
    found = raw.read(HEADER)
    fields = (slice(16, 18), slice(20, 21), slice(28, 32), slice(52, 72))
    return all(wanted[field] == found[field] for field in fields)
