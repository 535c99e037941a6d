"""Which statements of a script reach psql.

A dump is code, and who restores it is often a superuser: a function that a script creates
and calls can do whatever its user may. What is refused here is what a script says openly
and no dump of one database needs: to connect elsewhere, to change databases and roles of
the server, to read and write files, to end the transaction that protects the data, and to
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

    KEEP = "it passes; the rest of it is of no interest"
    TAKE_OUT = "it is taken out"
    TRIM = "it passes without the words about its owner"


TRANSACTIONS = (
    b"BEGIN", b"START", b"COMMIT", b"END", b"ROLLBACK", b"ABORT", b"SAVEPOINT", b"RELEASE",
)  # fmt: skip
BEGINS = ([b"BEGIN"], [b"START"])
COMMITS = ([b"COMMIT"], [b"END"])
#: Statements that are judged when they have been read whole.
WHOLE = {
    *TRANSACTIONS, b"PREPARE", b"SET", b"RESET", b"DISCARD", b"GRANT", b"REVOKE", b"ALTER",
    b"COPY", b"SELECT", b"WITH", b"VALUES", b"(", b"TABLE", b"UPDATE", b"DELETE", b"MERGE",
    b"EXPLAIN", b"EXECUTE", b"CALL", b"SECURITY", b"TRUNCATE", b"DROP",
}  # fmt: skip
DEFINES = (b"CREATE", b"ALTER", b"DROP")
NOT_IN_BODIES = (*TRANSACTIONS, *DEFINES, b"COPY", b"GRANT", b"SET")
#: Things of the whole server, and how a message names them.
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
FILES = {"lo_import", "lo_export", "pg_read_file", "pg_read_binary_file"}
WRITES = (b"INSERT", b"UPDATE", b"DELETE", b"MERGE", b"WITH", b"TRUNCATE", b"COPY", b"EXPLAIN")
#: Encodings in which every byte below 128 is the character that it looks like. In the
#: others a quote or a backslash may be half of a character, for psql and not for us.
ENCODINGS = re.compile(
    r"utf8|unicode|utf8mb[34]|sqlascii|latin\d+|iso8859\d+|win\d+|windows\d+|cp\d+|koi8(r|u)?"
    r"|alt|win|abc|tcvn\d*|vscii|euc(jp|cn|kr|tw|jis2004)"
)
UNSAFE_CODE_PAGES = re.compile(r"(win|windows|cp)(932|936|949|950)")
STRINGS = ("on", "true", "yes", "1", "t", "y")
ROLES = ("role", "session_authorization")
#: Before OWNER it is a thing's name, not the start of ``OWNER TO``.
RENAMED = (b"RENAME", b"COLUMN", b"ATTRIBUTE", b"CONSTRAINT", b"VALUE", b".")


class Guard:
    """Judges statements one after another.

    :param owner: keep statements about owners and grants.
    :param in_transaction: psql is inside a transaction of ours, in which a script can have
        none of its own.
    """

    def __init__(self, lexer: Lexer, *, owner: bool, in_transaction: bool) -> None:
        self._lexer, self._owner, self._ours = lexer, owner, in_transaction
        self.begun = 0  # the line of a BEGIN whose COMMIT is still to come

    def judge(self, statement: Statement, *, ended: bool) -> Verdict | None:
        """Nothing while more of it has to be read.

        :raises Refused: it must not reach psql.
        """
        self.judge_body(statement)
        words = statement.tokens
        if not words:  # of which psql loses the rest of the script, right behind COPY's data
            return Verdict.TAKE_OUT
        if not ended and words[0] in WHOLE:
            return None
        if not ended and not self._has_all(words):
            return None
        return self._judged(words)

    def _has_all(self, words: list[bytes]) -> bool:
        """Whether enough is known of a statement that is not judged whole."""
        if words[:2] == [b"CREATE", b"SCHEMA"]:
            return False
        if words[0] == b"INSERT":
            return words[-1] in (b"(", b"VALUES", b"SELECT", b"DEFAULT", b"WITH", b"OVERRIDING")
        return len(words) > 3

    def judge_body(self, statement: Statement) -> None:
        """A statement in the body of a function, which the server takes for one of the
        script when it has another opinion of where the function ends.

        :raises Refused: it must not reach psql.
        """
        if statement.inner and statement.inner[0] in NOT_IN_BODIES:
            self._refuse("holds a statement that the body of a function cannot hold")

    def _judged(self, words: list[bytes]) -> Verdict:
        first = words[0]
        if first in TRANSACTIONS or words[:2] == [b"PREPARE", b"TRANSACTION"]:
            return self._transaction(words)
        if first in DEFINES:
            return self._definition(words)
        if first in (b"SET", b"RESET", b"DISCARD"):
            return self._setting(words)
        if first in (b"GRANT", b"REVOKE"):
            return self._grant(words)
        if first == b"COPY" and not self._lexer.statement.copies:
            self._refuse("copies from or to something else than the script (COPY)")
        if words[:2] == [b"REASSIGN", b"OWNED"]:
            self._refuse("changes a role")
        if first in (b"COMMENT", b"SECURITY"):
            return self._remark(words)
        self._check_names(words)
        return Verdict.KEEP

    def _refuse(self, what: str) -> NoReturn:
        self._lexer.refuse(what, self._lexer.statement.line)

    # -- kinds of statements ------------------------------------------------------------

    def _transaction(self, words: list[bytes]) -> Verdict:
        """A script that puts itself into a transaction is let do so where there is none of
        ours; inside of ours its BEGIN and COMMIT are taken out."""
        plain = [w for w in words if w not in (b"WORK", b"TRANSACTION")]
        if len(words) < 3 and plain in BEGINS and not self.begun:
            self.begun = self._lexer.statement.line
        elif len(words) < 3 and plain in COMMITS and self.begun:
            self.begun = 0
        else:
            said = " ".join(w.decode("utf-8", "replace") for w in words[:2])
            self._refuse(f"controls transactions ({said})")
        return Verdict.TAKE_OUT if self._ours else Verdict.KEEP

    def _definition(self, words: list[bytes]) -> Verdict:
        kind = words[1] if len(words) > 1 else b""
        if kind in SHARED and words[1:3] != [b"USER", b"MAPPING"]:
            self._refuse(f"creates, drops or alters {SHARED[kind]}")
        if words[:2] == [b"DROP", b"OWNED"]:
            self._refuse("changes a role")
        if self._owner:
            return Verdict.KEEP
        if kind == b"SCHEMA" and b"AUTHORIZATION" in words:
            return Verdict.TRIM
        return Verdict.TAKE_OUT if self._is_about_owner(words) else Verdict.KEEP

    def _is_about_owner(self, words: list[bytes]) -> bool:
        if words[:3] == [b"ALTER", b"DEFAULT", b"PRIVILEGES"]:
            return True
        at = owner_at(words) if words[0] == b"ALTER" else 0
        if at and len(words) > at + 3:
            self._refuse("changes an owner and something else in one statement")
        return bool(at)

    def _setting(self, words: list[bytes]) -> Verdict:
        local = len(words) > 1 and words[1] == b"LOCAL"
        named = words[2:] if words[1:2] in ([b"LOCAL"], [b"SESSION"]) else words[1:]
        if b"AUTHORIZATION" in words[1:4]:
            named = [b"SESSION_AUTHORIZATION"]
        name = identifier(named[0]) if named else ""
        if name in ROLES:
            return self._role(words)
        if words[0] == b"DISCARD" or (words[0] == b"RESET" and name == "all"):
            self._refuse("resets the settings of the session")
        if local and self.begun and self._ours:
            self._refuse("needs a transaction of its own (SET LOCAL)")
        value = named[2] if named[1:2] in ([b"="], [b"TO"]) and len(named) == 3 else b""
        if name == "names":
            name, value = "client_encoding", named[1] if len(named) == 2 else b""
        self._check_reading(name, literal(value))
        return Verdict.KEEP

    def _role(self, words: list[bytes]) -> Verdict:
        if self._owner:
            self._refuse("acts as another role (--no-owner takes such statements out)")
        return Verdict.TAKE_OUT

    def _check_reading(self, name: str, value: str) -> None:
        """Settings by which psql and the server read what follows."""
        if name.lower().startswith("u&"):
            self._refuse("sets a setting whose name is escaped")
        if name == "standard_conforming_strings" and value not in STRINGS:
            self._refuse("turns standard_conforming_strings off")
        plain = re.sub(r"[^a-z0-9]", "", value)
        if name == "client_encoding" and (
            not ENCODINGS.fullmatch(plain) or UNSAFE_CODE_PAGES.fullmatch(plain)
        ):
            self._refuse(f"is in an encoding that cannot be checked ({value or 'reset'})")

    def _grant(self, words: list[bytes]) -> Verdict:
        if not self._owner:
            return Verdict.TAKE_OUT
        on = words.index(b"ON") if b"ON" in words else 0
        if not on:
            self._refuse("grants or revokes a role")
        if words[on + 1] in (b"DATABASE", b"TABLESPACE", b"PARAMETER"):
            self._refuse(f"changes who may use {SHARED[words[on + 1]]}")
        return Verdict.KEEP

    def _remark(self, words: list[bytes]) -> Verdict:
        """A comment of pg_dump before 11 on the database: that one is not restored."""
        on = words.index(b"ON") if b"ON" in words else 0
        kind = words[on + 1] if len(words) > on + 1 else b""
        if on and kind == b"DATABASE" and words[0] == b"COMMENT":
            return Verdict.TAKE_OUT
        if on and kind in SHARED:
            self._refuse(f"creates, drops or alters {SHARED[kind]}")
        return Verdict.KEEP

    def _check_names(self, words: list[bytes]) -> None:
        if words[0] in WRITES and names_catalog(words):
            self._refuse("writes to a catalog of the whole server")
        if words[0] in (b"INSERT", b"COPY"):
            return
        called = {identifier(w) for w, after in pairwise(words) if after == b"("}
        if called & FILES:
            self._refuse("reads or writes files of the server")
        if "set_config" in called:
            self._check_set_config(words)

    def _check_set_config(self, words: list[bytes]) -> None:
        """``SELECT pg_catalog.set_config('name', 'value', …)``, as pg_dump writes it."""
        plain = [w for w in words[1:] if w not in (b"PG_CATALOG", b".")]
        if len(plain) < 5 or plain[0] != b"SET_CONFIG" or plain[3] != b",":
            self._refuse("changes a setting in a way that cannot be checked (set_config)")
        if not re.fullmatch(rb"'[^'\\]*'", plain[2]) or b"SET_CONFIG" in plain[1:]:
            self._refuse("changes a setting in a way that cannot be checked (set_config)")
        name, value = literal(plain[2]), plain[4]
        if name in ROLES:
            self._refuse("acts as another role")
        self._check_reading(name, literal(value) if plain[5:6] == [b","] else "")


def identifier(token: bytes) -> str:
    """A name as the server looks settings and catalogs up."""
    text = token.decode("utf-8", "replace").lower()
    return text[1:-1] if text.startswith('"') else text


def names_catalog(words: list[bytes]) -> bool:
    """A catalog of the whole server is meant: by its bare name, or in its own schema. What
    a COPY or INSERT has in parentheses are columns."""
    if words[0] in (b"COPY", b"INSERT") and b"(" in words:
        words = words[: words.index(b"(")]
    for at, word in enumerate(words):
        bare = words[at - 1] != b"." or identifier(words[at - 2]) == "pg_catalog"
        if bare and identifier(word) in CATALOGS:
            return True
    return False


def literal(token: bytes) -> str:
    """The value of a setting, quoted or not."""
    return token.decode("utf-8", "replace").lower().strip("'\"")


def owner_at(words: list[bytes]) -> int:
    """Where OWNER TO stands in an ALTER; 0 when it has none. A column may be called owner,
    and a table rename."""
    for at in range(3, len(words) - 1):
        if words[at] == b"OWNER" and words[at + 1] == b"TO":
            named = at > 3 and words[at - 1] in RENAMED and is_action(words, at - 1)
            if not named:
                return at
    return 0


def is_action(words: list[bytes], at: int) -> bool:
    """Whether this word is the start of what an ALTER does, and not the name of a thing."""
    before = words[at - 1]
    return words[at] == b"." or (before != b"." and at > 2 and before not in (b"ONLY", b"EXISTS"))
