"""`verify`: check a backup against its manifest, and read or load it."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from repom.dbops.archive.archive import Archive
from repom.dbops.store.backup import Backup, Drill
from repom.dbops.store.lock import locked
from repom.dbops.store.storage import ReadOnlyStore
from repom.dbops.store.store import Store
from repom.errors import Damaged, Refused, RepomError, Unreachable
from repom.runners.choose import Choice, Located
from repom.settings import Settings, Source
from repom.settings.address import Address

from . import work
from .database import Database
from .store import manifest
from .work import find_backup, open_database, proven_facts, since

log = logging.getLogger("repom")


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    :param verified: the checks that the backup passed: complete, sha256, archive, drill.
    :param problems: why it failed the others; none when it is good.
    :param rows: rows per table that a drill restored.
    :param hint: what to do about the problems.
    """

    name: str
    verified: tuple[str, ...]
    problems: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)
    hint: str = ""


def verify(
    backup: str | Path | Backup | None = None,
    settings: Source = None,
    *,
    drill: bool = False,
) -> Verified:
    """Compare a backup with its manifest, read its archive to the end, and with `drill`
    restore it for real into a scratch database that is dropped again.

    What it passed is recorded in the manifest, if there is one; a damaged one no longer
    counts for ``--latest`` and prune.

    :param backup: a name, a path or a `Backup`; without, the newest proven one.
    """
    settings = work.locate(Settings.of(settings))
    source = find_backup(settings, backup)
    started = time.monotonic()
    try:
        passed, rows = _examined(settings, source, drill)
    except Damaged as error:  # any other failure says nothing of the backup
        _record(settings, source, [], {}, 0.0)
        return Verified(source.name, (), (error.message,), hint=error.hint)
    _record(settings, source, passed, rows, since(started))
    return Verified(source.name, tuple(passed), (), rows)


def _examined(settings: Located, source: Backup, drill: bool) -> tuple[list[str], dict[str, int]]:
    """The checks that a backup passes, and the rows that a drill restored."""
    archive = work.examined(source)
    passed = ["complete", "sha256"] if source.sha256 else []
    if settings.dry:
        log.info("Would read %s to its end", source.path)
        if drill:
            log.info("Would restore it into a scratch database, then drop that")
        return passed, {}
    tool = "pg_restore" if archive.is_archive else "psql"
    try:
        database = open_database(_for_backend(settings, archive), tool)
    except (Unreachable, Refused) as error:
        if drill:
            raise
        _warn_unread(error)
        return passed, {}
    with closing(database):
        if _read(database, archive):
            passed.append("archive")
        if not drill:
            return passed, {}
        return [*passed, "drill"], _drill(settings, database, source, archive)


def _read(database: Database, archive: Archive) -> bool:
    """Whether the archive could be read; the checksum can be checked without a server."""
    try:
        database.read(archive)
        return True
    except (Unreachable, Refused) as error:
        _warn_unread(error)
        return False


def _warn_unread(error: RepomError) -> None:
    log.warning("The archive could not be checked to its end: %s", error.message)


def _for_backend(settings: Located, archive: Archive) -> Located:
    """A backup of SQLite is read by SQLite, whatever the project's database is."""
    if archive.backend == "sqlite" and settings.backend != "sqlite":
        return replace(settings, address=Address(), sqlite="unused.sqlite3", choice=Choice())
    if archive.backend != settings.backend:
        raise Refused(
            f"{archive.path.name} is a backup of PostgreSQL, and the database is SQLite",
            "Set DATABASE_URL to a PostgreSQL server that can read it",
        )
    return settings


def _drill(
    settings: Settings, database: Database, source: Backup, archive: Archive
) -> dict[str, int]:
    work.check_writable(settings)
    with work.on(settings, database, "drill", *work.names_in(source)):
        found = database.survey()
        work.check_server(settings, database, found.system_identifier)
        archive.check_unchanged()
        facts = proven_facts(source)
        scratch = database.load(found, archive, facts, owner=False, replacing=False)
        try:
            return database.rows(scratch)
        finally:
            database.discard(scratch)


def _record(
    settings: Settings, source: Backup, passed: list[str], rows: dict[str, int], seconds: float
) -> None:
    """Write down what a backup passed; one that passed nothing is no longer verified."""
    if not source.sha256 or settings.dry:
        return
    target = Store(source.path.parent)
    try:
        with locked(target.folder, source.database, "verify", wait=10):
            now = manifest.read(source.path)  # another process may have pinned it
            drill = Drill(rows, seconds) if rows else now.drill
            verified = tuple(dict.fromkeys([*now.verified, *passed])) if passed else ()
            target.update(replace(now, verified=verified, drill=drill))
    except ReadOnlyStore:
        log.info("Not recorded: %s cannot be written to", target.folder)
    except Refused as error:  # locked; what was found counts more
        log.warning("Not recorded: %s", error)
