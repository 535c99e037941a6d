"""The use cases: backup, restore, undo, verify and prune, in the order of their steps."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CommandFailed, NotFound, Refused, RepomError, SettingsError, advice
from ..settings import Settings, expanded
from . import store, work
from .archive import Archive, recognise
from .database import Database, Facts, Kept, Survey
from .postgres import Postgres
from .runner import HostRunner
from .store import Backup, Store
from .work import identity, open_database, since

log = logging.getLogger("repom")

#: A backup of less than this share of the last one's size deletes nothing.
SUSPICIOUS = 0.25
#: Bytes of a database's name that PostgreSQL keeps; it cuts longer ones without a word.
LONGEST_NAME = 63


@dataclass(frozen=True)
class Plan:
    """A restore that could be carried out: everything that can be known before is known.

    :param configured: as they were given; in `settings` the target of ``--into`` counts.
    :param survey: what it finds, and would replace.
    :param owner: restore owners and grants, too.
    :param in_place: load into the database itself.
    :param engine: address of the container engine, when the database is in a container.
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

    @property
    def foreign(self) -> bool:
        """Whether the file has no manifest, so that nothing says that it is whole."""
        return not self.backup.counts

    @property
    def origin(self) -> str:
        """Where the backup comes from, when that is another server or another project;
        for people."""
        if work.is_another(self.backup.system_identifier, self.survey.system_identifier):
            known = self.backup.facts.get("where")
            return f"another server ({known})" if known else "another server"
        if self.backup.is_of_another(self.settings.project):
            return f"the project in {self.backup.facts['project']}"
        return ""

    @property
    def going(self) -> tuple[Kept, ...]:
        """Kept databases that will go, since the replaced one takes their place."""
        if self.in_place or not self.survey.exists:
            return ()
        return self.survey.kept[max(0, self.settings.undo_keep - 1) :]


@dataclass(frozen=True)
class Restored:
    """What a restore or an undo did.

    :param database: the database that now holds the backup.
    :param backup: the backup's name, or for an undo where the old database was kept.
    :param replaced: where what it replaced is kept; nothing when there was nothing.
    :param duration_s: seconds.
    """

    database: str
    backup: str
    replaced: str | None
    duration_s: float


# -- backup -----------------------------------------------------------------------------


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
    store.check_label(label)
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
        target.check_space(_room(draft, earlier))
        made = _written(database, target, draft, started)
        if not strange and _may_prune(made, earlier):
            _prune(target, made, settings.keep)
    return made


def _prune(target: Store, made: Backup, keep: int) -> None:
    try:
        pruned = store.prune(target, made.identity, keep=keep, like=made)
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


def _room(draft: Backup, earlier: list[Backup]) -> int:
    """Bytes that the backup will take about: as the last one; SQLite is copied first."""
    copy = int(draft.facts["size"]) if draft.backend == "sqlite" else 0
    return copy + (earlier[0].size if earlier else 0)


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


# -- restore ----------------------------------------------------------------------------


def restore(
    backup: str | Path | Backup,
    settings: Settings | None = None,
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
    settings = (settings or Settings.load()).having(jobs=jobs, via=via)
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
    source = find(settings, backup)
    in_place = in_place and settings.backend != "sqlite"  # there it is no other way
    archive = work.examined(source)
    _refuse_other_backend(archive, settings)
    configured = settings
    if into is not None:
        settings = replace(settings, database=_into(settings, into))
    database = open_database(settings, "pg_restore" if archive.is_archive else "psql")
    engine = work.engine_of(settings, database, remote)
    survey = database.survey()
    _refuse_target(database, survey, into, in_place)
    work.check_server(configured, database, survey.system_identifier, "--via host")
    how = (owner, in_place, engine)
    return Plan(settings, configured, database, source, archive, survey, *how)


def find(settings: Settings, backup: str | Path | Backup) -> Backup:
    """A backup by name, label, beginning or path.

    :raises NotFound: there is none.
    :raises SettingsError: it is empty, or may mean several.
    """
    if isinstance(backup, Backup):
        return backup
    return Store(settings.backup_dir).find(str(backup), identity(settings))


def _refuse_target(database: Database, survey: Survey, into: str | None, in_place: bool) -> None:
    if into is not None and survey.exists:
        raise Refused(f"{into} exists already", "Name a new one, or restore without --into")
    if in_place and not survey.exists:
        raise Refused(f"There is no {database.name} to restore into", "Leave --in-place out")


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
        if len(into.encode(errors="surrogateescape")) > LONGEST_NAME:
            raise SettingsError(f"--into is {into!r}", f"Allowed: {LONGEST_NAME} bytes")
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
    others = [plan.backup.database] if plan.backup.database else []
    if not plan.survey.exists:
        log.info("Creating database %s", database.name)
    with work.on(settings, database, "restore", *others, replaces=True):
        plan = _confirmed(plan)
        database.sweep()
        replaced = _replace(plan)
    # What was no database, and was only put aside, pushes nothing out.
    gone = plan.going if not settings.dry and (replaced or not settings.undo_keep) else ()
    for old in gone:
        log.info(
            "Deleting the older undo copy (REPOM_UNDO_KEEP is %d): %s", settings.undo_keep, old.name
        )
    return Restored(database.name, plan.backup.name, replaced, since(started))


def _confirmed(plan: Plan) -> Plan:
    """The same plan, looked at again now that nobody else can change anything.

    :raises Refused: file or database are not what the user was asked about.
    """
    plan.archive.check_unchanged()
    survey = plan.database.survey()
    work.check_server(plan.configured, plan.database, survey.system_identifier)
    work.check_same(plan.database.name, plan.survey, survey)
    return replace(plan, survey=survey)


def _replace(plan: Plan) -> str | None:
    database, facts = plan.database, proven_facts(plan.backup)
    if plan.in_place and isinstance(database, Postgres):
        # Nothing protects the database from what a script does to its own transaction,
        # and a manifest beside a file from elsewhere may be forged.
        vouched = work.is_in(plan.configured.backup_dir, plan.backup)
        database.load_in_place(plan.archive, facts if vouched else None, owner=plan.owner)
        return None
    scratch = database.load(plan.archive, facts, owner=plan.owner)
    if plan.settings.dry:
        return None
    return _swapped(database, scratch, plan.settings.undo_keep)


def proven_facts(backup: Backup) -> dict[str, Any] | None:
    """What the manifest says of the database, when there is a good one."""
    return {**backup.facts} if backup.counts else None


def _swapped(database: Database, scratch: str, keep: int) -> str | None:
    try:
        return database.swap(scratch, keep=keep)
    except BaseException:
        database.abort()
        database.discard(scratch)
        raise


@dataclass(frozen=True)
class Undo:
    """An undo that could be carried out.

    :param survey: what it found.
    :param kept: what would be put back.
    :param engine: address of the container engine, when the database is in a container.
    """

    settings: Settings
    database: Database
    survey: Survey
    kept: Kept
    engine: str = ""


def undo(settings: Settings | None = None, *, remote: bool = False) -> Restored:
    """Put back what the last restore replaced, and keep what it had put in its place.

    :param remote: allow a database on another machine.
    :raises NotFound: there is nothing to put back.
    :raises Refused: it is on another machine, and that was not meant.
    """
    return carry_out_undo(plan_undo(settings or Settings.load(), remote=remote))


def plan_undo(settings: Settings, *, remote: bool = False) -> Undo:
    """What an undo would put back, without touching anything; raises as `undo`."""
    database = open_database(settings, "psql")
    engine = work.engine_of(settings, database, remote)
    survey = database.survey()
    work.check_server(settings, database, survey.system_identifier)
    if not survey.kept:
        raise NotFound(f"No restore of {database.name} can be undone", "Nothing was replaced")
    return Undo(settings, database, survey, survey.kept[0], engine)


def carry_out_undo(plan: Undo) -> Restored:
    """Undo as planned.

    :raises Refused: another restore has come between.
    """
    started, database, kept = time.monotonic(), plan.database, plan.kept
    if plan.settings.dry:
        log.info("Would put %s back", kept.name)
        return Restored(database.name, kept.name, None, 0.0)
    with work.on(plan.settings, database, "undo", replaces=True):
        survey = database.survey()
        work.check_server(plan.settings, database, survey.system_identifier)
        work.check_same(database.name, plan.survey, survey)
        replaced = database.swap(kept.name, keep=max(1, plan.settings.undo_keep))
    return Restored(database.name, kept.name, replaced, since(started))


def undoable(settings: Settings) -> tuple[Kept, ...]:
    """What `undo` could put back, newest first.

    :raises RepomError: the database cannot be asked.
    """
    return open_database(settings, "psql").survey().kept


def shell(settings: Settings) -> int:
    """A shell on the database, on this terminal; returns its exit status."""
    return open_database(settings, "psql").shell()
