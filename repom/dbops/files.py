"""Files that only their owner reads and that survive a power cut."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from repom.errors import NoSpace, Refused

BLOCK = 1 << 20  # bytes
SPARE = 1 << 28  # bytes of a disk that unpacking leaves free
FREE_SPACE = "Free some space, then try again"


def create_private(path: Path) -> BinaryIO:
    """A new file, open for reading and writing, mode 0600 whatever the umask.

    :raises FileExistsError: something has that name, be it a link that leads nowhere.
    """
    return open(path, "x+b", opener=_private)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def open_regular(path: Path) -> BinaryIO:
    """A file, open for reading. Links are not followed and pipes not waited for: another
    user may have put one in its place.

    :raises OSError: it is not a regular file, or cannot be read.
    """
    return open(path, "rb", opener=_regular)


def _regular(path: str, flags: int) -> int:
    fd = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def is_regular(path: Path) -> bool:
    """Whether it is a file, and not a link to one."""
    return path.is_file() and not path.is_symlink()


def make_private_folder(path: Path) -> None:
    """The folder, mode 0700 if it is new; one that is there keeps its mode."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)


def copy_bytes(source: BinaryIO, target: BinaryIO) -> None:
    """Copy from one open file into another, both at their start; within the kernel where
    it can, which on some file systems shares the blocks instead."""
    size, done = os.fstat(source.fileno()).st_size, 0
    try:
        while done < size:
            moved = os.copy_file_range(source.fileno(), target.fileno(), 64 * BLOCK)
            if not moved:
                break
            done += moved
    except (AttributeError, OSError):  # no such call, or not between these files
        if done:
            raise
    source.seek(done)
    target.seek(done)
    shutil.copyfileobj(source, target, BLOCK)  # what is left


def sync(file: BinaryIO) -> None:
    """Bring what was written to `file` to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Bring names that were made or removed in `path` to the disk."""
    if os.name == "nt":
        return  # a folder cannot be opened there; NTFS journals its names
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def shown_size(count: int) -> str:
    """Bytes as people read them: 1.9 MB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"


def sha256(file: BinaryIO) -> str:
    """The checksum of the whole of an open file, in hexadecimal."""
    file.seek(0)
    return hashlib.file_digest(cast(io.BufferedRandom, file), "sha256").hexdigest()


def remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.unlink()


def check_space(folder: Path, needed: int, purpose: str, hint: str = FREE_SPACE) -> None:
    """:raises Refused: the disk of `folder` has fewer than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise Refused(
            f"{folder} has {shown_size(free)} free, and {purpose} takes about {shown_size(needed)}",
            hint,
        )


def check_not_full(folder: Path, hint: str = FREE_SPACE) -> None:
    """Stop before a disk is full: a small file can unpack to any size.

    :raises NoSpace: less than 256 MB and less than 5 % of the disk is free.
    """
    usage = shutil.disk_usage(folder)
    if usage.free < min(SPARE, usage.total // 20):
        raise NoSpace(f"The disk of {folder} is full", hint)
