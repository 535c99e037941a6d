"""Replacing the data of a live SQLite file, which other programs may have open.

The file is only written through SQLite's backup API, inside one transaction: programs that
have it open see all of the old data or all of the new, and a crash rolls back. Replacing
the file itself under an open connection would corrupt it.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from repom.dbops.files import create_private, sync_file, sync_folder
from repom.errors import CommandFailed, Refused, advice

from . import copying
from .copying import (
    CACHE,
    WAL,
    connect,
    copy_database,
    copy_pages,
    copy_raw,
    explained,
    fold,
    is_busy,
    opened,
    opened_raw,
    page_size_of,
    pragma,
    same_header,
)
from .home import Home, remove_database, tidy

log = logging.getLogger("repom")


def replace_data(home: Home, scratch: Path, kept: Path | None) -> None:
    """Replace the data of the live file by those of `scratch`, which is removed.

    :param kept: where the old data are kept; without, they are not.
    :raises Refused: another program has the file locked.
    """
    copy = home.new_scratch()  # the kept data under another name, until they are whole
    try:
        with explained(home.name), closing(connect(scratch)) as new:
            pragma(new, "journal_mode = delete")  # the live file stays in its own
            if home.is_scratch(scratch):  # not needed after a crash, unlike an undo copy
                new.execute("PRAGMA synchronous = OFF")
            replacement = _Replacement(home, new, scratch, copy, kept)
            if pragma(new, "page_size") == page_size_of(home.path):
                replacement.replace_pages()
            else:
                replacement.replace_file()
    finally:
        tidy(copy)
    tidy(scratch)
    with suppress(sqlite3.Error), closing(connect(home.path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@dataclass
class _Replacement:
    """One replacement of a live file's data.

    :param new: an open connection to `scratch`.
    :param copy: the name of the kept copy until it is whole.
    """

    home: Home
    new: sqlite3.Connection
    scratch: Path
    copy: Path
    kept: Path | None

    def replace_pages(self) -> None:
        """Replace the pages in one transaction. The kept copy goes if that fails, but stays
        after an error behind the commit, such as when SQLite shortens the file."""
        with opened(self.home.path, self.home.name) as witness:
            before = pragma(witness, "data_version")
            try:
                with opened(self.home.path, self.home.name) as live:
                    self._copy_in(live)
            except BaseException:
                with suppress(sqlite3.Error):
                    if self.kept and pragma(witness, "data_version") == before:
                        remove_database(self.kept)
                raise

    def _copy_in(self, live: sqlite3.Connection) -> None:
        set_limits(live)
        if not self.kept:
            copy_pages(self.new, live)
            return
        if pragma(self.new, "page_count") < 2:
            # Without a table it is copied and committed in one step, which leaves no moment
            # to keep the old data under the same lock.
            create_private(self.copy).close()
            with closing(connect(self.home.path)) as old:
                copy_database(old, self.copy)
            self._settle_copy()
            copy_pages(self.new, live)
            return
        with opened_raw(self.home.path) as raw:

            def keep() -> None:
                copy_raw(raw, self.copy)
                raw.seek(18)  # the journal mode, read under the lock
                if raw.read(1) == WAL:
                    with Path(f"{self.home.path}-wal").open("rb") as frames:
                        copy_raw(frames, Path(f"{self.copy}-wal"))
                    fold(self.copy)

            # Synced as late as possible: by then most of the copy is on the disk.
            copy_pages(self.new, live, on_lock=keep, before_commit=self._settle_copy)

    def _settle_copy(self) -> None:
        """Give the kept copy its name, on the disk."""
        assert self.kept
        sync_file(self.copy)
        self.copy.rename(self.kept)
        sync_folder(self.kept.parent)

    def replace_file(self) -> None:
        """The same for pages of another size. SQLite refuses that for a WAL, so the file
        leaves WAL mode meanwhile, which no other program may have open then."""
        wanted, had_wal = pragma(self.new, "page_size"), False
        try:
            with opened(self.home.path, self.home.name) as live:
                had_wal = pragma(live, "journal_mode") == "wal"
                self._hold(live, wanted)
                self._copy_held(live)
        except BaseException:
            with suppress(sqlite3.Error):
                if self.kept and page_size_of(self.home.path) != wanted:
                    remove_database(self.kept)
            raise
        finally:
            if had_wal:
                self._set_wal()

    def _hold(self, live: sqlite3.Connection, wanted: int) -> None:
        """Keep other programs out until the connection is closed, and leave WAL mode."""
        size = pragma(live, "page_size")
        pragma(live, "locking_mode = EXCLUSIVE")
        deadline = time.monotonic() + copying.PATIENCE
        while time.monotonic() < deadline:
            try:
                if pragma(live, "journal_mode") == "wal":
                    pragma(live, "journal_mode = delete")
                if pragma(live, "journal_mode") != "wal":
                    live.execute("BEGIN EXCLUSIVE")
                    live.execute("COMMIT")
                    return
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
        raise Refused(
            f"{self.home.name} has a page size of {size} bytes and the backup one of {wanted}, "
            "which cannot be changed while another program has the file open",
            "Close the programs that use it, then try again",
        )

    def _copy_held(self, live: sqlite3.Connection) -> None:
        set_limits(live)
        with opened_raw(self.home.path) as raw:
            if self.kept:
                copy_raw(raw, self.copy)
                self._settle_copy()
            copy_pages(self.new, live)
            if not same_header(self.scratch, raw):
                raise CommandFailed(
                    f"The header of {self.home.name} is not that of the backup",
                    advice("Run: {}", "db.undo"),
                )

    def _set_wal(self) -> None:
        with suppress(sqlite3.Error), closing(connect(self.home.path)) as live:
            if pragma(live, "journal_mode = wal") == "wal":
                return
        log.warning("%s is no longer in WAL mode; let your program set it again", self.home.name)


def set_limits(live: sqlite3.Connection) -> None:
    """The database may set a tiny cache, which would be written before the copy is made."""
    live.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
    live.execute("PRAGMA synchronous = FULL")
