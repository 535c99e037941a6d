"""Plain SQL on its way into psql: what is taken out of it, and what is not let through.

A dump is code. What protects the other databases is, in this order: psql runs inside an
open transaction, in which the server creates and drops no database; under ``\\restrict``,
where psql has it, which ends at the first other backslash command; and this scan, which
says in plain words what is wrong before the server does, and also holds for a script that
ends our transaction with a COMMIT of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from ..errors import Damaged, Refused
from .archive import HINT

LONGEST = 1 << 20  # bytes of a line that are looked at together

_TRAILER = b"PostgreSQL database dump complete"
_CLUSTER = b"-- PostgreSQL database cluster dump"
_DUMP = re.compile(rb"^-- PostgreSQL database dump\r?\n", re.M)
_RESTRICT = re.compile(rb"\\restrict (\S+)\s*")
_COPY = re.compile(rb"\s*COPY\s.*\sFROM\s+stdin\b[^;]*;\s*$", re.I | re.S)
_DATABASE = re.compile(rb"\s*(CREATE|DROP|ALTER)\s+DATABASE\b", re.I)
_CONNECT = re.compile(rb"\s*\\c(onnect)?\b")
_COMMAND = re.compile(rb"\s*\\(?!\.|restrict\b|unrestrict\b)[a-z!?]", re.I)
_TOKEN = re.compile(rb"'|\"|--|/\*|\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$")
_ESCAPED_END = re.compile(rb"(?:[^'\\]|\\.|'')*'", re.S)


def for_psql(blocks: Iterable[bytes], *, trusted: bool, restricts: bool) -> Iterator[bytes]:
    """The script as it goes into psql, inside a transaction of ours.

    :param trusted: it is a dump of repom's own whose checksum was right: not scanned.
    :param restricts: this psql knows ``\\restrict``.
    :raises Refused: it connects elsewhere, creates or drops databases, or is the output
        of pg_dumpall.
    :raises Damaged: it is a dump of pg_dump that lacks its end.
    """
    pieces = iter(_pieces(blocks))
    head, key, dumped = _header(pieces)
    guard = None if trusted else _Guard(restricts)
    tail = b""
    for piece in chain([head], pieces):
        if guard:
            guard.check(piece)
        tail = (tail + piece)[-4096:]
        yield piece.replace(b"\\unrestrict " + key, b"") if key else piece
    if dumped and _TRAILER not in tail:
        raise Damaged("The SQL script lacks the end that pg_dump writes", HINT)


def _pieces(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that end with a line, but for lines of absurd length."""
    rest = b""
    for block in blocks:
        rest += block
        cut = rest.rfind(b"\n") + 1
        if not cut and len(rest) > LONGEST:
            cut = len(rest)
        if cut:
            yield rest[:cut]
            rest = rest[cut:]
    if rest:
        yield rest


def _header(pieces: Iterator[bytes]) -> tuple[bytes, bytes, bool]:
    """The start of the script without its own ``\\restrict`` (ours cannot hold another)
    and without the section of DROP statements that ``--clean`` writes: the database it is
    loaded into is new, and a view that depends on a primary key makes that section fail.

    :returns: the start, the key of ``\\restrict``, and whether pg_dump wrote the script.
    """
    head = next(pieces, b"")
    if head[:4096].lstrip(b"-\r\n ").startswith(_CLUSTER.lstrip(b"- ")):
        raise Refused(
            "The file is the output of pg_dumpall, a whole cluster",
            "Restore it with psql, or dump one database with pg_dump",
        )
    if not _DUMP.search(head[:4096]):
        return head, b"", False
    if b"\r\n" in head[:4096]:
        raise Damaged(
            "The SQL script has carriage returns, as after a dump through a terminal",
            "Dump it again without -t (docker exec) or with -T (docker compose exec)",
        )
    while not re.search(rb"^-- (Name|Data for Name): ", head, re.M):
        piece = next(pieces, b"")
        if not piece:
            break
        head += piece
    found = _RESTRICT.search(head)
    if found:
        head = head[: found.start()] + head[found.end() :]
    return _without_drops(head), found[1] if found else b"", True


def _without_drops(head: bytes) -> bytes:
    settings = list(re.finditer(rb"^(SET .*|SELECT pg_catalog\.set_config.*);\r?\n", head, re.M))
    named = re.search(rb"^--\r?\n-- (Name|Data for Name): ", head, re.M)
    if not settings or not named:
        return head
    first = [m for m in settings if m.end() <= named.start()]
    drop = re.search(rb"^(DROP|ALTER) ", head[: named.start()], re.M)
    if not drop or not first:
        return head
    kept = [m for m in first if m.end() <= drop.start()]
    start = kept[-1].end() if kept else drop.start()
    # Settings between the DROP statements and the first object belong to the objects.
    later = b"".join(m[0] for m in first if m.start() > start)
    return head[:start] + later + head[named.start() :]


class _Guard:
    """Follows a script just far enough to know where a statement begins: outside the data
    of COPY, quotes, dollar quotes and comments."""

    def __init__(self, restricts: bool) -> None:
        self._restricts = restricts
        self._inside = b""  # what has been opened and not closed: COPY, ', ", /*, or a $tag$
        self._number = 0
        self._begun = True

    def check(self, piece: bytes) -> None:
        """:raises Refused: for the first line that must not be run."""
        for line in piece.splitlines(keepends=True):
            self._number += self._begun
            if self._inside == b"COPY":
                if line.rstrip(b"\r\n") == b"\\.":
                    self._inside = b""
            else:
                self._look(line)
            self._begun = line.endswith(b"\n")

    def _look(self, line: bytes) -> None:
        if not self._inside and self._begun:
            self._refuse(line)
            if _COPY.match(line):
                self._inside = b"COPY"
                return
        self._follow(line)

    def _refuse(self, line: bytes) -> None:
        what = ""
        if _CONNECT.match(line):
            what = "connects to another database"
        elif _DATABASE.match(line):
            what = "creates, drops or alters a database"
        elif not self._restricts and _COMMAND.match(line):
            what = "holds a command of psql"
        if what:
            raise Refused(
                f"Line {self._number} of the SQL script {what}",
                "Take the line out if the rest is meant for this database",
            )

    def _follow(self, line: bytes) -> None:
        at = 0
        while at < len(line):
            if self._inside:
                closer = {b"/*": b"*/", b"E'": b"'"}.get(self._inside, self._inside)
                end = self._end(line, at, closer)
                if end < 0:
                    return
                at, self._inside = end, b""
            token = _TOKEN.search(line, at)
            if not token or token[0] == b"--":
                return
            escapes = token[0] == b"'" and line[: token.start()][-1:] in (b"E", b"e")
            self._inside, at = b"E'" if escapes else token[0], token.end()

    def _end(self, line: bytes, at: int, closer: bytes) -> int:
        if self._inside == b"E'":
            found = _ESCAPED_END.match(line, at)
            return found.end() if found else -1
        end = line.find(closer, at)
        return end + len(closer) if end >= 0 else -1
