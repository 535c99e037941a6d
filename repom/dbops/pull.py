"""`pull`: a backup of another database, restored here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from repom.dbops.archive.hook import Hook, read_hooks
from repom.dbops.store.store import Store
from repom.errors import Refused, SettingsError, Unreachable, advice
from repom.runners.exec import ExecRunner
from repom.runners.host import new_session
from repom.settings import Settings, Source
from repom.settings.address import PORT, Address

from . import work
from .backup import write
from .database import Facts, Kept, Survey
from .restore import Plan, carry_out
from .work import Restored, open_database

if TYPE_CHECKING:
    from repom.dbops.postgres.postgres import Postgres

log = logging.getLogger("repom")

#: Parameters of a connection that name files of this host, which no container has.
FILES = {"sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"}


@dataclass(frozen=True)
class Pull:
    """A pull that could be carried out.

    :param settings: of the database here, `target`.
    :param origin: the same for the other database, `source`.
    :param facts: what the source says of itself.
    :param survey: what the restore finds here, and would replace.
    :param excluded: patterns of tables whose rows are left out.
    :param keep: leave the backup in the store.
    """

    settings: Settings
    origin: Settings
    source: Postgres
    target: Postgres
    facts: Facts
    survey: Survey
    engine: str
    hooks: tuple[Hook, ...]
    label: str | None
    excluded: tuple[str, ...]
    keep: bool

    @property
    def to_delete(self) -> tuple[Kept, ...]:
        return work.to_delete(self.settings, self.survey)

    def close(self) -> None:
        self.source.close()
        self.target.close()


def pull(
    source: str | None = None,
    settings: Source = None,
    *,
    label: str | None = None,
    exclude_table_data: Sequence[str] = (),
    keep: bool = True,
    remote: bool = False,
) -> Restored:
    """Back up another database, which is only read, and restore that here, without owners.

    :param source: its URL; by default the configured one.
    :param exclude_table_data: patterns of tables whose rows are left out.
    :param keep: leave the backup in the store; it is not scrubbed.
    :param remote: allow to replace a database on another machine.
    :raises RepomError: the database here holds what it held before.
    """
    settings = Settings.of(settings).having(pull_url=source)
    how = {"label": label, "excluded": exclude_table_data, "keep": keep, "remote": remote}
    return carry_out_pull(plan_pull(settings, **how))  # type: ignore[arg-type]


def plan_pull(
    settings: Settings,
    *,
    label: str | None = None,
    excluded: Sequence[str] = (),
    keep: bool = True,
    remote: bool = False,
) -> Pull:
    """Check all that can be checked without touching anything.

    :raises Refused: both are the same database, or of different kinds.
    :raises Unreachable: one of them cannot be reached.
    """
    from repom.dbops.postgres.postgres import Postgres

    address = _source_of(settings)
    Store.check_label(label)
    hooks = read_hooks(settings.after_load, settings.backend)
    via = "host" if settings.via == "host" else "auto"
    origin = replace(settings, address=address, via=via)
    target = open_database(settings, "pg_restore")
    assert isinstance(target, Postgres)
    with work.closed_on_failure(target):
        engine = work.engine_of(settings, target, remote)
        survey = target.survey()
        work.check_server(settings, target, survey.system_identifier, "--via host")
        source = _opened(origin, target)
        with work.closed_on_failure(source):
            with _told_of_source():
                facts = source.identify()
            if survey.exists and target.is_same_as(source):
                raise Refused(
                    f"{source.name} on {source.where} is the database that would be replaced",
                    "Check REPOM_PULL_URL or --source",
                )
    more = (engine, hooks, label, tuple(excluded), keep)
    return Pull(settings, origin, source, target, facts, survey, *more)


def _source_of(settings: Settings) -> Address:
    """:raises SettingsError, Refused: there is none, or not of the same kind."""
    source = settings.pull_url
    if source is None:
        raise SettingsError("No source to pull from", "Pass --source URL or set REPOM_PULL_URL")
    if isinstance(source, str):
        raise Refused(
            "The source is an SQLite file, and db.pull copies from PostgreSQL",
            advice("Restore the file itself with: {}", "db.restore --backup PATH"),
        )
    if settings.backend == "sqlite":
        raise Refused(
            "The source is PostgreSQL, and the database is SQLite",
            "Set DATABASE_URL to a PostgreSQL database",
        )
    return replace(source, port=source.port or PORT)


def _opened(origin: Settings, target: Postgres) -> Postgres:
    """The source, with the place where the programs run: in the project's own container, if
    they reach it from there and are not too old, else where they run for any server."""
    from repom.dbops.postgres.postgres import Postgres

    address, own = origin.address, target.client.runner
    usual = open_database(origin, "pg_dump")
    assert isinstance(usual, Postgres)
    usual.client.is_read_only = True
    # Inside a container, localhost is the container.
    is_here = address.is_local or usual.via == "docker"
    if is_here or not isinstance(own, ExecRunner) or FILES & dict(address.options).keys():
        return usual
    inside = Postgres(replace(own, trusts_local=False, session=new_session()), address)
    inside.client.is_read_only = True
    return inside if _fits(inside) else usual


def _fits(source: Postgres) -> bool:
    """Whether the source can be dumped by the programs in the project's own container."""
    runner = source.client.runner
    with work.closed_on_failure(source):
        try:
            with _told_of_source():
                versions = source.client.versions
        except Unreachable as error:
            is_login = source.client.login.password and "password" in error.message
            if is_login:
                raise
            log.info("Not using %s: %s", runner.where, error.message)
            source.close()
            return False
    if versions.psql // 10_000 < versions.major:
        log.info("Not using %s: its programs are older than the source's", runner.where)
        source.close()
        return False
    log.info("Using the programs in %s", runner.where)
    return True


@contextmanager
def _told_of_source() -> Iterator[None]:
    """Have hints name the settings of the source."""
    from repom.dbops.postgres.failures import CONNECTION

    try:
        yield
    except Unreachable as error:
        if error.hint not in {hint for _part, _message, hint in CONNECTION}:
            raise
        raise Unreachable(error.message, "Check REPOM_PULL_URL or --source") from None


def carry_out_pull(plan: Pull) -> Restored:
    """Back the source up, and restore that here."""
    settings = plan.settings
    with work.closed_on_failure(plan.target):
        made = write(
            plan.origin,
            plan.source,
            label=plan.label,
            excluded=plan.excluded,
            pulled=True,
            prune=plan.keep,
        )
    if settings.dry:
        plan.target.close()
        log.info("Would restore it into %s", plan.target.name)
        return Restored(plan.target.name, made.name, None, 0.0)
    try:
        with closing(plan.target):
            archive = work.examined(made)
            how = (False, False, plan.engine, plan.hooks)  # without owners
            return carry_out(
                Plan(settings, settings, plan.target, made, archive, plan.survey, *how)
            )
    finally:
        if not plan.keep:
            Store(settings.backup_dir).delete(made)
            log.info("Deleted %s", made.name)
