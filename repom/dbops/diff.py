"""`diff`: in which tables and numbers of rows a backup and the database differ."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from repom.dbops.store.backup import Backup
from repom.errors import Damaged
from repom.settings import Settings

from .verify import verify
from .work import find_backup, locate, open_database

log = logging.getLogger("repom")


@dataclass(frozen=True)
class Table:
    """A table that differs: its rows in the backup and now; ``None`` where it is missing."""

    table: str
    backup: int | None
    now: int | None


@dataclass(frozen=True)
class Diff:
    """How a backup and the database differ.

    :param same: how many tables have the same number of rows.
    :param unread: tables of the database that cannot be read.
    """

    backup: str
    database: str
    same: int
    differ: tuple[Table, ...]
    unread: tuple[str, ...]


def diff(settings: Settings, backup: str | Path | Backup | None = None) -> Diff:
    """Compare the rows of each table in a backup with those in the database. A backup that
    was never drilled is drilled first.

    :param backup: a name, a path or a `Backup`; without, the newest verified one.
    :raises Damaged: the backup is not what was written.
    """
    settings = locate(settings)
    source = find_backup(settings, backup)
    then = _rows(source, settings)
    with closing(open_database(settings, "psql")) as database:
        database.identify()  # raises for a missing one
        now = {} if settings.dry else database.rows()
    unread = tuple(sorted(name for name, rows in now.items() if rows is None))
    # SQLite's own tables; one of PostgreSQL's has the schema's name before it.
    hidden = {name for name in now if name.startswith("sqlite_") and "." not in name}
    names = sorted((then.keys() | now.keys()) - {*unread, *hidden})
    differ = tuple(
        Table(name, then.get(name), now.get(name))
        for name in names
        if then.get(name) != now.get(name)
    )
    return Diff(source.name, settings.database, len(names) - len(differ), differ, unread)


def _rows(source: Backup, settings: Settings) -> dict[str, int]:
    if source.drill and source.is_verified:
        return dict(source.drill.rows)
    log.info("Restoring %s into a scratch database to count its rows", source.name)
    found = verify(source, settings, drill=True)
    if found.problems:
        raise Damaged(found.problems[0], found.hint)
    return found.rows
