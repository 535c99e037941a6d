"""The table of contents of pg_dump's archives, read without running a program.

The layout is that of PostgreSQL's ``ReadHead`` and ``ReadToc`` (pg_backup_archiver.c),
formats 1.12 to 1.16, which pg_dump writes from 9.0 to 18: each integer has a sign byte, each
text its length.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from repom.errors import Damaged

MAGIC = b"PGDMP"
TABLES = ("TABLE", "FOREIGN TABLE", "MATERIALIZED VIEW")
STATISTICS = "STATISTICS DATA"
CUSTOM = 1  # archCustom: an entry ends with an offset; others end with a file's name


@dataclass(frozen=True)
class Header:
    """What an archive begins with.

    :param format: version of the format, as (1, 16).
    :param server: version of the server, as pg_dump writes it; may be empty.
    :param tool: version of pg_dump, likewise.
    """

    format: tuple[int, int]
    server: str
    tool: str


@dataclass(frozen=True)
class Entry:
    """One object of an archive.

    :param description: its kind in pg_dump's words: ``TABLE``, ``TABLE DATA``, ``ACL`` …
    """

    dump_id: int
    description: str
    tag: str
    namespace: str
    owner: str


def header(head: bytes) -> Header:
    """The header of an archive that begins with these bytes.

    :raises EOFError, ValueError: they end within it.
    """
    return _Reader(io.BytesIO(head), len(head)).header


def entries(path: Path) -> list[Entry]:
    """What an archive in custom format holds, in the order of a restore.

    :raises Damaged: it is cut short or altered.
    """
    try:
        with path.open("rb") as file:
            return list(_Reader(file, path.stat().st_size).entries())
    except (EOFError, ValueError):
        raise Damaged(f"The table of contents of {path.name} is cut short or altered") from None


def tables(found: list[Entry]) -> int:
    """How many tables a restore of these makes, partitions and materialized views included."""
    return sum(each.description in TABLES for each in found)


def without_statistics(found: list[Entry]) -> bytes:
    """A list for pg_restore that leaves out the planner's statistics; empty when there
    are none. A server before 18 has no functions to take them."""
    if not any(each.description == STATISTICS for each in found):
        return b""
    kept = [each for each in found if each.description != STATISTICS]
    return "".join(f"{each.dump_id};\n" for each in kept).encode()


class _Reader:
    """Reads an archive from its start.

    :param size: bytes of `file`; no text can be longer.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        if self._bytes(5) != MAGIC:
            raise ValueError("not an archive")
        major, minor, _revision, self._integer, self._offset, self._format = self._bytes(6)
        self._version = (major, minor)
        if self._version >= (1, 15):
            self._bytes(1)  # the algorithm of its compression
        else:
            self._int()
        for _ in range(7):  # when it was made
            self._int()
        _database, server, tool = (self._text() for _ in range(3))
        self.header = Header(self._version, server, tool)

    def entries(self) -> Iterator[Entry]:
        for _ in range(self._int()):
            yield self._entry()

    def _entry(self) -> Entry:
        dump_id, _has_data = self._int(), self._int()
        _table, _oid, tag, description = (self._text() for _ in range(4))
        self._int()  # section
        for _ in range(3):  # statements that make it, drop it, copy it
            self._skip()
        namespace = self._text()
        self._skip()  # tablespace
        if self._version >= (1, 14):
            self._skip()  # table access method
        if self._version >= (1, 16):
            self._int()  # kind of relation
        owner = self._text()
        self._skip()  # with oids
        while self._skip() is not None:
            pass  # each object that it depends on
        if self._format == CUSTOM:
            self._bytes(1 + self._offset)
        else:
            self._skip()
        return Entry(dump_id, description, tag, namespace, owner)

    def _bytes(self, count: int) -> bytes:
        read = self._file.read(count)
        if len(read) < count:
            raise EOFError
        return read

    def _int(self) -> int:
        sign, *rest = self._bytes(1 + self._integer)
        value = int.from_bytes(bytes(rest), "little")
        return -value if sign else value

    def _length(self) -> int | None:
        length = self._int()
        if length > self._size:
            raise ValueError("a text longer than the file")
        return None if length < 0 else length

    def _text(self) -> str:
        length = self._length()
        return "" if length is None else self._bytes(length).decode("utf-8", "replace")

    def _skip(self) -> int | None:
        """Pass a text by; its length, or nothing when there is none."""
        length = self._length()
        if length:
            self._file.seek(length, os.SEEK_CUR)
        return length
