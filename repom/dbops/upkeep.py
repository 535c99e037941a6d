"""`list_backups`, `prune` and `pin`: looking after the store."""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from repom.dbops.store.backup import Backup
from repom.dbops.store.retention import Pruned
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, NotFound, Refused, Unreachable
from repom.settings import Settings, Source
from repom.settings.values import whole_number

from . import work
from .restore import find
from .store import manifest, retention
from .work import identity, open_database

log = logging.getLogger("repom")


def shell(settings: Settings) -> int:
    """A shell on the database, on this terminal; returns its exit status."""
    return open_database(settings, "psql").shell()


def list_backups(settings: Source = None) -> list[Backup]:
    """The backups in the store, of every database, newest first."""
    settings = Settings.of(settings)
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


def prune(
    settings: Source = None,
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
    settings = Settings.of(settings).having(keep=keep)
    days = whole_number("--days", days)
    target, which = Store(settings.backup_dir), identity(settings)
    system = _known_system(settings)
    with nullcontext() if settings.dry else target.lock(settings.database, "prune"):
        proven = [b for b in target.backups(which) if b.counts]
        likes = _likes(proven, settings, system, all_servers)
        if not likes:
            return Pruned(tuple((b, retention.FROM_ELSEWHERE) for b in proven), ())
        how: dict[str, Any] = {"keep": settings.keep, "days": days, "thorough": True}
        how |= {"like": likes[0], "more": likes[1:]}
        if confirmed is not None:
            _check_confirmed(retention.prune(target, which, dry=True, **how), confirmed)
        return retention.prune(target, which, dry=settings.dry, **how)


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


def pin(backup: str | Path | Backup, settings: Source = None, *, off: bool = False) -> Backup:
    """Keep a backup whatever prune says, or no longer.

    :raises NotFound: there is no such backup.
    :raises Refused: it has no manifest.
    """
    settings = Settings.of(settings)
    source = find(settings, backup)
    if not source.counts:
        raise Refused(f"{source.name} has no manifest, so prune leaves it anyway")
    if settings.dry:
        log.info("Would %s %s", "unpin" if off else "pin", source.name)
        return replace(source, pinned=not off)
    target = Store(source.path.parent)
    with target.lock(source.database, "pin", wait=10):
        return target.update(replace(manifest.read(source.path), pinned=not off))
