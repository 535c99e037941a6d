"""Running a script of the user's in a scratch database."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from repom.dbops.archive.hook import Hook

from .copying import connect

log = logging.getLogger("repom")

#: What would reach another file, or end the transaction.
DENIED = {
    **{sqlite3.SQLITE_ATTACH: "ATTACH or VACUUM", sqlite3.SQLITE_DETACH: "DETACH"},
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT or ROLLBACK",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT",
}


def run_hook(path: Path, hook: Hook) -> None:
    """Run a script in one transaction.

    :raises CommandFailed: a statement failed; names its file and its line.
    """
    log.info("Running %s", hook.name)
    denied: list[int] = []

    def authorize(action: int, *_: str | None) -> int:
        denied.extend({action} & DENIED.keys())
        return sqlite3.SQLITE_DENY if action in DENIED else sqlite3.SQLITE_OK

    with closing(connect(path)) as database:
        # Deleted rows would otherwise stay in free pages, and backups copy these.
        database.execute("PRAGMA secure_delete = ON")
        database.execute("BEGIN IMMEDIATE")
        database.set_authorizer(authorize)
        for line, statement in statements(hook.content.decode()):
            try:
                database.execute(statement).fetchall()
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                words = f"{DENIED[denied[-1]]} is not allowed" if denied else str(error)
                raise hook.failed(line, words) from None
        database.set_authorizer(None)
        database.execute("COMMIT")


def statements(script: str) -> Iterator[tuple[int, str]]:
    """Each statement with the line that it begins in."""
    line, held = 1, ""
    for piece in f"{script};".split(";")[:-1]:
        held += f"{piece};"
        if sqlite3.complete_statement(held):
            yield line + held.count("\n", 0, len(held) - len(held.lstrip())), held
            line, held = line + held.count("\n"), ""
    yield line + held.count("\n", 0, len(held) - len(held.lstrip())), held
