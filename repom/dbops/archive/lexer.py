"""SQL as psql reads it: tokens, and where a statement ends.

psql's lexer is not the server's: it works line by line, fills in variables, has commands of
its own that begin with a backslash, counts parentheses, and guesses where the body of a
function ends. Where this lexer read a script differently from either of them, a statement
could get past the checks that rely on it. So what psql and the server could read
differently, and no dump needs, is refused here.

The texts of the tokens, put together, are the script. Long ones (a string, the data of
COPY) come in parts, so memory does not grow with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

from repom.errors import Damaged, Refused

from .archive import HINT

SPACE, COMMENT, WORD, QUOTED, STRING = "space", "comment", "word", "quoted", "string"
NUMBER, PUNCTUATION, END, COMMAND, DATA = "number", "punctuation", "end", "command", "data"
#: A larger piece of a statement, in which no single token was looked at.
SKIMMED = "skimmed"
#: A colon that psql could take for the start of a variable, and a name that psql would take
#: for the BEGIN, CASE or END of a function's body.
COLON, LOOKALIKE = "colon", "lookalike"
BOM = b"\xef\xbb\xbf"  # which psql ignores, too
LONGEST = 1 << 16  # bytes of a token in one part
AHEAD = 64  # bytes that are enough to recognise a token
KEPT = 1 << 16  # tokens of a statement that are kept

_LETTER = rb"[A-Za-z_\x80-\xff]"
_TOKEN = re.compile(
    rb"(?P<space>(?:[ \t\n\r\f\v]|--[^\n\r]*+(?=[\n\r]))++)"
    rb"|(?P<line>--)"
    rb"|(?P<block>/\*)"
    rb"|(?P<escaped>[eE]')"
    rb"|(?P<quote>(?:[uU]&)?['\"])"
    rb"|(?P<prefix>[bBnNxX](?='))"
    rb"|(?P<word>" + _LETTER + rb"[\w$\x80-\xff]*)"
    rb"|(?P<number>\d[\w\x80-\xff]*)"
    rb"|(?P<dollar>\$(?:" + _LETTER + rb"[\w\x80-\xff]*)?\$)"
    rb"|(?P<parameter>\$[\w\x80-\xff]*)"
    rb"|(?P<end>;)"
    rb"|(?P<command>\\[^\n]*)"
    rb"|(?P<colon>:(?=" + _LETTER + rb"|['\"][\w\x80-\xff]|\{\?))"
    rb"|(?P<other>::|:=|.)",
    re.S,
)
#: Tokens that the next block could make longer.
_OPEN_ENDED = ("word", "number", "parameter", "command")
#: Versions of PostgreSQL differ in where a number ends that runs into a word or a quote.
_WHOLE = {
    "number": re.compile(
        rb"\d+(?:_\d+)*(?:[eE]\d+|[eE](?=[-+]))?(?![\w$'\"\x80-\xff])"
        rb"|0(?:[xX][\da-fA-F_]+|[oO][0-7_]+|[bB][01_]+)(?![\w$'\"\x80-\xff])"
    ),
    "parameter": re.compile(rb"\$\d+(?![\w$'\"\x80-\xff])"),
}
_ATOMIC = re.compile(rb"[ \t\n\r\f]{1,40}ATOMIC(?![\w$\x80-\xff])", re.I)
_ROUTINE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE)(?: |$)")
#: Names, numbers, operators and closed strings, in which there is nothing to look at. Each
#: sees the byte behind it, or leaves the rest to `_TOKEN`.
_PART = (
    rb"[ \t\n\r\f\v,.=<>+*%^~!@#&|`?\[\]{}]++"
    rb"|" + _LETTER + rb"[\w$\x80-\xff]*+(?=[^'\"&])"
    rb"|\d++(?=[^\w$'\"\x80-\xff])"
    rb"|'[^']*+'|\"[^\"]*+\"|::|-(?=[^-])|/(?=[^*])"
)
#: The same with balanced parentheses, up to three levels deep.
_INNER = rb"(?:" + _PART + rb"|\((?:" + _PART + rb")*+\))"
_OUTER = rb"(?:" + _PART + rb"|\(" + _INNER + rb"*+\))"
_SKIMMED = re.compile(rb"(?:" + _OUTER + rb"|\(" + _OUTER + rb"*+\))++")
#: Whole INSERTs of rows into ordinary tables, any number of them.
_TABLE = rb"(?:[a-z_]\w*|\"[^\"]*\")"
_INSERTS = re.compile(
    rb"(?:INSERT INTO (?!\"?(?i:pg_))" + _TABLE + rb"(?:\." + _TABLE + rb")? "
    rb"(?:\((?:" + _PART + rb")*+\) )?(?:OVERRIDING SYSTEM VALUE )?"
    rb"VALUES[ \n]++(?:\(" + _OUTER + rb"*+\)(?:,[ \r\n\t]*+)?)++;[ \r\n]*+)++"
)
_COMMENT_MARK = re.compile(rb"/\*|\*/")
_LINE_END = re.compile(rb"[\n\r]")
_ESCAPED = re.compile(rb"[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+", re.S)
#: What may follow COPY … FROM stdin; in its line: psql runs anything else behind the data.
_REST_OF_COPY = re.compile(rb"[ \t\r\f\v]*(?:--[^\n\r]*)?\r?\n")
_END_OF_DATA = re.compile(rb"\n\\\.(?:\r?\n|\r?\Z)")
#: Kind and text.
Token = tuple[str, bytes]


class Statement:
    """A statement as far as it has been read.

    :ivar line: the line of the file that it begins in.
    :ivar tokens: its tokens without space and comments: words in upper case, others as they
        are, and of a string or name in several parts the first.
    :ivar inner: the first tokens of the current statement inside a function's body.
    :ivar depth: open parentheses.
    :ivar bodies: BEGIN ATOMIC and CASE without their END so far, as psql counts them.
    :ivar copies: it is ``COPY … FROM stdin``.
    :ivar decided: set by the reader once it needs no more tokens.
    """

    def __init__(self) -> None:
        self.line = self.depth = self.bodies = 0
        self.copies = self.decided = False
        self.tokens: list[bytes] = []
        self.inner: list[bytes] = []
        self.last = b""
        self.awaits_atomic = False
        self._words: list[bytes] = []  # the first four, by which psql recognises a function
        self._behind_from = 0  # of a COPY: 1 right behind FROM, 2 later

    @property
    def is_routine(self) -> bool:
        """psql takes it for the creation of a function: it looks at words alone."""
        return bool(_ROUTINE.match(b" ".join(self._words)))

    @property
    def is_no_routine(self) -> bool:
        """It is not one, whatever follows."""
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
        if self.tokens[:1] == [b"COPY"] and not self.depth:
            self._find_source(word)
        if self.awaits_atomic:
            if word == b"ATOMIC":
                self.awaits_atomic, self.bodies, self.inner = False, 1, []
        elif self.bodies and len(self.inner) < 8:
            self.inner.append(word)
        if not self.decided and len(self.tokens) < KEPT:
            self.tokens.append(word)
        self.last = word

    def extend(self, text: bytes) -> None:
        """Lengthen the last token: two quotes in a row stand for one."""
        if not self.decided and self.tokens and len(self.tokens[-1]) < LONGEST:
            self.tokens[-1] += text

    def _find_source(self, word: bytes) -> None:
        """FROM is a reserved word: it is a name only behind a dot."""
        if self._behind_from == 1:
            self.copies, self._behind_from = word == b"STDIN", 2
        elif not self._behind_from and word == b"FROM" and self.last != b".":
            self._behind_from = 1


class Lexer:
    """The tokens of a script that comes in blocks of any sizes.

    :ivar statement: the one that the last token belongs to.
    :ivar indented: the last space, comment or command did not begin its line.
    :ivar skims_inserts: set by the reader when INSERTs of rows may come as one token.
    :ivar skims_rest: set by the reader when the rest of a statement may come in larger
        pieces. Only its end, and psql's commands, are looked for then.
    """

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        # One byte that was read stays in the buffer, before what is read next.
        self._buffer, self._at, self._is_whole = b"\n", 1, False
        self._line, self._counted = 1, 1
        #: A string with escapes has just ended, and since then also a line.
        self._behind_escaped, self._in_next_line = False, False
        self.indented = self.skims_rest = self.skims_inserts = False
        self.statement = Statement()

    def __iter__(self) -> Iterator[Token]:
        self._has(len(BOM))
        if self._buffer.startswith(BOM, 1):
            self._buffer = b"\n" + self._buffer[1 + len(BOM) :]
        while len(self._buffer) - self._at >= AHEAD or self._has(AHEAD) or self._has(1):
            found = self._step()
            if isinstance(found, tuple):
                yield found
            else:
                yield from found
        if self.statement.depth or self.statement.bodies:
            self._ends_too_early()

    @property
    def line(self) -> int:
        """The line of what is read next, counted from 1."""
        self._line += self._buffer.count(b"\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def refuse(self, what: str, line: int = 0) -> NoReturn:
        raise Refused(
            f"Line {line or self.line} of the SQL script {what}",
            "Remove that statement if the rest belongs in this database",
        )

    def _ends_too_early(self) -> NoReturn:
        raise Damaged("The SQL script ends in the middle of a statement", HINT)

    # -- the buffer ---------------------------------------------------------------------

    def _has(self, count: int) -> bool:
        """Have so many bytes to look at; false when the script has fewer."""
        while len(self._buffer) - self._at < count and not self._is_whole:
            self._read()
        return len(self._buffer) - self._at >= count

    def _read(self) -> None:
        block = next(self._blocks, None)
        self._is_whole = block is None
        if block and b"\0" in block:
            raise Damaged("The SQL script holds zero bytes, which are not text", HINT)
        self._line = self.line
        self._buffer = self._buffer[self._at - 1 :] + (block or b"")
        self._at = self._counted = 1

    def _read_more(self) -> None:
        if self._is_whole:
            self._ends_too_early()
        self._read()

    def _previous(self) -> bytes:
        return self._buffer[self._at - 1 : self._at]

    def _take(self, kind: str, length: int) -> Token:
        text = self._buffer[self._at : self._at + length]
        self._at += length
        return kind, text

    # -- one token ----------------------------------------------------------------------

    def _step(self) -> Token | Iterator[Token]:
        if not self._behind_escaped:
            pattern = _SKIMMED if self.skims_rest else _INSERTS if self.skims_inserts else None
            found = pattern.match(self._buffer, self._at) if pattern else None
            if found and (self.skims_rest or not self.statement.tokens):
                self._at = found.end()
                return SKIMMED, found[0]
        name, text = self._match()
        if name in ("space", "line", "block", "command"):
            self.indented = self._previous() != b"\n"
            if name == "line":
                return self._parts(COMMENT, self._end_of_line)
            if name == "block":
                return self._nested_comment()
            if name == "space" and self._behind_escaped and _LINE_END.search(text):
                self._in_next_line = True
            return self._take(SPACE if name == "space" else COMMAND, len(text))
        return self._visible(name, text)

    def _match(self) -> tuple[str, bytes]:
        while True:
            found = _TOKEN.match(self._buffer, self._at)
            name, text = (found.lastgroup or "", found[0]) if found else ("", b"")
            whole = len(text) < len(self._buffer) - self._at or self._is_whole
            if whole or name not in _OPEN_ENDED:
                return name, text
            if len(text) > LONGEST:
                self.refuse("holds a word that is too long")
            self._read()

    def _visible(self, name: str, text: bytes) -> Token | Iterator[Token]:
        statement = self.statement
        if not statement.tokens:
            statement.line = self.line
        if self._behind_escaped and self._in_next_line and text == b"'":
            # The server continues the string before with its escapes, psql without.
            self.refuse("continues a string with escapes in another line")
        self._behind_escaped = False
        if name in ("escaped", "quote", "dollar"):
            return self._quoted(name, text)
        if name == "end":
            if not (statement.depth or statement.bodies):
                return self._end_of_statement()
            if statement.bodies > 1:
                self.refuse("holds a CASE without its END")
            statement.add(PUNCTUATION, text)
            statement.inner = []
            return self._take(PUNCTUATION, 1)
        kind = self._kind(name, text)
        statement.add(kind, text)
        self._at += len(text)
        return kind, text

    def _kind(self, name: str, text: bytes) -> str:
        if name == "word":
            word = text.upper()
            return self._kind_of_word(word) if word in (b"BEGIN", b"CASE", b"END") else WORD
        if name == "colon":
            return COLON
        if name in _WHOLE:
            if not _WHOLE[name].match(self._buffer, self._at):
                self.refuse("holds a number that runs into a word")
            return NUMBER
        if text == b"(":
            self.statement.depth += 1
        elif text == b")":
            self.statement.depth -= self.statement.depth > 0
        return PUNCTUATION

    def _end_of_statement(self) -> Iterator[Token]:
        copies = self.statement.copies
        yield self._take(END, 1)
        self.statement, self.skims_rest = Statement(), False
        if copies:
            yield self._take(SPACE, self._rest_of_copy())
            yield from self._parts(DATA, self._end_of_data, 0)

    def _rest_of_copy(self) -> int:
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            if len(self._buffer) - self._at > LONGEST:
                break
            self._read_more()
        found = _REST_OF_COPY.match(self._buffer, self._at)
        if not found or found.end() != end + 1:
            self.refuse("holds something behind COPY … FROM stdin; in the same line")
        return found.end() - self._at

    # -- the body of a function ---------------------------------------------------------

    def _kind_of_word(self, word: bytes) -> str:
        """psql counts BEGIN, CASE and END where a function is created, to know which
        semicolon ends it. If it counted one that the server does not, it would read on past
        the end of the statement."""
        statement = self.statement
        body = word == b"BEGIN" and _ATOMIC.match(self._buffer, self._at + len(word))
        if not statement.is_routine or statement.depth:
            if body and statement.tokens:
                self.refuse("holds the body of a function where psql expects none")
            return WORD
        if statement.last in (b".", b"AS") or (word == b"BEGIN" and not body):
            return LOOKALIKE
        if word == b"BEGIN" and statement.bodies:
            self.refuse("holds a body within the body of a function")
        if word == b"END" and statement.bodies == 1 and statement.inner:
            self.refuse("holds an END within a statement of a function's body")
        statement.awaits_atomic = word == b"BEGIN"
        if word == b"END":
            statement.bodies -= statement.bodies > 0
        elif word == b"CASE" and statement.bodies:
            statement.bodies += 1
        return WORD

    # -- what may be long ---------------------------------------------------------------

    def _parts(
        self, kind: str, scan: Callable[[int], tuple[int, bool]], seen: int = 2
    ) -> Iterator[Token]:
        """A token that may be long, in parts.

        :param scan: from this place in the buffer on, finds the end of the token; without
            one, how far the token goes at least.
        :param seen: bytes at the start of the token that `scan` passes over.
        """
        while True:
            at, is_end = scan(self._at + seen)
            seen = at - self._at
            if is_end:
                yield self._take(kind, seen)
                return
            if seen > LONGEST:
                yield self._take(kind, seen)
                seen = 0
            self._read_more()

    def _end_of_line(self, at: int) -> tuple[int, bool]:
        """Of a comment: a carriage return ends it, too."""
        found = _LINE_END.search(self._buffer, at)
        return (found.start(), True) if found else (len(self._buffer), self._is_whole)

    def _nested_comment(self) -> Iterator[Token]:
        depth = 1

        def scan(at: int) -> tuple[int, bool]:
            nonlocal depth
            for mark in _COMMENT_MARK.finditer(self._buffer, at):
                depth += 1 if mark[0] == b"/*" else -1
                at = mark.end()
                if not depth:
                    return at, True
            return max(at, len(self._buffer) - 1), False  # the last byte may begin a mark

        return self._parts(COMMENT, scan)

    def _quoted(self, name: str, text: bytes) -> Iterator[Token]:
        """Two quotes in a row stand for one, and are read as the end of one string and the
        start of another, which comes to the same; but not behind escapes."""
        if name == "escaped" and re.match(rb"[\w.$\x80-\xff]", self._previous()):
            self.refuse("holds a string with escapes that runs into a word")
        kind = QUOTED if text.endswith(b'"') else STRING
        mark = text if name == "dollar" else text[-1:]
        doubled = name == "quote" and text == self._previous() == self.statement.last[-1:]

        def end_of_quoted(at: int) -> tuple[int, bool]:
            end = self._buffer.find(mark, at)
            if end >= 0:
                return end + len(mark), True
            return max(at, len(self._buffer) - len(mark) + 1), False

        scan = self._end_of_escaped if name == "escaped" else end_of_quoted
        for number, part in enumerate(self._parts(kind, scan, len(text))):
            if doubled:
                self.statement.extend(part[1])
            elif not number:
                self.statement.add(*part)
            yield part
        self._behind_escaped, self._in_next_line = name == "escaped", False

    def _end_of_escaped(self, at: int) -> tuple[int, bool]:
        found = _ESCAPED.match(self._buffer, at)
        at = found.end() if found else at
        is_last = at + 1 == len(self._buffer) and not self._is_whole  # another may follow
        if self._buffer.startswith(b"'", at) and not is_last:
            return at + 1, True
        return at, False

    def _end_of_data(self, at: int) -> tuple[int, bool]:
        """Of COPY's data: the end of a line that is a backslash and a dot."""
        found = _END_OF_DATA.search(self._buffer, at - 1)
        if found and (found[0].endswith(b"\n") or self._is_whole):
            return found.end(), True
        return max(at, len(self._buffer) - 3), False
