"""One SQLite file: copying it while others write, and restoring into it while it is open.

The live file is only ever written through SQLite's backup API, inside one transaction:
whoever has it open sees all of the old data or all of the new, and a crash rolls back.
Replacing the file under an open connection would corrupt it.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import CommandFailed, Damaged, NoSpace, NotFound, Refused
from .archive import HINT, SQLITE, Archive, compressor
from .database import Facts, Kept, Survey
from .files import BLOCK, copy_bytes, create_private, remove, sync_file, sync_folder
from .runner import HostRunner

CACHE = 1 << 24  # bytes that a restore may hold in memory before it writes them
BUSY = 0.2  # seconds that SQLite itself waits for a lock, between two looks at the clock
FLOOR = 1 << 28  # bytes of free space
PATIENCE = 5.0  # seconds that repom waits for one
STEP = 1 << 19  # bytes copied between two looks; less than CACHE, so that nothing of a
# restore reaches the file before the old data have been kept
WAL = b"\2"  # the file format's write version, at byte 18, in that journal mode
SIDE_FILES = ("-wal", "-shm", "-journal")
WAIT = "Close the program that holds it, or try again"


log = logging.getLogger("repom")


class NotADatabase(CommandFailed):
    """The file can be no database that somebody has open."""


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
            )

    def _missing(self) -> NotFound:
        hint = "Name the database in .env: DATABASE_URL, or the POSTGRES_ variables"
        return NotFound(f"There is no SQLite file {self.name} in {self._base()}", hint)

    def _base(self) -> str:
        """The project folder, as far as `name` is relative to it."""
        return str(self.path).removesuffix(self.name).rstrip("/\\") or "/"

    def survey(self) -> Survey:
        size = self.path.stat().st_size if self.path.is_file() else 0
        return Survey(self.path.is_file(), size, None, tuple(self._kept()))

    def dump(self, file: BinaryIO, format: str) -> None:
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
        with tempfile.TemporaryDirectory(prefix="repom-") as folder:
            self._unpack(archive, Path(folder, "copy"))

    def load(
        self,
        archive: Archive,
        facts: Mapping[str, Any] | None,
        *,
        owner: bool = True,
        replacing: bool = True,
    ) -> str:
        """Unpack the backup beside the live file and check it there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._refuse_space(int((facts or {}).get("size") or archive.path.stat().st_size))
        scratch = self._scratch()
        try:
            self._unpack(archive, scratch)
        except BaseException:
            remove_database(scratch)
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
        with create_private(path) as out:
            for block in archive.blocks():
                check_space(path.parent)
                out.write(block)
        check(path, archive.path.name, "integrity_check")

    def rows(self, scratch: str) -> dict[str, int]:
        with closing(connect(Path(scratch))) as copy:
            names = copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            count = 'SELECT count(*) FROM "{}"'
            quoted = {n: n.replace('"', '""') for (n,) in names}
            return {n: copy.execute(count.format(q)).fetchone()[0] for n, q in quoted.items()}

    def swap(self, scratch: str, *, keep: int) -> str | None:
        # After all that is kept, since a clock that was ahead must not change which one
        # was replaced last.
        after = [k.created_at + timedelta(microseconds=1) for k in self._kept()]
        now = max([datetime.now(UTC), *after]).strftime("%Y%m%dT%H%M%S%fZ")
        kept = self._beside("undo", f"{now}_{secrets.token_hex(4)}")
        if self.path.exists() and not self._is_database():
            # What is no database must not push one out that is kept.
            aside = self._beside("damaged", f"{now}_{secrets.token_hex(4)}")
            self._rename_in(Path(scratch), aside)
            log.warning("%s was no database; what it was is now %s", self.name, aside)
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

    def _kept(self) -> list[Kept]:
        found = []
        for path in self.path.parent.glob(f".{escaped(self.path.name)}.repom_undo_*"):
            stamp = re.fullmatch(r".*\.repom_undo_(\d{8}T\d{12}Z)_[0-9a-f]{8}", path.name)
            if stamp and path.is_file() and not path.is_symlink():
                when = datetime.strptime(stamp[1], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
                found.append(Kept(str(path), self.name, when, path.stat().st_size))
        return sorted(found, key=lambda each: each.created_at, reverse=True)

    def sweep(self) -> None:
        for path in self.path.parent.glob(f".{escaped(self.path.name)}.repom_scratch_*"):
            pid = re.fullmatch(r".*\.repom_scratch_[0-9a-f]{8}\.(\d+)", path.name)
            if pid and not is_running(int(pid[1])):
                remove_database(path)

    def exclusive(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def abort(self, session: str | None = None) -> None:
        """Nothing runs elsewhere."""

    def shell(self) -> int:
        """sqlite3 on the terminal, or Python's own shell for it (3.12 and newer)."""
        if not self.path.is_file():
            raise self._missing()
        program = ["sqlite3"] if shutil.which("sqlite3") else [sys.executable, "-m", "sqlite3"]
        return HostRunner().interactive([*program, str(self.path)])

    def _scratch(self) -> Path:
        """A name that says which process is at work on it, for whoever sweeps."""
        return self._beside("scratch", f"{secrets.token_hex(4)}.{os.getpid()}")

    def _beside(self, kind: str, rest: str) -> Path:
        return self.path.with_name(f".{self.path.name}.repom_{kind}_{rest}")

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
        sync_folder(self.path.parent)

    def _replace(self, scratch: Path, kept: Path | None) -> None:
        # A copy has another name until it is whole and the new data are about to be
        # committed. It goes when they were not; it stays after an error that SQLite met
        # behind its commit, such as when it shortens the file.
        copy, version = self._scratch(), "PRAGMA data_version"
        with self._opened() as witness:
            before = witness.execute(version).fetchone()
            try:
                with self._opened() as live, closing(connect(scratch)) as new:
                    if "repom_scratch" in scratch.name:  # nobody needs it after a crash
                        new.execute("PRAGMA synchronous = OFF")
                    self._copy_in(new, live, copy, kept)
            except BaseException:
                with suppress(sqlite3.Error):
                    if kept and witness.execute(version).fetchone() == before:
                        remove_database(kept)
                raise
            finally:
                tidy(copy)
        tidy(scratch)
        with suppress(sqlite3.Error), closing(connect(self.path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _copy_in(
        self, new: sqlite3.Connection, live: sqlite3.Connection, copy: Path, kept: Path | None
    ) -> None:
        # The file may ask for a tiny cache, which would spill before the copy is made.
        live.execute(f"PRAGMA cache_size = -{CACHE >> 10}")
        live.execute("PRAGMA synchronous = FULL")
        adapt_page_size(new, live)
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
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn SQLite's errors into repom's."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Refused(f"{name} is locked by another program", WAIT) from None
        if code == sqlite3.SQLITE_NOTADB:
            raise NotADatabase(f"{name} is not an SQLite database") from None
        if code == sqlite3.SQLITE_CORRUPT:
            raise NotADatabase(f"{name} is damaged: {error}") from None
        raise CommandFailed(f"SQLite cannot use {name}: {error}") from None


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
    page_size = source.execute("PRAGMA page_size").fetchone()[0]
    count = source.execute("PRAGMA page_count").fetchone()[0]
    # Not all of it in the first step: the last step also commits.
    pages = max(1, min(STEP // page_size, count - 1))
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
    assert count < 2 or not calls, "the target was overwritten before it was kept"


def adapt_page_size(new: sqlite3.Connection, live: sqlite3.Connection) -> None:
    """A live WAL database keeps its page size, so the new one takes it on."""
    wanted = live.execute("PRAGMA page_size").fetchone()[0]
    new.execute("PRAGMA journal_mode = DELETE")
    if new.execute("PRAGMA page_size").fetchone()[0] != wanted:
        new.execute(f"PRAGMA page_size = {int(wanted)}")
        new.execute("VACUUM")


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
        assert mode == "delete", "the copy's WAL could not be brought in"


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
    """Alembic's revision, when there is one."""
    with suppress(sqlite3.Error):
        rows = database.execute("SELECT version_num FROM alembic_version").fetchall()
        return ",".join(str(number) for (number,) in rows) or None
    return None


def check_space(folder: Path) -> None:
    """Stop before the disk is full: a small file can unpack to any size.

    :raises NoSpace: less than 5 % of the disk is free, and less than 256 MB.
    """
    usage = shutil.disk_usage(folder)
    if usage.free < min(FLOOR, usage.total // 20):
        raise NoSpace(f"The disk of {folder} is full", "Free some space, then try again")


def tidy(path: Path) -> None:
    """Remove what is no longer needed: the restore is done, so a failure is no failure."""
    try:
        remove_database(path)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)


def remove_database(path: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        remove(Path(f"{path}{suffix}"))


def escaped(name: str) -> str:
    """A file's name for `glob`, literally."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def is_running(pid: int) -> bool:
    if not hasattr(os, "getpgid"):
        return True  # no harmless way to ask: leave it
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        return False
    return True
