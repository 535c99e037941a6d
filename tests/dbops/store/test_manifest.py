"""Manifests: every flipped bit is found, and those of other versions are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from repom.dbops.database import Facts
from repom.dbops.store.backup import Backup, Drill, Origin, manifest_of
from repom.dbops.store.manifest import FITS, check, checksum, read, spelled
from repom.dbops.store.store import Store
from repom.errors import Damaged
from tests.dbops.store.making import NOW, SHOP, make, names


def test_a_manifest_shows_no_path_and_is_one_json_object(target: Store) -> None:
    made = make(target)
    content = json.loads(made.manifest.read_bytes())

    assert f"{made.name}.json" == made.manifest.name
    assert content["created_at"] == "2026-02-24T15:00:00Z"
    assert content.pop("checksum") == checksum(content)
    assert str(target.folder) not in made.manifest.read_text()


def test_a_pin_is_written_down_and_changes_nothing_else(target: Store) -> None:
    made = make(target)
    target.update(replace(made, pinned=True))

    assert replace(made, pinned=True) == read(made.path)
    assert {made.name, made.manifest.name} == names(target)


def flipped(path: Path) -> Iterator[None]:
    """The file with each of its bits flipped, one at a time."""
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for at, byte in enumerate(content):
            for bit in range(8):
                file.seek(at)
                file.write(bytes([byte ^ 1 << bit]))
                yield
            file.seek(at)
            file.write(bytes([byte]))


def test_every_flipped_bit_of_a_manifest_is_found(target: Store) -> None:
    made = make(target, "größe", facts=Facts(tables=3), duration_s=1e-05)
    for _ in flipped(made.manifest):
        with pytest.raises(Damaged):
            read(made.path)
    assert made == read(made.path)


def test_every_flipped_bit_of_a_backup_is_found(target: Store) -> None:
    made = make(target)
    for _ in flipped(made.path):
        with pytest.raises(Damaged, match="checksum"):
            check(made)
    check(made)


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b""])
def test_another_size_is_found(target: Store, change: Callable[[bytes], bytes]) -> None:
    made = make(target)
    made.path.write_bytes(change(made.path.read_bytes()))

    with pytest.raises(Damaged, match=f"instead of {made.size}"):
        check(made)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'"text"'])
def test_a_manifest_that_is_none_is_damage(target: Store, content: bytes) -> None:
    made = make(target)
    made.manifest.write_bytes(content)

    with pytest.raises(Damaged, match="manifest"):
        target.find(made.name)
    assert [b.is_verified for b in target.backups()] == [False]


@pytest.mark.parametrize(
    ("field", "value"),
    [("created_at", "0001-01-01T00:00:00+23:59"), ("size", 10**400), ("size", 1 << 63)],
)
def test_a_value_that_no_program_can_use_is_damage(
    target: Store, field: str, value: object
) -> None:
    made = make(target)
    content = json.loads(made.manifest.read_bytes()) | {field: value}
    del content["checksum"]
    made.manifest.write_bytes(spelled({**content, "checksum": checksum(content)}))
    assert [b.problem != "" for b in target.backups()] == [True]


def test_a_manifest_of_a_newer_repom_is_read(target: Store) -> None:
    made = make(target)
    content = json.loads(made.manifest.read_bytes())
    del content["checksum"]
    content["invented_later"] = [1]
    made.manifest.write_bytes(spelled({**content, "checksum": checksum(content)}))

    assert made == read(made.path)


def test_every_field_that_a_manifest_holds_is_checked_by_its_type() -> None:
    unchecked = {
        field.name
        for kind in (Backup, Facts, Origin, Drill)
        for field in fields(kind)
        if field.type not in FITS
    }
    assert {"path", "created_at", "facts", "origin", "drill"} == unchecked


#: As version 0.1 wrote it, byte for byte.
MANIFEST_0_1 = b"""{
  "name": "shop_20260224T150000Z.dump",
  "database": "shop",
  "backend": "postgresql",
  "format": "custom",
  "label": null,
  "created_at": "2026-02-24T15:00:00Z",
  "size": 13,
  "sha256": "SHA256",
  "via": "docker",
  "server_version": "17.2",
  "tool_version": "17.2",
  "system_identifier": "7300000000000000001",
  "pinned": true,
  "verified": [
    "complete",
    "sha256",
    "archive",
    "drill"
  ],
  "duration_s": 0.5,
  "host": null,
  "facts": {
    "size": 7800000,
    "tables": 3,
    "extensions": {
      "citext": "1.6"
    },
    "roles": [
      "ann"
    ],
    "locale": {
      "encoding": "UTF8"
    },
    "migration": null,
    "commit": null,
    "where": "container shop_db",
    "project": "/home/ann/shop",
    "settings": {
      "format": "custom",
      "keep": 7
    },
    "drill": {
      "rows": {
        "public.item": 1000
      },
      "duration_s": 1.5
    }
  },
  "checksum": "CHECKSUM"
}"""


def test_a_manifest_of_0_1_is_read_and_keeps_its_shape(target: Store) -> None:
    content = b"PGDMP content"
    raw = MANIFEST_0_1.replace(b"SHA256", hashlib.sha256(content).hexdigest().encode())
    known = json.loads(raw)
    del known["checksum"]
    raw = raw.replace(b"CHECKSUM", checksum(known).encode())
    target.folder.mkdir()
    path = target.folder / "shop_20260224T150000Z.dump"
    path.write_bytes(content)
    manifest_of(path).write_bytes(raw)

    [found] = target.backups(SHOP)
    target.update(found)

    assert raw == found.manifest.read_bytes()
    assert Drill({"public.item": 1000}, 1.5) == found.drill
    assert (found.server_version, found.system_identifier) == ("17.2", "7300000000000000001")
    assert (found.facts.size, found.facts.tables, found.facts.roles) == (7800000, 3, ("ann",))
    assert (
        found.origin.where,
        found.origin.settings,
    ) == ("container shop_db", {"format": "custom", "keep": 7})


def test_a_file_without_a_manifest_is_described_by_its_name_and_does_not_count(
    target: Store,
) -> None:
    made = make(target, label="before")
    made.manifest.unlink()

    found = target.find(made.name)

    assert (
        found.database,
        found.backend,
        found.format,
        found.created_at,
    ) == ("shop", "postgresql", "custom", NOW)
    assert (found.label, found.verified, found.is_verified) == ("before", (), False)


def test_a_renamed_backup_keeps_its_manifest_if_that_goes_along(target: Store) -> None:
    made = make(target)
    other = made.path.with_name("mailed.dump")
    made.path.rename(other)
    made.manifest.rename(manifest_of(other))

    found = target.find(str(other))

    assert ("mailed.dump", other, True) == (found.name, found.path, found.is_verified)
