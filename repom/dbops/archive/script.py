"""Plain SQL on its way into psql: what is taken out of it, and what is refused.

Everything that reaches psql passes here, repom's own backups included: any user who may
create a table in a database writes names and texts of its dump. The script is read token by
token (`lexer`) and judged statement by statement (`guard`). What is taken out leaves its
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
from .lexer import Lexer, Token

LONGEST = 1 << 24  # bytes of a statement that has to be read whole
OUTPUT = 1 << 16  # bytes that are passed on together
HEADER = b"-- PostgreSQL database dump"
TRAILER = b"-- PostgreSQL database dump complete"
CLUSTER = b"-- PostgreSQL database cluster dump"
RESTRICT = re.compile(rb"\\(un)?restrict ([A-Za-z0-9]+)")
COMMAND_NAME = re.compile(rb"\\[A-Za-z_.!?;:]*")


def for_psql(
    blocks: Iterable[bytes], *, owner: bool = True, in_transaction: bool = True
) -> Iterator[bytes]:
    """The script as it goes into psql.

    :param owner: keep statements about owners and grants.
    :param in_transaction: psql is inside a transaction of repom's: the script's own BEGIN
        and COMMIT are taken out. Otherwise they stay, in pairs. Other statements about
        transactions are refused in any case.
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
    """Holds the tokens of a statement back until there is a verdict on it."""

    def __init__(self, blocks: Iterable[bytes], *, owner: bool, in_transaction: bool) -> None:
        self._lexer = Lexer(blocks)
        self._guard = Guard(self._lexer, owner=owner, in_transaction=in_transaction)
        self._dump = _Dump(self._lexer)
        self._held: list[Token] = []
        self._held_size = 0
        self._verdict: Verdict | None = None  # on the current statement
        self._last = b"\n"

    def pieces(self) -> Iterator[bytes]:
        for token in self._lexer:
            kind, text = token
            if kind in (lexing.SPACE, lexing.COMMENT):
                yield self._invisible(token)
            elif kind == lexing.COMMAND:
                self._dump.command(text, bool(self._held) or self._verdict is not None)
            elif kind == lexing.DATA or (kind == lexing.SKIMMED and self._verdict is None):
                self._dump.is_complete, self._last = False, text
                yield text
            else:
                yield self._visible(token)
        yield self._end()

    def _invisible(self, token: Token) -> bytes:
        if self._held:
            self._hold(token)
            return b""
        if self._verdict is None:
            self._dump.remark(token[1])
            return token[1]
        return self._passed(token)

    def _visible(self, token: Token) -> bytes:
        ended = token[0] == lexing.END
        if self._verdict is None:
            self._dump.has_begun, self._dump.is_complete = True, False
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
        self._held_size += len(token[1])
        statement = self._lexer.statement
        if self._held_size > LONGEST or len(statement.tokens) >= lexing.KEPT:
            self._lexer.refuse("begins a statement that is too long to check", statement.line)

    def _decided(self, *, ended: bool) -> bytes:
        """What passes of the tokens held back, once there is a verdict on the statement."""
        statement = self._lexer.statement
        verdict = self._guard.judge(statement, ended=ended)
        if verdict is None:
            return b""
        if self._dump.is_dropped(statement.tokens):
            verdict = Verdict.TAKE_OUT
        statement.decided = True
        self._verdict, held = verdict, self._held
        self._held, self._held_size = [], 0
        if verdict is Verdict.TRIM:
            held = trimmed(held)
        elif verdict is Verdict.KEEP and not ended:
            self._lexer.skims_rest = statement.is_no_routine
        self._lexer.skims_inserts = not self._dump.is_dropping
        return b"".join(self._passed(each) for each in held)

    def _passed(self, token: Token) -> bytes:
        """A token as it goes into psql, which then takes no colon for a variable, and no
        name for the start of a function's body."""
        kind, text = token
        if self._verdict is Verdict.TAKE_OUT:
            return b"\n" * text.count(b"\n")
        if kind == lexing.COLON:
            return b": "
        if kind == lexing.LOOKALIKE:
            return b'"' + text.lower() + b'"'
        return text

    def _end(self) -> bytes:
        """The last statement gets a missing semicolon, else psql would take what repom
        writes behind the script for a part of it."""
        if self._lexer.statement.copies:
            raise Damaged("The SQL script ends in the middle of a statement", HINT)
        self._dump.check_end()
        piece = self._decided(ended=True) if self._held else b""
        if line := self._guard.begun:
            raise Damaged(
                f"The transaction that the SQL script begins in line {line} is never committed",
                HINT,
            )
        if self._verdict in (Verdict.KEEP, Verdict.TRIM):
            return piece + b"\n;"
        return piece if self._last.endswith(b"\n") else piece + b"\n"


class _Dump:
    """What pg_dump writes around its objects. Only a script that begins with its header is a
    dump, and only comments of the script count, not text that looks like them.

    :ivar has_begun: a statement has been read.
    :ivar is_complete: the last thing read was the comment that pg_dump ends with.
    :ivar is_dropping: the section of DROP statements, which --clean writes first, can still
        come or is being read.
    """

    def __init__(self, lexer: Lexer) -> None:
        self._lexer = lexer
        self.has_begun = self.is_complete = self.is_dropping = False
        self._has_header = self._is_header_last = self._drops_public = False
        self._key: bytes | None = None  # of \restrict
        self._is_unrestricted = False

    def remark(self, text: bytes) -> None:
        """Space and comments between statements."""
        if self._is_header_last and text.startswith(b"\r"):
            self._refuse_terminal()
        self._is_header_last = False
        if b"-- PostgreSQL database" in text:
            lines = text.split(b"\n")
            for line in lines[1:] if self._lexer.indented else lines:
                self._comment(line)

    def _comment(self, line: bytes) -> None:
        text = line.rstrip(b"\r")
        self.is_complete = self.is_complete or text == TRAILER
        if self.has_begun:
            return
        if text == CLUSTER:
            raise Refused(
                "The file is a dump of a whole cluster (pg_dumpall)",
                "Restore it with psql, or dump one database with pg_dump",
            )
        if text == HEADER:
            self.is_dropping = self.is_dropping or not self._has_header
            self._has_header = self._is_header_last = True
            if line != text:
                self._refuse_terminal()

    def _refuse_terminal(self) -> NoReturn:
        raise Damaged(
            "The SQL script has carriage returns, as after a dump through a terminal",
            "Dump it again without -t (docker exec) or with -T (docker compose exec)",
        )

    def command(self, text: bytes, is_in_statement: bool) -> None:
        """Take the dump's own ``\\restrict`` and ``\\unrestrict`` out: they cannot be nested
        in repom's.

        :raises Refused: for any other command of psql.
        """
        found = RESTRICT.fullmatch(text)
        if found and self._has_header and not is_in_statement and not self._lexer.indented:
            if not found[1] and self._key is None and not self.has_begun:
                self._key = found[2]
                return
            if found[1] and self._key == found[2] and not self._is_unrestricted:
                self._is_unrestricted = True
                return
        name = COMMAND_NAME.match(text)
        shown = name[0].decode("ascii") if name else "\\"
        if shown in ("\\c", "\\connect"):
            self._lexer.refuse("connects to another database")
        self._lexer.refuse(f"holds a command of psql ({shown})")

    def is_dropped(self, words: list[bytes]) -> bool:
        """Whether it belongs to the section of DROP statements. A new database does not need
        them, and dropping a view that depends on a primary key fails there."""
        if words == [b"CREATE", b"SCHEMA", b"PUBLIC"] and self._drops_public:
            return True
        if not self.is_dropping or words[:1] in ([b"SET"], []):
            return False
        dropped = is_drop(words)
        self.is_dropping = dropped or b"SET_CONFIG" in words[:4]
        if words[:2] == [b"DROP", b"SCHEMA"] and b"PUBLIC" in words:
            self._drops_public = True
        return dropped

    def check_end(self) -> None:
        if self._has_header and not self.is_complete:
            raise Damaged("The SQL script is cut short: it lacks the end that pg_dump writes", HINT)


def is_drop(words: list[bytes]) -> bool:
    """A statement of the kinds that ``pg_dump --clean`` writes before the objects."""
    if words[0] == b"SELECT":
        return words[1:4] == [b"PG_CATALOG", b".", b"LO_UNLINK"]
    replaced = words[:4] == [b"CREATE", b"OR", b"REPLACE", b"VIEW"]
    return words[0] == b"DROP" or replaced or (words[0] == b"ALTER" and b"DROP" in words)


def trimmed(tokens: list[Token]) -> list[Token]:
    """``CREATE SCHEMA name AUTHORIZATION owner`` without the owner. Without a name, the
    owner's becomes the schema's."""
    names = [n for n, (kind, _text) in enumerate(tokens) if kind in (lexing.WORD, lexing.QUOTED)]
    place = next(p for p, n in enumerate(names) if tokens[n][1].upper() == b"AUTHORIZATION")
    out = {names[place]}
    if tokens[names[place - 1]][1].upper() not in (b"SCHEMA", b"EXISTS"):
        owner = names[place + 1 : place + 2]
        while owner and tokens[owner[-1]][0] == lexing.QUOTED == tokens[owner[-1] + 1][0]:
            owner.append(owner[-1] + 1)  # a quote within the name
        out.update(owner)
    return [token for n, token in enumerate(tokens) if n not in out]
