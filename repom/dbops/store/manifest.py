"""The JSON beside a backup: written, read, and compared with the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from repom.dbops.database import Facts
from repom.dbops.files import sha256
from repom.errors import Damaged, NotFound, advice

from .backup import Backup, Drill, Origin, manifest_of
from .names import EXTENSIONS, NAME, TIME
from .storage import Entry, Folder, Storage, entry_of

LONGEST = 1 << 24  # bytes of a manifest that are read
#: What reading a manifest that another program wrote may raise.
UNREADABLE = (
    *(OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError),
    OverflowError,
)


def read(path: Path) -> Backup:
    """Any file as a backup, with the manifest that lies beside it; see `load`."""
    return load(Folder(path.parent), path)


def load(storage: Storage, path: Path, entry: Entry | None = None) -> Backup:
    """A backup with its manifest; one without is described by its name alone.

    :param path: where it lies for people; its name is the one in `storage`.
    :param entry: what `storage` lists of it, where that is known.
    :raises Damaged: there is a manifest, and it is not what was written.
    """
    try:
        with storage.open(manifest_of(path).name) as file:
            raw = file.read(LONGEST)
        content = json.loads(raw)
        if spelled(content) == raw and content.pop("checksum") == checksum(content):
            return _described(path, content)
    except FileNotFoundError:
        return guess(path, entry)
    except UNREADABLE:
        pass
    raise Damaged(
        f"The manifest of {path.name} is damaged",
        "Restore another backup, or remove the manifest to restore it unverified",
    )


def _described(path: Path, content: Mapping[str, Any]) -> Backup:
    """:raises TypeError, KeyError, ValueError, AttributeError: it is not a backup's manifest."""
    facts = dict(content["facts"])
    facts |= {name: content[name] for name in ("server_version", "system_identifier")}
    when = datetime.fromisoformat(content["created_at"].replace("Z", "+00:00"))
    is_backup = content["backend"] in ("postgresql", "sqlite") and content["format"] in EXTENSIONS
    if not (is_backup and when.tzinfo and re.fullmatch(r"[0-9a-f]{64}", content["sha256"])):
        raise ValueError(path.name)
    drill = facts.get("drill")
    own = {
        "name": path.name,
        "path": path,
        "created_at": when.astimezone(UTC),
        "facts": Facts(**_fields(Facts, facts)),
        "origin": Origin(**_fields(Origin, facts)),
        "drill": None if drill is None else Drill(**_fields(Drill, drill)),
        "problem": "",
    }
    return Backup(**_fields(Backup, content) | own)


def _fields(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass that JSON holds; a newer version may have written more.
    Types are checked, since anyone who can write a manifest can also write its checksum.

    :raises TypeError: a field has another type.
    """
    found = {}
    for field in fields(kind):
        value, fits = content.get(field.name), FITS.get(str(field.type))
        if fits and value is not None:
            if not fits(value):
                raise TypeError(field.name)
            found[field.name] = tuple(value) if isinstance(value, list) else value
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


#: The type of a dataclass's field → what the JSON must be, if it is there.
FITS: dict[str, Callable[[Any], bool]] = {
    "str": _is_text,
    "str | None": _is_text,
    "bool": lambda value: isinstance(value, bool),
    "int": _is_count,
    "int | None": _is_count,
    "float": _is_number,
    "float | None": _is_number,
    "tuple[str, ...]": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "Mapping[str, str]": lambda value: all(map(_is_text, value.values())),
    "Mapping[str, int]": lambda value: all(map(_is_count, value.values())),
    "Mapping[str, Any]": lambda value: isinstance(value, dict),
}


def serialized(backup: Backup) -> bytes:
    """The manifest of a backup. `facts` holds where it comes from, too, as in version 0.1."""
    facts = asdict(backup.facts) | asdict(backup.origin)
    del facts["server_version"], facts["system_identifier"]
    if backup.origin.branch is None:  # version 0.1 did not write it
        del facts["branch"]
    if backup.drill:
        facts["drill"] = asdict(backup.drill)
    content = backup.recorded() | {"host": backup.host, "facts": facts}
    del content["path"]
    for name in ("partial", "pulled"):  # absent in most, as in version 0.1
        content = {n: value for n, value in content.items() if n != name or value}
    return spelled(content | {"checksum": checksum(content)})


def guess(path: Path, entry: Entry | None = None) -> Backup:
    """What a file's name and size say; it can be readable, never verified."""
    named = NAME.fullmatch(path.name)
    formats = {extension: format for format, extension in EXTENSIONS.items()}
    format = formats[named["extension"]] if named else ""
    size, when = entry or entry_of(path.stat())
    if named:
        with suppress(ValueError):
            when = datetime.strptime(named["time"], TIME).replace(tzinfo=UTC)
    return Backup(
        name=path.name,
        path=path,
        database=unquote(named["database"]) if named else "",
        backend="sqlite" if format == "sqlite" else "postgresql" if format else "",
        format=format,
        created_at=when,
        size=size,
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
        raise NotFound(f"{backup.path} is gone", advice("Run: {}", "db.list")) from None
    another = advice("Restore another backup; list them with: {}", "db.list")
    if size != backup.size:
        raise Damaged(f"{backup.name} has {size} bytes instead of {backup.size}", another)
    if not backup.sha256:
        return
    with backup.path.open("rb") as file:
        if sha256(file) != backup.sha256:
            raise Damaged(f"{backup.name} has been altered: its checksum differs", another)
