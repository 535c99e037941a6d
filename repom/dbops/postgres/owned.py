"""Databases of repom's own in a server: scratch databases and undo copies.

The one place that knows their names, ``repom_<kind>_<8 hex>``, and their comments: JSON
that says what they are and which run made them. A comment is foreign text, so one that is
not as expected is ignored.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from repom.errors import RepomError

from . import queries
from .client import Client
from .failures import NotReady

log = logging.getLogger("repom")

OWN_NAME = re.compile(r"repom_(scratch|undo)_[0-9a-f]{8}")
FORGOTTEN = timedelta(days=1)  # after which a run on another machine has surely ended
RECOVERY = 0.2  # seconds between two looks at a server that is recovering from a crash
DROPPING = 30.0  # seconds until the drop of a database is left to the next run


@dataclass(frozen=True)
class Owned:
    """A database that repom made.

    :param database: the one that it belongs to.
    :param session: application name of the run that made it.
    :param valid: whether it can be connected to. A drop that was cut short leaves one that
        cannot, and that may only be dropped.
    :param size: bytes.
    """

    name: str
    kind: str
    database: str
    created_at: datetime
    session: str
    machine: str
    pid: int
    valid: bool
    size: int

    def is_abandoned(self, present: Collection[str]) -> bool:
        """Whether the run that made it has ended.

        :param present: application names of repom's sessions in the server. A run that
            loads has one all the time.
        """
        if self.session in present:
            return False
        if self.machine != socket.gethostname() or not hasattr(os, "getpgid"):
            return datetime.now(UTC) - self.created_at > FORGOTTEN
        return not is_running(self.pid)


def is_running(pid: int) -> bool:
    """Whether such a process exists here. One that cannot be asked about counts as running."""
    try:
        os.getpgid(pid)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def new_name(kind: str) -> str:
    return f"repom_{kind}_{secrets.token_hex(4)}"


def describe(kind: str, database: str, session: str, when: datetime | None = None) -> str:
    """The comment on a database of repom's own."""
    return json.dumps(
        {
            "kind": kind,
            "database": database,
            "created_at": (when or datetime.now(UTC)).isoformat(timespec="microseconds"),
            "session": session,
            "machine": socket.gethostname(),
            "pid": os.getpid(),
        }
    )


def find(rows: Iterable[Mapping[str, Any]], sizes: Mapping[str, int]) -> Iterator[Owned]:
    """repom's own among the databases that a server lists, newest first.

    :param rows: name, comment and whether it is valid.
    :param sizes: bytes by name, as far as they are known.
    """
    found = (_parsed(row, sizes) for row in rows)
    yield from sorted(filter(None, found), key=lambda o: o.created_at, reverse=True)


def _parsed(row: Mapping[str, Any], sizes: Mapping[str, int]) -> Owned | None:
    try:
        note = json.loads(row["comment"])
        owned = Owned(
            name=row["name"],
            kind=note["kind"],
            database=note["database"],
            created_at=datetime.fromisoformat(note["created_at"]).astimezone(UTC),
            session=str(note.get("session")),
            machine=str(note.get("machine")),
            pid=int(note.get("pid", 0)),
            valid=row["valid"],
            size=int(sizes.get(row["name"], 0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    named = OWN_NAME.fullmatch(owned.name)
    whole = isinstance(owned.database, str) and named and named[1] == owned.kind
    return owned if whole else None


def remove(client: Client, name: str, seconds: float = DROPPING) -> None:
    """Drop a database of repom's own, or warn that it stays.

    :param seconds: to wait for the drop.
    """
    client.close(name)
    drop, until = queries.drop([name], client.maintenance), time.monotonic() + seconds
    left = name
    while left and time.monotonic() < until:
        try:
            # Not in the open session: the lock ends with it, when a drop takes too long.
            done = client.apart(drop, client.maintenance, changes=True, timeout=seconds)
            left = done.stdout.strip()
            break
        except NotReady:  # the server crashed under the load, and recovers
            time.sleep(RECOVERY)
        except RepomError:
            break
    if left:
        log.warning("Could not remove database %s; the next restore will try again", name)


def sweep(client: Client, own: Iterable[Owned], present: Collection[str]) -> None:
    """Drop what runs that were killed left behind: of one database's own."""
    for each in own:
        if not each.valid or (each.kind == "scratch" and each.is_abandoned(present)):
            log.info("Removing %s, left behind by an earlier run", each.name)
            remove(client, each.name)
