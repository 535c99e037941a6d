"""One verb at work on one database: opened, known to be the right one, locked, and
cleaned up after. Every verb comes through here."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from repom import progress
from repom.dbops.archive.archive import Archive, recognise, stamp_of
from repom.dbops.store.backup import Backup, Identity
from repom.dbops.store.lock import locked
from repom.dbops.store.storage import ReadOnlyStore
from repom.dbops.store.store import Store
from repom.errors import Refused, RepomError, Unreachable, advice
from repom.runners import choose, engine
from repom.runners.choose import Located
from repom.settings import Settings

from .database import Database, Facts, Kept, Survey
from .store import manifest

log = logging.getLogger("repom")

#: Bytes that a database may grow by, and times that it may double, while its user is asked.
GROWTH, FACTOR = 10_000_000, 2


def locate(settings: Settings, tool: str = "psql") -> Located:
    """Find out which database the settings mean, and say so, once for a whole task: what is
    returned is passed on as settings.

    :param tool: the program that is about to run, for the message of a fallback.
    """
    if isinstance(settings, Located):
        return settings
    located = choose.locate(settings)
    choice = located.choice
    if choice.fallback and choice.container:
        log.warning("%s, using host %s", choice.fallback, tool)
    elif choice.reason and not choice.problem:
        log.info("%s", choice.reason)
    for warning in choice.warnings:
        log.warning("%s", warning)
    return located


def open_database(settings: Settings, tool: str) -> Database:
    """The database that the settings mean.

    :param tool: see `locate`, which is done here for settings that it did not see.
    :raises RepomError: it cannot be used, for the reason that the choice gives.
    """
    located = locate(settings, tool)
    choice = located.choice
    if choice.problem:
        raise choice.problem
    # Each kind takes some 20 ms to import, and a task needs one of them.
    if located.backend == "sqlite":
        from repom.dbops.sqlite.sqlite import Sqlite

        return Sqlite(located.sqlite_path, located.database)
    from repom.dbops.postgres.postgres import Postgres

    runner, address = choice.runner(located), located.address
    return Postgres(runner, address, jobs=located.jobs, fallback=choice.fallback)


def check_writable(settings: Settings) -> None:
    """:raises Refused: the database is behind another project's container."""
    choice = locate(settings).choice
    named = f"REPOM_CONTAINER={choice.container.name}" if choice.container else "REPOM_VIA=host"
    if choice.refusal:
        raise Refused(choice.refusal, f"To change it all the same, set {named}")


def identity(settings: Settings) -> Identity:
    """Which database the settings mean, as far as backups are concerned."""
    return settings.backend, settings.database, settings.remote_host


def engine_of(settings: Settings, database: Database, remote: bool) -> str:
    """The address of the container engine, if one on another machine is used.

    :param remote: whether a database on another machine is allowed, be it reached by its
        own host or by the engine's.
    :raises Refused: it is on another machine, and that was not allowed; or another project's.
    """
    check_writable(settings)
    endpoint = engine.endpoint(settings.docker) if database.via == "docker" else ""
    remote_engine = endpoint if engine.is_remote(endpoint) else ""
    elsewhere = settings.remote_from(database.via) or remote_engine
    if elsewhere and not remote:
        raise Refused(
            f"{database.name} is on another machine ({elsewhere})", "Pass --remote to allow it"
        )
    return remote_engine


# -- the right server ---------------------------------------------------------------------


def system_of(settings: Settings) -> str | None:
    """Identifies the configured server, or the SQLite file's project; nothing when it
    cannot be asked."""
    with suppress(RepomError), closing(open_database(settings, "psql")) as database:
        found = database.survey().system_identifier
        if found is None and database.backend == "sqlite":
            found = database.identify().system_identifier
        return found
    return None


def is_other_server(database: Database, system: str | None, target: Store, which: Identity) -> bool:
    """Whether a fallback to the host reached a server that is not the container's: not
    the one of the newest backup that the container made, or else of the newest at all.
    Where a user may not ask for the identity, a server that was reached another way than
    the one that made the backup is another one."""
    if not database.fallback:
        return False
    proven = [b for b in target.backups(which) if b.is_verified and not b.is_guest]
    made_inside = next((b for b in proven if b.via == "docker"), None)
    known = made_inside or next((b for b in proven if b.system_identifier), None)
    if known is None:
        return False
    if known.system_identifier and system:
        return known.system_identifier != system
    return known is made_inside


def check_server(
    settings: Settings,
    database: Database,
    system: str | None,
    allowed_by: str = "REPOM_VIA=host",
) -> None:
    """Asked before anything is changed or deleted.

    :param settings: those of the configured database, of which the store has backups.
    :param allowed_by: what a user adds to have the host's server used all the same.
    :raises Refused: a fallback reached another server than the last backup came from.
    """
    if is_other_server(database, system, Store(settings.backup_dir), identity(settings)):
        raise Refused(
            f"{database.fallback}, and the server that answers on {database.where} is not the"
            " one of the last backup",
            advice(
                f"Start the container with: {{}}. To use the host's server: {allowed_by}",
                "postgres.start",
            ),
        )


def check_same(name: str, before: Survey, now: Survey) -> None:
    """What is done must be what was confirmed.

    :raises Refused: the database is not as it was when its user was asked.
    """
    for changed, what in (
        (is_another(before.system_identifier, now.system_identifier), "another server answers"),
        (before.exists != now.exists, "it was created or removed"),
        ([k.name for k in before.kept] != [k.name for k in now.kept], "another restore ran"),
        (now.size > before.size * FACTOR + GROWTH, "it has grown"),
    ):
        if changed:
            raise Refused(
                f"{name} changed in the meantime: {what}",
                "Nothing was replaced; check the database, then run the command again",
            )


def is_another(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and one != other


def examined(backup: Backup) -> Archive:
    """A backup's file, compared with its manifest and recognised, both in one state of it.

    :raises Damaged: it is not what was written.
    :raises Refused: it changed meanwhile, or is not restored from here.
    """
    stamp = stamp_of(backup.path)
    with progress.phase(f"Checking {backup.name}"):
        manifest.check(backup)
        archive = recognise(backup.path)
    if archive.stamp != stamp:
        raise Refused(f"{backup.name} changed while it was read", "Run the command again")
    return archive


# -- around every verb --------------------------------------------------------------------


@contextmanager
def on(
    settings: Settings, database: Database, doing: str, *names: str, replaces: bool = False
) -> Iterator[None]:
    """Hold the locks, clean up after runs that were killed, and leave nothing running.

    :param doing: the verb, for the message to another process that finds it locked.
    :param names: other databases whose backups must not be pruned meanwhile.
    :param replaces: the verb replaces the database, so it is locked in the server, too;
        then a store that cannot be written to needs no lock of its own.
    """
    with closing(database), ExitStack() as stack:
        if settings.dry:
            yield
            return
        try:
            _lock(stack, settings, database, doing, sorted({database.name, *names}))
        except ReadOnlyStore:
            if doing not in ("restore", "undo", "drill"):
                raise
            log.info(
                "%s cannot be written to: continuing without a lock there", settings.backup_dir
            )
        stack.callback(database.close)  # before the next run gets the lock
        if replaces:
            stack.enter_context(database.exclusive(doing))
        with aborting(database):
            yield


def _lock(
    stack: ExitStack, settings: Settings, database: Database, doing: str, names: Iterable[str]
) -> None:
    target = Store(settings.backup_dir)
    for name in names:
        lock = locked(settings.backup_dir, name, doing, database.session)
        killed = stack.enter_context(lock)
        if killed:
            database.abort(killed)
        target.sweep(name)


@contextmanager
def closed_on_failure(database: Database) -> Iterator[None]:
    """For a plan, which otherwise keeps the database open for carrying it out."""
    try:
        yield
    except BaseException:
        database.close()
        raise


@contextmanager
def aborting(database: Database) -> Iterator[None]:
    """On failure, leave nothing running in the server: ending the client of `docker exec`
    leaves the program in the container."""
    try:
        yield
    except Unreachable:
        raise  # there is no server to ask
    except BaseException:
        database.abort()
        raise


@dataclass(frozen=True)
class Restored:
    """What a restore or an undo did.

    :param database: the database that now holds the backup.
    :param backup: the backup's name, or for an undo where the old database was kept.
    :param replaced: where the undo copy is; ``None`` when nothing was replaced.
    :param duration_s: seconds.
    """

    database: str
    backup: str
    replaced: str | None
    duration_s: float


def find_backup(settings: Settings, backup: str | Path | Backup | None = None) -> Backup:
    """A backup by name, label, beginning or path; by default the newest verified one of the
    database.

    :raises NotFound: there is none.
    :raises SettingsError: the name is empty, or several backups match.
    """
    if isinstance(backup, Backup):
        return backup
    settings = locate(settings)
    target = Store(settings.backup_dir)
    if backup is not None:
        return target.find(str(backup), identity(settings))
    system = lambda: system_of(replace(settings, dry=False))  # noqa: E731
    return target.latest(identity(settings), settings.project, system)


def to_delete(settings: Settings, found: Survey) -> tuple[Kept, ...]:
    """Undo copies that a restore deletes, since the replaced database becomes the newest."""
    return found.kept[max(0, settings.undo_keep - 1) :] if found.exists else ()


def proven_facts(backup: Backup) -> Facts | None:
    """What the manifest says of the database; ``None`` when the manifest proves nothing."""
    return backup.facts if backup.is_verified else None


def names_in(backup: Backup) -> list[str]:
    """The database that a backup is of, whose other backups are not pruned meanwhile."""
    return [backup.database] if backup.database else []


def since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def is_in(folder: Path, backup: Backup) -> bool:
    """Whether a backup lies in the store: a manifest anywhere else vouches for nothing."""
    return backup.path.parent.resolve() == folder.resolve()
