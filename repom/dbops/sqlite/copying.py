"""Copying SQLite databases page by page, so that rowids and the header stay as they are.

Nothing here runs VACUUM: it numbers the rows of a table without INTEGER PRIMARY KEY anew,
and full-text indexes and other tables refer to these numbers.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from repom.dbops.archive.archive import HINT, SQLITE, stamp_of
from repom.dbops.files import copy_bytes, create_private, remove, sync_file
from repom.errors import CommandFailed, Damaged, NoSpace, Refused

log = logging.getLogger("repom")

BUSY = 0.2  # seconds that SQLite itself waits for a lock, between two looks at the clock
FLOOR = 1 << 28  # bytes of free space
HEAD = 100  # bytes of the file's header
JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"  # begins a journal, and ends one of several files
PATIENCE = 5.0  # seconds that repom waits for a lock
STEP = 1 << 19  # bytes copied between two looks; less than a restore's cache, so that
# nothing of a restore reaches the file before the old data have been kept
WAL = b"\2"  # the file format's write version, at byte 18, in that journal mode
WAIT = "Close the program that holds it, or try again"


class NotADatabase(CommandFailed):
    """The file can be no database that somebody has open."""


def connect(path: Path) -> sqlite3.Connection:
    """Open an existing file, never make one."""
    uri = f"{path.as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)


def wait_for_lock(database: sqlite3.Connection) -> None:
    """Read something; waits up to `PATIENCE` seconds, in which somebody may recover a WAL."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn SQLite's errors into repom's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if is_busy(error):
            raise Refused(f"{name} is locked by another program", WAIT) from None
        if code == sqlite3.SQLITE_NOTADB:
            raise NotADatabase(f"{name} is not an SQLite database") from None
        if code == sqlite3.SQLITE_CORRUPT:
            raise NotADatabase(f"{name} is damaged: {error}") from None
        hint = "Let this user write to the file and to its folder"
        hint = hint if code == sqlite3.SQLITE_READONLY else ""
        raise CommandFailed(f"SQLite cannot use {name}: {error}", hint) from None


def copy_database(live: sqlite3.Connection, target: Path) -> None:
    """Copy a snapshot. The read transaction is held open, else every commit of somebody
    else would make the copy start again."""
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
    first: Callable[[], None] = lambda: None,
    last: Callable[[], None] = lambda: None,
) -> None:
    """Copy a whole database in steps, in one transaction of the target.

    :param first: called once, when the target is locked and none of it is overwritten.
    :param last: called once, before the step that commits.
    :raises Refused: the lock could not be had within `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    size = page_size(source)
    count = source.execute("PRAGMA page_count").fetchone()[0]
    # Not all of it in the first step: the last step also commits.
    pages = max(1, min(STEP // size, count - 1))
    calls = [first, last]

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
        raise CommandFailed("The database was overwritten before a copy of it was kept")


def copy_snapshot(path: Path, kept: Path) -> None:
    """Keep what others see now."""
    create_private(kept).close()
    with closing(connect(path)) as old:
        copy_database(old, kept)
    sync_file(kept)


#: Files that `opened_raw` has open, by device and inode.
_RAW: dict[tuple[int, int], BinaryIO] = {}


@contextmanager
def opened_raw(path: Path) -> Iterator[BinaryIO]:
    """The file itself, to read from. By the rules of POSIX closing any descriptor of it
    ends every lock that this process has on it, those of other connections to the
    database, too. So there it stays open, and is used again."""
    if os.name != "posix":
        with path.open("rb") as file:
            yield file
        return
    stat = path.stat()
    key = stat.st_dev, stat.st_ino
    if key not in _RAW:
        _RAW[key] = cast(BinaryIO, path.open("rb", buffering=0))
    yield _RAW[key]


def copy_raw(raw: BinaryIO, kept: Path) -> None:
    """Copy the file of a database that this process has locked for writing, and of which
    nothing has been overwritten yet: then it is all of it, with its WAL, copied after it.
    Another process may move pages from the WAL into the file meanwhile, but only under
    the write lock could it begin the WAL anew, so that every such page is in both."""
    with create_private(kept) as out:
        raw.seek(0)
        copy_bytes(raw, out)


def fold(path: Path) -> None:
    """Bring a copied database and its WAL into one file."""
    with closing(connect(path)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # it is synced when the restore is done
        mode = copy.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    if mode != "delete":
        raise CommandFailed("The WAL of the copy could not be brought in")


def check(path: Path, name: str, pragma: str) -> None:
    """:raises Damaged: `path` is no whole SQLite database."""
    with path.open("rb") as file:
        if file.read(len(SQLITE)) != SQLITE:
            raise Damaged(f"{name} is no SQLite database", HINT)
    try:
        with closing(connect(path)) as database:
            said = database.execute(f"PRAGMA {pragma}(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise Damaged(f"{name} is damaged: {error}", HINT) from None
    if said != "ok":
        raise Damaged(f"{name} is damaged: {said}", HINT)


def check_space(folder: Path) -> None:
    """Stop before the disk is full: a small file can unpack to any size.

    :raises NoSpace: less than 5 % of the disk is free, and less than 256 MB.
    """
    usage = shutil.disk_usage(folder)
    if usage.free < min(FLOOR, usage.total // 20):
        raise NoSpace(f"The disk of {folder} is full", "Free some space, then try again")


def page_size(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA page_size").fetchone()[0])


def page_size_of(path: Path) -> int:
    """Of a database that somebody may have open."""
    with closing(connect(path)) as database:
        wait_for_lock(database)
        return page_size(database)


def journal_mode(database: sqlite3.Connection, mode: str = "") -> str:
    """The journal mode, after it was set, if that was possible."""
    change = f" = {mode}" if mode else ""
    return str(database.execute(f"PRAGMA journal_mode{change}").fetchone()[0])


def hold(live: sqlite3.Connection) -> None:
    """Keep everybody else out of a database until the connection is closed; a WAL is
    brought in for that.

    :raises Refused: another program has it open, in the case of a WAL, or else locked.
    """
    live.execute("PRAGMA locking_mode = EXCLUSIVE")
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if journal_mode(live) != "wal" or journal_mode(live, "delete") == "delete":
                live.execute("BEGIN EXCLUSIVE")
                live.execute("COMMIT")
                return
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
        if time.monotonic() > deadline:
            raise Refused("Another program has the SQLite file open", WAIT)


def is_busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def same_header(new: Path, raw: BinaryIO) -> bool:
    """Whether a database has what another one's header says: size of a page, number of
    pages, encoding, auto_vacuum, user_version and application_id."""
    with new.open("rb") as file:
        wanted = file.read(HEAD)
    raw.seek(0)
    found = raw.read(HEAD)
    fields = (slice(16, 18), slice(20, 21), slice(28, 32), slice(52, 72))
    return all(wanted[field] == found[field] for field in fields)


def read_file(source: Path, target: Path) -> None:
    """Copy a database file with all that was committed to it: some of that may still be in
    its WAL, and half a transaction in the file, which its journal takes back. Nothing is
    written beside it, where SQLite itself would put side files, or play them in.

    :raises Damaged: it is not a whole database.
    :raises Refused: it was locked, or changed meanwhile.
    """
    source = source.resolve()  # where SQLite looks for the side files
    names = [side.name for side in side_files(source) if side.stat().st_size]
    if names:
        log.info("Reading %s together with %s", source.name, " and ".join(names))
    with read_of(source.name):
        if not is_readable_in_place(source) or not copied_in_place(source, target):
            copy_with_side_files(source, target)


@contextmanager
def read_of(name: str) -> Iterator[None]:
    """Turn SQLite's errors about a file that is to be restored into repom's."""
    try:
        yield
    except sqlite3.Error as error:
        if is_busy(error):
            raise Refused(f"{name} is locked by another program", WAIT) from None
        raise Damaged(f"{name} is damaged: {error}", HINT) from None


def side_files(path: Path) -> list[Path]:
    sides = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]
    return [side for side in sides if side.is_file()]


def is_readable_in_place(path: Path) -> bool:
    """Whether SQLite makes nothing to read it: for a WAL it wants an index of it."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    return head[18:19] != WAL or all(
        path.with_name(f"{path.name}{suffix}").exists() for suffix in ("-wal", "-shm")
    )


def copied_in_place(source: Path, target: Path) -> bool:
    """Copy it as a reader that must not write: not even the index of a WAL. Returns
    whether that was enough; a killed program may have left work to do."""
    uri = f"{source.as_uri()}?mode=ro&readonly_shm=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, timeout=BUSY, isolation_level=None)) as live:
            wait_for_lock(live)
            create_private(target).close()
            copy_database(live, target)
            return True
    except sqlite3.OperationalError as error:
        remove(target)
        code = error.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return False
        raise


def copy_with_side_files(source: Path, target: Path) -> None:
    """Copy it and what lies beside it as they are, and let SQLite tidy up the copy."""
    paths = [source, *side_files(source)]
    refuse_shared_journal(source)
    before = [stamp_of(path) for path in paths]
    for path in paths:
        with path.open("rb") as theirs:
            copy_raw(theirs, target.with_name(path.name.replace(source.name, target.name, 1)))
    if [source, *side_files(source)] != paths or [stamp_of(path) for path in paths] != before:
        raise Refused(
            f"{source.name} was changed while it was being read",
            "Close the program that uses it, then try again",
        )
    fold(target)


def refuse_shared_journal(source: Path) -> None:
    """The journal of a transaction over several databases names a file that says whether
    all of them were committed, and SQLite removes that file, whichever it is."""
    journal = source.with_name(f"{source.name}-journal")
    if not journal.is_file() or journal.stat().st_size < len(JOURNAL):
        return
    with journal.open("rb") as file:
        file.seek(-len(JOURNAL), os.SEEK_END)
        if file.read() == JOURNAL:
            raise Refused(
                f"{journal.name} is part of a transaction over several databases",
                f"Open {source.name} once with the program that it belongs to, then try again",
            )
