"""Private folders for temporary files, which go with the process that made them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "repom-sqlite-"
YOUNG = 60  # seconds in which one may not have its lock yet


class Temporary:
    """A folder that nobody else may look into. While it is in use its lock is held, so that
    the next run can tell the folder of a killed one."""

    def __init__(self) -> None:
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = FileLock(self.path / "lock", timeout=0, mode=0o600)
        self._lock.acquire()

    def remove(self) -> None:
        with suppress(OSError):
            self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of killed runs."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):
            if is_own(path) and time.time() - path.stat().st_mtime > YOUNG:
                with FileLock(path / "lock", timeout=0):
                    shutil.rmtree(path, ignore_errors=True)


def is_own(path: Path) -> bool:
    """Whether this user made it: the folder around it is everybody's."""
    found = path.lstat()
    mine = not hasattr(os, "geteuid") or found.st_uid == os.geteuid()
    return stat.S_ISDIR(found.st_mode) and mine and (path / "lock").is_file()
