"""`pull`: a backup of another database, restored here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from repom.dbops.archive.hook import Hook, read_hooks
from repom.dbops.postgres.failures import CONNECTION
from repom.dbops.postgres.postgres import Postgres
from repom.dbops.store.store import Store
from repom.errors import Refused, SettingsError, Unreachable, advice
from repom.runners.exec import ExecRunner
from repom.runners.host import new_session
from repom.settings import Settings
from repom.settings.address import PORT, Address

from . import work
from .backup import write
from .database import Facts, Survey
from .restore import Plan, carry_out
from .work import Restored, open_database

log = logging.getLogger("repom")

CHECK = "Check REPOM_PULL_URL or --source"
#: Parameters of a connection that name files of this host, which no container has.
FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"}


@dataclass(frozen=True)
class Pull:
    """A pull that could be carried out.

    :param settings: of the database here, `target`; `survey` is what it finds there.
    :param origin: the same for the other database, `source`; `facts` is what that says.
    """

    settings: Settings
    target: Postgres
    survey: Survey
    engine: str
    hooks: tuple[Hook, ...]
    origin: Settings
    source: Postgres
    facts: Facts


def plan_pull(settings: Settings, *, remote: bool = False) -> Pull:
    """Check all that can be checked without touching anything.

    :param remote: allow to replace a database on another machine.
    :raises Refused: both are the same database, or of different kinds.
    :raises Unreachable: one of them cannot be reached.
    """
    via = "host" if settings.via == "host" else "auto"
    given, settings = settings, work.locate(settings, "pg_restore")
    source_at = _source_of(settings)
    origin = replace(given, address=source_at, configured=True, left_open=(), via=via)
    origin = replace(origin, is_named=False, container=Settings.container, compose_service=None)
    hooks = read_hooks(settings.after_load, settings.backend)
    target = open_database(settings, "pg_restore")
    assert isinstance(target, Postgres)
    with work.closed_on_failure(target):
        engine, survey = work.engine_of(settings, target, remote), target.survey()
        work.check_server(settings, target, survey.system_identifier, "--via host")
        source = _opened(origin, target)
        with work.closed_on_failure(source), _told_of_source():
            facts = source.identify()
            if facts.tables == 0:
                raise Refused(f"{source.name} on {source.where} has no tables", CHECK)
            if survey.exists and target.is_same_as(source):
                what = f"{source.name} on {source.where} is the database that would be replaced"
                raise Refused(what, CHECK)
    return Pull(settings, target, survey, engine, hooks, origin, source, facts)


def _source_of(settings: Settings) -> Address:
    """:raises SettingsError, Refused: there is none, or not of the same kind."""
    source = settings.pull_url
    if source is None:
        raise SettingsError("No source to pull from", "Pass --source URL or set REPOM_PULL_URL")
    if isinstance(source, str) or settings.backend == "sqlite":
        raise Refused(
            "db.pull copies from PostgreSQL to PostgreSQL, and one of the two is SQLite",
            advice("Restore an SQLite file with: {}", "db.restore --backup PATH"),
        )
    return replace(source, port=source.port or PORT)


def _opened(origin: Settings, target: Postgres) -> Postgres:
    """The source, with the place where the programs run: in the project's own container, if
    they reach it from there and are not too old, else where they run for any server."""
    usual, own = open_database(origin, "pg_dump"), target.client.runner
    assert isinstance(usual, Postgres)
    # Inside a container, localhost is the container.
    is_here = origin.address.is_local or usual.via == "docker"
    places = [usual]
    if isinstance(own, ExecRunner) and not (is_here or FILES & dict(origin.address.options).keys()):
        inside = replace(own, trusts_local=False, session=new_session())
        places.insert(0, Postgres(inside, origin.address))
    for each in places:
        each.client.is_read_only = True
    return next(filter(_fits, places[:-1]), usual)


def _fits(source: Postgres) -> bool:
    """Whether the source can be dumped by the programs in the project's own container."""
    try:
        with work.closed_on_failure(source), _told_of_source():
            source.identify()  # this user may be let into no other database
            versions = source.client.versions
            if versions.psql // 10_000 < versions.major:
                raise Unreachable("its programs are older than the source's")
    except Unreachable as error:
        if source.client.login.password and "password" in error.message:
            raise
        log.info("Not using %s: %s", source.client.runner.where, error.message)
        return False
    log.info("Using the programs in %s", source.client.runner.where)
    return True


@contextmanager
def _told_of_source() -> Iterator[None]:
    """Have hints name the settings of the source."""
    try:
        yield
    except Unreachable as error:
        if error.hint not in {hint for _part, _message, hint in CONNECTION}:
            raise
        raise Unreachable(error.message, CHECK) from None


def carry_out_pull(
    plan: Pull, *, label: str | None = None, excluded: Sequence[str] = (), keep: bool = True
) -> Restored:
    """Back the source up, and restore that here, without owners.

    :param excluded: patterns of tables whose rows are left out.
    :param keep: leave the backup, which is not scrubbed, in the store.
    :raises RepomError: the database here holds what it held before.
    """
    settings, target = plan.settings, plan.target
    with closing(target):
        made = write(
            plan.origin, plan.source, label=label, excluded=excluded, pulled=True, prune=keep
        )
        if settings.dry:
            log.info("Would restore it into %s", target.name)
            return Restored(target.name, made.name, None, 0.0)
        try:
            archive, how = work.examined(made), (plan.engine, plan.hooks)
            whole = Plan(settings, settings, target, made, archive, plan.survey, False, False, *how)
            return carry_out(whole)
        finally:
            if not keep:
                Store(settings.backup_dir).delete(made)
                log.info("Deleted %s", made.name)
