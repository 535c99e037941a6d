"""Bytes under names: what a store asks of a storage, and the storage that is a folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from repom.dbops.files import (
    check_space,
    create_private,
    make_private_folder,
    open_regular,
    remove,
    sync,
    sync_folder,
)
from repom.errors import CommandFailed, NoSpace

from .names import is_own_name

OTHER_DISK = "Free some space, or set REPOM_BACKUP_DIR to another disk"
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
#: Drafts in a folder, and what version 0.1 of SQLite's backup left beside them.
DRAFT = re.compile(r"\.(.+?)(\.partial)?(\.copy)?\.partial(-wal|-shm|-journal)?")


class Entry(NamedTuple):
    """A stored file: its size in bytes, and when it was last changed, in UTC."""

    size: int
    modified: datetime


class Storage(Protocol):
    """Bytes under names, each of them whole or not there at all."""

    def entries(self) -> dict[str, Entry | None]:
        """Every name that is taken. What is not a file of bytes, such as a link or a
        draft, has no entry. A storage that does not exist is empty."""

    def open(self, name: str) -> BinaryIO:
        """The bytes, for reading.

        :raises FileNotFoundError: nothing has that name.
        :raises OSError: it is not a file of bytes, or cannot be read.
        """

    def draft(self, name: str, needed: int = 0) -> AbstractContextManager[BinaryIO]:
        """A private file that programs write to directly. `put` gives it its name; without,
        nothing is left of it.

        :param needed: bytes that it will take about.
        :raises Refused: fewer are free.
        :raises CommandFailed: the storage cannot be written to, or is full.
        """

    def put(self, name: str, draft: BinaryIO, *, replace: bool = False) -> None:
        """Publish a draft of the same name. When this returns, its bytes survive a power
        cut; when it raises, the name is not there.

        :param replace: publish over an earlier file, too, in one step. When that raises,
            the earlier file or this one is there.
        :raises CommandFailed: the name is taken.
        :raises OSError: the storage failed.
        """

    def delete(self, name: str) -> None:
        """Remove a name. To remove a missing one is not an error.

        :raises CommandFailed: it cannot be removed.
        """

    def sweep(self, is_left: Callable[[str], bool]) -> None:
        """Remove drafts of killed runs whose name fits."""


class ReadOnlyStore(CommandFailed):
    """The folder of backups can be read, but not written to."""


class Folder:
    """Private files in a folder. A draft is a hidden file beside the final one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> dict[str, Entry | None]:
        if not self.path.is_dir():
            return {}
        entries: dict[str, Entry | None] = {}
        with os.scandir(self.path) as found:
            for each in found:
                if draft := DRAFT.fullmatch(each.name):
                    entries.setdefault(draft[1], None)
                elif not each.name.startswith("."):
                    entries[each.name] = _entry(each)
        return entries

    def open(self, name: str) -> BinaryIO:
        return open_regular(self.path / name)

    @contextmanager
    def draft(self, name: str, needed: int = 0) -> Iterator[BinaryIO]:
        try:
            self.make()
            check_space(self.path, needed, "a backup", OTHER_DISK)
            with create_private(self._draft(name)) as file:
                yield file
        except OSError as error:
            raise disk_error(error, self.path) from None
        except CommandFailed as error:  # a program's message, which does not name the disk
            if (
                "no space left" in error.stderr.lower()
                and shutil.disk_usage(self.path).free < 1 << 20
            ):
                full = OSError(errno.ENOSPC, "No space left")
                raise disk_error(full, self.path) from None
            raise
        finally:
            with suppress(OSError):
                remove(self._draft(name))

    def put(self, name: str, draft: BinaryIO, *, replace: bool = False) -> None:
        hidden, path = self._draft(name), self.path / name
        if not replace and os.path.lexists(path):
            raise CommandFailed(f"{name} exists already", "Nothing was overwritten")
        sync(draft)
        draft.close()  # Windows does not rename an open file
        try:
            hidden.replace(path) if replace else hidden.rename(path)
            sync_folder(self.path)
        except BaseException:
            if not replace and not os.path.lexists(hidden):  # it was renamed
                with suppress(OSError):
                    remove(path)
            raise

    def delete(self, name: str) -> None:
        try:
            remove(self.path / name)
            sync_folder(self.path)
        except OSError as error:
            raise disk_error(error, self.path) from None

    def sweep(self, is_left: Callable[[str], bool]) -> None:
        for path in self.path.iterdir() if self.path.is_dir() else ():
            draft = DRAFT.fullmatch(path.name)
            if draft and is_left(draft[1]):
                with suppress(OSError):  # such as for a folder
                    remove(path)

    def make(self) -> None:
        """Create the folder, and keep it out of version control. One that holds other
        files may be a part of the project, so Git still sees what is in it.

        :raises OSError: it cannot be created.
        """
        make_private_folder(self.path)
        ignore = self.path / ".gitignore"
        if os.path.lexists(ignore) or not all(is_own_name(p.name) for p in self.path.iterdir()):
            return
        with suppress(OSError), create_private(ignore) as file:
            file.write(b"*\n")

    def _draft(self, name: str) -> Path:
        return self.path / f".{name}.partial"


def _entry(found: os.DirEntry[str]) -> Entry | None:
    with suppress(FileNotFoundError):  # it was removed in the meantime
        if found.is_file(follow_symlinks=False):
            return entry_of(found.stat(follow_symlinks=False))
    return None


def entry_of(stat: os.stat_result) -> Entry:
    return Entry(stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def disk_error(error: OSError, folder: Path) -> CommandFailed:
    """An error of the file system in one line, with what to do."""
    message = f"{folder}: {error.strerror or error}"
    if error.errno in FULL:
        return NoSpace(message, OTHER_DISK)
    kind = ReadOnlyStore if error.errno in READ_ONLY else CommandFailed
    return kind(message, "Set REPOM_BACKUP_DIR to a folder that can be written to")
