"""What a failed client program means, from its exit status and its own words.

Texts are the only thing that libpq gives; they are in English because the runners ask
for it. What is not known is passed on as the program's own line.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.errors import CommandFailed, Damaged, Refused, RepomError, Unreachable, advice
from repom.runners.runner import Runner
from repom.settings.address import Address


class NotReady(Unreachable):
    """The server starts, stops or recovers from a crash."""


CHECK_LOGIN = "Set the password in .env: POSTGRES_PASSWORD, or the one in DATABASE_URL"
STARTING = "the database system is"
ANOTHER = advice("Restore another backup; list them with: {}", "db.list")
SET_USER = "Set POSTGRES_USER, or the user in DATABASE_URL"
SET_DATABASE = "Set POSTGRES_DB, or the database in DATABASE_URL"
START = advice("Start it, for example with: {}", "postgres.start")
#: Part of a connection failure → message and hint. The first that fits counts.
CONNECTION = (
    ("no password supplied", "{where} wants a password for user {user}", CHECK_LOGIN),
    (
        "password authentication failed",
        "{where} does not accept the password of user {user}",
        CHECK_LOGIN,
    ),
    ("authentication failed for user", "{where} does not accept user {user}", SET_USER),
    ('role "{user}" does not exist', "There is no user {user} on {where}", SET_USER),
    (
        'database "{database}" does not exist',
        "No database {database} on {where}",
        SET_DATABASE,
    ),
    (
        "could not translate host name",
        "The host of {where} cannot be resolved",
        "Check POSTGRES_HOST, or the host in DATABASE_URL",
    ),
    ("Connection refused", "No PostgreSQL server answers on {where}", START),
    ("Is the server running", "No PostgreSQL server answers on {where}", START),
    ("timeout expired", "No PostgreSQL server answers on {where}", START),
    ("No route to host", "No PostgreSQL server answers on {where}", START),
    (STARTING, "The server on {where} is not ready", "Try again in a moment"),
)
#: Part of any other failure → error, message and hint.
OTHER: tuple[tuple[str, type[RepomError], str, str], ...] = (
    (
        "backslash commands are restricted",
        Refused,
        "The SQL script connects elsewhere or runs commands of psql",
        "Remove these lines if the rest belongs in this database",
    ),
    (
        "cannot run inside a transaction block",
        Refused,
        "The SQL script creates or drops a database",
        "Remove these lines if the rest belongs in this database",
    ),
    (
        "row-level security policy",
        Refused,
        "Row level security hides rows of a table from this user",
        "Dump as a superuser or a role with BYPASSRLS; an owner needs NO FORCE ROW LEVEL SECURITY",
    ),
    (
        "unrecognized configuration parameter",
        Refused,
        "The SQL script was made for a newer PostgreSQL than the server on {where}",
        "Restore it into that version or a newer one",
    ),
    (
        "unsupported version",
        Refused,
        "pg_restore on {where} is too old for this archive",
        "Use a newer version of PostgreSQL there",
    ),
    (
        "unsupported startup parameter",
        Refused,
        "A pooler answers on {where}, and what a session sets stays for its other users",
        "Use the address of the server itself",
    ),
    ("could not read from input file", Damaged, "The archive is cut short", ANOTHER),
    ("unexpected end of file", Damaged, "The archive is cut short", ANOTHER),
    (
        "server version mismatch",
        Refused,
        "The server on {where} is newer than the program",
        "Install programs of its version",
    ),
)


@contextmanager
def translated(login: Address, runner: Runner) -> Iterator[None]:
    """Turn the failure of a client program into an error of repom's."""
    try:
        yield
    except UnexpectedExit as error:
        raise explain(error.result, login, runner) from None


def explain(result: Result, login: Address, runner: Runner) -> RepomError:
    """:returns: the error that says in one line what happened and what to do."""
    said = result.stderr
    line = best_line(said) or f"exit status {result.exited}"
    names = {"user": login.user, "database": login.database, "where": place(login, runner)}
    if result.exited in (126, 127):
        return Unreachable(
            f"PostgreSQL's client programs are missing in {runner.where} ({line})",
            "Use an image that has them, or REPOM_VIA=host",
        )
    if "FATAL" in line or "connection to server" in line or "could not translate" in line:
        for part, message, hint in CONNECTION:
            if part.format(**names) in said:
                error = NotReady if part == STARTING else Unreachable
                return error(message.format(**names), hint)
    for part, kind, message, hint in OTHER:
        if part in said:
            return kind(f"{message.format(**names)} ({line})", hint)
    if 'role "' in line and "does not exist" in line:
        return Refused(f"The backup needs a missing role ({line})", "Create it, or pass --no-owner")
    return CommandFailed(f"Failed on {names['where']}: {line}", stderr=said)


def place(login: Address, runner: Runner) -> str:
    """The server, for messages: the container, or host and port."""
    return runner.where if runner.trusts_local else login.where


def best_line(said: str) -> str:
    """The line of a program's messages that names the cause."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for mark in ("FATAL:", "ERROR:", "error:"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else ""
