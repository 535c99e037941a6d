"""Plain SQL on its way into psql: what is taken out of it, and what is not let through.

Everything that reaches psql passes here, repom's own backups included: names and texts of
a database are written by whoever may create a table in it. The script is read token by
token (`lexer`), judged statement by statement (`guard`), and what is taken out leaves its
line feeds, so that the line numbers in psql's messages are those of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from repom.errors import Damaged, Refused

from . import lexer as lexing
from .archive import HINT
from .guard import Guard, Verdict
from .lexer import (
    COLON,
    COMMAND,
    COMMENT,
    DATA,
    END,
    LOOKALIKE,
    PLAIN,
    QUOTED,
    SPACE,
    WORD,
    Lexer,
    Token,
)

LONGEST = 1 << 24  # bytes of a statement that has to be read whole
OUTPUT = 1 << 16  # bytes that are passed on together
_HEADER = b"-- PostgreSQL database dump"
_TRAILER = b"-- PostgreSQL database dump complete"
_CLUSTER = b"-- PostgreSQL database cluster dump"
_RESTRICT = re.compile(rb"\\(un)?restrict ([A-Za-z0-9]+)")
_COMMAND = re.compile(rb"\\[A-Za-z_.!?;:]*")


def for_psql(
    blocks: Iterable[bytes],
    *,
    restricts: bool = True,
    owner: bool = True,
    in_transaction: bool = True,
) -> Iterator[bytes]:
    """The script as it goes into psql.

    :param owner: keep statements about owners and grants.
    :param restricts: this psql knows ``\\restrict``. Its commands are refused either way.
    :param in_transaction: psql is inside a transaction of ours: the script's own BEGIN and
        COMMIT are taken out. Otherwise they stay, in pairs; all else about transactions is
        refused in any case.
    :raises Refused: it holds what must not be run, or is the output of pg_dumpall.
    :raises Damaged: it ends too early.
    """
    size, gathered = 0, list[bytes]()
    for piece in _Sieve(blocks, owner=owner, in_transaction=in_transaction).pieces():
        gathered.append(piece)
        size += len(piece)
        if size > OUTPUT:
            yield b"".join(gathered)
            size, gathered = 0, []
    if size:
        yield b"".join(gathered)


class _Sieve:
    """Holds a statement back until it is clear what becomes of it."""

    def __init__(self, blocks: Iterable[bytes], *, owner: bool, in_transaction: bool) -> None:
        self._lexer = Lexer(blocks)
        self._guard = Guard(self._lexer, owner=owner, in_transaction=in_transaction)
        self._dump = _Dump(self._lexer)
        self._held: list[Token] = []
        self._size = 0
        self._verdict: Verdict | None = None
        self._last = b"\n"

    def pieces(self) -> Iterator[bytes]:
        for token in self._lexer:
            kind, text = token
            if kind in (SPACE, COMMENT):
                yield self._invisible(token)
            elif kind == COMMAND:
                self._dump.command(text, self._is_open)
            elif kind == DATA or (kind == PLAIN and self._verdict is None):
                self._dump.complete, self._last = False, text
                yield text
            else:
                yield self._visible(token)
        yield self._end()

    @property
    def _is_open(self) -> bool:
        return bool(self._held) or self._verdict is not None

    def _invisible(self, token: Token) -> bytes:
        if self._held:
            self._hold(token)
            return b""
        if self._verdict is None:
            self._dump.remark(token[1])
            return token[1]
        return self._passed(token)

    def _visible(self, token: Token) -> bytes:
        ended = token[0] == END
        if self._verdict is None:
            self._dump.begun, self._dump.complete = True, False
            self._hold(token)
            piece = self._decided(ended=ended)
        else:
            self._guard.judge_body(self._lexer.statement)
            piece = self._passed(token)
        if ended:
            self._verdict = None
        return piece

    def _hold(self, token: Token) -> None:
        self._held.append(token)
        self._size += len(token[1])
        if self._size > LONGEST or len(self._lexer.statement.tokens) >= lexing.KEPT:
            line = self._lexer.statement.line
            self._lexer.refuse("begins a statement that is too long to be checked", line)

    def _decided(self, *, ended: bool) -> bytes:
        statement = self._lexer.statement
        verdict = self._guard.judge(statement, ended=ended)
        if verdict is None:
            return b""
        if self._dump.is_dropped(statement.tokens):
            verdict = Verdict.TAKE_OUT
        statement.decided = True
        self._verdict, held = verdict, self._held
        self._held, self._size = [], 0
        if verdict is Verdict.TRIM:
            held = trimmed(held)
        elif verdict is Verdict.KEEP and not ended:
            self._lexer.rough = statement.is_no_routine
        self._lexer.swift = not self._dump.is_dropping
        return b"".join(self._passed(t) for t in held)

    def _passed(self, token: Token) -> bytes:
        """A token as it goes into psql. It has no variables to fill in, and does not take
        the name of a thing for the start of a function's body."""
        kind, text = token
        if self._verdict is Verdict.TAKE_OUT:
            return b"\n" * text.count(b"\n")
        if kind == COLON:
            return b": "
        if kind == LOOKALIKE:
            return b'"' + text.lower() + b'"'
        return text

    def _end(self) -> bytes:
        """psql would run what is left without a semicolon, and so would take what repom
        writes behind the script for a part of it."""
        if self._lexer.statement.copies:
            raise Damaged("The SQL script ends in the middle of a statement", HINT)
        self._dump.check_end()
        piece = self._decided(ended=True) if self._held else b""
        if self._guard.begun:
            raise Damaged(
                f"The SQL script does not commit what it begins in line {self._guard.begun}", HINT
            )
        missing = self._verdict in (Verdict.KEEP, Verdict.TRIM)
        unended = not self._last.endswith(b"\n")
        return piece + (b"\n;" if missing else b"\n" if unended else b"")


class _Dump:
    """What a script of pg_dump has around its objects. Only one that begins with its
    comment is one, and only what is a comment of the script, not text that looks like it.

    :ivar begun: a statement has been read.
    :ivar complete: the comment that pg_dump ends with was the last thing read.
    """

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self.begun = self.complete = False
        self._dumped = self._titled = False
        self._key: bytes | None = None
        self._unlocked = False
        self._dropping = True  # in the section of DROP statements that --clean writes first
        self._public = False  # the schema public was dropped there

    def remark(self, text: bytes) -> None:
        """Space and comments between statements."""
        if self._titled and text.startswith(b"\r"):
            self._is_damaged()
        self._titled = False
        if b"-- PostgreSQL database" in text:
            lines = text.split(b"\n")
            for line in lines[1:] if self._lexer.indented else lines:
                self._line(line)

    def _line(self, line: bytes) -> None:
        text = line.rstrip(b"\r")
        self.complete = self.complete or text == _TRAILER
        if not self.begun and text == _CLUSTER:
            raise Refused(
                "The file is the output of pg_dumpall, a whole cluster",
                "Restore it with psql, or dump one database with pg_dump",
            )
        if not self.begun and text == _HEADER:
            self._dumped = self._titled = True
            if line != text:
                self._is_damaged()

    def _is_damaged(self) -> NoReturn:
        raise Damaged(
            "The SQL script has carriage returns, as after a dump through a terminal",
            "Dump it again without -t (docker exec) or with -T (docker compose exec)",
        )

    def command(self, text: bytes, is_open: bool) -> None:
        """Of psql's commands the file's own ``\\restrict`` and ``\\unrestrict`` are taken
        out, since ours cannot hold another.

        :raises Refused: for any other.
        """
        found = _RESTRICT.fullmatch(text)
        if found and self._dumped and not is_open and not self._lexer.indented:
            if not found[1] and self._key is None and not self.begun:
                self._key = found[2]
                return
            if found[1] and self._key == found[2] and not self._unlocked:
                self._unlocked = True
                return
        name = _COMMAND.match(text)
        said = (name[0] if name else b"\\").decode("ascii", "replace")
        if said in ("\\c", "\\connect"):
            self._lexer.refuse("connects to another database")
        self._lexer.refuse(f"holds a command of psql ({said})")

    @property
    def is_dropping(self) -> bool:
        """The section of DROP statements, or what comes before it, is being read."""
        return self._dumped and self._dropping

    def is_dropped(self, words: list[bytes]) -> bool:
        """It belongs to the section of DROP statements, which a new database does not need
        and in which a view that depends on a primary key fails."""
        if words == [b"CREATE", b"SCHEMA", b"PUBLIC"] and self._public:
            return True
        if not self.is_dropping or words[:1] in ([b"SET"], []):
            return False
        dropped = is_drop(words)
        self._dropping = dropped or b"SET_CONFIG" in words[:4]
        self._public = self._public or (words[:2] == [b"DROP", b"SCHEMA"] and b"PUBLIC" in words)
        return dropped

    def check_end(self) -> None:
        if self._dumped and not self.complete:
            raise Damaged("The SQL script lacks the end that pg_dump writes", HINT)


def is_drop(words: list[bytes]) -> bool:
    """A statement of the kinds that ``pg_dump --clean`` writes before the objects."""
    if words[0] == b"SELECT":
        return words[1:4] == [b"PG_CATALOG", b".", b"LO_UNLINK"]
    replaced = words[:4] == [b"CREATE", b"OR", b"REPLACE", b"VIEW"]
    return words[0] == b"DROP" or replaced or (words[0] == b"ALTER" and b"DROP" in words)


def trimmed(tokens: list[Token]) -> list[Token]:
    """``CREATE SCHEMA name AUTHORIZATION owner`` without the owner; where it has no name,
    the owner's is the name."""
    seen = [n for n, (kind, _text) in enumerate(tokens) if kind in (WORD, QUOTED)]
    place = next(p for p, n in enumerate(seen) if tokens[n][1].upper() == b"AUTHORIZATION")
    out = {seen[place]}
    if tokens[seen[place - 1]][1].upper() not in (b"SCHEMA", b"EXISTS"):
        owner = seen[place + 1 : place + 2]
        while owner and tokens[owner[-1]][0] == QUOTED == tokens[owner[-1] + 1][0]:
            owner.append(owner[-1] + 1)  # a quote within the name
        out.update(owner)
    return [t for n, t in enumerate(tokens) if n not in out]
