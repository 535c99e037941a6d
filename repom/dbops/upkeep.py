"""`list_backups`, `prune` and `pin`: looking after the store."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

from repom.dbops.store.backup import Backup
from repom.dbops.store.lock import locked
from repom.dbops.store.retention import Pruned
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, NotFound, Refused, Unreachable
from repom.settings import Settings, Source
from repom.settings.values import whole_number

from . import work
from .store import manifest, retention
from .work import find_backup, identity, open_database

log = logging.getLogger("repom")


def shell(settings: Settings) -> int:
    """A shell on the database, on this terminal; returns its exit status."""
    return open_database(settings, "psql").shell()


def list_backups(settings: Source = None) -> list[Backup]:
    """The backups in the store, of every database, newest first."""
    settings = Settings.of(settings)
    return Store(settings.backup_dir).backups()


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
    :param days: of the others, only delete those that are older than this.
    :param all_servers: also those of other servers, such as ones that no longer exist; but
        none of another project whose folder is on this machine.
    :param confirmed: names of the backups that a user agreed to delete.
    :raises Refused: others would be deleted than were confirmed, or a fallback reached
        another server.
    """
    settings = work.locate(Settings.of(settings).having(keep=keep))
    work.check_writable(settings)
    days = whole_number("--days", days)
    target, folder = Store(settings.backup_dir), settings.backup_dir
    system = _known_system(settings)
    with nullcontext() if settings.dry else locked(folder, settings.database, "prune"):
        backups = target.backups(identity(settings))
        planned = retention.plan(
            backups,
            keep=settings.keep,
            days=days,
            same_as=_own(backups, settings, system, all_servers),
            is_whole=target.is_whole,
        )
        if confirmed is not None and {b.name for b, _reason in planned.deleted} - set(confirmed):
            raise Refused(
                "The backups changed in the meantime", "Nothing was deleted; run it again"
            )
        return planned if settings.dry else retention.carry_out(target, planned)


def _own(
    backups: Sequence[Backup], settings: Settings, system: str | None, all_servers: bool
) -> list[Backup]:
    """Backups that stand for those which may be deleted: the newest one of this server;
    where that is not known, the newest one of this project."""
    verified = [b for b in backups if b.is_verified]
    own = [b for b in verified if not b.is_from_other_project(settings.project)]
    if all_servers:
        return own
    own = [b for b in own if not b.is_guest]
    same = [b for b in verified if system and b.system_identifier == system and not b.is_guest]
    return (same or [b for b in own if not (system and b.system_identifier)])[:1]


def _known_system(settings: Settings) -> str | None:
    """Identifies the server whose backups are pruned; a server that is down is not asked.

    :raises Refused: a fallback reached another one.
    """
    if settings.backend == "sqlite":
        return work.system_of(settings)
    try:
        with closing(open_database(settings, "psql")) as database:
            system = database.survey().system_identifier
    except (Unreachable, CommandFailed, NotFound) as error:
        log.info("Could not ask the server which one it is: %s", error.message)
        return None
    work.check_server(settings, database, system)
    return system


def pin(backup: str | Path | Backup, settings: Source = None, *, off: bool = False) -> Backup:
    """Keep a backup whatever prune says, or no longer.

    :raises NotFound: there is no such backup.
    :raises Refused: it is not verified.
    """
    settings = work.locate(Settings.of(settings))
    source = find_backup(settings, backup)
    if not source.is_verified:
        raise Refused(f"{source.name} is not a verified backup, so prune never deletes it")
    if settings.dry:
        log.info("Would %s %s", "unpin" if off else "pin", source.name)
        return replace(source, pinned=not off)
    folder = source.path.parent
    with locked(folder, source.database, "pin", wait=10):
        return Store(folder).update(replace(manifest.read(source.path), pinned=not off))
