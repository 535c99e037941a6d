"""One operation on a database at a time, across processes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from repom.dbops.files import create_private, is_regular, open_regular, remove
from repom.errors import CommandFailed, Refused

from .names import encoded
from .storage import Folder, disk_error

LONGEST = 4096  # bytes of a note that are read
SESSION = re.compile(r"repom-[0-9a-f]{8}")
DOING = re.compile(r"[a-z -]{1,20}")


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    :param pid: the process.
    :param doing: its verb.
    :param session: what its sessions in the server are called; empty when it has none.
    """

    pid: int
    doing: str
    session: str = ""

    def __str__(self) -> str:
        return f"(pid {self.pid}, {self.doing})"


@contextmanager
def locked(
    folder: Path, database: str, doing: str, session: str = "", *, wait: float = 0
) -> Iterator[str]:
    """Hold the lock of a database in the store `folder`. The kernel ends it with the
    process, so a killed holder blocks no one.

    :param doing: the verb, which a refused process shows.
    :param session: what this process's sessions in the server are called. A holder without
        any leaves a killed one's note to the next that can end its sessions.
    :param wait: seconds to wait for another holder.
    :returns: the session of a holder that was killed; empty when there was none.
    :raises Refused: another process holds it; says which.
    :raises CommandFailed: the folder cannot be written to.
    """
    # Beside the lock, since Windows lets no other process read a locked file.
    note = folder / f".{encoded(database)}.holder"
    lock = _acquired(folder / f".{encoded(database)}.lock", note, database, wait)
    before = _read(note)
    killed = before.session if before else ""
    try:
        with suppress(OSError):
            _write(note, Holder(os.getpid(), doing, session or killed))
        yield killed
    finally:
        with suppress(OSError):
            if session or not killed:
                remove(note)
        with suppress(OSError):
            lock.release()


def _acquired(path: Path, note: Path, database: str, wait: float) -> FileLock:
    try:
        Folder(path.parent).make()
        if os.path.lexists(path) and not is_regular(path):
            raise CommandFailed(f"{path} is not a regular file", "Remove it")
        lock = FileLock(path, timeout=wait, mode=0o600)
        lock.acquire()
        return lock
    except Timeout:
        holder = _read(note)
        raise Refused(
            f"Another repom process{f' {holder}' if holder else ''} is using {database}",
            "Try again when it has finished",
        ) from None
    except OSError as error:
        raise disk_error(error, path.parent) from None


def _write(note: Path, holder: Holder) -> None:
    remove(note)
    with create_private(note) as file:
        file.write(json.dumps(asdict(holder)).encode())


def _read(note: Path) -> Holder | None:
    """What a note says. Another user may have written it, and the sessions that it names
    are ended, so only what `_write` could have written is believed."""
    try:
        with open_regular(note) as file:
            found = json.loads(file.read(LONGEST))
        pid, doing, session = (found[key] for key in ("pid", "doing", "session"))
        if type(pid) is int and DOING.fullmatch(doing):
            is_session = isinstance(session, str) and SESSION.fullmatch(session)
            return Holder(pid, doing, session if is_session else "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None
