"""`backup`: write one verified backup, then prune."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repom.dbops.archive.archive import Archive, recognise
from repom.dbops.store.backup import Backup
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, RepomError, advice
from repom.runners.host import HostRunner
from repom.settings import Settings

from . import work
from .database import Database, Facts
from .store import names, retention
from .work import identity, open_database, since

log = logging.getLogger("repom")

#: A backup of less than this share of the last one's size deletes nothing.
SUSPICIOUS = 0.25


def backup(
    settings: Settings | None = None,
    *,
    label: str | None = None,
    format: str | None = None,
    via: str | None = None,
    keep: int | None = None,
) -> Backup:
    """Write one verified backup and prune older ones of the same database.

    :returns: the backup; in a dry run one that was not written, with size 0.
    :raises RepomError: nothing was written, and nothing was deleted.
    """
    settings = (settings or Settings.load()).having(format=format, via=via, keep=keep)
    names.check_label(label)
    started = time.monotonic()
    database, target = open_database(settings, "pg_dump"), Store(settings.backup_dir)
    with work.on(settings, database, "backup"):
        draft = _draft(settings, database, database.identify(), target, label)
        strange = work.is_other_server(
            database, draft.system_identifier, target, identity(settings)
        )
        if strange:
            log.warning("This may not be the server of the last backup: nothing will be pruned")
        if settings.dry:
            return _dry_backup(database, draft)
        earlier = _earlier(target, draft)
        target.check_space(earlier[0].size if earlier else 0)  # it will be about as large
        made = _written(database, target, draft, started)
        if not strange and _may_prune(made, earlier):
            _prune(target, made, settings.keep)
    return made


def _prune(target: Store, made: Backup, keep: int) -> None:
    try:
        pruned = retention.prune(target, made.identity, keep=keep, like=made)
    except OSError as error:  # the backup is there all the same
        log.warning("Older backups were not pruned: %s", error.strerror)
        return
    for gone, _reason in pruned.deleted:
        log.info("Deleted an older backup: %s", gone.name)


def _earlier(target: Store, draft: Backup) -> list[Backup]:
    """Proven backups of the same database, newest first; tells what is odd about them."""
    if draft.facts["tables"] == 0:
        log.warning("%s has no tables: is it the right database?", draft.database)
    named = [b for b in target.backups(draft.identity) if b.counts]
    if named and not named[0].is_like(draft):
        log.warning(
            "Not pruning %s and older ones like it: they belong to another server or project",
            named[0].name,
        )
    if named and named[0].created_at > draft.created_at:
        log.warning("%s is dated in the future: is this machine's clock right?", named[0].name)
    return [b for b in named if b.is_like(draft)]


def _written(database: Database, target: Store, draft: Backup, started: float) -> Backup:
    with target.writing(draft.name) as file:
        database.dump(file, draft.format)
        archive = _recognised(Path(file.name), draft.format)
        tool = archive.tool or draft.server_version
        facts = {**draft.facts, "tables": _counted(draft, database, archive)}
        done = replace(draft, tool_version=tool, facts=facts, duration_s=since(started))
        return target.publish(file, done)


def _draft(
    settings: Settings, database: Database, facts: Facts, target: Store, label: str | None
) -> Backup:
    now = datetime.now(UTC).replace(microsecond=0)
    format = "sqlite" if database.backend == "sqlite" else settings.format
    name = target.next_name(database.name, format, label, now)
    described = asdict(facts)
    return Backup(
        name=name,
        path=target.folder / name,
        database=database.name,
        backend=database.backend,
        format=format,
        created_at=now,
        size=0,
        label=label,
        via=database.via,
        host=settings.remote_host,
        server_version=described.pop("server_version"),
        system_identifier=described.pop("system_identifier"),
        facts={**described, **_origin(settings, database)},
    )


def _origin(settings: Settings, database: Database) -> dict[str, Any]:
    """Where a backup comes from and with what settings it was made; no secret."""
    names = ("format", "via", "keep", "user", "host", "port")
    return {
        "commit": commit(settings.project),
        "where": database.where,
        "project": str(settings.project),
        "settings": {name: getattr(settings, name) for name in names},
    }


def commit(project: Path) -> str | None:
    """The git commit that the project folder is at, when there is one."""
    try:
        argv = ["git", "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
        said = HostRunner().run(argv, warn=True, dry=False, timeout=5)
    except RepomError:
        return None
    return said.stdout.strip() or None


def _dry_backup(database: Database, draft: Backup) -> Backup:
    log.info("Would write %s", draft.path)
    if database.backend == "postgresql":
        with Path(os.devnull).open("w+b") as nowhere:
            database.dump(nowhere, draft.format)
    return draft


def _recognised(path: Path, format: str) -> Archive:
    """What was written, by its content: a program's error message is no backup."""
    archive = recognise(path)
    if archive.kind != format:
        raise CommandFailed("The dump did not produce a valid backup", "It was discarded")
    return archive


def _counted(draft: Backup, database: Database, archive: Archive) -> int | None:
    """Tables in the backup, which may have come or gone since the database was asked. A
    plain file does not tell: then nobody knows if the database says another number now."""
    known: int | None = draft.facts["tables"]
    if archive.kind != "plain":
        return known if archive.tables is None else archive.tables
    return known if database.identify().tables == known else None


def _may_prune(made: Backup, earlier: list[Backup]) -> bool:
    """Whether the new backup is trusted enough to push older ones out: compared with all of
    them, since the first bad one would vouch for the next."""
    tables = made.facts.get("tables")
    for old in earlier:
        shrunk = made.format == old.format and made.size < old.size * SUSPICIOUS
        if shrunk or (tables == 0 and old.facts.get("tables")):
            log.warning(
                "The backup is much smaller than %s (%d bytes, was %d): nothing was pruned. "
                "If the database was meant to shrink: %s",
                *(old.name, made.size, old.size, advice("{}", "db.prune")),
            )
            return False
    return True
