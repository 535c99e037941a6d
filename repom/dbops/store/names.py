"""Names of backups: ``<database>_<UTC time>[_label].<ext>``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from datetime import datetime
from urllib.parse import quote

from repom.errors import SettingsError

EXTENSIONS = {"custom": "dump", "plain": "sql.gz", "sqlite": "sqlite3.zst"}
TIME = "%Y%m%dT%H%M%SZ"
LABEL = re.compile(r"[A-Za-z0-9.-]{1,40}")
NAME = re.compile(
    r"(?P<database>[A-Za-z0-9%_-][A-Za-z0-9%._-]*)_(?P<time>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?"
    r"(?:_(?P<label>[A-Za-z0-9.-]{1,40}))?\.(?P<extension>dump|sql\.gz|sqlite3\.zst)"
)
#: Bytes of an encoded database's name: with time, number, label and extension, and with
#: what temporary files add, a file's name stays below the 255 that file systems allow.
LONGEST = 150


def encoded(database: str) -> str:
    """A database's name as part of a file's name: percent-encoded outside
    ``[A-Za-z0-9._-]``, and never a hidden file. One that is too long for a file's name is
    cut and gets a checksum; the manifest has the whole name."""
    safe = quote(database, safe="").replace("~", "%7E")
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 17]}-{hashlib.sha256(safe.encode()).hexdigest()[:16]}"


def check_label(label: object) -> None:
    """:raises SettingsError: it is given, and cannot be a part of a backup's name."""
    if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
        raise SettingsError(f"--label is {label!r}", "Allowed: 1 to 40 of A-Z a-z 0-9 . -")


def next_name(
    taken: Collection[str], database: str, format: str, label: str | None, now: datetime
) -> str:
    """The name of a backup that is made now.

    :param taken: names in the store, also those of manifests. A number that prune has
        freed is not given again while later ones are there, else the newest backup would
        not be the last.
    :raises SettingsError: the label is not allowed.
    """
    check_label(label)
    start = f"{encoded(database)}_{now.strftime(TIME)}"
    same = re.compile(re.escape(start) + r"[-_.]")
    numbers = [number_of(name.removesuffix(".json")) for name in taken if same.match(name)]
    number = f"-{max(numbers) + 1}" if any(numbers) else ""
    return f"{start}{number}{f'_{label}' if label else ''}.{EXTENSIONS[format]}"


def number_of(name: str) -> int:
    """Which one in its second: 1, or the 2 of ``…Z-2``; 0 for another name."""
    found = NAME.fullmatch(name)
    return int(found["number"] or 1) if found else 0


def is_own_name(name: str) -> bool:
    """Whether repom could have written a file of this name into the store."""
    return bool(
        NAME.fullmatch(name.removesuffix(".json"))
        or re.fullmatch(r"\..*\.(lock|holder|partial)", name)
    )
