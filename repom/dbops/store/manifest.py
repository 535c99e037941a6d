"""The JSON beside a backup: written, read, and compared with the file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any
from urllib.parse import unquote

from repom.dbops.database import Facts
from repom.dbops.files import sha256
from repom.errors import Damaged, NotFound, advice

from .backup import Backup, Drill, Origin, manifest_of
from .names import EXTENSIONS, NAME, TIME
from .storage import Entry, Folder, Storage, entry_of

LONGEST = 1 << 24  # bytes of a manifest that are read


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
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    raise Damaged(
        f"The manifest of {path.name} is damaged",
        "Restore another backup, or remove the manifest to restore it unverified",
    )


def _described(path: Path, content: Mapping[str, Any]) -> Backup:
    """:raises TypeError, KeyError, ValueError, AttributeError: it is not a backup's manifest."""
    facts = content["facts"]
    wrong = [n for n, fits in FIELDS.items() if not fits(content[n])]
    wrong += [n for n, fits in FACTS.items() if facts.get(n) is not None and not fits(facts[n])]
    if wrong:
        raise TypeError(", ".join(wrong))
    known = {name: value for name, value in facts.items() if value is not None}
    known |= {name: content[name] for name in ("server_version", "system_identifier")}
    return Backup(
        **_fields(Backup, content, without=("name", "path", "facts", "origin", "drill", "problem"))
        | {"created_at": _time(content["created_at"]), "verified": tuple(content["verified"])},
        name=path.name,
        path=path,
        facts=Facts(**_fields(Facts, known) | {"roles": tuple(known.get("roles", ()))}),
        origin=Origin(**_fields(Origin, known)),
        drill=Drill(**_fields(Drill, known["drill"])) if "drill" in known else None,
    )


def _fields(
    kind: type, content: Mapping[str, Any], without: Collection[str] = ()
) -> dict[str, Any]:
    """What a dataclass takes from a manifest, which a newer version may have written."""
    names = {field.name for field in fields(kind)}.difference(without)
    return {name: content[name] for name in names & content.keys()}


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if when.tzinfo is None:
        raise ValueError(text)
    return when.astimezone(UTC)


def _is(*types: type) -> Callable[[object], bool]:
    return lambda value: type(value) in types


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, dict) and _is_texts([*value.values()])


_is_text, _is_text_or_none, _is_mapping = _is(str), _is(str, NoneType), _is(dict)

#: What a manifest's fields must be: whoever writes one can also write its checksum.
FIELDS: dict[str, Callable[[Any], bool]] = {
    "database": _is_text,
    "backend": lambda value: value in ("postgresql", "sqlite"),
    "format": lambda value: value in EXTENSIONS,
    "created_at": _is_text,
    "size": _is_count,
    "label": _is_text_or_none,
    "sha256": lambda value: bool(re.fullmatch(r"[0-9a-f]{64}", value)),
    "via": _is_text_or_none,
    "server_version": _is_text_or_none,
    "tool_version": _is_text_or_none,
    "system_identifier": _is_text_or_none,
    "pinned": _is(bool),
    "verified": _is_texts,
    "duration_s": _is(int, float, NoneType),
    "host": _is_text_or_none,
    "facts": _is_mapping,
}
#: The same of what is known of the database; each may be missing.
FACTS: dict[str, Callable[[object], bool]] = {
    "size": _is_count,
    "tables": _is_count,
    "extensions": _is_text_mapping,
    "roles": _is_texts,
    "locale": _is_text_mapping,
    "project": _is_text,
    "where": _is_text,
    "migration": _is_text,
    "commit": _is_text,
    "settings": _is_mapping,
    "drill": _is_mapping,
}


def serialized(backup: Backup) -> bytes:
    """The manifest of a backup. `facts` holds where it comes from, too, as in version 0.1."""
    facts = asdict(backup.facts) | asdict(backup.origin)
    del facts["server_version"], facts["system_identifier"]
    if backup.drill:
        facts["drill"] = asdict(backup.drill)
    content = backup.as_json() | {"host": backup.host, "facts": facts}
    del content["path"]
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
