"""Reading an SQLite file that is to be restored, without changing it or its folder."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from repom.dbops.archive.archive import stamp_of
from repom.dbops.files import create_private, remove
from repom.errors import Refused

from .copying import (
    WAL,
    connect,
    copy_database,
    copy_raw,
    error_code,
    explained_backup,
    fold,
    wait_for_lock,
)

log = logging.getLogger("repom")

JOURNAL = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"  # begins a journal, and ends a shared one


def read_file(source: Path, target: Path) -> None:
    """Copy a database file with everything that was committed to it. Some of that may still
    be in its WAL, and the file may hold half a transaction that its journal takes back.

    :raises Damaged: it is not a whole database.
    :raises Refused: it was locked, or changed meanwhile.
    """
    source = source.resolve()  # where SQLite looks for the side files
    names = [side.name for side in side_files(source) if side.stat().st_size]
    if names:
        log.info("Reading %s together with %s", source.name, " and ".join(names))
    with explained_backup(source.name):
        if not _is_readable_in_place(source) or not _copied_in_place(source, target):
            _copy_with_side_files(source, target)


def side_files(path: Path) -> list[Path]:
    """The files beside a database that hold a part of its data."""
    sides = [path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal")]
    return [side for side in sides if side.is_file()]


def _is_readable_in_place(path: Path) -> bool:
    """Whether SQLite creates no file to read it; for a WAL without an index it would."""
    with path.open("rb") as file:
        header = file.read(19)
    return header[18:] != WAL or all(
        path.with_name(f"{path.name}{suffix}").exists() for suffix in ("-wal", "-shm")
    )


def _copied_in_place(source: Path, target: Path) -> bool:
    """Copy it as a reader that writes nothing, not even the index of a WAL; false if SQLite
    has to write first, such as to finish the work of a killed program."""
    try:
        with closing(connect(source, "mode=ro&readonly_shm=1")) as live:
            wait_for_lock(live)
            create_private(target).close()
            copy_database(live, target)
            return True
    except sqlite3.OperationalError as error:
        remove(target)
        if error_code(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return False
        raise


def _copy_with_side_files(source: Path, target: Path) -> None:
    """Copy the file and its side files, and let SQLite finish the work on the copy."""
    paths = [source, *side_files(source)]
    _refuse_shared_journal(source)
    before = [stamp_of(path) for path in paths]
    for path in paths:
        with path.open("rb") as file:
            copy_raw(file, target.with_name(path.name.replace(source.name, target.name, 1)))
    if [source, *side_files(source)] != paths or [stamp_of(path) for path in paths] != before:
        raise Refused(
            f"{source.name} was changed while it was being read",
            "Close the program that uses it, then try again",
        )
    fold(target)


def _refuse_shared_journal(source: Path) -> None:
    """The journal of a transaction over several databases names a file that tells whether
    it was committed. SQLite deletes that file, and the journal could name any."""
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
