"""The folder `.repom` beside an SQLite file: its id, its lock, and repom's copies of it.

It has the mode 0700 and ignores itself in Git. Several SQLite files of one folder share it;
the name of each of repom's files begins with the name of the one that it belongs to.
"""

from __future__ import annotations

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
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repom.dbops.files import create_private, remove, sync, sync_folder
from repom.errors import CommandFailed, Refused, RepomError

log = logging.getLogger("repom")

FOLDER = ".repom"
LONG = 100  # bytes; with what repom adds, a file's name must stay below 255
ABANDONED = 24 * 3600  # seconds after which a scratch file of repom 0.1 is nobody's
SIDE_FILES = ("-wal", "-shm", "-journal")
STAMP = r"\d{8}T\d{12}Z_[0-9a-f]{8}"


class Home:
    """What repom keeps for one SQLite file.

    :param path: of the SQLite file, absolute, links resolved.
    :param name: what people call it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.folder = path.parent / FOLDER
        self.stem = stem_of(path.name)
        self._held = False
        self._proposed = ""

    # -- the folder ---------------------------------------------------------------------

    def make(self) -> None:
        """Make the folder, if it is missing.

        :raises Refused: it is not a folder of this user's.
        :raises CommandFailed: it cannot be made.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                self.folder.mkdir(mode=0o700)
                self.folder.chmod(0o700)  # whatever the umask
                sync_folder(self.path.parent)
            self._refuse_odd_folder()
            self._ignore()
        except OSError as error:
            raise self._unusable(error) from None

    def _refuse_odd_folder(self) -> None:
        if reason := self._oddness():
            raise Refused(f"{self.folder} {reason}", "Move it away; repom keeps its copies there")
        if hasattr(os, "geteuid") and self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _oddness(self) -> str:
        """Why the folder is not to be trusted."""
        found = self.folder.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return "is a symbolic link" if stat.S_ISLNK(found.st_mode) else "is not a folder"
        return "" if self._trusts(found) else "belongs to another user"

    def _trusts(self, found: os.stat_result) -> bool:
        """Whoever something here belongs to could put a copy of theirs in the database's
        place. Root and the owner of the folder around it can do so anyway."""
        if not hasattr(os, "geteuid"):
            return True
        return found.st_uid in {0, os.geteuid(), self.path.parent.stat().st_uid}

    def _ignore(self) -> None:
        with suppress(FileExistsError), create_private(self.folder / ".gitignore") as file:
            file.write(b"*\n")

    def _unusable(self, error: OSError) -> CommandFailed:
        return CommandFailed(
            f"Cannot write to {self.folder}: {error.strerror or error}",
            "Let this user write to that folder; repom keeps its copies of the database there",
        )

    @property
    def is_there(self) -> bool:
        with suppress(OSError):
            return not self._oddness()
        return False

    # -- copies -------------------------------------------------------------------------

    def new(self, kind: str, rest: str) -> Path:
        """A name for a file of this database: ``scratch``, ``undo`` or ``damaged``."""
        return self.folder / f"{self.stem}.{kind}_{rest}"

    def is_scratch(self, path: Path) -> bool:
        return path.parent == self.folder and path.name.startswith(f"{self.stem}.scratch_")

    def kept(self) -> list[tuple[str, Path]]:
        """Undo copies, each with the time in its name; those of repom 0.1 lie beside the
        SQLite file itself."""
        old = re.escape(f".{self.path.name}.repom_undo_")
        beside = matching(self.path.parent, f"{old}({STAMP})")
        beside = [(match, path) for match, path in beside if self._trusts(path.lstat())]
        return [(match[1], path) for match, path in (*self._files(f"undo_({STAMP})"), *beside)]

    def _files(self, pattern: str) -> list[tuple[re.Match[str], Path]]:
        return matching(self.folder, re.escape(f"{self.stem}.") + pattern) if self.is_there else []

    def sweep(self) -> None:
        """Remove the scratch files of killed runs. Who has one at work holds the lock."""
        old = re.escape(f".{self.path.name}.repom_scratch_") + r"[0-9a-f]{8}\.\d+"
        for _match, path in matching(self.path.parent, old):
            if time.time() - path.stat().st_mtime > ABANDONED:
                remove_database(path)
        if not self.is_there:
            return
        with self._alone() as alone:
            for _match, path in self._files(r"scratch_[0-9a-f]{8}(?:-\w+)?") if alone else ():
                remove(path)

    # -- the lock -----------------------------------------------------------------------

    @contextmanager
    def exclusive(self, doing: str) -> Iterator[None]:
        """Only one restore or undo of this file at a time, whatever store it uses. The
        kernel holds the lock, so a killed holder blocks nobody.

        :raises Refused: another process holds it; says which.
        """
        if self._held:
            yield
            return
        self.make()
        with self._locked():
            self._write_note(doing)
            try:
                yield
            finally:
                with suppress(OSError):
                    remove(self._note)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = FileLock(self.folder / f"{self.stem}.lock", timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise Refused(
                f"Another repom process{self._holder()} is using {self.name}",
                "Try again when it has finished",
            ) from None
        except OSError as error:
            raise self._unusable(error) from None
        self._held = True
        try:
            yield
        finally:
            self._held = False
            with suppress(OSError):
                lock.release()

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process is at work on the file, and none begins meanwhile."""
        with ExitStack() as stack:
            yield self._held or self._entered(stack)

    def _entered(self, stack: ExitStack) -> bool:
        try:
            stack.enter_context(self._locked())
            return True
        except RepomError:
            return False

    @property
    def _note(self) -> Path:
        """Who holds the lock: beside it, since Windows lets nobody read a locked file."""
        return self.folder / f"{self.stem}.holder"

    def _write_note(self, doing: str) -> None:
        with suppress(OSError):
            remove(self._note)
            with create_private(self._note) as file:
                file.write(json.dumps({"pid": os.getpid(), "doing": doing}).encode())

    def _holder(self) -> str:
        note = read_json(self._note)
        pid, doing = note.get("pid"), note.get("doing")
        named = isinstance(pid, int) and isinstance(doing, str)
        return f" (pid {pid}, {doing})" if named else ""

    # -- the id -------------------------------------------------------------------------

    def identity(self) -> str | None:
        """The id of this SQLite file, if it has one and was not copied from elsewhere."""
        known = self._known()
        return str(known["id"]) if known and self._is_from_here(known) else None

    def proposed(self) -> str | None:
        """The id that the first backup will give it; none where no id can be kept, so that
        its path decides which backups are its own."""
        if not self._proposed and self._is_writable():
            self._proposed = secrets.token_hex(16)
            if known := self._known():
                log.warning(
                    "%s was copied from %s; backups of the original will not be pruned",
                    *(self.name, known["path"]),
                )
        return self._proposed or None

    def _is_writable(self) -> bool:
        folder = self.folder if os.path.lexists(self.folder) else self.path.parent
        own = folder != self.folder or self.is_there
        rights = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
        return own and os.access(folder, os.W_OK | os.X_OK, **rights)

    def settle(self) -> None:
        """Write the proposed id down. If that fails, the backup that has it is one that
        prune does not touch."""
        if not self._proposed or self.identity():
            return
        try:
            self.make()
            remove(self._file)  # a copy, or damaged
            self._write(self._proposed)
        except (OSError, RepomError) as error:
            log.debug("The id of %s was not kept: %s", self.name, error)

    def _write(self, ident: str) -> None:
        with create_private(self._file) as file:
            file.write(json.dumps({"id": ident, **self._whereabouts()}, indent=2).encode())
            sync(file)
        sync_folder(self.folder)

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.stem}.json"

    def _known(self) -> dict[str, Any]:
        """What the file with the id says; nothing when it is missing or damaged."""
        known = read_json(self._file) if self.is_there else {}
        whole = all(isinstance(known.get(key), str) for key in ("id", "path", "machine", "place"))
        return known if whole and re.fullmatch(r"[0-9a-f]{32}", known["id"]) else {}

    def _is_from_here(self, known: dict[str, Any]) -> bool:
        """Whether the folder is the very one in which the id was made, at its path or on
        its machine.

        A folder keeps its number when it is moved, mounted at another path, or mounted into
        a container that is made anew with another host name; a copy gets another one, also
        one that took the place of the original. Numbers of other disks may be the same by
        chance, so one of the others must agree.
        """
        here = self._whereabouts()
        near = any(known[key] == here[key] for key in ("path", "machine"))
        return near and bool(known["place"] == here["place"])

    def _whereabouts(self) -> dict[str, str]:
        path = os.fsencode(self.path).decode("utf-8", "backslashreplace")
        return {"path": path, "machine": machine(), "place": place(self.folder)}


def stem_of(name: str) -> str:
    """The name of an SQLite file as the beginning of others: itself if it is short and
    plain, else what is plain in it, and a checksum."""
    plain = re.sub(r"[^\w.-]", "_", name)
    if plain == name and len(os.fsencode(name)) <= LONG:
        return name
    return f"{plain[: LONG // 4]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def matching(folder: Path, pattern: str) -> list[tuple[re.Match[str], Path]]:
    """Plain files of a folder whose whole name matches."""
    try:
        paths = [*folder.iterdir()]
    except OSError:
        return []
    found = [(re.fullmatch(pattern, path.name), path) for path in paths]
    return [(m, p) for m, p in found if m and p.is_file() and not p.is_symlink()]


def read_json(path: Path) -> dict[str, Any]:
    """A small file of repom's own; nothing when it is not one."""
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
    """The number of a folder on its disk. The disk's own number is that of the file system
    where it has one: the device's may be another one after each start."""
    found = folder.stat()
    disk = os.statvfs(folder).f_fsid if hasattr(os, "statvfs") else found.st_dev
    return f"{disk:x}:{found.st_ino:x}"


def remove_database(path: Path) -> None:
    for suffix in ("", *SIDE_FILES):
        remove(Path(f"{path}{suffix}"))


def tidy(path: Path) -> None:
    """Remove what is no longer needed: the restore is done, so a failure is no failure."""
    try:
        remove_database(path)
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)
