"""`backup`: write one verified backup, then prune."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from repom.dbops.archive.archive import Archive, recognise
from repom.dbops.store.backup import Backup, Origin
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, RepomError
from repom.runners.host import HostRunner
from repom.settings import Settings, Source

from . import work
from .database import Database
from .store import retention
from .work import open_database, since

log = logging.getLogger("repom")


def backup(
    settings: Source = None,
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
    given = Settings.of(settings).having(format=format, via=via, keep=keep)
    settings = work.locate(given, "pg_dump")
    Store.check_label(label)
    started = time.monotonic()
    database, target = open_database(settings, "pg_dump"), Store(settings.backup_dir)
    with work.on(settings, database, "backup"):
        draft = _draft(settings, database, target, label)
        strange = work.is_other_server(database, draft.system_identifier, target, draft.identity)
        if strange:
            log.warning("This may not be the server of the last backup: nothing will be pruned")
        if settings.dry:
            _dry_run(database, draft)
            return draft
        earlier = _earlier(target, draft)
        needed = earlier[0].size if earlier else 0
        with target.writing(draft.name, needed) as file:
            database.dump(file, draft.format)
            done = _checked(database, draft, Path(file.name))
            made = target.publish(file, replace(done, duration_s=since(started)))
        if not strange:
            retention.prune_after(target, made, earlier, settings.keep)
    return made


def _draft(settings: Settings, database: Database, target: Store, label: str | None) -> Backup:
    """What is known of the backup before it is written."""
    facts = database.identify()
    now = datetime.now(UTC).replace(microsecond=0)
    format = "sqlite" if database.backend == "sqlite" else settings.format
    name = target.next_name(database.name, format, label, now)
    recorded = ("format", "via", "keep", "user", "host", "port")  # no secret
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
        facts=facts,
        origin=Origin(
            commit=git_commit(settings.project),
            where=database.where,
            project=str(settings.project),
            settings={name: getattr(settings, name) for name in recorded},
        ),
    )


def git_commit(project: Path) -> str | None:
    """The commit that the project folder is at, if it is in a Git repository."""
    try:
        argv = ["git", "-C", str(project), "rev-parse", "--verify", "--quiet", "HEAD"]
        said = HostRunner().run(argv, warn=True, dry=False, timeout=5)
    except RepomError:
        return None
    return said.stdout.strip() or None


def _dry_run(database: Database, draft: Backup) -> None:
    log.info("Would write %s", draft.path)
    if database.backend == "postgresql":
        with Path(os.devnull).open("w+b") as nowhere:
            database.dump(nowhere, draft.format)


def _earlier(target: Store, draft: Backup) -> list[Backup]:
    """Verified backups of the same database, newest first; warns of what is odd."""
    if draft.facts.tables == 0:
        log.warning("%s has no tables: is it the right database?", draft.database)
    named = [b for b in target.backups(draft.identity) if b.is_verified]
    if named and not named[0].is_same_database_as(draft):
        log.warning(
            "Not pruning %s and older ones like it: they belong to another server or project",
            named[0].name,
        )
    if named and named[0].created_at > draft.created_at:
        log.warning("%s is dated in the future: is this machine's clock right?", named[0].name)
    return [b for b in named if b.is_same_database_as(draft)]


def _checked(database: Database, draft: Backup, path: Path) -> Backup:
    """What the dump itself tells of the backup.

    :raises CommandFailed: it is something else, such as a program's error message.
    """
    archive = recognise(path)
    if archive.kind != draft.format:
        raise CommandFailed("The dump did not produce a valid backup", "It was discarded")
    facts = replace(draft.facts, tables=_tables(draft, database, archive))
    return replace(draft, tool_version=archive.tool or draft.server_version, facts=facts)


def _tables(draft: Backup, database: Database, archive: Archive) -> int | None:
    """Tables in the backup: they may have changed since the database was asked. A plain
    file does not tell, so the count is unknown when the database says another one now."""
    known = draft.facts.tables
    if archive.kind != "plain":
        return known if archive.tables is None else archive.tables
    try:
        return known if database.identify().tables == known else None
    except RepomError:  # the dump is complete all the same
        return None
