"""Bytes under names in a folder, and what a disk complains of."""

from __future__ import annotations

import errno
from pathlib import Path

from repom.errors import CommandFailed, NoSpace

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReadOnlyStore(CommandFailed):
    """The folder of backups cannot be written to; reading goes on."""


def is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def disk_error(error: OSError, folder: Path) -> CommandFailed:
    """An error of the file system in one line, with what to do."""
    hints = {
        errno.ENOSPC: "Free some space, or set REPOM_BACKUP_DIR to another disk",
        errno.EDQUOT: "Free some space, or set REPOM_BACKUP_DIR to another disk",
    }
    text = error.strerror or str(error)
    where = "Set REPOM_BACKUP_DIR to a folder that can be written to"
    if error.errno in READ_ONLY:
        return ReadOnlyStore(f"{folder}: {text}", where)
    kind = NoSpace if error.errno in hints else CommandFailed
    return kind(f"{folder}: {text}", hints.get(error.errno or 0, where))


def shown_size(count: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
