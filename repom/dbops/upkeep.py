"""Looking after the store: list, verify, drill, prune and pin."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CommandFailed, Damaged, NotFound, Refused, Unreachable
from ..settings import Settings, whole_number
from . import store, work
from .archive import Archive
from .operations import find, proven_facts
from .store import Backup, Pruned, ReadOnlyStore, Store
from .work import identity, open_database, since

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


def list_backups(settings: Settings | None = None) -> list[Backup]:
    """The backups in the store, of every database, newest first."""
    settings = settings or Settings.load()
    return Store(settings.backup_dir).backups()


def find_backup(settings: Settings, backup: str | Path | Backup | None = None) -> Backup:
    """A backup by name, label, beginning or path; without, the newest proven one of the
    database.

    :raises NotFound: there is none.
    """
    if backup is not None:
        return find(settings, backup)
    target = Store(settings.backup_dir)
    system = lambda: work.system_of(replace(settings, dry=False))  # noqa: E731
    return target.latest(identity(settings), settings.project, system)


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
    except Damaged as error:  # any other failure says nothing of the backup
        _record(settings, source, [], {}, 0.0)
        return Verified(source.name, (), (error.message,), hint=error.hint)
    _record(settings, source, passed, rows, since(started))
    return Verified(source.name, tuple(passed), (), rows)


def _examined(settings: Settings, source: Backup, drill: bool) -> tuple[list[str], dict[str, int]]:
    """The checks that a backup passes, and the rows that a drill restored."""
    passed = ["complete", "sha256"] if source.counts else []
    archive = work.examined(source)
    if settings.dry:
        log.info("Would read %s to its end", source.path)
        if drill:
            log.info("Would restore it into a scratch database, and drop that again")
        return passed, {}
    if _read(settings, archive):
        passed.append("archive")
    if not drill:
        return passed, {}
    return [*passed, "drill"], _drill(settings, source, archive)


def _read(settings: Settings, archive: Archive) -> bool:
    """Whether the archive could be read; the checksum can be checked without a server."""
    try:
        tool = "pg_restore" if archive.is_archive else "psql"
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
    work.check_server(settings, database, database.survey().system_identifier)
    with work.on(settings, database, "drill"):
        database.survey()
        archive.check_unchanged()
        facts = proven_facts(source)
        scratch = database.load(archive, facts, owner=False, replacing=False)
        try:
            return database.rows(scratch)
        finally:
            database.discard(scratch)


def _record(
    settings: Settings, source: Backup, passed: list[str], rows: dict[str, int], seconds: float
) -> None:
    """Write down what a backup passed; one that passed nothing no longer counts."""
    if not source.counts or settings.dry:
        return
    target = Store(source.path.parent)
    try:
        with target.lock(source.database, "verify", wait=10):
            now = store.read(source.path)  # somebody may have pinned it meanwhile
            facts = dict(now.facts)
            if rows:
                facts["drill"] = {"rows": rows, "duration_s": seconds}
            verified = tuple(dict.fromkeys([*now.verified, *passed])) if passed else ()
            target.update(replace(now, verified=verified, facts=facts))
    except ReadOnlyStore:
        log.info("Not recorded: %s cannot be written to", target.folder)


def prune(
    settings: Settings | None = None,
    *,
    keep: int | None = None,
    days: int | None = None,
    all_servers: bool = False,
    confirmed: Collection[str] | None = None,
) -> Pruned:
    """Delete old backups of the configured database.

    :param keep: how many verified ones stay; by default as configured.
    :param days: only those that are older than this, and that `keep` lets go, too.
    :param all_servers: also those of other servers, such as ones that are no more; but
        none of another project whose folder is on this machine.
    :param confirmed: names of the backups that a user agreed to delete.
    :raises Refused: others would be deleted than were confirmed, or a fallback reached
        another server.
    """
    settings = (settings or Settings.load()).having(keep=keep)
    days = whole_number("--days", days)
    target, which = Store(settings.backup_dir), identity(settings)
    system = _known_system(settings)
    with nullcontext() if settings.dry else target.lock(settings.database, "prune"):
        proven = [b for b in target.backups(which) if b.counts]
        likes = _likes(proven, settings, system, all_servers)
        if not likes:
            return Pruned(tuple((b, store.FROM_ELSEWHERE) for b in proven), ())
        how: dict[str, Any] = {"keep": settings.keep, "days": days, "thorough": True}
        how |= {"like": likes[0], "more": likes[1:]}
        if confirmed is not None:
            _check_confirmed(store.prune(target, which, dry=True, **how), confirmed)
        return store.prune(target, which, dry=settings.dry, **how)


def _likes(
    proven: list[Backup], settings: Settings, system: str | None, all_servers: bool
) -> list[Backup]:
    """Backups that stand for those which may go: one of this server; where that is not
    known, the newest one of this project."""
    own = [b for b in proven if not b.is_of_another(settings.project)]
    if all_servers:
        return own
    same = [b for b in proven if system and b.system_identifier == system]
    return (same or [b for b in own if not (system and b.system_identifier)])[:1]


def _known_system(settings: Settings) -> str | None:
    """Identifies the server whose backups are pruned; a server that is down is not asked.

    :raises Refused: a fallback reached another one.
    """
    if settings.backend == "sqlite":
        return work.system_of(settings)
    try:
        database = open_database(settings, "psql")
        system = database.survey().system_identifier
    except (Unreachable, CommandFailed, NotFound) as error:
        log.info("The server was not asked which it is: %s", error.message)
        return None
    work.check_server(settings, database, system)
    return system


def _check_confirmed(planned: Pruned, confirmed: Collection[str]) -> None:
    if {b.name for b, _reason in planned.deleted} - set(confirmed):
        raise Refused("The backups changed in the meantime", "Nothing was deleted; run it again")


def pin(
    backup: str | Path | Backup, settings: Settings | None = None, *, off: bool = False
) -> Backup:
    """Keep a backup whatever prune says, or no longer.

    :raises NotFound: there is no such backup.
    :raises Refused: it has no manifest.
    """
    settings = settings or Settings.load()
    source = find(settings, backup)
    if not source.counts:
        raise Refused(f"{source.name} has no manifest, so prune leaves it anyway")
    if settings.dry:
        log.info("Would %s %s", "unpin" if off else "pin", source.name)
        return replace(source, pinned=not off)
    target = Store(source.path.parent)
    with target.lock(source.database, "pin", wait=10):
        return target.update(replace(store.read(source.path), pinned=not off))
