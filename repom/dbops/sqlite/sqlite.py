"""One SQLite file: copied while other programs write, and restored while they have it open."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from repom.dbops.archive.archive import Archive
from repom.dbops.archive.codecs import compressor
from repom.dbops.archive.hook import Hook
from repom.dbops.archive.staging import WorkingFolder
from repom.dbops.database import Facts, Survey
from repom.dbops.files import (
    BLOCK,
    check_not_full,
    check_space,
    create_private,
    sync_file,
    sync_folder,
)
from repom.errors import CommandFailed, NotFound, Refused
from repom.runners.host import HostRunner

from .copying import NotADatabase, check, connect, copy_database, explained, opened, pragma
from .home import SIDE_FILES, Home, remove_database, tidy, unwritable
from .hooks import run_hook
from .reading import read_file, side_files
from .replacing import replace_data

log = logging.getLogger("repom")

NAME_A_FILE = "Name an SQLite file in DATABASE_URL"


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
        #: Folders of the scratch databases that lie elsewhere than the live file.
        self._elsewhere: dict[str, WorkingFolder] = {}

    @property
    def where(self) -> str:
        return str(self.path.parent)

    def identify(self) -> Facts:
        """:raises NotFound: no such file.
        :raises CommandFailed: it is not a database.
        :raises Refused: another program has locked it.
        """
        if not self.path.is_file():
            raise self._missing()
        if not self.path.stat().st_size:
            raise CommandFailed(f"{self.name} is empty: there is nothing to back up")
        with opened(self.path, self.name) as live:
            return Facts(
                server_version=sqlite3.sqlite_version,
                size=self.path.stat().st_size,
                tables=count_tables(live),
                migration=migration(live),
                system_identifier=self.home.next_identity(),
            )

    def _missing(self) -> NotFound:
        # The project folder, as far as the name is relative to it.
        folder = str(self.path).removesuffix(self.name).rstrip("/\\") or "/"
        return NotFound(
            f"There is no SQLite file {self.name} in {folder}",
            "Set the database in .env: DATABASE_URL, or the POSTGRES_ variables",
        )

    def survey(self) -> Survey:
        """:raises Refused: its name is that of a folder, say."""
        exists = self.path.is_file()
        if not exists and os.path.lexists(self.path):
            raise Refused(f"{self.name} is not a file", NAME_A_FILE)
        if self.path.parent.exists() and not self.path.parent.is_dir():
            raise Refused(f"{self.path.parent} is not a folder", NAME_A_FILE)
        size = self.path.stat().st_size if exists else 0
        return Survey(exists, size, self.home.identity(), tuple(self.home.kept()))

    def dump(self, file: BinaryIO, format: str, excluded: Sequence[str] = ()) -> None:
        if excluded:
            raise Refused(
                "A backup of SQLite holds the whole file", "Leave --exclude-table-data out"
            )
        self.home.settle()
        with self._copied() as copy:
            checked = in_background(check, copy, self.name, "quick_check")
            with copy.open("rb") as source, compressor(file) as out:
                shutil.copyfileobj(source, out, BLOCK)
            checked.result()

    @contextmanager
    def _copied(self) -> Iterator[Path]:
        """A snapshot in a private folder: in `.repom`, or if that cannot be written to or
        lacks the room, in the folder for temporary files.

        :raises Refused: both lack the room, or another program has locked the file.
        """
        parents = [self.home.folder] if self.home.is_writable else []
        parents.append(Path(tempfile.gettempdir()))
        parent = parents[0]
        with ExitStack() as stack:
            try:
                with opened(self.path, self.name) as live:
                    size = pragma(live, "page_count") * pragma(live, "page_size")
                    fitting = (p for p in parents if shutil.disk_usage(p).free >= size)
                    parent = next(fitting, parent)
                    check_space(parent, size, "the working copy of a backup")
                    copy = stack.enter_context(WorkingFolder(parent)) / "copy"
                    create_private(copy).close()
                    copy_database(live, copy)
            except OSError as error:
                raise unwritable(parent, error) from None
            yield copy

    def read(self, archive: Archive) -> None:
        with WorkingFolder() as folder:
            unpack(archive, folder / "copy")

    def load(
        self,
        found: Survey,
        archive: Archive,
        facts: Facts | None,
        *,
        owner: bool = True,
        replacing: bool = True,
        hooks: Sequence[Hook] = (),
    ) -> str:
        """Unpack the backup beside the live file and check it there; if it is not to replace
        it, in the folder for temporary files."""
        if replacing:
            self.home.make()
            # The unpacked backup, the undo copy, and the journal that SQLite writes.
            size = (facts.size if facts else 0) or size_of(archive)
            live = self.path.stat().st_size if self.path.is_file() else 0
            check_space(self.path.parent, size + live + max(size, live), "a restore")
            scratch = self.home.new_scratch()
        else:
            folder = WorkingFolder()
            scratch = folder.path / "scratch"
            self._elsewhere[str(scratch)] = folder
        try:
            unpack(archive, scratch)
            archive.check_unchanged()
            for hook in hooks:
                run_hook(Path(scratch), hook)
        except BaseException:
            self.discard(str(scratch))
            raise
        return str(scratch)

    def rows(self, scratch: str) -> dict[str, int]:
        with explained(self.name), closing(connect(Path(scratch))) as copy:
            names = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            counts = {name: count_rows(copy, name) for (name,) in names}
        return {name: count for name, count in counts.items() if count is not None}

    def swap(self, found: Survey, scratch: str, *, keep: int) -> str | None:
        # Later than every undo copy, since a clock that was wrong must not change which
        # database was replaced last.
        after = [kept.created_at + timedelta(microseconds=1) for kept in self.home.kept()]
        now = max([datetime.now(UTC), *after])
        undo = self.home.new_copy("undo", now)
        if not self.path.exists():
            self._rename_in(Path(scratch), undo)
        elif self._is_database():
            replace_data(self.home, Path(scratch), undo if keep else None)
        else:  # which must not displace an undo copy
            aside = self.home.new_copy("damaged", now)
            self._rename_in(Path(scratch), aside)
            log.warning("%s was not a database; the old file was moved to %s", self.name, aside)
            return None
        for old in self.home.kept()[keep:]:
            tidy(Path(old.name))
        return str(undo) if keep and undo.exists() else None

    def _is_database(self) -> bool:
        """Whether other programs may have it open; an empty file may become a database."""
        try:
            with opened(self.path, self.name):
                return True
        except NotADatabase:
            return False

    def _rename_in(self, scratch: Path, aside: Path) -> None:
        """Give the scratch file the name of a missing one, or of one that is not a database,
        which no program can have open. Side files are moved away with it: SQLite would play
        a stale WAL into the new file."""
        scratch.chmod(self.path.stat().st_mode & 0o777 if self.path.exists() else default_mode())
        sync_file(scratch)  # before the name is free: a failure here changes nothing
        for suffix in ("", *SIDE_FILES):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{suffix}").replace(f"{aside}{suffix}")
        scratch.replace(self.path)
        sync_folder(aside.parent)
        sync_folder(self.path.parent)

    def discard(self, scratch: str) -> None:
        remove_database(Path(scratch))
        if folder := self._elsewhere.pop(scratch, None):
            folder.remove()

    def sweep(self, found: Survey) -> None:
        self.home.sweep()

    def exclusive(self, doing: str) -> AbstractContextManager[None]:
        return self.home.exclusive(doing)

    def close(self) -> None:
        """There is nothing that stays open."""

    def abort(self, session: str | None = None) -> None:
        """There is no server in which anything could still run."""

    def shell(self) -> int:
        """sqlite3 on the terminal, or Python's own shell for it (3.12 and newer)."""
        if not self.path.is_file():
            raise self._missing()
        program = ["sqlite3"] if shutil.which("sqlite3") else [sys.executable, "-m", "sqlite3"]
        return HostRunner().interactive([*program, str(self.path)], {})


def unpack(archive: Archive, path: Path) -> None:
    """:raises Damaged: the unpacked file is not a whole SQLite database.
    :raises NoSpace: the disk is nearly full.
    """
    if archive.compression:
        with create_private(path) as out:
            for block in archive.blocks():
                check_not_full(path.parent)
                out.write(block)
    else:
        read_file(archive.path, path)
    check(path, archive.path.name, "integrity_check")


def size_of(archive: Archive) -> int:
    """Bytes that a backup takes unpacked, as far as its files tell."""
    sides = [] if archive.compression else side_files(archive.path.resolve())
    return sum(path.stat().st_size for path in (archive.path, *sides))


def count_rows(database: sqlite3.Connection, table: str) -> int | None:
    """Rows of a table; None for a virtual one whose SQLite module is missing."""
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


def migration(database: sqlite3.Connection) -> str | None:
    """Alembic's revision, when there is one. Only a table is asked: a view of that name
    could return rows without end."""
    known = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
    with suppress(sqlite3.Error):
        if not database.execute(known).fetchone():
            return None
        rows = database.execute("SELECT version_num FROM alembic_version LIMIT 9").fetchall()
        return ",".join(str(number) for (number,) in rows) or None
    return None


def in_background(call: Callable[..., None], *args: Any) -> Future[None]:
    """Call it in another thread, which does not keep an interrupted process alive."""
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
    """The mode of a new file under this process's umask."""
    umask = os.umask(0o077)
    os.umask(umask)
    return 0o666 & ~umask
