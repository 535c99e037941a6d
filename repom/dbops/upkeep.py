"""Looking after the store: list, verify, drill, prune and pin."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CommandFailed, Damaged, NoSpace, Refused, Unreachable
from ..settings import Settings
from . import store
from .archive import Archive, recognise
from .operations import aborting, identity, locked, open_database, proven_facts, since
from .store import Backup, Pruned, Store

log = logging.getLogger("repom")


@dataclass(frozen=True)
class Verified:
    """What `verify` found.

    :param verified: the checks that the backup passed: complete, sha256, archive, drill.
    :param problems: why it failed the others; none when it is good.
    :param rows: rows per table that a drill restored.
    """

    name: str
    verified: tuple[str, ...]
    problems: tuple[str, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)


def list_backups(settings: Settings | None = None) -> list[Backup]:
    """The backups in the store, of every database, newest first."""
    settings = settings or Settings.load()
    found = Store(settings.backup_dir).backups()
    return [b if b.has_its_size else replace(b, verified=()) for b in found]


def find_backup(settings: Settings, backup: str | Path | Backup | None = None) -> Backup:
    """A backup by name or path; without, the newest proven one of the database.

    :raises NotFound: there is none.
    """
    if isinstance(backup, Backup):
        return backup
    target = Store(settings.backup_dir)
    return (
        target.find(str(backup)) if backup else target.latest(identity(settings), settings.project)
    )


def verify(
    backup: str | Path | Backup | None = None,
    settings: Settings | None = None,
    *,
    drill: bool = False,
) -> Verified:
    """Compare a backup with its manifest, read its archive to the end, and with `drill`
    restore it for real into a scratch database that is dropped again.

    What it passed is recorded in the manifest, if there is one; a damaged one no longer
    counts for ``--latest`` and prune.

    :param backup: a name, a path or a `Backup`; without, the newest proven one.
    """
    settings = settings or Settings.load()
    source = find_backup(settings, backup)
    started = time.monotonic()
    try:
        passed, rows = _examined(settings, source, drill)
    except NoSpace:
        raise  # which says nothing of the backup
    except (Damaged, CommandFailed) as error:
        if isinstance(error, Damaged) and source.counts and not settings.dry:
            Store(source.path.parent).update(replace(source, verified=()))
        return Verified(source.name, (), (str(error),))
    _record(settings, source, passed, rows, since(started))
    return Verified(source.name, tuple(passed), (), rows)


def _examined(settings: Settings, source: Backup, drill: bool) -> tuple[list[str], dict[str, int]]:
    """The checks that a backup passes, and the rows that a drill restored."""
    passed = ["complete", "sha256"] if source.counts else []
    store.check(source)
    archive = recognise(source.path)
    if _read(settings, archive):
        passed.append("archive")
    if not drill:
        return passed, {}
    return [*passed, "drill"], _drill(settings, source, archive)


def _read(settings: Settings, archive: Archive) -> bool:
    """Whether the archive could be read; the checksum can be checked without a server."""
    try:
        tool = "pg_restore" if archive.kind == "custom" else "psql"
        open_database(_for_backend(settings, archive), tool).read(archive)
        return True
    except (Unreachable, Refused) as error:
        log.warning("The archive was not read to its end: %s", error.message)
        return False


def _for_backend(settings: Settings, archive: Archive) -> Settings:
    """A backup of SQLite is read by SQLite, whatever the project's database is."""
    if archive.backend == "sqlite" and settings.backend != "sqlite":
        return replace(settings, backend="sqlite", database="unused.sqlite3")
    if archive.backend != settings.backend:
        raise Refused(
            f"{archive.path.name} is a backup of PostgreSQL, and the database is SQLite",
            "Set DATABASE_URL to a PostgreSQL server that can read it",
        )
    return settings


def _drill(settings: Settings, source: Backup, archive: Archive) -> dict[str, int]:
    database = open_database(_for_backend(settings, archive), "pg_restore")
    if settings.dry:
        return {}
    with locked(settings, database, "drill"), aborting(database):
        database.survey()
        facts = proven_facts(source)
        scratch = database.load(archive, facts, owner=False, replacing=False)
        try:
            return database.rows(scratch)
        finally:
            database.discard(scratch)


def _record(
    settings: Settings, source: Backup, passed: list[str], rows: dict[str, int], seconds: float
) -> None:
    if not source.counts or settings.dry:
        return
    target = Store(source.path.parent)
    with target.lock(source.database, "verify", wait=10):
        source = store.read(source.path)  # somebody may have pinned it meanwhile
        facts = dict(source.facts)
        if rows:
            facts["drill"] = {"rows": rows, "duration_s": seconds}
        verified = tuple(dict.fromkeys([*source.verified, *passed]))
        target.update(replace(source, verified=verified, facts=facts))


def prune(
    settings: Settings | None = None, *, keep: int | None = None, days: int | None = None
) -> Pruned:
    """Delete old backups of the configured database.

    :param keep: how many verified ones stay; by default as configured.
    :param days: only those that are older than this, and that `keep` lets go, too.
    """
    settings = (settings or Settings.load()).having(keep=keep)
    target, which = Store(settings.backup_dir), identity(settings)
    with nullcontext() if settings.dry else target.lock(settings.database, "prune"):
        how: dict[str, Any] = {"days": days, "dry": settings.dry, "thorough": True}
        proven = [b for b in target.backups(which) if b.counts]
        own = [b for b in proven if not b.is_of_another(settings.project)]
        if not own:
            return Pruned(tuple((b, store.FROM_ELSEWHERE) for b in proven), ())
        return store.prune(target, which, keep=settings.keep, like=own[0], **how)


def pin(
    backup: str | Path | Backup, settings: Settings | None = None, *, off: bool = False
) -> Backup:
    """Keep a backup whatever prune says, or no longer.

    :raises NotFound: there is no such backup.
    :raises Refused: it has no manifest.
    """
    settings = settings or Settings.load()
    source = find_backup(settings, backup)
    if not source.counts:
        raise Refused(f"{source.name} has no manifest, so prune leaves it anyway")
    if settings.dry:
        return replace(source, pinned=not off)
    target = Store(source.path.parent)
    with target.lock(source.database, "pin", wait=10):
        return target.update(replace(store.read(source.path), pinned=not off))
