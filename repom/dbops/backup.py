"""`backup`: write one verified backup, then prune."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from repom import progress
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
    exclude_table_data: Sequence[str] = (),
    if_older: timedelta | None = None,
) -> Backup:
    """Write one verified backup and prune older ones of the same database.

    :param exclude_table_data: patterns of tables whose rows are left out; see `write`.
    :param if_older: write none, and return the newest one, while that is younger.
    :returns: the backup; in a dry run one that was not written, with size 0.
    :raises RepomError: nothing was written, and nothing was deleted.
    """
    given = Settings.of(settings).having(format=format, via=via, keep=keep)
    settings = work.locate(given, "pg_dump")
    Store.check_label(label)
    database = open_database(settings, "pg_dump")
    return write(settings, database, label=label, excluded=exclude_table_data, if_older=if_older)


def write(
    settings: Settings,
    database: Database,
    *,
    label: str | None = None,
    excluded: Sequence[str] = (),
    if_older: timedelta | None = None,
    pulled: bool = False,
    prune: bool = True,
) -> Backup:
    """The same of a database that is open, and is closed by this.

    :param excluded: patterns of tables, as of pg_dump's ``--exclude-table-data``. Such a
        backup is not a whole one: ``--latest`` leaves it out, and it pushes no whole one out.
    :param pulled: the database is another one than the project's own.
    """
    started = time.monotonic()
    target = Store(settings.backup_dir)
    with work.on(settings, database, "backup"):
        draft = _draft(settings, database, target, label)
        draft = replace(draft, partial=tuple(excluded), pulled=pulled)
        strange = work.is_other_server(database, draft.system_identifier, target, draft.identity)
        if strange:
            log.warning("This may not be the server of the last backup: nothing will be pruned")
        if if_older and (recent := _recent(target, draft, if_older)):
            return recent
        if settings.dry:
            _dry_run(database, draft)
            return draft
        earlier = _earlier(target, draft)
        needed = earlier[0].size if earlier else 0
        with target.writing(draft.name, needed) as file:
            expected = needed if database.backend == "postgresql" else 0  # its bytes are counted
            with progress.phase(f"Dumping {database.name}", expected):
                database.dump(file, draft.format, excluded)
            with progress.phase(f"Checking {draft.name}"):
                done = _checked(database, draft, Path(file.name))
                made = target.publish(file, replace(done, duration_s=since(started)))
        if prune and not strange:
            retention.prune_after(target, made, earlier, settings.keep)
    return made


def _draft(settings: Settings, database: Database, target: Store, label: str | None) -> Backup:
    """What is known of the backup before it is written."""
    facts = database.identify()
    now = datetime.now(UTC).replace(microsecond=0)
    format = "sqlite" if database.backend == "sqlite" else settings.format
    commit, branch = git_state(settings.project)
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
            commit=commit,
            branch=branch,
            where=database.where,
            project=str(settings.project),
            settings={name: getattr(settings, name) for name in recorded},
        ),
    )


def git_state(project: Path) -> tuple[str | None, str | None]:
    """The commit and the branch that the project folder is at, as far as there are any."""
    try:
        argv = ["git", "-C", str(project), "rev-parse", "HEAD", "--abbrev-ref", "HEAD"]
        said = HostRunner().run(argv, warn=True, dry=False, timeout=5)
    except RepomError:
        return None, None
    lines = said.stdout.split()
    if not said.ok or len(lines) != 2:  # no repository, or one without a commit
        return None, None
    return lines[0], lines[1] if lines[1] != "HEAD" else None


def _dry_run(database: Database, draft: Backup) -> None:
    log.info("Would write %s", draft.path)
    if database.backend == "postgresql":
        with Path(os.devnull).open("w+b") as nowhere:
            database.dump(nowhere, draft.format, draft.partial)


def _recent(target: Store, draft: Backup, age: timedelta) -> Backup | None:
    """The newest verified backup of the same database, if it is younger; one from the
    future does not tell its age."""
    same = (b for b in target.backups(draft.identity) if b.is_same_database_as(draft))
    whole = (b for b in same if b.is_verified and b.partial in ((), draft.partial))
    ages = ((draft.created_at - b.created_at, b) for b in whole)
    return next((b for old, b in ages if timedelta() <= old < age), None)


def _earlier(target: Store, draft: Backup) -> list[Backup]:
    """Verified backups of the same database, newest first; warns of what is odd."""
    if draft.facts.tables == 0:
        log.warning("%s has no tables: is it the right database?", draft.database)
    every = target.backups(draft.identity)
    named = [b for b in every if b.is_verified and b.is_guest == draft.is_guest]
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
    size = 0 if draft.partial else draft.facts.size  # how much less is not known
    facts = replace(draft.facts, tables=_tables(draft, database, archive), size=size)
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
