"""Plain SQL on its way into psql: what is taken out of it, and what is not let through.

A dump is code. What protects the other databases is, in this order: psql runs inside an
open transaction, in which the server creates and drops no database; under ``\\restrict``,
where psql has it, which ends at the first other backslash command; and this scan, which
says in plain words what is wrong before the server does, and also holds for a script that
ends our transaction with a COMMIT of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from ..errors import Damaged, Refused
from .archive import HINT

HEAD = 1 << 16  # bytes that hold the comments pg_dump begins with
LONGEST = 1 << 20  # bytes of a line that are looked at together
TAIL = 4096  # bytes that hold the comment pg_dump ends with

_BOM = b"\xef\xbb\xbf"
_TRAILER = b"PostgreSQL database dump complete"
_CLUSTER = re.compile(rb"^-- PostgreSQL database cluster dump", re.M)
_DUMP = re.compile(rb"^-- PostgreSQL database dump\r?$", re.M)
_RESTRICT = re.compile(rb"^\\restrict (\S+)\n", re.M)
_OBJECT = re.compile(rb"^--\n-- (?:Name|Data for Name): ", re.M)
_SETTING = re.compile(rb"^(?:SET .*|SELECT pg_catalog\.set_config.*);\n", re.M)
_DROPPED = re.compile(rb"^(?:DROP|ALTER) ", re.M)


def for_psql(blocks: Iterable[bytes], *, restricts: bool, owner: bool = True) -> Iterator[bytes]:
    """The script as it goes into psql; what is taken out leaves its line feeds, so that
    psql's line numbers are the file's.

    :param owner: keep statements about owners and grants.
    :param restricts: this psql knows ``\\restrict``.
    :raises Refused: it connects elsewhere, creates or drops databases, or is the output
        of pg_dumpall.
    :raises Damaged: it is a dump of pg_dump that lacks its end.
    """
    pieces = _pieces(blocks)
    head, key, dumped = _header(pieces)
    ours = re.compile(rb"^\\unrestrict " + re.escape(key) + rb"$", re.M) if key else None
    guard = Guard(restricts)
    tail = b""
    for piece in chain([head], pieces):
        piece = ours.sub(b"", piece) if ours else piece
        guard.check(piece)
        tail = (tail + piece)[-TAIL:]
        yield piece
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
    head = _gathered(b"", pieces, lambda text: len(text) >= HEAD).removeprefix(_BOM)
    if _CLUSTER.search(head[:TAIL]):
        raise Refused(
            "The file is the output of pg_dumpall, a whole cluster",
            "Restore it with psql, or dump one database with pg_dump",
        )
    if not _DUMP.search(head[:TAIL]):
        return head, b"", False
    if b"\r\n" in head[:TAIL]:
        raise Damaged(
            "The SQL script has carriage returns, as after a dump through a terminal",
            "Dump it again without -t (docker exec) or with -T (docker compose exec)",
        )
    head = _gathered(head, pieces, lambda text: bool(_OBJECT.search(text)))
    found = _RESTRICT.search(head[:TAIL])
    if found:
        head = head[: found.start()] + head[found.end() :]
    return _without_drops(head), found[1] if found else b"", True


def _gathered(head: bytes, pieces: Iterator[bytes], enough: Callable[[bytes], bool]) -> bytes:
    while not enough(head):
        piece = next(pieces, b"")
        if not piece:
            break
        head += piece
    return head


def _without_drops(head: bytes) -> bytes:
    named = _OBJECT.search(head)
    before = head[: named.start()] if named else head
    drop = _DROPPED.search(before)
    if not named or not drop:
        return head
    # Settings between the DROP statements and the first object belong to the objects.
    later = b"".join(m[0] for m in _SETTING.finditer(before, drop.start()))
    return head[: drop.start()] + later + head[named.start() :]


_TOKEN = re.compile(
    rb"(?P<escaped>[eE]')"
    rb"|(?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*)|\d[\w.]*"
    rb"|(?P<open>'|\"|/\*|\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)"
    rb"|(?P<comment>--)|(?P<end>;)|(?P<command>\\[^\s]*)"
)
_ESCAPED_END = re.compile(rb"(?:[^'\\]|\\.)*'", re.S)
_NESTED = re.compile(rb"/\*|\*/")
HARMLESS = (b"\\.", b"\\restrict", b"\\unrestrict")
DATABASE = {(verb, b"DATABASE") for verb in (b"CREATE", b"DROP", b"ALTER")}


class Guard:
    """Follows a script just far enough to know its statements' first words: past the data
    of COPY, quotes, dollar quotes and comments."""

    def __init__(self, restricts: bool) -> None:
        self._restricts = restricts
        self._inside = b""  # what is open: COPY, E', ', ", /*, or a $tag$
        self._depth = 0  # of nested comments
        self._words: list[bytes] = []  # the statement's first two, and its last two
        self._copies = False  # the statement is COPY … FROM stdin
        self._number, self._begun = 0, True

    def check(self, piece: bytes) -> None:
        """:raises Refused: for the first statement that must not be run."""
        for line in piece.split(b"\n"):
            self._number += self._begun
            self._begun = True
            if self._inside == b"COPY":
                if line.rstrip(b"\r") == b"\\.":
                    self._inside = b""
            else:
                self._follow(line + b"\n")
        self._number -= 1
        self._begun = piece.endswith(b"\n")

    def _follow(self, line: bytes) -> None:
        at = self._closed(line, 0) if self._inside else 0
        copying = False
        while at >= 0:
            token = _TOKEN.search(line, at)
            if not token or token["comment"]:
                break
            at = token.end()
            if token["word"]:
                self._word(token[0].upper())
            elif token["end"]:
                copying = copying or self._copies
                self._words, self._copies = [], False
            elif token["command"]:
                self._command(token[0])
                break
            elif token["open"] or token["escaped"]:
                self._inside = token[0].upper()[:2] if token["escaped"] else token[0]
                at = self._closed(line, at)
        if copying:
            self._inside = b"COPY"

    def _closed(self, line: bytes, at: int) -> int:
        """Where what is open is closed in this line; -1 when it is not."""
        if self._inside == b"/*":
            return self._comment_end(line, at)
        if self._inside == b"E'":
            found = _ESCAPED_END.match(line, at)
            end = found.end() if found else -1
        else:
            start = line.find(self._inside, at)
            end = start + len(self._inside) if start >= 0 else -1
        if end >= 0:
            self._inside = b""
        return end

    def _comment_end(self, line: bytes, at: int) -> int:
        self._depth = self._depth or 1
        for mark in _NESTED.finditer(line, at):
            self._depth += 1 if mark[0] == b"/*" else -1
            if not self._depth:
                self._inside = b""
                return mark.end()
        return -1

    def _word(self, word: bytes) -> None:
        last = self._words[-1:]
        if len(self._words) > 3:
            del self._words[2]
        self._words.append(word)
        if self._words[0] == b"COPY" and last == [b"FROM"] and word == b"STDIN":
            self._copies = True
        if tuple(self._words) in DATABASE:
            self._refuse("creates, drops or alters a database")

    def _command(self, command: bytes) -> None:
        if command in (b"\\c", b"\\connect"):
            self._refuse("connects to another database")
        if not self._restricts and command not in HARMLESS:
            self._refuse("holds a command of psql")

    def _refuse(self, what: str) -> None:
        raise Refused(
            f"Line {self._number} of the SQL script {what}",
            "Take the line out if the rest is meant for this database",
        )
