"""What a file is, by its content: an archive of pg_dump's, plain SQL, or SQLite."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from repom.dbops.files import BLOCK
from repom.errors import Damaged, NotFound, Refused, advice

from . import toc
from .codecs import BROKEN, GZIP, ZSTD, decompressed

CUSTOM = b"PGDMP"
SQLITE = b"SQLite format 3\x00"
#: How the script begins that SQLite's shell writes for .dump.
_SQLITE = re.compile(rb"\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*PRAGMA\s+\w+\s*=", re.I | re.S)
HEAD = 1 << 16  # bytes that are enough to tell
TOC = "toc.dat"
MEMBER = re.compile(
    r"toc\.dat|(?:blob_)?\d+\.dat(?:\.(?:gz|lz4|zst))?|blobs(?:_\d+)?\.toc(?:\.(?:gz|lz4|zst))?"
)
#: Device, inode, size, and the times of the last change of content and of inode.
Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Archive:
    """A file that somebody wants restored.

    :param kind: ``custom``, ``tar``, ``directory``, ``plain`` or ``sqlite``.
    :param compression: around it: ``gzip``, ``zstd`` or none.
    :param format: version of the custom format, as (1, 16); of other kinds nothing.
    :param server: version of the server it was dumped from, as far as the file tells.
    :param tool: version of the program that made it, as far as the file tells.
    :param stamp: which file it was when it was recognised.
    """

    path: Path
    kind: str
    compression: str = ""
    format: tuple[int, int] | None = None
    server: str | None = None
    tool: str | None = None
    stamp: Stamp | None = None

    @property
    def backend(self) -> str:
        return "sqlite" if self.kind == "sqlite" else "postgresql"

    @property
    def tables(self) -> int | None:
        """How many tables a restore makes, as far as the file tells without being read."""
        return toc.tables(toc.entries(self.path)) if self.kind == "custom" else None

    @property
    def is_archive(self) -> bool:
        """Whether pg_restore reads it; plain SQL is psql's."""
        return self.kind in ("custom", "tar", "directory")

    @property
    def is_parallel(self) -> bool:
        """Whether pg_restore can load it with several workers."""
        return self.kind in ("custom", "directory")

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
            stream = decompressed(raw, self.compression)
            try:
                while block := stream.read(BLOCK):
                    yield block
            except BROKEN:
                raise Damaged(f"{self.path.name} is cut short or altered", HINT) from None


def stamp_of(path: Path) -> Stamp | None:
    """Tells one state of a file (or of a directory of `pg_dump -Fd`, with its members)
    from any later one; nothing when it is gone."""
    try:
        own = _stamped(path)
        members = [_stamped(each) for each in sorted(path.iterdir())] if path.is_dir() else []
    except OSError:
        return None
    return own if not members else (*own[:2], hash(tuple(members)), *own[3:])


def _stamped(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


LIST = advice("Run: {}", "db.list")
HINT = advice("Restore another backup; list them with: {}", "db.list")


def recognise(path: Path) -> Archive:
    """Tell what `path` is.

    :raises NotFound: it is not there.
    :raises Damaged: it is empty, cut short or not a backup at all.
    :raises Refused: it is a backup of a kind that is not restored from here.
    """
    stamp = stamp_of(path)
    if path.is_dir():
        return replace(_directory(path), stamp=stamp)
    if not path.is_file():
        raise NotFound(f"There is no file {path}", LIST)
    with path.open("rb") as raw:
        start = raw.read(4)
        compression = "gzip" if start[:2] == GZIP else "zstd" if start == ZSTD else ""
        raw.seek(0)
        try:
            head = decompressed(raw, compression).read(HEAD)
        except BROKEN:
            raise Damaged(f"{path.name} is cut short or altered", HINT) from None
    if not head:
        raise Damaged(f"{path.name} is empty", HINT)
    return replace(_classified(path, compression, head), stamp=stamp)


def _classified(path: Path, compression: str, head: bytes) -> Archive:
    if head.startswith(SQLITE):
        return Archive(path, "sqlite", compression)
    if head.startswith(CUSTOM) or head[257:262] == b"ustar":
        if compression:
            raise Refused(f"{path.name} is a compressed archive", "Decompress it first")
        return _archive(path, head)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(
            f"{path.name} is UTF-16, as PowerShell's > writes it", "Convert it to UTF-8 first"
        )
    if b"\x00" in head:
        raise Damaged(f"{path.name} has an unrecognized format", HINT)
    if looks_like_sqlite(head):
        raise Refused(
            f"{path.name} is a script of SQLite's shell (.dump)",
            "Make a database of it with sqlite3 NEW.sqlite3 < FILE, then restore that file",
        )
    return Archive(path, "plain", compression, None, *read_comments(head))


def _archive(path: Path, head: bytes) -> Archive:
    """A file that pg_restore reads: the custom format, or a tar whose first member is the
    table of contents."""
    if head.startswith(CUSTOM):
        return Archive(path, "custom", "", *read_header(head, path.name))
    if head[:100].rstrip(b"\0") == TOC.encode() and head[512:].startswith(CUSTOM):
        _check_members(path)
        return Archive(path, "tar", "", *read_header(head[512:], path.name))
    raise Refused(
        f"{path.name} is a tar archive, and not one that pg_dump --format=tar made",
        "Unpack it and restore what is in it",
    )


def _directory(path: Path) -> Archive:
    """What `pg_dump --format=directory` writes: nothing else may lie in it."""
    if not (path / TOC).is_file():
        raise Refused(f"{path} is a folder without a dump (no {TOC} in it)", "Name a file")
    for member in sorted(path.iterdir()):
        if not MEMBER.fullmatch(member.name) or member.is_symlink() or not member.is_file():
            raise Refused(
                f"{path.name} holds {member.name}, which pg_dump does not write",
                "Move it out of that folder",
            )
    with (path / TOC).open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(CUSTOM):
        raise Damaged(f"{path.name}/{TOC} is not a table of contents", HINT)
    return Archive(path, "directory", "", *read_header(head, path.name))


def looks_like_sqlite(head: bytes) -> bool:
    """Whether a script that begins so was written by SQLite's ``.dump``."""
    return bool(_SQLITE.match(head.removeprefix(b"\xef\xbb\xbf")))


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


def _check_members(path: Path) -> None:
    """That a tar goes to its end: pg_restore reads one that does not for ever.

    :raises Damaged: it is cut short or altered.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            last = tar.getmembers()[-1]
    except (tarfile.TarError, OSError, ValueError):
        raise Damaged(f"{path.name} is cut short or altered", HINT) from None
    if last.offset_data + last.size > path.stat().st_size:
        raise Damaged(f"{path.name} is cut short or altered", HINT)
