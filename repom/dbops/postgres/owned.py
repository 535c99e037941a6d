"""Databases of repom's own in a server: scratch databases and undo copies.

The one place that knows their names, ``repom_<kind>_<8 hex>``, and their comments: JSON
that says what they are and which run made them. A comment is foreign text: what is not
as it should be is passed by.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

OWN_NAME = re.compile(r"repom_(scratch|undo)_[0-9a-f]{8}")
FORGOTTEN = timedelta(days=1)  # after which a run on another machine has surely ended


@dataclass(frozen=True)
class Owned:
    """A database that repom made.

    :param database: the one that it belongs to.
    :param session: what the sessions of the run that made it are called.
    :param valid: whether it can be connected to; a drop that was cut short leaves one
        that cannot, and that may only be dropped.
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

        :param present: what the sessions of repom in the server are called. A run that
            loads has one all the time.
        """
        if self.session in present:
            return False
        if self.machine != socket.gethostname() or not hasattr(os, "getpgid"):
            return datetime.now(UTC) - self.created_at > FORGOTTEN
        return not is_running(self.pid)


def is_running(pid: int) -> bool:
    """Whether there is such a process here; one that cannot be asked about is taken for it."""
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
    """Those of repom's own among what a server lists, newest first.

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
