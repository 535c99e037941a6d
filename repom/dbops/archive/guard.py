"""Which statements of a script reach psql.

A dump is code, and the user who restores it is often a superuser: a function that a script
creates and calls can do whatever that user may. What is refused here is what a script says
openly and no dump of one database needs: to connect elsewhere, to change databases and roles
of the server, to read and write files, to end the transaction that protects the data, and to
change how psql reads what follows.
"""

from __future__ import annotations

import re
from enum import Enum
from itertools import pairwise
from typing import NoReturn

from .lexer import Lexer, Statement


class Verdict(Enum):
    """What becomes of a statement."""

    KEEP = "it passes unchanged, whatever else it holds"
    TAKE_OUT = "it is taken out"
    TRIM = "it passes without the words about its owner"


TRANSACTIONS = (
    b"BEGIN", b"START", b"COMMIT", b"END", b"ROLLBACK", b"ABORT", b"SAVEPOINT", b"RELEASE",
)  # fmt: skip
#: Statements that are judged by all of their tokens, and not by the first ones.
JUDGED_WHOLE = {
    *TRANSACTIONS, b"PREPARE", b"SET", b"RESET", b"DISCARD", b"GRANT", b"REVOKE", b"ALTER",
    b"COPY", b"SELECT", b"WITH", b"VALUES", b"(", b"TABLE", b"UPDATE", b"DELETE", b"MERGE",
    b"EXPLAIN", b"EXECUTE", b"CALL", b"SECURITY", b"TRUNCATE", b"DROP",
}  # fmt: skip
DEFINITIONS = (b"CREATE", b"ALTER", b"DROP")
NOT_IN_BODIES = (*TRANSACTIONS, *DEFINITIONS, b"COPY", b"GRANT", b"SET")
#: Objects that the whole server shares, and their names in messages.
SHARED = {
    b"DATABASE": "a database",
    b"TABLESPACE": "a tablespace",
    b"ROLE": "a role",
    b"USER": "a role",
    b"GROUP": "a role",
    b"SYSTEM": "settings of the server",
    b"PARAMETER": "settings of the server",
}
#: Tables of the whole server, and the view that writes settings.
CATALOGS = {
    "pg_authid", "pg_auth_members", "pg_database", "pg_db_role_setting", "pg_tablespace",
    "pg_shdescription", "pg_shseclabel", "pg_parameter_acl", "pg_replication_origin",
    "pg_roles", "pg_shadow", "pg_user", "pg_group", "pg_settings", "pg_file_settings",
}  # fmt: skip
WRITES = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE", b"WITH", b"TRUNCATE", b"COPY", b"EXPLAIN")
FILE_FUNCTIONS = {"lo_import", "lo_export", "pg_read_file", "pg_read_binary_file"}
TRUE = ("on", "true", "yes", "1", "t", "y")
ROLE_SETTINGS = ("role", "session_authorization")
#: Encodings in which every byte below 128 is the character that it looks like. In others,
#: psql may read a quote or a backslash as half of a character, and this lexer does not.
ENCODINGS = re.compile(
    r"utf8|unicode|utf8mb[34]|sqlascii|latin\d+|iso8859\d+|koi8(r|u)?"
    r"|(win|windows|cp)(?!(932|936|949|950)$)\d+"
    r"|alt|win|abc|tcvn\d*|vscii|euc(jp|cn|kr|tw|jis2004)"
)
#: Behind these, OWNER is the name of a column or another thing, not the start of OWNER TO.
BEFORE_NAMES = (b"RENAME", b"COLUMN", b"ATTRIBUTE", b"CONSTRAINT", b"VALUE", b".")


class Guard:
    """Judges the statements of one script in turn.

    :param owner: keep statements about owners and grants.
    :param in_transaction: psql is inside a transaction of repom's, in which a script can
        have none of its own.
    :ivar begun: the line of a BEGIN whose COMMIT is still to come; else 0.
    """

    def __init__(self, lexer: Lexer, *, owner: bool, in_transaction: bool) -> None:
        self._lexer, self._owner, self._in_transaction = lexer, owner, in_transaction
        self.begun = 0

    def judge(self, statement: Statement, *, ended: bool) -> Verdict | None:
        """None if it takes more tokens to tell.

        :raises Refused: it must not reach psql.
        """
        self.judge_body(statement)
        words = statement.tokens
        if not words:  # right behind COPY's data, psql loses the rest of the script at it
            return Verdict.TAKE_OUT
        return self._judged(words) if ended or is_enough(words) else None

    def judge_body(self, statement: Statement) -> None:
        """Judge a statement in the body of a function. The server takes it for one of the
        script if it ends the function elsewhere than psql.

        :raises Refused: it must not reach psql.
        """
        if statement.inner and statement.inner[0] in NOT_IN_BODIES:
            self._refuse("holds a statement that the body of a function cannot hold")

    def _refuse(self, what: str) -> NoReturn:
        self._lexer.refuse(what, self._lexer.statement.line)

    def _judged(self, words: list[bytes]) -> Verdict:
        first = words[0]
        if first in TRANSACTIONS or words[:2] == [b"PREPARE", b"TRANSACTION"]:
            return self._transaction(words)
        if first in DEFINITIONS:
            return self._definition(words)
        if first in (b"SET", b"RESET", b"DISCARD"):
            return self._setting(words)
        if first in (b"GRANT", b"REVOKE"):
            return self._grant(words)
        if first in (b"COMMENT", b"SECURITY"):
            return self._comment(words)
        if first == b"COPY" and not self._lexer.statement.copies:
            self._refuse("copies from or to something else than the script (COPY)")
        if words[:2] == [b"REASSIGN", b"OWNED"]:
            self._refuse("changes a role")
        if first in WRITES and names_catalog(words):
            self._refuse("writes to a catalog of the whole server")
        if first not in (b"INSERT", b"COPY"):
            self._check_calls(words)
        return Verdict.KEEP

    # -- kinds of statements ------------------------------------------------------------

    def _transaction(self, words: list[bytes]) -> Verdict:
        """A script may have one transaction after another of its own; inside of repom's, its
        BEGIN and COMMIT are taken out."""
        plain = [w for w in words if w not in (b"WORK", b"TRANSACTION")]
        if len(words) < 3 and plain in ([b"BEGIN"], [b"START"]) and not self.begun:
            self.begun = self._lexer.statement.line
        elif len(words) < 3 and plain in ([b"COMMIT"], [b"END"]) and self.begun:
            self.begun = 0
        else:
            name = " ".join(w.decode("utf-8", "replace") for w in words[:2])
            self._refuse(f"controls transactions ({name})")
        return Verdict.TAKE_OUT if self._in_transaction else Verdict.KEEP

    def _definition(self, words: list[bytes]) -> Verdict:
        kind = b"".join(words[1:2])
        if kind in SHARED and words[1:3] != [b"USER", b"MAPPING"]:
            self._refuse(f"creates, drops or alters {SHARED[kind]}")
        if words[:2] == [b"DROP", b"OWNED"]:
            self._refuse("changes a role")
        if self._owner:
            return Verdict.KEEP
        if kind == b"SCHEMA" and b"AUTHORIZATION" in words:
            return Verdict.TRIM
        if words[:3] == [b"ALTER", b"DEFAULT", b"PRIVILEGES"]:
            return Verdict.TAKE_OUT
        at = owner_at(words) if words[0] == b"ALTER" else 0
        if at and len(words) > at + 3:
            self._refuse("changes an owner and something else in one statement")
        return Verdict.TAKE_OUT if at else Verdict.KEEP

    def _setting(self, words: list[bytes]) -> Verdict:
        scope = words[1:2] if words[1:2] in ([b"LOCAL"], [b"SESSION"]) else []
        named = words[1 + len(scope) :]
        name = identifier(named[0]) if named else ""
        if b"AUTHORIZATION" in words[1:4] or name in ROLE_SETTINGS:
            if self._owner:
                self._refuse("acts as another role (--no-owner takes such statements out)")
            return Verdict.TAKE_OUT
        if words[0] == b"DISCARD" or (words[0] == b"RESET" and name == "all"):
            self._refuse("resets the settings of the session")
        if scope == [b"LOCAL"] and self.begun and self._in_transaction:
            self._refuse("needs a transaction of its own (SET LOCAL)")
        value = named[2] if named[1:2] in ([b"="], [b"TO"]) and len(named) == 3 else b""
        if name == "names":
            name, value = "client_encoding", named[1] if len(named) == 2 else b""
        self._check_setting(name, literal(value))
        return Verdict.KEEP

    def _check_setting(self, name: str, value: str) -> None:
        """psql and the server read what follows by some settings."""
        if name.startswith("u&"):
            self._refuse("sets a setting whose name is escaped")
        if name == "standard_conforming_strings" and value not in TRUE:
            self._refuse("turns standard_conforming_strings off")
        plain = re.sub(r"[^a-z0-9]", "", value)
        if name == "client_encoding" and not ENCODINGS.fullmatch(plain):
            self._refuse(f"is in an encoding that cannot be checked ({value or 'reset'})")

    def _grant(self, words: list[bytes]) -> Verdict:
        if not self._owner:
            return Verdict.TAKE_OUT
        kind = behind_on(words)
        if kind is None:
            self._refuse("grants or revokes a role")
        if kind in (b"DATABASE", b"TABLESPACE", b"PARAMETER"):
            self._refuse(f"changes who may use {SHARED[kind]}")
        return Verdict.KEEP

    def _comment(self, words: list[bytes]) -> Verdict:
        """COMMENT or SECURITY LABEL. pg_dump before 11 writes a comment on the database,
        which is not restored."""
        kind = behind_on(words) or b""
        if kind == b"DATABASE" and words[0] == b"COMMENT":
            return Verdict.TAKE_OUT
        if kind in SHARED:
            self._refuse(f"creates, drops or alters {SHARED[kind]}")
        return Verdict.KEEP

    def _check_calls(self, words: list[bytes]) -> None:
        called = {identifier(w) for w, after in pairwise(words) if after == b"("}
        if called & FILE_FUNCTIONS:
            self._refuse("reads or writes files of the server")
        if "set_config" not in called:
            return
        # ``SELECT pg_catalog.set_config('name', 'value', …)``, as pg_dump writes it
        plain = [w for w in words[1:] if w not in (b"PG_CATALOG", b".")]
        form = plain[:1] == [b"SET_CONFIG"] and plain[3:4] == [b","] and len(plain) > 4
        if not form or b"SET_CONFIG" in plain[1:] or not re.fullmatch(rb"'[^'\\]*'", plain[2]):
            self._refuse("changes a setting in a way that cannot be checked (set_config)")
        name, value = literal(plain[2]), plain[4] if plain[5:6] == [b","] else b""
        if name in ROLE_SETTINGS:
            self._refuse("acts as another role")
        self._check_setting(name, literal(value))


def is_enough(words: list[bytes]) -> bool:
    """Whether these first tokens of a statement are enough to judge it."""
    if words[0] in JUDGED_WHOLE or words[:2] == [b"CREATE", b"SCHEMA"]:
        return False
    if words[0] == b"INSERT":
        return words[-1] in (b"(", b"VALUES", b"SELECT", b"DEFAULT", b"WITH", b"OVERRIDING")
    return len(words) > 3


def identifier(token: bytes) -> str:
    """A name as the server looks settings and catalogs up."""
    text = token.decode("utf-8", "replace").lower()
    return text[1:-1] if text.startswith('"') else text


def literal(token: bytes) -> str:
    """The value of a setting, quoted or not."""
    return token.decode("utf-8", "replace").lower().strip("'\"")


def behind_on(words: list[bytes]) -> bytes | None:
    """The word behind the first ON; None without an ON."""
    return b"".join(words[words.index(b"ON") + 1 :][:1]) if b"ON" in words else None


def names_catalog(words: list[bytes]) -> bool:
    """Whether a catalog of the whole server is named, bare or in its own schema. What a COPY
    or INSERT has in parentheses are columns."""
    if words[0] in (b"COPY", b"INSERT") and b"(" in words:
        words = words[: words.index(b"(")]
    for at, word in enumerate(words):
        bare = words[at - 1] != b"." or identifier(words[at - 2]) == "pg_catalog"
        if bare and identifier(word) in CATALOGS:
            return True
    return False


def owner_at(words: list[bytes]) -> int:
    """Where OWNER TO begins in an ALTER; 0 without one. A column may be called owner, and a
    table rename."""
    for at in range(3, len(words) - 1):
        if words[at : at + 2] == [b"OWNER", b"TO"]:
            is_name = at > 3 and words[at - 1] in BEFORE_NAMES and is_action(words, at - 1)
            if not is_name:
                return at
    return 0


def is_action(words: list[bytes], at: int) -> bool:
    """Whether this word begins what an ALTER does, and is not the name of its object."""
    before = words[at - 1]
    return words[at] == b"." or (before != b"." and at > 2 and before not in (b"ONLY", b"EXISTS"))
