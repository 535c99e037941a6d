"""docs/troubleshooting.md: every error, what it means and what to do, by exit status. Messages
and advice are read from the source, as `python -m tests.messages` does; what a status and the
most frequent messages mean is written here."""

from __future__ import annotations

import re
from pathlib import Path

from tests.messages import ROOT, STATUSES, collected

PAGE: Path = ROOT / "docs" / "troubleshooting.md"
HEAD = """# Troubleshooting

Do not edit this page: `python -m tests.messages` writes it from the source and from
`tests/troubleshooting.py`.

An error is one line on standard error: what happened, then what to do. Its exit status says
what kind of error it is. Look for the beginning of your line below; `{…}` is a value, `(a|b)`
one of two texts, `[…]` a text that may be missing.

First of all, run `repom doctor`: it shows what repom would use here, and each problem with the
command that mends it. To see what ran, repeat the command with Invoke's `--echo`; after an
error that begins with *Unexpected*, with `--debug`.

"""
#: What an exit status means, and where to begin.
MEANINGS = {
    1: (
        "repom reached the database and began, and then a program, a disk or the server "
        "failed. Nothing half-done was left: the database and the backups are as before. The "
        "line ends with the program's own words."
    ),
    2: (
        "repom did not begin: a flag, a variable, `.env` or Invoke's configuration has a "
        "value that cannot be right. [Settings](settings.md) lists what is allowed; `repom "
        "doctor` shows where each value came from."
    ),
    3: (
        "repom found no way to the database: no container engine, no container, no server, no "
        "fitting client program, or the server rejects the login. In most cases `repom "
        "postgres.start` helps. [Which server?](which-server.md) says what repom looks for."
    ),
    4: ("What you named is not there. `repom db.list` shows the backups that are."),
    5: (
        "repom could go on, and does not, because data could be lost or the work would fail "
        "half-way. Nothing was changed. The hint names the flag that allows it, or what has "
        "to be changed first."
    ),
    6: (
        "The file is not what was written, or never was a whole backup. repom found that "
        "before it touched the database. Take another backup: `repom db.list`, then `repom "
        "db.restore --backup NAME`."
    ),
}
ABOVE = "See above this table"
#: Beginnings of messages, and what they mean beyond what they say.
EXPLAINED = {
    "The stream from the container ended": (
        "The container engine lost the end of a stream, or the container was stopped. Engines "
        "may exit 0 in this case, so repom waits for a proof from the container itself."
    ),
    "The restored database differs": (
        "The check after the load found other tables or row counts than the backup has. The "
        "old database is untouched."
    ),
    "{origin} is empty": (
        "Often a variable that was not set where it is used: `REPOM_CONTAINER=$UNSET`."
    ),
    "{origin} has special characters": (
        "A password with `@`, `/`, `?` or `#` in a URL ends the wrong part of it."
    ),
    "No PostgreSQL server answers": (
        "Nothing listens there: the server is down, or it publishes another port."
    ),
    "The server is PostgreSQL {server}": ("`pg_dump` refuses servers that are newer than itself."),
    "{where} does not accept the password": (
        "The password of a container is set when its volume is made; changing `.env` later "
        "does not change it."
    ),
    "The container engine does not answer": (
        "Docker Desktop or the daemon is not running, or your user is not in the group `docker`."
    ),
    "Another repom process": (
        "Two tasks at once on one database. The lock ends with its process; there is nothing "
        "to delete."
    ),
    "A table of {name} is locked": ("A migration or a session with an open transaction holds it."),
}


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    for status, kind in STATUSES.items():
        parts += [f"## {status}: {kind}\n", f"{MEANINGS[status]}\n", *table(status)]
    return "\n".join(parts)


def table(status: int) -> list[str]:
    pairs = {each for each in collected().pairs if each[0] == status}
    rows = [
        f"| {cell(message)} | {'. '.join(filter(None, (cell(hint), meaning(message)))) or ABOVE} |"
        for _, message, hint in sorted(pairs, key=lambda each: (each[1].lower(), each))
        if re.search(r"[^\W_]{2} [^\W_]{2}", message)
    ]
    return ["| message | what to do, and what it means |", "|---|---|", *rows, ""]


def meaning(message: str) -> str:
    told = [text for start, text in EXPLAINED.items() if message.startswith(start)]
    return f"*{told[0]}*" if told else ""


def cell(text: str) -> str:
    """A message for a table of Markdown; text in braces and commands as code."""
    text = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return re.sub(
        r"\brepom ((?:db|postgres)\.\w+(?: --[\w-]+(?: [A-Z]+| \{\w+\})?)*|doctor)",
        r"`repom \1`",
        text,
    )
