"""SQL as psql reads it: tokens, and where a statement ends.

psql and the server each have a lexer, and psql's is not the server's: it works line by
line, fills in variables, knows commands of its own that begin with a backslash, counts
parentheses, and guesses where the body of a function ends. What is read here in another
way than either of them reads it is a way past every check that stands on it. So what the
two could read differently, and no dump needs, is refused here.

The tokens of a script are the script: put together, their texts are its bytes. Long ones
(a string, the data of COPY) come in parts, so that memory does not grow with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from repom.errors import Damaged, Refused

from .archive import HINT

SPACE, COMMENT, WORD, QUOTED, STRING = "space", "comment", "word", "quoted", "string"
NUMBER, PUNCTUATION, END, COMMAND, DATA = "number", "punctuation", "end", "command", "data"
#: Text of a statement that is of no interest (`Lexer.rough`).
PLAIN = "plain"
#: A colon that psql could take for the start of a variable, and a word that it would take
#: for the BEGIN, CASE or END of a function's body where the server takes it for a name.
COLON, LOOKALIKE = "colon", "lookalike"
BOM = b"\xef\xbb\xbf"  # which psql ignores, too
LONGEST = 1 << 16  # bytes of a token that are looked at together
AHEAD = 64  # bytes that are enough to tell what a token is
KEPT = 1 << 16  # tokens of a statement that are kept
_TOKEN = re.compile(
    rb"(?P<space>(?:[ \t\n\r\f\v]|--[^\n\r]*+(?=[\n\r]))++)"
    rb"|(?P<line>--)"
    rb"|(?P<block>/\*)"
    rb"|(?P<escaped>[eE]')"
    rb"|(?P<quote>(?:[uU]&)?['\"])"
    rb"|(?P<prefix>[bBnNxX](?='))"
    rb"|(?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*)"
    rb"|(?P<number>\d[\w\x80-\xff]*)"
    rb"|(?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)"
    rb"|(?P<parameter>\$[\w\x80-\xff]*)"
    rb"|(?P<end>;)"
    rb"|(?P<command>\\[^\n]*)"
    rb"|(?P<colon>:(?=[A-Za-z_\x80-\xff]|['\"][\w\x80-\xff]|\{\?))"
    rb"|(?P<other>::|:=|.)",
    re.S,
)
#: Tokens that what is still to come could make longer.
_OPEN_ENDED = ("word", "number", "parameter", "command")
_NUMBER = re.compile(
    rb"\d+(?:_\d+)*(?:[eE]\d+|[eE](?=[-+]))?(?![\w$'\"\x80-\xff])"
    rb"|0(?:[xX][\da-fA-F_]+|[oO][0-7_]+|[bB][01_]+)(?![\w$'\"\x80-\xff])"
)
_PARAMETER = re.compile(rb"\$\d+(?![\w$'\"\x80-\xff])")
_BODY = re.compile(rb"[ \t\n\r\f]{1,40}ATOMIC(?![\w$\x80-\xff])", re.I)
_ROUTINE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE)(?: |$)")
#: What holds nothing to look at: names, numbers, operators, strings that are closed. Each
#: sees the byte behind it, or leaves the rest to `_TOKEN`.
_PART = (
    rb"[ \t\n\r\f\v,.=<>+*%^~!@#&|`?\[\]{}]++"
    rb"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*+(?=[^'\"&])"
    rb"|\d++(?=[^\w$'\"\x80-\xff])"
    rb"|'[^']*+'|\"[^\"]*+\"|::|-(?=[^-])|/(?=[^*])"
)
#: The same with parentheses, where they are balanced, one in another and a third.
_INNER = rb"(?:" + _PART + rb"|\((?:" + _PART + rb")*+\))"
_OUTER = rb"(?:" + _PART + rb"|\(" + _INNER + rb"*+\))"
_PLAIN = re.compile(rb"(?:" + _OUTER + rb"|\(" + _OUTER + rb"*+\))++")
#: Statements that insert rows into ordinary tables, as many as there are.
_TABLE = rb"(?:[a-z_]\w*|\"[^\"]*\")"
_ROWS = re.compile(
    rb"(?:INSERT INTO (?!\"?(?i:pg_))" + _TABLE + rb"(?:\." + _TABLE + rb")? "
    rb"(?:\((?:" + _PART + rb")*+\) )?(?:OVERRIDING SYSTEM VALUE )?"
    rb"VALUES[ \n]++(?:\(" + _OUTER + rb"*+\)(?:,[ \r\n\t]*+)?)++;[ \r\n]*+)++"
)
_BRACKETS = (b"BEGIN", b"CASE", b"END")
_NESTED = re.compile(rb"/\*|\*/")
_LINE_END = re.compile(rb"[\n\r]")
_ESCAPES = re.compile(rb"[^'\\]*+(?:\\.[^'\\]*+)*+", re.S)
#: What may follow COPY … FROM stdin; in its line: psql runs the rest of it behind the data.
_REST = re.compile(rb"[ \t\r\f\v]*(?:--[^\n\r]*)?\r?\n")
#: Its kind and its text.
Token = tuple[str, bytes]


class Statement:
    """A statement as far as it has been read.

    :ivar line: the line of the file that it begins in.
    :ivar tokens: its tokens but for space and comments: words in upper case, all others as
        they are, and of a string or name in several parts the first.
    :ivar inner: the same of a statement inside the body of a function, its first ones.
    :ivar copies: it is ``COPY … FROM stdin``.
    :ivar decided: set by the reader who has seen enough of its tokens.
    """

    def __init__(self) -> None:
        self.line, self.copies, self.decided, self.last = 0, False, False, b""
        self.tokens: list[bytes] = []
        self.inner: list[bytes] = []
        self.depth = 0  # of parentheses
        self.opens = False  # BEGIN was read, and ATOMIC follows
        self.bodies = 0  # BEGIN ATOMIC and CASE whose END is still to come, as psql counts
        self._words: list[bytes] = []  # by which psql knows a function
        self._source = 0  # of a COPY: 1 behind FROM, 2 behind the word that follows

    @property
    def first(self) -> bytes:
        return self.tokens[0] if self.tokens else b""

    @property
    def is_routine(self) -> bool:
        """psql takes it for the creation of a function: it looks at words alone."""
        return bool(_ROUTINE.match(b" ".join(self._words)))

    @property
    def is_no_routine(self) -> bool:
        """It is not, whatever follows."""
        words = [*self._words, b"", b""]
        if not self._words or (words[0] == b"CREATE" and not words[1]):
            return False
        if words[0] != b"CREATE" or words[1] not in (b"OR", b"FUNCTION", b"PROCEDURE"):
            return True
        return len(self._words) == 4 and not self.is_routine

    def add(self, kind: str, text: bytes) -> None:
        word = text.upper() if kind == WORD else text
        if kind == WORD and len(self._words) < 4:
            self._words.append(word)
        if self.first == b"COPY" and not self.depth:
            self._copy(word)
        if self.opens:
            if word == b"ATOMIC":
                self.opens, self.bodies, self.inner = False, 1, []
        elif self.bodies and len(self.inner) < 8:
            self.inner.append(word)
        if not self.decided and len(self.tokens) < KEPT:
            self.tokens.append(word)
        self.last = word

    def extend(self, text: bytes) -> None:
        """More of the last token: two quotes in a row stand for one."""
        if not self.decided and self.tokens and len(self.tokens[-1]) < LONGEST:
            self.tokens[-1] += text

    def _copy(self, word: bytes) -> None:
        """FROM is reserved: only behind a dot it is a name."""
        if self._source == 1:
            self.copies, self._source = word == b"STDIN", 2
        elif not self._source and word == b"FROM" and self.last != b".":
            self._source = 1


class Lexer:
    """The tokens of a script, in blocks of any sizes.

    :ivar statement: what the token given last belongs to.
    :ivar indented: something stands before it in its line, if it is space, a comment or a
        command.
    :ivar swift: set by the reader when statements that insert rows may come together.
    :ivar rough: set by the reader while the rest of a statement is of no interest: it then
        comes in larger parts, in which only the ends of statements, and commands, are found.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._buffer, self._at, self._whole = b"", 0, False
        self._before = b"\n"  # the byte before those in the buffer
        self._escaped = 0  # 1 behind a string with escapes, 2 when a line has ended since
        self._line, self._counted = 1, 0
        self.indented, self.rough, self.swift = False, False, False
        self.statement = Statement()

    def __iter__(self) -> Iterator[Token]:
        self._has(len(BOM))
        self._buffer = self._buffer.removeprefix(BOM)
        while len(self._buffer) - self._at >= AHEAD or self._has(AHEAD) or self._has(1):
            found = self._step()
            if isinstance(found, tuple):
                yield found
            else:
                yield from found
        if self.statement.depth or self.statement.bodies:
            self._broken()

    @property
    def line(self) -> int:
        """The line of what is read next, counted from 1."""
        self._line += self._buffer.count(b"\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def refuse(self, what: str, line: int = 0) -> NoReturn:
        raise Refused(
            f"Line {line or self.line} of the SQL script {what}",
            "Take it out if the rest is meant for this database",
        )

    def _broken(self) -> NoReturn:
        raise Damaged("The SQL script ends in the middle of a statement", HINT)

    # -- the buffer ---------------------------------------------------------------------

    def _has(self, count: int) -> bool:
        """Have so many bytes to look at; false when there are not as many."""
        while len(self._buffer) - self._at < count and not self._whole:
            self._read()
        return len(self._buffer) - self._at >= count

    def _read(self) -> None:
        block = next(self._blocks, None)
        self._whole = block is None
        if block and b"\0" in block:
            raise Damaged("The SQL script holds zero bytes, which are not text", HINT)
        self._before, self._line = self._previous(), self.line
        self._buffer, self._at, self._counted = self._buffer[self._at :] + (block or b""), 0, 0

    def _previous(self) -> bytes:
        return self._buffer[self._at - 1 : self._at] if self._at else self._before

    def _take(self, kind: str, length: int) -> Token:
        text = self._buffer[self._at : self._at + length]
        self._at += length
        return kind, text

    def _left(self) -> int:
        return len(self._buffer) - self._at

    # -- one token ----------------------------------------------------------------------

    def _step(self) -> Token | Iterator[Token]:
        if not self._escaped:
            pattern = _PLAIN if self.rough else _ROWS if self.swift else None
            found = pattern.match(self._buffer, self._at) if pattern else None
            if found and (self.rough or not self.statement.tokens):
                self._at = found.end()
                return PLAIN, found[0]
        name, text = self._match()
        if name == "space":
            self.indented = self._previous() != b"\n"
            self._at += len(text)
            if self._escaped and _LINE_END.search(text):
                self._escaped = 2
            return SPACE, text
        return self._visible(name, text)

    def _match(self) -> tuple[str, bytes]:
        while True:
            found = _TOKEN.match(self._buffer, self._at)
            name, text = (found.lastgroup or "", found[0]) if found else ("", b"")
            if name not in _OPEN_ENDED or len(text) < len(self._buffer) - self._at or self._whole:
                return name, text
            if len(text) > LONGEST:
                self.refuse("holds a word of absurd length")
            self._read()

    def _visible(self, name: str, text: bytes) -> Token | Iterator[Token]:
        if name in ("line", "block", "command"):
            self.indented = self._previous() != b"\n"
            if name == "command":
                return self._take(COMMAND, len(text))
            return self._comment() if name == "line" else self._nested_comment()
        if not self.statement.tokens:
            self.statement.line = self.line
        if self._escaped == 2 and text == b"'":
            # The server continues the string before with its escapes, psql without.
            self.refuse("continues a string with escapes in another line")
        self._escaped = 0
        if name in ("escaped", "quote", "dollar"):
            return self._quoted(name, text)
        return self._semicolon() if name == "end" else self._simple(name, text)

    def _simple(self, name: str, text: bytes) -> Token:
        kind = PUNCTUATION
        if name == "word":
            word = text.upper()
            kind = self._word(word) if word in _BRACKETS else WORD
        elif name == "colon":
            kind = COLON
        elif name in ("number", "parameter"):
            kind = self._number(name)
        elif text == b"(":
            self.statement.depth += 1
        elif text == b")":
            self.statement.depth -= self.statement.depth > 0
        self.statement.add(kind, text)
        self._at += len(text)
        return kind, text

    def _number(self, name: str) -> str:
        """Versions differ in where a number ends that runs into a word or a quote."""
        whole = _NUMBER if name == "number" else _PARAMETER
        if not whole.match(self._buffer, self._at):
            self.refuse("holds a number that runs into a word")
        return NUMBER

    def _semicolon(self) -> Token | Iterator[Token]:
        statement = self.statement
        if statement.depth or statement.bodies:
            if statement.bodies > 1:
                self.refuse("holds a CASE without its END")
            statement.add(PUNCTUATION, b";")
            statement.inner = []
            return self._take(PUNCTUATION, 1)
        return self._end_of_statement()

    def _end_of_statement(self) -> Iterator[Token]:
        copies = self.statement.copies
        yield self._take(END, 1)
        self.statement, self.rough = Statement(), False
        if copies:
            yield from self._data()

    # -- the body of a function ---------------------------------------------------------

    def _word(self, word: bytes) -> str:
        """psql counts BEGIN, CASE and END where a function is created, to know which
        semicolon ends it. What it counts and the server does not would send it on past
        the end of the statement."""
        statement = self.statement
        body = word == b"BEGIN" and _BODY.match(self._buffer, self._at + len(word))
        if not statement.is_routine or statement.depth:
            if body and statement.tokens:
                self.refuse("holds the body of a function where psql expects none")
            return WORD
        if statement.last in (b".", b"AS") or (word == b"BEGIN" and not body):
            return LOOKALIKE
        self._count(word)
        return WORD

    def _count(self, word: bytes) -> None:
        statement = self.statement
        if word == b"BEGIN" and statement.bodies:
            self.refuse("holds a body within the body of a function")
        if word == b"END" and statement.bodies == 1 and statement.inner:
            self.refuse("holds an END within a statement of a function's body")
        statement.opens = word == b"BEGIN"
        if word == b"END":
            statement.bodies -= statement.bodies > 0
        elif word == b"CASE" and statement.bodies:
            statement.bodies += 1

    # -- what may be long ---------------------------------------------------------------

    def _comment(self) -> Iterator[Token]:
        """To the end of the line, which is at a carriage return, too."""
        seen = 0
        while True:
            end = _LINE_END.search(self._buffer, self._at + seen)
            if end or self._whole:
                yield self._take(COMMENT, (end.start() if end else len(self._buffer)) - self._at)
                return
            seen = self._left()
            if seen > LONGEST:
                yield self._take(COMMENT, seen)
                seen = 0
            self._read()

    def _nested_comment(self) -> Iterator[Token]:
        depth, seen = 0, 0
        while True:
            for mark in _NESTED.finditer(self._buffer, self._at + seen):
                depth += 1 if mark[0] == b"/*" else -1
                seen = mark.end() - self._at
                if not depth:
                    yield self._take(COMMENT, seen)
                    return
            seen = max(seen, self._left() - 1)  # the last byte may begin a mark
            if self._left() > LONGEST:
                yield self._take(COMMENT, seen)
                seen = 0
            self._more()

    def _more(self) -> None:
        if self._whole:
            self._broken()
        self._read()

    def _quoted(self, name: str, text: bytes) -> Iterator[Token]:
        """Two quotes in a row stand for one, and are read as the end of one string and the
        start of another: it comes to the same, except behind escapes."""
        kind = QUOTED if text.endswith(b'"') else STRING
        if name == "escaped" and re.match(rb"[\w.$\x80-\xff]", self._previous()):
            self.refuse("holds a string with escapes that runs into a word")
        doubled = name == "quote" and text == self._previous() == self.statement.last[-1:]
        parts = self._escapes() if name == "escaped" else self._until(text, kind)
        for number, part in enumerate(parts):
            if doubled:
                self.statement.extend(part[1])
            elif not number:
                self.statement.add(kind, part[1])
            yield part
        self._escaped = 1 if name == "escaped" else 0

    def _until(self, text: bytes, kind: str) -> Iterator[Token]:
        mark = text if text.startswith(b"$") else text[-1:]
        seen = len(text)
        while (end := self._buffer.find(mark, self._at + seen)) < 0:
            seen = max(seen, self._left() - len(mark) + 1)
            if seen > LONGEST:
                yield self._take(kind, seen)
                seen = 0
            self._more()
        yield self._take(kind, end + len(mark) - self._at)

    def _escapes(self) -> Iterator[Token]:
        seen = 2
        while True:
            found = _ESCAPES.match(self._buffer, self._at + seen)
            seen = found.end() - self._at if found else seen
            rest = self._buffer[self._at + seen : self._at + seen + 2]
            if rest == b"''":
                seen += 2
            elif rest[:1] == b"'" and (len(rest) == 2 or self._whole):
                yield self._take(STRING, seen + 1)
                return
            else:
                if seen > LONGEST:
                    yield self._take(STRING, seen)
                    seen = 0
                self._more()

    # -- the data of COPY ---------------------------------------------------------------

    def _data(self) -> Iterator[Token]:
        yield self._take(SPACE, self._rest_of_line())
        seen, start = 0, True
        while True:
            end = self._end_of_data(seen, start)
            if end:
                yield self._take(DATA, end)
                return
            if self._left() > 5:
                yield self._take(DATA, self._left() - 5)
                start = False
            seen = 0
            self._more()

    def _rest_of_line(self) -> int:
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            if self._left() > LONGEST:
                break
            self._more()
        found = _REST.match(self._buffer, self._at)
        if not found or found.end() != end + 1:
            self.refuse("holds something behind COPY … FROM stdin; in the same line")
        return found.end() - self._at

    def _end_of_data(self, seen: int, start: bool) -> int:
        """How many bytes up to the end of the line that is a backslash and a dot alone;
        0 when it is not in the buffer."""
        at = self._at + seen
        if start and (length := self._is_end(at)):
            return length
        while (at := self._buffer.find(b"\n\\.", at)) >= 0:
            if length := self._is_end(at + 1):
                return at + 1 + length - self._at
            at += 1
        return 0

    def _is_end(self, at: int) -> int:
        line = self._buffer[at : at + 4]
        for mark in (b"\\.\n", b"\\.\r\n"):
            if line.startswith(mark):
                return len(mark)
        return len(line) if self._whole and line in (b"\\.", b"\\.\r") else 0
