"""`restore`: load a scratch database, check it, and swap it in."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from repom import progress
from repom.dbops.archive.archive import Archive
from repom.dbops.archive.hook import Hook, read_hooks
from repom.dbops.store.backup import Backup
from repom.errors import Refused, SettingsError
from repom.settings import Settings, Source
from repom.settings.values import expanded, legible

from . import work
from .database import Database, Kept, Survey
from .work import Restored, open_database, since

log = logging.getLogger("repom")

#: Bytes of a database's name that PostgreSQL keeps; it cuts longer ones without a word.
LONGEST_NAME = 63


@dataclass(frozen=True)
class Plan:
    """A restore that could be carried out: everything that can be known before is known.

    :param configured: as they were given; in `settings` the target of ``--into`` counts.
    :param survey: what it finds, and would replace.
    :param owner: restore owners and grants, too.
    :param in_place: load into the database itself.
    :param hooks: scripts that run in the loaded database before it takes over.
    :param engine: address of the container engine, when that is on another machine.
    """

    settings: Settings
    configured: Settings
    database: Database
    backup: Backup
    archive: Archive
    survey: Survey
    owner: bool = True
    in_place: bool = False
    engine: str = ""
    hooks: tuple[Hook, ...] = ()

    @property
    def foreign(self) -> bool:
        """Whether the file has no manifest, so that nothing says that it is whole."""
        return not self.backup.is_verified

    @property
    def origin(self) -> str:
        """Where the backup comes from, when that is another server or another project;
        for people."""
        if work.is_another(self.backup.system_identifier, self.survey.system_identifier):
            known = self.backup.origin.where
            return f"another server ({known})" if known else "another server"
        if self.backup.is_from_other_project(self.settings.project):
            return f"the project in {self.backup.origin.project}"
        return ""

    @property
    def to_delete(self) -> tuple[Kept, ...]:
        """Undo copies that this restore deletes, since the replaced database becomes the
        newest one."""
        return () if self.in_place else work.to_delete(self.settings, self.survey)


def restore(
    backup: str | Path | Backup,
    settings: Source = None,
    *,
    into: str | None = None,
    in_place: bool = False,
    owner: bool = True,
    remote: bool = False,
    jobs: int | None = None,
    via: str | None = None,
) -> Restored:
    """Replace the database by a backup, or make a new one of it.

    :param backup: a name in the store, the path of any dump, or a `Backup`.
    :param into: instead of the configured database, a new one of this name (SQLite: a
        path), which must not exist.
    :param in_place: load into the database itself in one transaction, for a user who may
        not create a database; nothing is kept for an undo.
    :param owner: restore owners and grants; without, all belongs to this user.
    :param remote: allow a database on another machine.
    :raises RepomError: the database holds what it held before.
    """
    settings = Settings.of(settings).having(jobs=jobs, via=via)
    how = {"in_place": in_place, "owner": owner, "remote": remote}
    return carry_out(plan_restore(backup, settings, into=into, **how))


def plan_restore(
    backup: str | Path | Backup,
    settings: Settings,
    *,
    into: str | None = None,
    in_place: bool = False,
    owner: bool = True,
    remote: bool = False,
) -> Plan:
    """Check all that can be checked without touching anything.

    :raises NotFound: no such backup.
    :raises Damaged: it is not what was written.
    :raises Refused: it belongs to another kind of database, or the wrong server answers.
    """
    settings = work.locate(settings, "pg_restore")
    source = work.find_backup(settings, backup)
    in_place = in_place and settings.backend != "sqlite"  # where every restore is
    hooks = read_hooks(settings.after_load, settings.backend)
    if in_place and hooks:
        raise Refused(
            "--in-place loads into the database itself, so no script can run before that",
            "Pass --no-after-load, or restore without --in-place",
        )
    archive = work.examined(source)
    _refuse_other_backend(archive, settings)
    configured = settings
    if into is not None:
        settings = settings.with_database(_into(settings, into))
    database = open_database(settings, "pg_restore" if archive.is_archive else "psql")
    with work.closed_on_failure(database):
        engine = work.engine_of(settings, database, remote)
        survey = database.survey()
        _refuse_target(database, survey, into, in_place)
        work.check_server(configured, database, survey.system_identifier, "--via host")
    how = (owner, in_place, engine, hooks)
    return Plan(settings, configured, database, source, archive, survey, *how)


def _refuse_target(database: Database, survey: Survey, into: str | None, in_place: bool) -> None:
    if into is not None and survey.exists:
        raise Refused(f"{into} exists already", "Name a new one, or restore without --into")
    if in_place and not survey.exists:
        raise Refused(f"There is no {database.name} to restore into", "Restore without --in-place")


def _refuse_other_backend(archive: Archive, settings: Settings) -> None:
    if archive.backend != settings.backend:
        kinds = {"sqlite": "a backup of SQLite", "plain": "SQL, a backup of PostgreSQL"}
        kind = kinds.get(archive.kind, "a backup of PostgreSQL")
        names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
        raise Refused(
            f"{archive.path.name} is {kind}, and the database is {names[settings.backend]}",
            f"Set DATABASE_URL to a {names[archive.backend]} database",
        )


def _into(settings: Settings, into: str) -> str:
    """:raises SettingsError: it cannot be the name of a new database."""
    if not into.strip() or "\0" in into:
        raise SettingsError(f"--into is {into!r}", "Name a new database (SQLite: a path)")
    if settings.backend != "sqlite":
        into = str(legible("--into", into))
        if len(into.encode(errors="surrogateescape")) > LONGEST_NAME:
            raise SettingsError(f"--into is {into!r}", f"Allowed: at most {LONGEST_NAME} bytes")
        return into
    path = expanded("--into", into).absolute()
    if path.is_dir() or into.endswith(("/", os.sep)):
        raise SettingsError(f"--into is {into!r}, a folder", "Name a file")
    return str(path)


def carry_out(plan: Plan) -> Restored:
    """Restore as planned: load a scratch database, check it, and swap it in."""
    started = time.monotonic()
    settings, database = plan.settings, plan.database
    if settings.dry:
        log.info("Would restore %s into %s", plan.backup.path, database.name)
        if database.backend == "sqlite":
            return Restored(database.name, plan.backup.name, None, 0.0)
    if not plan.survey.exists:
        log.info("Creating database %s", database.name)
    with work.on(settings, database, "restore", *work.names_in(plan.backup), replaces=True):
        plan = _confirmed(plan)
        database.sweep(plan.survey)
        replaced = _replace(plan)
    # What was no database, and was only put aside, pushes nothing out.
    gone = plan.to_delete if not settings.dry and (replaced or not settings.undo_keep) else ()
    for old in gone:
        log.info(
            "Deleting the older undo copy (REPOM_UNDO_KEEP is %d): %s", settings.undo_keep, old.name
        )
    return Restored(database.name, plan.backup.name, replaced, since(started))


def _confirmed(plan: Plan) -> Plan:
    """The same plan, surveyed again under the lock.

    :raises Refused: file or database are not what the user was asked about.
    """
    plan.archive.check_unchanged()
    survey = plan.database.survey()
    work.check_server(plan.configured, plan.database, survey.system_identifier, "--via host")
    work.check_same(plan.database.name, plan.survey, survey)
    return replace(plan, survey=survey)


def _replace(plan: Plan) -> str | None:
    database, facts = plan.database, work.proven_facts(plan.backup)
    expected = plan.archive.size if plan.archive.kind == "plain" else 0  # fed from here
    if plan.in_place:
        from repom.dbops.postgres.postgres import Postgres

        assert isinstance(database, Postgres)
        # Nothing protects the database from what a script does to its own transaction,
        # and a manifest beside a file from elsewhere may be forged.
        is_ours = work.is_in(plan.configured.backup_dir, plan.backup)
        trusted = is_ours and facts is not None
        with progress.phase(f"Loading {plan.backup.name}", expected):
            database.load_in_place(plan.archive, facts, owner=plan.owner, trusted=trusted)
        return None
    with progress.phase(f"Loading {plan.backup.name}", expected):
        scratch = database.load(
            plan.survey, plan.archive, facts, owner=plan.owner, hooks=plan.hooks
        )
    if plan.settings.dry:
        return None
    try:
        with progress.phase(f"Replacing {database.name}"):
            return database.swap(plan.survey, scratch, keep=plan.settings.undo_keep)
    except BaseException:
        database.abort()
        database.discard(scratch)
        raise
