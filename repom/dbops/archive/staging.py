"""Private folders for working copies, such as one of standard input.

A folder is locked while it is in use, so the next run can remove those of killed runs.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from repom.dbops.files import BLOCK, check_not_full, create_private

PREFIX = "repom-work-"
#: Folders of repom 0.1: they had other names, and those for standard input had no lock.
FOLDER_NAME = re.compile(r"repom-(work|sqlite)-\w{8}|repom-stdin-\d+-\w{8}")
ABANDONED = 24 * 3600  # seconds after which a folder without a lock is not in use


class WorkingFolder:
    """A new folder that only this user may look into.

    :param parent: the folder to make it in; without, the system's for temporary files.
    """

    def __init__(self, parent: Path | None = None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        sweep(parent)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
            self._lock = FileLock(self.path / "lock", timeout=0, mode=0o600)
            with suppress(Timeout):  # another run's sweep took the lock first
                self._lock.acquire()
                return

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_error: object) -> None:
        self.remove()

    def remove(self) -> None:
        with suppress(OSError):
            self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the folders of killed runs."""
    for path in parent.glob("repom-*"):
        with suppress(OSError, Timeout):
            if not FOLDER_NAME.fullmatch(path.name) or not _is_own(path):
                continue
            if (path / "lock").is_file():
                with FileLock(path / "lock", timeout=0):
                    shutil.rmtree(path, ignore_errors=True)
            elif time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _is_own(path: Path) -> bool:
    """Whether this user made the folder: others may write to the one around it, too."""
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and (
        not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    )


@contextmanager
def staged(stream: BinaryIO) -> Iterator[Path]:
    """A private file with all of `stream`, such as standard input, while it is needed.

    :raises NoSpace: the disk for temporary files is nearly full.
    """
    with WorkingFolder() as folder:
        path = folder / "standard-input"
        with create_private(path) as file:
            while block := stream.read(BLOCK):
                check_not_full(folder, "Set TMPDIR to a folder on another disk")
                file.write(block)
        yield path
