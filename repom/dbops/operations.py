"""The use cases: backup, restore, undo, verify and prune, in the order of their steps."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import CommandFailed, NotFound, Refused, RepomError, SettingsError, Unreachable
from ..settings import Settings
from . import container, store
from .archive import Archive, recognise
from .commands import Login
from .database import Database, Facts, Kept, Survey
from .postgres import Postgres
from .runner import HostRunner
from .sqlite import Sqlite
from .store import Backup, Identity, Store

log = logging.getLogger("repom")

#: A backup of less than this share of the last one's size deletes nothing.
SUSPICIOUS = 0.25


@dataclass(frozen=True)
class Plan:
    """A restore that could be carried out: everything that can be known before is known.

    :param survey: what it finds, and would replace.
    :param owner: restore owners and grants, too.
    :param in_place: load into the database itself.
    :param engine: address of the container engine, when the database is in a container.
    """

    settings: Settings
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


def open_database(settings: Settings, tool: str) -> Database:
    """The configured database, with the place where its programs run decided.

    :param tool: the program that is about to run, for the message of a fallback.
    """
    if settings.backend == "sqlite":
        return Sqlite(settings.sqlite_path, settings.database)
    runner = container.choose(
        via=settings.via,
        docker=settings.docker,
        name=settings.container,
        service=settings.compose_service,
        project=settings.project,
        host=settings.host,
        port=settings.port,
        tool=tool,
        echo=settings.echo,
        dry=settings.dry,
    )
    login = Login(
        settings.database,
        settings.user,
        settings.password,
        settings.host,
        settings.port,
        settings.options,
    )
    return Postgres(runner, login, jobs=settings.jobs)


def identity(settings: Settings) -> Identity:
    """Which database the settings mean, as far as backups are concerned."""
    return settings.backend, settings.database, settings.remote_host


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
    started = time.monotonic()
    database, target = open_database(settings, "pg_dump"), Store(settings.backup_dir)
    with locked(settings, database, "backup"), aborting(database):
        draft = _draft(settings, database, database.identify(), target, label)
        if settings.dry:
            return _dry_backup(database, draft)
        earlier = _earlier(target, draft)
        target.check_space(_room(draft, earlier))
        made = _written(database, target, draft, started)
        if _may_prune(made, earlier):
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
        log.warning("%s has no table: is it the right database?", draft.database)
    named = [b for b in target.backups(draft.identity) if b.counts]
    if named and not named[0].is_like(draft):
        log.warning(
            "%s is from another server or project folder: this backup deletes none of those",
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
        draft = replace(_recounted(draft, database), tool_version=tool)
        return target.publish(file, replace(draft, duration_s=since(started)))


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
        host=_host(settings, database, facts, target),
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


def _host(settings: Settings, database: Database, facts: Facts, target: Store) -> str | None:
    """The server that makes it another database. A fallback that reached another server
    than the container's must not pass for it, neither for prune nor for ``--latest``."""
    if _is_other_server(database, facts.system_identifier, target, identity(settings)):
        log.warning("This is another server than the last backup came from: nothing is pruned")
        return database.where
    return settings.remote_host


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
        raise CommandFailed("What came out of the dump is no backup", "Nothing was kept")
    return archive


def _recounted(draft: Backup, database: Database) -> Backup:
    """A restore compares its tables with the manifest's. When somebody made or dropped one
    during the dump, nobody knows how many are in it, and then there is nothing to compare."""
    same = database.identify().tables == draft.facts["tables"]
    return draft if same else replace(draft, facts={**draft.facts, "tables": None})


def _may_prune(made: Backup, earlier: list[Backup]) -> bool:
    """Whether the new backup is trusted enough to push older ones out: compared with all of
    them, since the first bad one would vouch for the next."""
    tables = made.facts.get("tables")
    for old in earlier:
        shrunk = made.format == old.format and made.size < old.size * SUSPICIOUS
        if shrunk or (tables == 0 and old.facts.get("tables")):
            log.warning(
                "The backup is much smaller than %s (%d bytes, was %d): nothing was pruned; "
                "if that is meant: invoke db.prune",
                *(old.name, made.size, old.size),
            )
            return False
    return True


def _is_other_server(
    database: Database, system: str | None, target: Store, which: Identity
) -> bool:
    """Whether a fallback to the host reached a server that is not the container's: not
    the one of the newest backup that the container made, or else of the newest at all."""
    if not (database.fallback and system):
        return False
    proven = [b for b in target.backups(which) if b.counts and b.system_identifier]
    known = next((b for b in proven if b.via == "docker"), proven[0] if proven else None)
    return known is not None and known.system_identifier != system


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
    :param remote: a database on another machine is meant.
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
    target = Store(settings.backup_dir)
    source = backup if isinstance(backup, Backup) else target.find(str(backup))
    in_place = in_place and settings.backend != "sqlite"  # there it is no other way
    store.check(source)
    archive = recognise(source.path)
    _refuse_other_backend(archive, settings)
    if into:
        settings = replace(settings, database=_into(settings, into))
    database = open_database(settings, "psql" if archive.kind == "plain" else "pg_restore")
    engine = _engine(settings, database, remote)
    survey = database.survey()
    _refuse_target(database, survey, into, in_place)
    if _is_other_server(database, survey.system_identifier, target, identity(settings)):
        raise Refused(
            f"{database.fallback}, and the server on the host is not the one of the last backup",
            "Start the container, or add --via host if the host's server is meant",
        )
    return Plan(settings, database, source, archive, survey, owner, in_place, engine)


def _refuse_target(database: Database, survey: Survey, into: str | None, in_place: bool) -> None:
    if into and survey.exists:
        raise Refused(f"{into} exists already", "Name a new one, or restore without --into")
    if in_place and not survey.exists:
        raise Refused(f"There is no {database.name} to restore into", "Leave --in-place out")


def _refuse_other_backend(archive: Archive, settings: Settings) -> None:
    if archive.backend != settings.backend:
        kinds = {"sqlite": "a backup of SQLite", "custom": "a backup of PostgreSQL"}
        kind = kinds.get(archive.kind, "SQL, a backup of PostgreSQL")
        names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
        raise Refused(
            f"{archive.path.name} is {kind}, and the database is {names[settings.backend]}",
            "Set DATABASE_URL to the database that is meant",
        )


def _engine(settings: Settings, database: Database, remote: bool) -> str:
    """The container engine's address, if one is used.

    :param remote: whether a database on another machine is meant, be it reached by its
        own host or by the engine's.
    :raises Refused: it is on another machine, and that was not meant.
    """
    engine = container.endpoint(settings.docker) if database.via == "docker" else ""
    elsewhere = settings.remote_host or (engine if container.is_remote(engine) else None)
    if elsewhere and not remote:
        raise Refused(
            f"{database.name} is on another machine ({elsewhere})", "Add --remote if it is meant"
        )
    return engine


def _into(settings: Settings, into: str) -> str:
    if settings.backend == "sqlite":
        try:
            return str(Path(into).expanduser().absolute())
        except RuntimeError as error:
            raise SettingsError(f"--into is {into!r}: {error}") from None
    return into


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
        log.info("There is no %s yet: it is made", database.name)
    with locked(settings, database, "restore", *others), aborting(database):
        database.sweep()
        replaced = _replace(plan)
    # What was no database, and was only put aside, pushes nothing out.
    gone = plan.going if not settings.dry and (replaced or not settings.undo_keep) else ()
    for old in gone:
        log.info("No longer kept, since REPOM_UNDO_KEEP is %d: %s", settings.undo_keep, old.name)
    return Restored(database.name, plan.backup.name, replaced, since(started))


def _replace(plan: Plan) -> str | None:
    database, facts = plan.database, proven_facts(plan.backup)
    if plan.in_place and isinstance(database, Postgres):
        database.load_in_place(plan.archive, facts, owner=plan.owner)
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

    :param kept: what would be put back.
    :param engine: address of the container engine, when the database is in a container.
    """

    settings: Settings
    database: Database
    kept: Kept
    engine: str = ""


def undo(settings: Settings | None = None, *, remote: bool = False) -> Restored:
    """Put back what the last restore replaced, and keep what it had put in its place.

    :param remote: a database on another machine is meant.
    :raises NotFound: there is nothing to put back.
    :raises Refused: it is on another machine, and that was not meant.
    """
    return carry_out_undo(plan_undo(settings or Settings.load(), remote=remote))


def plan_undo(settings: Settings, *, remote: bool = False) -> Undo:
    """What an undo would put back, without touching anything; raises as `undo`."""
    database = open_database(settings, "psql")
    engine = _engine(settings, database, remote)
    return Undo(settings, database, _newest_kept(database), engine)


def _newest_kept(database: Database) -> Kept:
    kept = database.survey().kept
    if not kept:
        raise NotFound(f"No restore of {database.name} can be undone", "Nothing was replaced")
    return kept[0]


def carry_out_undo(plan: Undo) -> Restored:
    """Undo as planned.

    :raises Refused: another restore has come between.
    """
    started, database, kept = time.monotonic(), plan.database, plan.kept
    with locked(plan.settings, database, "undo"), aborting(database):
        if plan.settings.dry:
            log.info("Would put %s back", kept.name)
            return Restored(database.name, kept.name, None, 0.0)
        if _newest_kept(database).name != kept.name:
            raise Refused(f"{database.name} was restored meanwhile", "Look, and undo again")
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


# -- around every use case --------------------------------------------------------------


@contextmanager
def locked(settings: Settings, database: Database, doing: str, *names: str) -> Iterator[None]:
    """Hold the lock of the database and of others by name, and clean up after runs that
    were killed: their files, and what they had going on in the server."""
    if settings.dry:
        yield
        return
    target = Store(settings.backup_dir)
    with ExitStack() as stack:
        for name in sorted({database.name, *names}):
            killed = stack.enter_context(target.lock(name, doing, database.session))
            if killed:
                database.abort(killed)
            target.sweep(name)
        if doing in ("restore", "undo"):
            stack.enter_context(database.exclusive(doing))
        yield


@contextmanager
def aborting(database: Database) -> Iterator[None]:
    """On failure, leave nothing running in the server: ending the client of `docker exec`
    leaves the program in the container."""
    try:
        yield
    except (Unreachable, SettingsError, NotFound, Refused):
        raise  # nothing was running
    except BaseException:
        database.abort()
        raise


def since(started: float) -> float:
    return round(time.monotonic() - started, 3)
