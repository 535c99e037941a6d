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
from .codecs import BROKEN, decompressed, recognised

SQLITE = b"SQLite format 3\x00"
#: The beginning of a script that SQLite's shell writes for .dump, behind a byte order mark.
SQLITE_SCRIPT = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:--[^\n]*\n\s*|/\*.*?\*/\s*)*PRAGMA\s+\w+\s*=", re.I | re.S
)
HEAD = 1 << 16  # bytes that are enough to recognise a file
TOC = "toc.dat"
#: Files that `pg_dump --format=directory` writes.
MEMBER = re.compile(
    r"toc\.dat|(?:blob_)?\d+\.dat(?:\.(?:gz|lz4|zst))?|blobs(?:_\d+)?\.toc(?:\.(?:gz|lz4|zst))?"
)
LIST = advice("Run: {}", "db.list")
HINT = advice("Restore another backup; list them with: {}", "db.list")
#: Device, inode, size, and the times of the last change of content and of inode.
Stamp = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Archive:
    """A file that was recognised as a dump.

    :param kind: ``custom``, ``tar``, ``directory``, ``plain`` or ``sqlite``.
    :param compression: around it: ``gzip``, ``zstd`` or empty.
    :param format: version of the archive format, as (1, 16), where pg_restore reads it.
    :param server: version of the server it was dumped from, as far as the file tells.
    :param tool: version of the program that made it, as far as the file tells.
    :param stamp: the state of the file when it was recognised.
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
    def size(self) -> int:
        """Bytes of the file, or of the files in the folder."""
        files = self.path.iterdir() if self.path.is_dir() else (self.path,)
        return sum(each.stat().st_size for each in files)

    @property
    def is_archive(self) -> bool:
        """Whether pg_restore reads it; plain SQL is psql's."""
        return self.kind in ("custom", "tar", "directory")

    @property
    def is_parallel(self) -> bool:
        """Whether pg_restore can load it with several workers."""
        return self.kind in ("custom", "directory")

    def check_unchanged(self) -> None:
        """Called between load and swap, since what was loaded must be what was checked.

        :raises Refused: the file has changed since it was recognised.
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
                raise _altered(self.path) from None


def stamp_of(path: Path) -> Stamp | None:
    """Differs between two states of a file, or of a folder and its members; None when it is
    gone."""
    try:
        own = _stamped(path)
        members = [_stamped(each) for each in sorted(path.iterdir())] if path.is_dir() else []
    except OSError:
        return None
    return own if not members else (*own[:2], hash(tuple(members)), *own[3:])


def _stamped(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def recognise(path: Path) -> Archive:
    """What `path` is.

    :raises NotFound: it does not exist.
    :raises Damaged: it is empty, cut short or not a backup.
    :raises Refused: it is a kind of backup that repom does not restore.
    """
    stamp = stamp_of(path)
    if path.is_dir():
        return replace(_directory(path), stamp=stamp)
    if not path.is_file():
        raise NotFound(f"There is no file {path}", LIST)
    with path.open("rb") as raw:
        compression = recognised(raw.read(4))
        raw.seek(0)
        try:
            head = decompressed(raw, compression).read(HEAD)
        except BROKEN:
            raise _altered(path) from None
    if not head:
        raise Damaged(f"{path.name} is empty", HINT)
    return replace(_classified(path, compression, head), stamp=stamp)


def _classified(path: Path, compression: str, head: bytes) -> Archive:
    if head.startswith(SQLITE):
        return Archive(path, "sqlite", compression)
    is_custom, is_tar = head.startswith(toc.MAGIC), head[257:262] == b"ustar"
    if compression and (is_custom or is_tar):
        raise Refused(f"{path.name} is a compressed archive", "Decompress it first")
    if is_custom:
        return _of_pg_restore(path, "custom", head)
    if is_tar:
        return _tar(path, head)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(
            f"{path.name} is UTF-16, as PowerShell's > writes it", "Convert it to UTF-8 first"
        )
    if b"\x00" in head:
        raise Damaged(f"{path.name} has an unrecognized format", HINT)
    if SQLITE_SCRIPT.match(head):
        raise Refused(
            f"{path.name} is a script of SQLite's shell (.dump)",
            "Create a database from it (sqlite3 NEW.sqlite3 < FILE), then restore that",
        )
    return Archive(
        path,
        "plain",
        compression,
        server=_in_comment(rb"^-- Dumped from database version ([^\n]+)", head),
        tool=_in_comment(rb"^-- Dumped by pg_dump version ([^\n]+)", head),
    )


def _of_pg_restore(path: Path, kind: str, head: bytes) -> Archive:
    try:
        found = toc.header(head)
    except (EOFError, ValueError):
        raise Damaged(f"{path.name} is cut short", HINT) from None
    return Archive(path, kind, "", found.format, _number(found.server), _number(found.tool))


def _tar(path: Path, head: bytes) -> Archive:
    """A tar whose first member is the table of contents. All members must be whole, since
    pg_restore reads a tar that is cut short for ever."""
    if head[:100].rstrip(b"\0") != TOC.encode() or not head[512:].startswith(toc.MAGIC):
        raise Refused(
            f"{path.name} is a tar archive that pg_dump did not make",
            "Unpack it and restore what is in it",
        )
    try:
        with tarfile.open(path, "r:") as tar:
            last = tar.getmembers()[-1]
    except (tarfile.TarError, OSError, ValueError):
        raise _altered(path) from None
    if last.offset_data + last.size > path.stat().st_size:
        raise _altered(path)
    return _of_pg_restore(path, "tar", head[512:])


def _directory(path: Path) -> Archive:
    """A folder that `pg_dump --format=directory` wrote, without other files in it."""
    if not (path / TOC).is_file():
        raise Refused(f"{path} is a folder without a dump (no {TOC} in it)", "Name a file")
    for member in sorted(path.iterdir()):
        if not MEMBER.fullmatch(member.name) or member.is_symlink() or not member.is_file():
            raise Refused(
                f"{path.name} holds {member.name}, which is not from pg_dump",
                "Move it out of that folder",
            )
    with (path / TOC).open("rb") as file:
        head = file.read(HEAD)
    if not head.startswith(toc.MAGIC):
        raise Damaged(f"{path.name}/{TOC} is not a table of contents", HINT)
    return _of_pg_restore(path, "directory", head)


def _altered(path: Path) -> Damaged:
    return Damaged(f"{path.name} is cut short or altered", HINT)


def _in_comment(pattern: bytes, head: bytes) -> str | None:
    found = re.search(pattern, head, re.M)
    return _number(found[1].decode("utf-8", "replace")) if found else None


def _number(version: str) -> str | None:
    """The number alone: '18.6 (Debian 18.6-3)' is 18.6."""
    return version.split()[0] if version.split() else None


def major(version: str | None) -> int | None:
    """The major version of '18.6' or '19beta1'."""
    number = re.match(r"\d+", version or "")
    return int(number[0]) if number else None
