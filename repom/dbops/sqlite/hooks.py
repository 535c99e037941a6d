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
    sqlite3.SQLITE_ATTACH: "ATTACH and VACUUM are not allowed",
    sqlite3.SQLITE_DETACH: "DETACH is not allowed",
    sqlite3.SQLITE_TRANSACTION: "BEGIN, COMMIT and ROLLBACK are not allowed",
    sqlite3.SQLITE_SAVEPOINT: "SAVEPOINT is not allowed",
}


def run_hook(path: Path, hook: Hook) -> None:
    """Run a script in one transaction.

    :raises CommandFailed: a statement failed; names its file and its line.
    """
    log.info("Running %s", hook.name)
    with closing(connect(path)) as database:
        # Deleted rows would otherwise stay in free pages, and backups copy these.
        database.execute("PRAGMA secure_delete = ON")
        database.execute("BEGIN IMMEDIATE")
        reasons: list[str] = []

        def authorize(action: int, *_: str | None) -> int:
            reasons.extend([DENIED[action]] if action in DENIED else [])
            return sqlite3.SQLITE_DENY if action in DENIED else sqlite3.SQLITE_OK

        database.set_authorizer(authorize)
        for line, statement in statements(hook.content.decode()):
            try:
                for _row in database.execute(statement):
                    pass
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                raise hook.failed(line, reasons[-1] if reasons else str(error)) from None
        database.set_authorizer(None)
        database.execute("COMMIT")


def statements(script: str) -> Iterator[tuple[int, str]]:
    """Each statement with the line that it begins in."""
    line, held = 1, ""
    for piece in script.removeprefix("\ufeff").split(";"):
        held += f"{piece};"
        if sqlite3.complete_statement(held):
            yield line + blank_lines(held), held
            line, held = line + held.count("\n"), ""
    if held.strip("; \t\r\n"):
        yield line + blank_lines(held), held


def blank_lines(text: str) -> int:
    """Line feeds before the first character that shows."""
    return text.count("\n", 0, len(text) - len(text.lstrip()))
