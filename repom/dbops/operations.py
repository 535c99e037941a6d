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

from ..errors import CommandFailed, NotFound, Refused, RepomError, SettingsError, Unreachable
from ..settings import Settings
from . import container, store
from .archive import Archive, recognise
from .commands import Login
from .database import Database, Facts, Kept
from .postgres import Postgres
from .sqlite import Sqlite
from .store import Backup, Identity, Store

log = logging.getLogger("repom")

#: A backup of less than this share of the last one's size deletes nothing.
SUSPICIOUS = 0.25


@dataclass(frozen=True)
class Plan:
    """A restore that could be carried out: everything that can be known before is known.

    :param existing: what it would replace; nothing when there is nothing.
    :param foreign: the file has no manifest, so nothing says that it is whole.
    :param going: kept databases that will go, since the replaced one takes their place.
    """

    settings: Settings
    database: Database
    backup: Backup
    archive: Archive
    existing: Facts | None
    going: tuple[Kept, ...] = ()
    owner: bool = True

    @property
    def foreign(self) -> bool:
        return not self.backup.counts


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


@dataclass(frozen=True)
class Verified:
    """What `verify` found. No problems: the backup passed all of `verified`."""

    name: str
    verified: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """Which backups stayed and which went, each with its reason."""

    kept: tuple[tuple[Backup, str], ...]
    deleted: tuple[tuple[Backup, str], ...]


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
    with _locked(settings, target, "backup", database.name), _aborting(database):
        facts = database.identify()
        last = _latest(target, identity(settings))
        draft = _draft(settings, database, facts, target, label)
        if settings.dry:
            return _dry_backup(database, draft)
        with target.writing(draft.name) as file:
            database.dump(file, draft.format)
            archive = _recognised(Path(file.name), draft.format)
            draft = replace(draft, tool_version=archive.tool or facts.server_version)
            made = target.publish(file, replace(draft, duration_s=_since(started)))
        if _may_prune(database, target, made, last):
            _prune(target, identity(settings), settings.keep)
    return made


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
        facts=described,
    )


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


def _latest(target: Store, which: Identity) -> Backup | None:
    return next((b for b in target.backups(which) if b.counts), None)


def _may_prune(database: Database, target: Store, made: Backup, last: Backup | None) -> bool:
    """Whether the new backup is trusted enough to push older ones out."""
    if last is None:
        return True
    if _is_other_server(database, made.system_identifier, target, made.identity):
        log.warning("This is another server than the last backup came from: nothing was pruned")
        return False
    tables, before = made.facts.get("tables", 0), last.facts.get("tables", 0)
    shrunk = made.format == last.format and made.size < last.size * SUSPICIOUS
    if shrunk or (before and not tables):
        log.warning(
            "The backup is much smaller than the last one (%d bytes and %s tables, was %d and %s): "
            "nothing was pruned",
            made.size,
            tables,
            last.size,
            before,
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
    owner: bool = True,
    remote: bool = False,
    jobs: int | None = None,
    via: str | None = None,
) -> Restored:
    """Replace the database by a backup, or make a new one of it.

    :param backup: a name in the store, the path of any dump, or a `Backup`.
    :param into: instead of the configured database, a new one of this name (SQLite: a
        path), which must not exist.
    :param owner: restore owners and grants; without, all belongs to this user.
    :param remote: a database on another machine is meant.
    :raises RepomError: the database holds what it held before.
    """
    settings = (settings or Settings.load()).having(jobs=jobs, via=via)
    plan = plan_restore(backup, settings, into=into, owner=owner, remote=remote)
    return carry_out(plan)


def plan_restore(
    backup: str | Path | Backup,
    settings: Settings,
    *,
    into: str | None = None,
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
    store.check(source)
    archive = recognise(source.path)
    _refuse_other_backend(archive, settings)
    if into:
        settings = replace(settings, database=_into(settings, into))
    database = open_database(settings, "psql" if archive.kind == "plain" else "pg_restore")
    if not remote:
        _refuse_remote(settings, database)
    existing = database.existing()
    if into and existing:
        raise Refused(f"{into} exists already", "Name a new one, or restore without --into")
    system = existing.system_identifier if existing else None
    if _is_other_server(database, system, target, identity(settings)):
        raise Refused(
            f"{database.fallback}, and the server on the host is not the one of the last backup",
            "Start the container, or add --via host if the host's server is meant",
        )
    going = database.kept()[max(0, settings.undo_keep - 1) :] if existing else []
    return Plan(settings, database, source, archive, existing, tuple(going), owner)


def _refuse_other_backend(archive: Archive, settings: Settings) -> None:
    if archive.backend != settings.backend:
        names = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
        raise Refused(
            f"{archive.path.name} is a backup of {names[archive.backend]}, "
            f"and the database is {names[settings.backend]}",
            "Set DATABASE_URL to the database that is meant",
        )


def _refuse_remote(settings: Settings, database: Database) -> None:
    """A restore on another machine must be meant, whether it is reached by the database's
    host or by the engine's."""
    engine = container.remote_endpoint(settings.docker) if database.via == "docker" else None
    elsewhere = settings.remote_host or engine
    if elsewhere:
        raise Refused(
            f"{database.name} is on another machine ({elsewhere})", "Add --remote if it is meant"
        )


def _into(settings: Settings, into: str) -> str:
    if settings.backend == "sqlite":
        return str(Path(into).expanduser().absolute())
    return into


def carry_out(plan: Plan) -> Restored:
    """Restore as planned: load a scratch database, check it, and swap it in."""
    started = time.monotonic()
    settings, database = plan.settings, plan.database
    target = Store(settings.backup_dir)
    names = sorted({database.name, plan.backup.database or database.name})
    with _locked(settings, target, "restore", *names), _aborting(database):
        if settings.dry:
            return _dry_restore(plan)
        database.sweep()
        facts = {**plan.backup.facts} if plan.backup.counts else None
        scratch = database.load(plan.archive, facts, owner=plan.owner)
        replaced = _swapped(database, scratch)
        if not settings.undo_keep and replaced:
            database.discard(replaced)
            replaced = None
        for old in database.kept()[settings.undo_keep :] if replaced else ():
            database.discard(old.name)
    return Restored(database.name, plan.backup.name, replaced, _since(started))


def _dry_restore(plan: Plan) -> Restored:
    log.info("Would restore %s into %s", plan.backup.path, plan.database.name)
    if plan.database.backend == "postgresql":
        plan.database.load(plan.archive, plan.backup.facts or None, owner=plan.owner)
    return Restored(plan.database.name, plan.backup.name, None, 0.0)


def _swapped(database: Database, scratch: str) -> str | None:
    try:
        return database.swap(scratch)
    except BaseException:
        database.abort()
        database.discard(scratch)
        raise


def undo(settings: Settings | None = None) -> Restored:
    """Put back what the last restore replaced, and keep what it had put in its place.

    :raises NotFound: there is nothing to put back.
    """
    settings = settings or Settings.load()
    started = time.monotonic()
    database = open_database(settings, "psql")
    with _locked(settings, Store(settings.backup_dir), "undo", database.name), _aborting(database):
        kept = database.kept()
        if not kept:
            raise NotFound(f"No restore of {database.name} can be undone", "Nothing was replaced")
        if settings.dry:
            log.info("Would put %s back", kept[0].name)
            return Restored(database.name, kept[0].name, None, 0.0)
        replaced = database.swap(kept[0].name)
    return Restored(database.name, kept[0].name, replaced, _since(started))


def undoable(settings: Settings) -> list[Kept]:
    """What `undo` could put back, newest first.

    :raises RepomError: the database cannot be asked.
    """
    return open_database(settings, "psql").kept()


def shell(settings: Settings) -> int:
    """A shell on the database, on this terminal; returns its exit status."""
    return open_database(settings, "psql").shell()


# -- the store --------------------------------------------------------------------------


def list_backups(settings: Settings | None = None) -> list[Backup]:
    """The backups in the store, of every database, newest first."""
    settings = settings or Settings.load()
    return Store(settings.backup_dir).backups()


def find_backup(settings: Settings, name: str | None = None) -> Backup:
    """A backup by name or path; without, the newest proven one of the database."""
    target = Store(settings.backup_dir)
    return target.find(name) if name else target.latest(identity(settings))


def verify(backup: str | Path | None = None, settings: Settings | None = None) -> Verified:
    """Compare a backup with its manifest and read its archive to the end.

    :param backup: a name or a path; without, the newest proven one.
    """
    settings = settings or Settings.load()
    source = find_backup(settings, str(backup) if backup else None)
    try:
        store.check(source)
        archive = recognise(source.path)
        for _block in archive.blocks():
            pass
    except RepomError as error:
        return Verified(source.name, (), (error.message,))
    passed = tuple(v for v in ("complete", "sha256") if source.counts)
    return Verified(source.name, passed, ())


def prune(settings: Settings | None = None, *, keep: int | None = None) -> Pruned:
    """Delete the backups of the configured database beyond the newest `keep`."""
    settings = (settings or Settings.load()).having(keep=keep)
    target = Store(settings.backup_dir)
    with _locked(settings, target, "prune", settings.database):
        return _prune(target, identity(settings), settings.keep, dry=settings.dry)


def pin(backup: str, settings: Settings | None = None, *, off: bool = False) -> Backup:
    """Keep a backup whatever prune says, or no longer."""
    settings = settings or Settings.load()
    target = Store(settings.backup_dir)
    source = target.find(backup)
    if not source.counts:
        raise Refused(f"{source.name} has no manifest, so prune leaves it anyway")
    return target.update(replace(source, pinned=not off))


def _prune(target: Store, which: Identity, keep: int, *, dry: bool = False) -> Pruned:
    staying, going = store.plan_prune(target.backups(which), keep)
    deleted: list[tuple[Backup, str]] = []
    for each in going:
        try:
            if not dry:
                target.delete(each)
            deleted.append((each, f"older than the newest {keep}"))
        except CommandFailed as error:
            log.warning("%s could not be deleted: %s", each.name, error)
    return Pruned(tuple((b, "among the newest") for b in staying), tuple(deleted))


# -- around every use case --------------------------------------------------------------


@contextmanager
def _locked(settings: Settings, target: Store, doing: str, *names: str) -> Iterator[None]:
    """Hold the locks of these databases, and clean up after runs that were killed."""
    if settings.dry:
        yield
        return
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(target.lock(name, doing))
            target.sweep(name)
        yield


@contextmanager
def _aborting(database: Database) -> Iterator[None]:
    """On failure, leave nothing running in the server: ending the client of `docker exec`
    leaves the program in the container."""
    try:
        yield
    except (Unreachable, SettingsError, NotFound, Refused):
        raise  # nothing was running
    except BaseException:
        database.abort()
        raise


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
