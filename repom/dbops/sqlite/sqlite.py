"""One SQLite file: copying it while others write, and restoring into it while it is open.

The live file is only ever written through SQLite's backup API, inside one transaction:
whoever has it open sees all of the old data or all of the new, and a crash rolls back.
Replacing the file under an open connection would corrupt it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from repom.dbops.archive.archive import Archive
from repom.dbops.archive.codecs import compressor
from repom.dbops.database import Facts, Kept, Survey
from repom.dbops.files import BLOCK, create_private, remove, sync_file, sync_folder
from repom.errors import CommandFailed, NotFound, Refused
from repom.runners.host import HostRunner

from .copying import (
    WAL,
    NotADatabase,
    check,
    check_space,
    connect,
    copy_database,
    copy_pages,
    copy_raw,
    copy_snapshot,
    explained,
    fold,
    hold,
    journal_mode,
    opened_raw,
    page_size,
    page_size_of,
    read_file,
    same_header,
    side_files,
    wait_for_lock,
)
from .home import SIDE_FILES, Home, remove_database, tidy
from .temporary import Temporary

log = logging.getLogger("repom")

CACHE = 1 << 24  # bytes that a restore may hold in memory before it writes them


class Sqlite:
    """One SQLite database.

    :param path: absolute, links resolved.
    :param name: what people call it: its path relative to the project folder.
    """

    backend = "sqlite"
    via = "file"
    fallback = ""
    session = ""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.home = Home(path, name)
        self._temporary: Temporary | None = None

    @property
    def where(self) -> str:
        return str(self.path.parent)

    def identify(self) -> Facts:
        """:raises NotFound: no such file.
        :raises CommandFailed: it is not a database.
        :raises Refused: somebody has locked it.
        """
        if not self.path.is_file():
            raise self._missing()
        if not self.path.stat().st_size:
            raise CommandFailed(f"{self.name} is empty: there is nothing to back up")
        with self._opened() as live:
            return Facts(
                server_version=sqlite3.sqlite_version,
                size=self.path.stat().st_size,
                tables=count_tables(live),
                migration=migration(live),
                system_identifier=self.home.identity() or self.home.proposed(),
            )

    def _missing(self) -> NotFound:
        hint = "Name the database in .env: DATABASE_URL, or the POSTGRES_ variables"
        return NotFound(f"There is no SQLite file {self.name} in {self._base()}", hint)

    def _base(self) -> str:
        """The project folder, as far as `name` is relative to it."""
        return str(self.path).removesuffix(self.name).rstrip("/\\") or "/"

    def survey(self) -> Survey:
        """:raises Refused: what has the name is not a file."""
        exists = self.path.is_file()
        if not exists and os.path.lexists(self.path):
            raise Refused(f"{self.name} is not a file", "Name an SQLite file in DATABASE_URL")
        if self.path.parent.exists() and not self.path.parent.is_dir():
            raise Refused(
                f"{self.path.parent} is not a folder", "Name an SQLite file in DATABASE_URL"
            )
        size = self.path.stat().st_size if exists else 0
        return Survey(exists, size, self.home.identity(), tuple(self._kept()))

    def dump(self, file: BinaryIO, format: str) -> None:
        self.home.settle()
        copy = Path(f"{file.name}.copy.partial")
        try:
            create_private(copy).close()
            with self._opened() as live:
                copy_database(live, copy)
            checked = in_background(check, copy, self.name, "quick_check")
            with copy.open("rb") as source, compressor(file) as out:
                shutil.copyfileobj(source, out, BLOCK)
            checked.result()
        finally:
            with suppress(PermissionError):  # Windows, where the check has it open still
                remove(copy)

    def read(self, archive: Archive) -> None:
        temporary = Temporary()
        try:
            self._unpack(archive, temporary.path / "copy")
        finally:
            temporary.remove()

    def load(
        self,
        found: Survey,
        archive: Archive,
        facts: Facts | None,
        *,
        owner: bool = True,
        replacing: bool = True,
    ) -> str:
        """Unpack the backup beside the live file and check it there; if it is not to
        replace it, in the folder of temporary files."""
        if not replacing:
            self._temporary = Temporary()
            scratch = self._temporary.path / "scratch"
        else:
            self.survey()
            self.home.make()
            self._refuse_space(size_of(archive, facts))
            scratch = self._scratch()
        try:
            self._unpack(archive, scratch)
            archive.check_unchanged()
        except BaseException:
            self.discard(str(scratch))
            raise
        return str(scratch)

    def _refuse_space(self, size: int) -> None:
        """The unpacked backup, the kept copy, and what SQLite's journal takes meanwhile."""
        live = self.path.stat().st_size if self.path.is_file() else 0
        needed, free = size + live + max(size, live), shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise Refused(
                f"{self.path.parent} has {free} bytes free, and a restore takes about {needed}",
                "Free some space, then try again",
            )

    def _unpack(self, archive: Archive, path: Path) -> None:
        if archive.compression:
            with create_private(path) as out:
                for block in archive.blocks():
                    check_space(path.parent)
                    out.write(block)
        else:
            read_file(archive.path, path)
        check(path, archive.path.name, "integrity_check")

    def rows(self, scratch: str) -> dict[str, int]:
        with explained(self.name), closing(connect(Path(scratch))) as copy:
            names = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            counts = {name: count_rows(copy, name) for (name,) in names}
        return {name: count for name, count in counts.items() if count is not None}

    def swap(self, found: Survey, scratch: str, *, keep: int) -> str | None:
        # After all that is kept, since a clock that was ahead must not change which one
        # was replaced last.
        after = [k.created_at + timedelta(microseconds=1) for k in self._kept()]
        now = max([datetime.now(UTC), *after]).strftime("%Y%m%dT%H%M%S%fZ")
        kept = self.home.new("undo", f"{now}_{secrets.token_hex(4)}")
        if self.path.exists() and not self._is_database():
            # What is no database must not push one out that is kept.
            aside = self.home.new("damaged", f"{now}_{secrets.token_hex(4)}")
            self._rename_in(Path(scratch), aside)
            log.warning("%s was not a database; the old file was moved to %s", self.name, aside)
            return None
        if self.path.exists():
            self._replace(Path(scratch), kept if keep else None)
        else:
            self._rename_in(Path(scratch), kept)
        for old in self._kept()[keep:]:
            tidy(Path(old.name))
        return str(kept) if keep and kept.exists() else None

    def discard(self, scratch: str) -> None:
        remove_database(Path(scratch))
        if self._temporary:
            self._temporary.remove()
            self._temporary = None

    def _kept(self) -> list[Kept]:
        found = []
        for stamp, path in self.home.kept():
            with suppress(ValueError, FileNotFoundError):  # no such day, or gone meanwhile
                when = datetime.strptime(stamp[:22], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
                found.append(Kept(str(path), self.name, when, path.stat().st_size))
        return sorted(found, key=lambda each: each.created_at, reverse=True)

    def sweep(self, found: Survey) -> None:
        self.home.sweep()

    def exclusive(self, doing: str) -> AbstractContextManager[None]:
        return self.home.exclusive(doing)

    def close(self) -> None:
        """There is nothing that stays open."""

    def abort(self, session: str | None = None) -> None:
        """Nothing runs elsewhere."""

    def shell(self) -> int:
        """sqlite3 on the terminal, or Python's own shell for it (3.12 and newer)."""
        if not self.path.is_file():
            raise self._missing()
        program = ["sqlite3"] if shutil.which("sqlite3") else [sys.executable, "-m", "sqlite3"]
        return HostRunner().interactive([*program, str(self.path)], {})

    def _scratch(self) -> Path:
        return self.home.new("scratch", secrets.token_hex(4))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """The live database. Read and write, also for reading: a WAL needs its index."""
        with explained(self.name), closing(connect(self.path)) as live:
            wait_for_lock(live)
            yield live

    def _is_database(self) -> bool:
        """Whether somebody may have it open; an empty file may be about to become one."""
        try:
            with self._opened():
                return True
        except NotADatabase:
            return False

    def _rename_in(self, scratch: Path, kept: Path) -> None:
        """For a file that is missing or no database, which nobody can have open. Its side
        files go with it: a stale WAL would be played into the new file."""
        scratch.chmod(self.path.stat().st_mode & 0o777 if self.path.exists() else default_mode())
        sync_file(scratch)  # before the name is free: a failure here changes nothing
        for suffix in ("", *SIDE_FILES):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").replace(f"{kept}{suffix}")
        scratch.replace(self.path)
        sync_folder(kept.parent)
        sync_folder(self.path.parent)

    def _replace(self, scratch: Path, kept: Path | None) -> None:
        copy = self._scratch()  # another name until it is whole, and its data are replaced
        try:
            with explained(self.name), closing(connect(scratch)) as new:
                journal_mode(new, "delete")  # the live file stays in its own
                if self.home.is_scratch(scratch):  # nobody needs it after a crash
                    new.execute("PRAGMA synchronous = OFF")
                if page_size(new) == page_size_of(self.path):
                    self._replace_pages(new, copy, kept)
                else:
                    self._replace_file(new, scratch, copy, kept)
        finally:
            tidy(copy)
        tidy(scratch)
        with suppress(sqlite3.Error), closing(connect(self.path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _replace_pages(self, new: sqlite3.Connection, copy: Path, kept: Path | None) -> None:
        """Replace the pages in one transaction, under whoever has the file open. The kept
        copy goes if that fails; it stays after an error that SQLite met behind its commit,
        such as when it shortens the file."""
        version = "PRAGMA data_version"
        with self._opened() as witness:
            before = witness.execute(version).fetchone()
            try:
                with self._opened() as live:
                    self._copy_in(new, live, copy, kept)
            except BaseException:
                with suppress(sqlite3.Error):
                    if kept and witness.execute(version).fetchone() == before:
                        remove_database(kept)
                raise

    def _replace_file(
        self, new: sqlite3.Connection, scratch: Path, copy: Path, kept: Path | None
    ) -> None:
        """The same for pages of another size. SQLite refuses that for a WAL, so the file
        leaves that mode for a moment, in which nobody else may have it open."""
        wanted, had_wal = page_size(new), False
        try:
            with self._opened() as live:
                had_wal = journal_mode(live) == "wal"
                with self._explained_hold(page_size(live), wanted):
                    hold(live)
                self._copy_held(new, live, copy, kept, scratch)
        except BaseException:
            with suppress(sqlite3.Error):
                if kept and page_size_of(self.path) != wanted:
                    remove_database(kept)
            raise
        finally:
            if had_wal:
                self._back_to_wal()

    @contextmanager
    def _explained_hold(self, size: int, wanted: int) -> Iterator[None]:
        try:
            yield
        except Refused as error:
            raise Refused(
                f"{self.name} has a page size of {size} bytes and the backup one of {wanted}, "
                "which cannot be changed while another program has the file open",
                "Close the programs that use it, then try again",
            ) from error

    def _copy_held(
        self,
        new: sqlite3.Connection,
        live: sqlite3.Connection,
        copy: Path,
        kept: Path | None,
        scratch: Path,
    ) -> None:
        set_limits(live)
        with opened_raw(self.path) as raw:
            try:
                if kept:
                    copy_raw(raw, copy)
                    sync_file(copy)
                    copy.rename(kept)
                    sync_folder(kept.parent)
                copy_pages(new, live)
                if not same_header(scratch, raw):
                    raise CommandFailed(
                        f"The header of {self.name} is not that of the backup",
                        "Run: invoke db.undo",
                    )
            finally:
                live.close()

    def _back_to_wal(self) -> None:
        with suppress(sqlite3.Error), closing(connect(self.path)) as live:
            if journal_mode(live, "wal") == "wal":
                return
        log.warning("%s is not in WAL mode any more: set it again with your program", self.name)

    def _copy_in(
        self, new: sqlite3.Connection, live: sqlite3.Connection, copy: Path, kept: Path | None
    ) -> None:
        set_limits(live)
        if not kept:
            copy_pages(new, live)  # a crash rolls back all the same
            return
        if new.execute("PRAGMA page_count").fetchone()[0] < 2:
            # Without a table it is copied, and committed, in one step: no moment to keep
            # the old one under the same lock.
            copy_snapshot(self.path, copy)
            copy.rename(kept)
            copy_pages(new, live)
            return
        with opened_raw(self.path) as raw:

            def keep() -> None:
                copy_raw(raw, copy)
                raw.seek(18)  # the journal mode, asked under the lock
                if raw.read(1) == WAL:
                    with Path(f"{self.path}-wal").open("rb") as frames:
                        copy_raw(frames, Path(f"{copy}-wal"))
                    fold(copy)

            def settle() -> None:  # as late as can be: most of it is on the disk by then
                sync_file(copy)
                copy.rename(kept)
                sync_folder(kept.parent)

            try:
                copy_pages(new, live, first=keep, last=settle)
            finally:
                live.close()


def set_limits(live: sqlite3.Connection) -> None:
    """The file may ask for a tiny cache, which would spill before the copy is made."""
    live.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
    live.execute("PRAGMA synchronous = FULL")


def size_of(archive: Archive, facts: Facts | None) -> int:
    """Bytes that the backup takes when it is unpacked, as far as that is known."""
    sides = [] if archive.compression else side_files(archive.path.resolve())
    known = facts.size if facts else 0
    return known or sum(path.stat().st_size for path in (archive.path, *sides))


def count_rows(database: sqlite3.Connection, table: str) -> int | None:
    """Rows of a table; unknown for one that a missing module of SQLite would have to read."""
    quoted = table.replace('"', '""')
    try:
        return int(database.execute(f'SELECT count(*) FROM "{quoted}"').fetchone()[0])
    except sqlite3.OperationalError as error:
        if "no such module" in str(error):
            return None
        raise


def count_tables(database: sqlite3.Connection) -> int:
    query = (
        "SELECT count(*) FROM sqlite_master"
        " WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return int(database.execute(query).fetchone()[0])


def in_background(call: Callable[..., None], *args: Any) -> Future[None]:
    """Call it in another thread, which nobody has to wait for."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call(*args)
            future.set_result(None)
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def default_mode() -> int:
    """The mode of a file that somebody else would make here."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask


def migration(database: sqlite3.Connection) -> str | None:
    """Alembic's revision, when there is one. A view of that name might have no end."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    with suppress(sqlite3.Error):
        if not database.execute(known).fetchone():
            return None
        rows = database.execute("SELECT version_num FROM alembic_version LIMIT 9").fetchall()
        return ",".join(str(number) for (number,) in rows) or None
    return None
