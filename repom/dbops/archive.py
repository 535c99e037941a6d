"""What a file is, by its content: a custom-format archive, plain SQL, or SQLite."""

from __future__ import annotations

import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import Damaged, NotFound, Refused
from .files import BLOCK

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP = b"\x1f\x8b"
ZSTD = b"\x28\xb5\x2f\xfd"
CUSTOM = b"PGDMP"
SQLITE = b"SQLite format 3\x00"
HEAD = 1 << 16  # bytes that are enough to tell

#: What a decompressor raises for data that is cut short or altered.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)


@dataclass(frozen=True)
class Archive:
    """A file that somebody wants restored.

    :param kind: ``custom``, ``plain`` or ``sqlite``.
    :param compression: around it: ``gzip``, ``zstd`` or none.
    :param format: version of the custom format, as (1, 16); of other kinds nothing.
    :param server: version of the server it was dumped from, as far as the file tells.
    :param tool: version of the program that made it, as far as the file tells.
    :param stamp: which file it was when it was recognised: device, inode, size and time of
        the last change.
    """

    path: Path
    kind: str
    compression: str = ""
    format: tuple[int, int] | None = None
    server: str | None = None
    tool: str | None = None
    stamp: tuple[int, int, int, int] | None = None

    @property
    def backend(self) -> str:
        return "sqlite" if self.kind == "sqlite" else "postgresql"

    def check_unchanged(self) -> None:
        """What was checked must be what was loaded: called after the load, before the swap.

        :raises Refused: the file is not the one that was recognised any more.
        """
        if self.stamp is not None and stamp_of(self.path) != self.stamp:
            raise Refused(
                f"{self.path.name} was changed while it was being restored",
                "Nothing was replaced; run the restore again",
            )

    def blocks(self) -> Iterator[bytes]:
        """The content without its compression, in blocks.

        :raises Damaged: it is cut short or altered.
        """
        with self.path.open("rb") as raw:
            stream = _decompressed(raw, self.compression)
            try:
                while block := stream.read(BLOCK):
                    yield block
            except BROKEN:
                raise Damaged(f"{self.path.name} is cut short or altered", HINT) from None


def stamp_of(path: Path) -> tuple[int, int, int, int] | None:
    """Tells one state of a file from any later one; nothing when it is gone."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


HINT = "Restore another backup: invoke db.list shows them"


def recognise(path: Path) -> Archive:
    """Tell what `path` is.

    :raises NotFound: it is not there.
    :raises Damaged: it is empty, cut short or no backup at all.
    :raises Refused: it is a backup of a kind that is not restored from here.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}", "invoke db.list shows the backups")
    stamp = stamp_of(path)
    with path.open("rb") as raw:
        start = raw.read(4)
        compression = "gzip" if start[:2] == GZIP else "zstd" if start == ZSTD else ""
        raw.seek(0)
        try:
            head = _decompressed(raw, compression).read(HEAD)
        except BROKEN:
            raise Damaged(f"{path.name} is cut short or altered", HINT) from None
    if not head:
        raise Damaged(f"{path.name} is empty", HINT)
    return replace(_classified(path, compression, head), stamp=stamp)


def _classified(path: Path, compression: str, head: bytes) -> Archive:
    if head.startswith(SQLITE):
        return Archive(path, "sqlite", compression)
    if head.startswith(CUSTOM):
        if compression:
            raise Refused(f"{path.name} is a compressed archive", "Decompress it first")
        return Archive(path, "custom", "", *read_header(head, path.name))
    if head[257:262] == b"ustar":
        raise Refused(f"{path.name} is a tar archive", "Dump in custom format: pg_dump -Fc")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(
            f"{path.name} is UTF-16, as PowerShell's > writes it", "Convert it to UTF-8 first"
        )
    if b"\x00" in head:
        raise Damaged(f"{path.name} is no backup that repom knows", HINT)
    return Archive(path, "plain", compression, None, *read_comments(head))


def read_header(head: bytes, name: str) -> tuple[tuple[int, int], str | None, str | None]:
    """Version of the format, of the server and of pg_dump, from the head of a custom archive.

    The layout is that of PostgreSQL's ``ReadHead`` (pg_backup_archiver.c): magic, three
    version bytes, size of an integer, size of an offset, format, compression, seven
    integers of a time, then the names as length and bytes; each integer has a sign byte.
    """
    try:
        major, minor, size = head[5], head[6], head[8]
        at = 11 + (1 if (major, minor) >= (1, 15) else 1 + size) + 7 * (1 + size)
        texts: list[str] = []
        for _ in range(3):
            length = int.from_bytes(head[at + 1 : at + 1 + size], "little")
            length = 0 if head[at] else length
            at += 1 + size
            texts.append(head[at : at + length].decode("utf-8", "replace"))
            at += length
            head[at - 1]  # the text ends where it says
    except IndexError:
        raise Damaged(f"{name} is cut short", HINT) from None
    return (major, minor), _version(texts[1]), _version(texts[2])


def read_comments(head: bytes) -> tuple[str | None, str | None]:
    """Version of the server and of pg_dump, from the comments that it writes first."""
    server = re.search(rb"^-- Dumped from database version ([^\n]+)", head, re.M)
    tool = re.search(rb"^-- Dumped by pg_dump version ([^\n]+)", head, re.M)
    return tuple(_version(m[1].decode("utf-8", "replace")) if m else None for m in (server, tool))  # type: ignore[return-value]


def _version(text: str) -> str | None:
    """The number alone: '18.6 (Debian 18.6-3)' is 18.6."""
    return text.split()[0] if text.split() else None


def major(version: str | None) -> int | None:
    """The major version of '18.6' or '19beta1'."""
    number = re.match(r"\d+", version or "")
    return int(number[0]) if number else None


def _decompressed(raw: BinaryIO, compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "zstd":
        return zstd.ZstdFile(raw)
    return raw


def compressor(file: Any) -> Any:
    """A writer that compresses into `file` with zstd, level 1, one frame, all cores."""
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: 1,
        parameter.checksum_flag: 1,
        parameter.nb_workers: min(os.cpu_count() or 1, 8),
    }
    return zstd.ZstdFile(file, "w", options=options)
