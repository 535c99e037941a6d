"""The JSON beside a backup: written, read, and compared with the file."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repom.dbops.files import sha256
from repom.errors import Damaged, NotFound, advice

from .backup import Backup, manifest_of
from .names import EXTENSIONS, NAME, TIME, decoded

log = logging.getLogger("repom")

MANIFEST = 1 << 24  # bytes of a manifest that are read
ANOTHER = advice("Restore another backup; list them with: {}", "db.list")
LIST = advice("Run: {}", "db.list")


def contents(path: Path, most: int) -> bytes:
    """What is in a regular file, at most `most` bytes of it. Nothing else is waited for or
    followed: somebody may have put a pipe or a link in its place.

    :raises OSError: it is not one, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most)


def read(path: Path) -> Backup:
    """A backup with its manifest; a file without one is described by its name alone.

    :raises Damaged: there is a manifest, and it is not what was written.
    """
    try:
        raw = contents(manifest_of(path), MANIFEST)
        content = json.loads(raw)
        whole = spelled(content) == raw and content.pop("checksum") == checksum(content)
        if whole:
            return _described(path, content)
    except FileNotFoundError:
        return guess(path)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    raise Damaged(
        f"The manifest of {path.name} is damaged",
        "Restore another backup, or remove the manifest to restore it unverified",
    )


def _described(path: Path, content: Mapping[str, Any]) -> Backup:
    """:raises TypeError, KeyError, ValueError: the manifest is not one of a backup."""
    for name, fits in MANIFEST_FIELDS.items():
        if not fits(content[name]):
            raise TypeError(name)
    for name, fits in FACTS.items():
        if not fits(content["facts"].get(name)):
            raise TypeError(name)
    names = {f.name for f in fields(Backup)} - {"problem"}
    known = {key: value for key, value in content.items() if key in names}
    when = datetime.fromisoformat(content["created_at"].replace("Z", "+00:00"))
    known |= {"created_at": when.astimezone(UTC), "verified": tuple(content["verified"])}
    return Backup(**{**known, "name": path.name, "path": path})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _may_be(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


#: What a manifest's fields must be: whoever writes one can also write its checksum.
MANIFEST_FIELDS: dict[str, Callable[[Any], bool]] = {
    "database": _is_text,
    "backend": lambda value: value in ("postgresql", "sqlite"),
    "format": lambda value: isinstance(value, str) and value in EXTENSIONS,
    "created_at": lambda value: bool(datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo),
    "size": _is_count,
    "label": _is_text_or_none,
    "sha256": lambda value: bool(re.fullmatch(r"[0-9a-f]{64}", value)),
    "via": _is_text_or_none,
    "server_version": _is_text_or_none,
    "tool_version": _is_text_or_none,
    "system_identifier": _is_text_or_none,
    "pinned": lambda value: isinstance(value, bool),
    "verified": _is_texts,
    "duration_s": lambda value: value is None or type(value) in (int, float),
    "host": _is_text_or_none,
    "facts": _is_mapping,
}
#: The same of what is known of the database; each may be missing.
FACTS: dict[str, Callable[[object], bool]] = {
    "size": _may_be(_is_count),
    "tables": _may_be(_is_count),
    "extensions": _may_be(_is_text_mapping),
    "roles": _may_be(_is_texts),
    "locale": _may_be(_is_text_mapping),
    "project": _is_text_or_none,
    "where": _is_text_or_none,
    "migration": _is_text_or_none,
    "commit": _is_text_or_none,
    "settings": _may_be(_is_mapping),
    "drill": _may_be(_is_mapping),
}


def guess(path: Path) -> Backup:
    """What a file's name and size say; it can be readable, never verified."""
    named = NAME.fullmatch(path.name)
    formats = {extension: format for format, extension in EXTENSIONS.items()}
    format = formats[named["extension"]] if named else ""
    stat = path.stat()
    when = datetime.fromtimestamp(stat.st_mtime, UTC)
    if named:
        with suppress(ValueError):
            when = datetime.strptime(named["time"], TIME).replace(tzinfo=UTC)
    return Backup(
        name=path.name,
        path=path,
        database=decoded(named["database"]) if named else "",
        backend="sqlite" if format == "sqlite" else "postgresql" if format else "",
        format=format,
        created_at=when,
        size=stat.st_size,
        label=named["label"] if named else None,
    )


def spelled(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes; there is no other spelling, so that every flipped bit shows."""
    return json.dumps(content, indent=2).encode()


def checksum(content: Mapping[str, Any]) -> str:
    """Of a manifest's other fields, in one spelling: a flipped bit in any of them shows."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check(backup: Backup) -> None:
    """Compare a backup's file with its manifest: size first, then every byte.

    :raises NotFound: the file is gone.
    :raises Damaged: they differ.
    """
    try:
        size = backup.path.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"{backup.path} is gone", LIST) from None
    if size != backup.size:
        raise Damaged(f"{backup.name} has {size} bytes instead of {backup.size}", ANOTHER)
    if not backup.sha256:
        return
    with backup.path.open("rb") as file:
        if sha256(file) != backup.sha256:
            raise Damaged(f"{backup.name} has been altered: its checksum differs", ANOTHER)


def is_whole(backup: Backup) -> bool:
    """Whether a backup is still what its manifest says; tells when it is not."""
    try:
        check(backup)
        return True
    except (Damaged, NotFound) as error:
        log.warning("%s", error.message)
        return False
