"""The folder `.repom` beside an SQLite file: its id, its lock, and repom's copies of it.

It has the mode 0700 and ignores itself in Git. The SQLite files of one folder share it; the
name of each file in it begins with the name of the SQLite file that it belongs to.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import platform
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repom.dbops.archive import staging
from repom.dbops.database import Kept
from repom.dbops.files import FREE_SPACE, create_private, remove, sync, sync_folder
from repom.errors import CommandFailed, NoSpace, Refused, RepomError

log = logging.getLogger("repom")

FOLDER = ".repom"
LONG = 100  # bytes; with what repom adds, a file's name must stay below 255
ABANDONED = 24 * 3600  # seconds after which a scratch file of repom 0.1 is not in use
SIDE_FILES = ("-wal", "-shm", "-journal")
STAMP = "%Y%m%dT%H%M%S%fZ"
STAMPED = r"(\d{8}T\d{12}Z)_[0-9a-f]{8}"


class Home:
    """What repom keeps for one SQLite file.

    :param path: of the SQLite file, absolute, links resolved.
    :param name: what people call it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.folder = path.parent / FOLDER
        self._stem = stem_of(path.name)
        self._lock = FileLock(self.folder / f"{self._stem}.lock", timeout=0, mode=0o600)
        self._new_id = secrets.token_hex(16)

    # -- the folder ---------------------------------------------------------------------

    def make(self) -> None:
        """Make the folder, if it is missing.

        :raises Refused: it is not a folder, or another user's.
        :raises CommandFailed: it cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
                self.folder.chmod(0o700)  # whatever the umask
                sync_folder(self.path.parent)
            if flaw := self._flaw():
                raise Refused(
                    f"{self.folder} {flaw}", "Move it elsewhere; repom keeps its copies there"
                )
            if hasattr(os, "geteuid") and self.folder.stat().st_mode & 0o077:
                self.folder.chmod(0o700)
            with suppress(FileExistsError), create_private(self.folder / ".gitignore") as file:
                file.write(b"*\n")
        except OSError as error:
            raise unwritable(self.folder, error) from None

    def _flaw(self) -> str:
        """Why the folder is not to be trusted; empty if it is."""
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "is not a folder"
        return "" if self._trusts(found) else "belongs to another user"

    def _trusts(self, found: os.stat_result) -> bool:
        """The owner of a file here could put data of theirs in the database's place. Root
        and the owner of the folder around it can do so anyway."""
        if not hasattr(os, "geteuid"):
            return True
        return found.st_uid in {0, os.geteuid(), self.path.parent.stat().st_uid}

    @property
    def is_there(self) -> bool:
        with suppress(OSError):
            return not self._flaw()
        return False

    @property
    def is_writable(self) -> bool:
        """Whether files can be made in the folder, or the folder itself if it is missing."""
        exists = os.path.lexists(self.folder)
        rights = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
        folder = self.folder if exists else self.path.parent
        return (self.is_there or not exists) and os.access(folder, os.W_OK | os.X_OK, **rights)

    # -- copies -------------------------------------------------------------------------

    def new_scratch(self) -> Path:
        """A name for a file that the next run removes if this one is killed."""
        return self.folder / f"{self._stem}.scratch_{secrets.token_hex(4)}"

    def is_scratch(self, path: Path) -> bool:
        return path.parent == self.folder and path.name.startswith(f"{self._stem}.scratch_")

    def new_copy(self, kind: str, when: datetime) -> Path:
        """A name for a file that is kept.

        :param kind: ``undo``, or ``damaged`` for what was not a database.
        """
        stamp = f"{when.strftime(STAMP)}_{secrets.token_hex(4)}"
        return self.folder / f"{self._stem}.{kind}_{stamp}"

    def kept(self) -> list[Kept]:
        """The undo copies, newest first. Those of repom 0.1 lie beside the SQLite file."""
        old = re.escape(f".{self.path.name}.repom_undo_") + STAMPED
        copies = []
        for match, path in (
            *self._files(f"undo_{STAMPED}"),
            *matching(self.path.parent, old),
        ):
            with suppress(ValueError, FileNotFoundError):  # not a date, or gone meanwhile
                when = datetime.strptime(match[1], STAMP).replace(tzinfo=UTC)
                found = path.lstat()
                if self._trusts(found):
                    copies.append(Kept(str(path), self.name, when, found.st_size))
        return sorted(copies, key=lambda each: each.created_at, reverse=True)

    def _files(self, pattern: str) -> list[tuple[re.Match[str], Path]]:
        start = re.escape(f"{self._stem}.")
        return matching(self.folder, start + pattern) if self.is_there else []

    def sweep(self) -> None:
        """Remove the scratch files of killed runs. A run that uses one holds the lock."""
        old = re.escape(f".{self.path.name}.repom_scratch_") + r"[0-9a-f]{8}\.\d+"
        for _match, path in matching(self.path.parent, old):
            if time.time() - path.stat().st_mtime > ABANDONED:
                remove_database(path)
        if not self.is_there:
            return
        staging.sweep(self.folder)
        with suppress(Timeout, OSError), self._lock:
            for _match, path in self._files(r"scratch_[0-9a-f]{8}(?:-\w+)?"):
                remove(path)

    # -- the lock -----------------------------------------------------------------------

    @contextmanager
    def exclusive(self, doing: str) -> Iterator[None]:
        """Only one restore or undo of this file at a time, whatever store it uses. The
        kernel ends the lock of a killed process.

        :raises Refused: another process holds it; the message says which.
        """
        if self._lock.is_locked:
            yield
            return
        self.make()
        try:
            self._lock.acquire()
        except Timeout:
            raise Refused(
                f"Another repom process{self._holder()} is using {self.name}",
                "Try again when it has finished",
            ) from None
        except OSError as error:
            raise unwritable(self.folder, error) from None
        try:
            self._write_note(doing)
            yield
        finally:
            with suppress(OSError):
                remove(self._note)
            with suppress(OSError):
                self._lock.release()

    @property
    def _note(self) -> Path:
        """Who holds the lock. A file of its own: Windows allows no other process to read a
        locked one."""
        return self.folder / f"{self._stem}.holder"

    def _write_note(self, doing: str) -> None:
        with suppress(OSError):
            remove(self._note)
            with create_private(self._note) as file:
                file.write(json.dumps({"pid": os.getpid(), "doing": doing}).encode())

    def _holder(self) -> str:
        note = read_json(self._note)
        pid, doing = note.get("pid"), note.get("doing")
        return f" (pid {pid}, {doing})" if isinstance(pid, int) and isinstance(doing, str) else ""

    # -- the id -------------------------------------------------------------------------

    def identity(self) -> str | None:
        """The id of this SQLite file, if it has one and was not copied from elsewhere.

        A folder keeps its number when it is moved, mounted at another path, or mounted into
        a container that is recreated with another host name. A copy gets another number,
        even when it takes the place of the original. Folders on two disks may have the same
        number by chance, so path or machine must agree, too.
        """
        if not (known := self._record()):
            return None
        here = self._whereabouts()
        near = any(known.get(key) == here[key] for key in ("path", "machine"))
        whole = re.fullmatch(r"[0-9a-f]{32}", str(known.get("id")))
        return str(known["id"]) if near and whole and known.get("place") == here["place"] else None

    def next_identity(self) -> str | None:
        """The id that the next backup records: the file's own, or the new one that
        `settle` will give it. None where no id can be kept; then the path decides which
        backups are of this database."""
        return self.identity() or (self._new_id if self.is_writable else None)

    def settle(self) -> None:
        """Give the file its id. If that fails, prune leaves the backup that has it alone."""
        if not self.is_writable or self.identity():
            return
        if path := self._record().get("path"):
            log.warning(
                "%s was copied from %s; backups of the original will not be pruned",
                *(self.name, path),
            )
        try:
            self.make()
            remove(self._id_file)  # a copy, or damaged
            with create_private(self._id_file) as file:
                record = {"id": self._new_id, **self._whereabouts()}
                file.write(json.dumps(record, indent=2).encode())
                sync(file)
            sync_folder(self.folder)
        except (OSError, RepomError) as error:
            log.debug("The id of %s was not kept: %s", self.name, error)

    @property
    def _id_file(self) -> Path:
        return self.folder / f"{self._stem}.json"

    def _record(self) -> dict[str, Any]:
        return read_json(self._id_file) if self.is_there else {}

    def _whereabouts(self) -> dict[str, str]:
        path = os.fsencode(self.path).decode("utf-8", "backslashreplace")
        return {"path": path, "machine": machine(), "place": place(self.folder)}


def unwritable(folder: Path, error: OSError) -> CommandFailed:
    message = f"Cannot write to {folder}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(message, FREE_SPACE)
    hint = "Allow this user to write to that folder; repom keeps its copies there"
    return CommandFailed(message, hint)


def stem_of(name: str) -> str:
    """The name of an SQLite file as the beginning of others: itself if it is short and
    plain, else what is plain in it, and a checksum."""
    plain = re.sub(r"[^\w.-]", "_", name)
    if plain == name and len(os.fsencode(name)) <= LONG:
        return name
    return f"{plain[: LONG // 4]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def matching(folder: Path, pattern: str) -> list[tuple[re.Match[str], Path]]:
    """Plain files of a folder whose whole name matches."""
    paths: list[Path] = []
    with suppress(OSError):
        paths = [*folder.iterdir()]
    found = [(re.fullmatch(pattern, path.name), path) for path in paths]
    return [(m, p) for m, p in found if m and p.is_file() and not p.is_symlink()]


def read_json(path: Path) -> dict[str, Any]:
    """A small file of repom's own; empty when it is not one."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = json.loads(file.read(1 << 16))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def machine() -> str:
    """This machine: its name, and a checksum of its id, where the system has one."""
    ident = b""
    with suppress(OSError):
        ident = Path("/etc/machine-id").read_bytes().strip()
    return f"{platform.node()} {hashlib.sha256(b'repom' + ident).hexdigest()[:16]}"


def place(folder: Path) -> str:
    """The number of a folder and of its disk: the file system's own number, where it has
    one, since the device's may change with each start."""
    found = folder.stat()
    disk = os.statvfs(folder).f_fsid if hasattr(os, "statvfs") else found.st_dev
    return f"{disk:x}:{found.st_ino:x}"


def remove_database(path: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        remove(Path(f"{path}{suffix}"))


def tidy(path: Path) -> None:
    """Remove a file that is no longer needed; a failure does not undo what was done."""
    try:
        remove_database(path)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)
