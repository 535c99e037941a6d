"""Standard input in a private file, while it is needed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from repom.dbops.files import BLOCK, create_private
from repom.errors import NoSpace

FLOOR = 1 << 28  # bytes of a disk that stay free
STAGED = "repom-stdin-"  # how folders with a copy of standard input are called


@contextmanager
def staged(stream: BinaryIO) -> Iterator[Path]:
    """A private file with all of `stream`, such as standard input, while it is needed.

    :raises NoSpace: the disk for temporary files is nearly full.
    """
    _sweep_staged()
    with tempfile.TemporaryDirectory(prefix=f"{STAGED}{os.getpid()}-") as folder:
        path = Path(folder, "standard-input")
        with create_private(path) as file:
            while block := stream.read(BLOCK):
                _check_room(folder)
                file.write(block)
        yield path


def _sweep_staged() -> None:
    """Remove what runs that were killed had staged."""
    for path in Path(tempfile.gettempdir()).glob(f"{STAGED}*-*"):
        pid = path.name.removeprefix(STAGED).partition("-")[0]
        with suppress(OSError):
            own = not hasattr(os, "getuid") or path.lstat().st_uid == os.getuid()
            if pid.isdecimal() and own and path.is_dir() and _has_ended(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def _has_ended(pid: int) -> bool:
    try:
        os.getpgid(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OverflowError):  # no harmless way to ask, or not a number of one
        return False
    return False


def _check_room(folder: str) -> None:
    usage = shutil.disk_usage(folder)
    if usage.free < min(FLOOR, usage.total // 20):
        raise NoSpace(f"The disk of {folder} is full", "Set TMPDIR to a folder on another disk")
