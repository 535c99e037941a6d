"""`doctor`: what a backup would use here, and what stands in its way. Changes nothing."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from repom.dbops.store import retention
from repom.dbops.store.backup import Backup
from repom.dbops.store.storage import OTHER_DISK
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, RepomError, SettingsError, advice
from repom.runners import engine, programs
from repom.runners.choose import Choice
from repom.runners.discover import find
from repom.runners.engine import EngineSilent, Trouble
from repom.runners.host import HostRunner
from repom.settings import Settings
from repom.settings.settings import listed

from . import work
from .database import Facts, Kept, Survey
from .files import check_space, may_write

log = logging.getLogger("repom")

ANSWER = 5.0  # seconds for any question, to the engine or to the server
WEEK = timedelta(days=7)
BACKUP, START = advice("Run: {}", "db.backup"), advice("Run: {}", "postgres.start")
#: Holes that a hostile dump or server uses → first minor version without, from major 14 on.
HOLES = {
    "CVE-2026-116314": (25, 20, 16, 12, 7),
    "CVE-2026-18408": (24, 19, 15, 11, 6),
    "CVE-2026-6477": (23, 18, 14, 10, 4),
    "CVE-2025-8714": (19, 14, 10, 6, 0),
}


@dataclass(frozen=True)
class Problem:
    """:param status: with which a backup would end; 0 when it would be made all the same."""

    message: str
    mend: str
    status: int = 0


@dataclass
class Report:
    """What was found; values of the mappings have a name for people each.

    :param settings: name, value with secrets masked, and origin.
    """

    settings: list[tuple[str, str, str]] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)
    undo: tuple[Kept, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """The one with which a backup would end now."""
        return next((p.status for p in self.problems if p.status), 0)

    def failed(self, error: RepomError, *, stops: bool = True) -> None:
        status = error.exit_status if stops else 0
        self.problems.append(Problem(error.message, error.hint, status))


def examine(config: Any = None) -> Report:
    """Ask settings, engine, server, store and files; each question has a time-out.

    :param config: Invoke's configuration.
    """
    report = Report()
    with _heard(report):
        try:
            report.settings = listed(config)
            settings = replace(Settings.load(config), dry=False, echo=False)
        except SettingsError as error:
            report.failed(error)
            return report
        _check_dotenv(settings.project / ".env", report)
        settings, choice = _chosen(settings, report)
        _check_writable(settings.backup_dir, report)
        asked = _asked(settings, choice, report)
        _examine_store(settings, asked is not None, report)
        if asked:
            report.undo = asked[1].kept
            _check_restore(settings, *asked, report)
    return report


@contextmanager
def _heard(report: Report) -> Iterator[None]:
    """Take what is logged meanwhile into the report: warnings are problems."""
    handler, before, up = logging.Handler(logging.WARNING), log.handlers[:], log.propagate
    handler.emit = lambda record: report.problems.append(Problem(record.getMessage(), ""))  # type: ignore[method-assign]
    log.handlers[:], log.propagate = [handler], False
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before, up


def _check_dotenv(path: Path, report: Report) -> None:
    if os.name == "posix" and path.is_file() and path.stat().st_mode & 0o044:
        mend = f"Run: chmod 600 {shlex.quote(str(path))}"
        report.problems.append(Problem("Other users of this machine can read .env", mend))


# -- the server ---------------------------------------------------------------------------


def _chosen(settings: Settings, report: Report) -> tuple[Settings, Choice | None]:
    """Where the programs of a backup would run; nothing for SQLite, and when nowhere."""
    if settings.backend == "sqlite":
        return settings, None
    server, docker = report.server, settings.docker
    try:
        version, context = engine.version(docker, ANSWER), engine.context(docker)
        server["engine"] = f"{docker} {version}{f', context {context}' if context else ''}"
    except EngineSilent as silent:
        server["engine"] = silent.reason
        if silent.trouble is Trouble.OTHER:  # not asked again: it may hang
            report.failed(silent, stops=settings.via == "docker")
            if settings.via == "docker":
                return settings, None
            settings = replace(settings, via="host")
    if settings.via != "host":
        found = find(docker, settings.container, settings.compose_service, settings.project)
        server["container"] = ", ".join(filter(None, (found.name, found.state, found.image)))
    numbers = {each: programs.version_num("pg_dump", each) for _major, each in programs.installed()}
    server["host programs"] = [f"{_dotted(n)} in {folder}" for folder, n in numbers.items()]
    try:
        choice = work.chosen(settings, "pg_dump")
    except RepomError as error:
        report.failed(error)
        return settings, None
    if choice.fallback:  # said without what to do
        told = [p for p in report.problems if not p.message.startswith(choice.fallback)]
        report.problems[:] = [*told, Problem(choice.fallback, START)]
    server["would use"] = f"the programs of {choice.runner.where}"
    server["because"] = choice.reason or choice.fallback or f"REPOM_VIA is {settings.via}"
    return settings, choice


def _dotted(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def _asked(
    settings: Settings, choice: Choice | None, report: Report
) -> tuple[Facts, Survey] | None:
    """What the database says; nothing when it cannot be asked, which is a problem then."""
    if not choice and settings.backend == "postgresql":
        return None
    facts: Facts
    survey: Survey
    try:
        if choice:
            from repom.dbops.postgres.postgres import Postgres

            server = Postgres(
                choice.runner, settings.address, fallback=choice.fallback, answer=ANSWER
            )
            with closing(server):
                facts, survey = server.identify(), server.survey()
                _check_holes(server.client.versions.psql, choice, report)
        else:
            from repom.dbops.sqlite.sqlite import Sqlite

            file = Sqlite(settings.sqlite_path, settings.database)
            facts, survey = file.identify(look=True), file.survey()
    except RepomError as error:
        report.failed(error)
        return None
    product = "PostgreSQL" if choice else "SQLite"
    report.server |= {"server": f"{product} {facts.server_version}", "database": settings.database}
    report.server |= {"size": facts.size, "tables": facts.tables}
    return facts, survey


def _check_holes(psql: int, choice: Choice, report: Report) -> None:
    major, minor = divmod(psql, 10_000)
    known = [(cve, fixed[major - 14]) for cve, fixed in HOLES.items() if 14 <= major <= 18]
    open_ones = [(cve, first) for cve, first in known if minor < first]
    report.server["client"] = f"psql {_dotted(psql)} in {choice.runner.where}"
    if open_ones:
        names, first = ", ".join(cve for cve, _ in open_ones), max(f for _, f in open_ones)
        what = f"psql and pg_dump {_dotted(psql)} have known holes ({names})"
        image = f"Pull a newer image, and recreate the container with PostgreSQL {major}.{first}"
        mend = image if choice.runner.via == "docker" else programs.install_hint(major)
        report.problems.append(Problem(f"{what}, closed in {major}.{first}", mend))


# -- the store ----------------------------------------------------------------------------


def _check_writable(folder: Path, report: Report) -> None:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir() or not may_write(there):
        mend = f"Run: chmod u+rwx {shlex.quote(str(there))}, or set REPOM_BACKUP_DIR"
        message = f"The store folder cannot be written to: {there}"
        report.problems.append(Problem(message, mend, CommandFailed.exit_status))


def _examine_store(settings: Settings, is_there: bool, report: Report) -> None:
    folder, now = settings.backup_dir, datetime.now(UTC)
    there = next(each for each in (folder, *folder.parents) if each.is_dir())
    every, free = Store(folder).backups(), shutil.disk_usage(there).free
    own = [b for b in every if b.identity == work.identity(settings) and b.is_verified]
    report.store |= {"folder": str(folder), "free": free, "backups": len(every)}
    report.store |= {"size": sum(b.size for b in every), "of this database": len(own)}
    if every and _is_in_reach_of_git(every[0]):
        ignore = shlex.quote(str(folder / ".gitignore"))
        mend = f"Run: echo '*' > {ignore}; git rm -rq --cached --ignore-unmatch {folder}"
        report.problems.append(Problem("Git does not ignore the backups", mend))
    if not own:
        if is_there:
            report.problems.append(Problem(f"{settings.database} was never backed up", BACKUP))
        return
    newest = own[0]
    report.store |= {"newest": newest.name, "made": newest.created_at, "oldest": own[-1].created_at}
    next_one = replace(newest, name="", created_at=now, pinned=False)
    planned = retention.plan([next_one, *own], keep=settings.keep, same_as=[next_one])
    report.store["next backup deletes"] = [b.name for b, _reason in planned.deleted]
    if now - newest.created_at > WEEK:
        report.problems.append(Problem("The newest backup is more than a week old", BACKUP))
    with _reported(report, stops=True):
        check_space(there, newest.size, "a backup", OTHER_DISK)


def _is_in_reach_of_git(backup: Backup) -> bool:
    argv = ["git", "-C", str(backup.path.parent), "check-ignore", "-q", backup.name]
    with suppress(RepomError):
        return HostRunner().run(argv, warn=True, timeout=ANSWER).exited == 1
    return False


def _check_restore(settings: Settings, facts: Facts, survey: Survey, report: Report) -> None:
    """Whether the disk of the data has room for the database once more."""
    with _reported(report):
        if settings.backend == "sqlite":
            check_space(settings.sqlite_path.parent, 3 * facts.size, "a restore")
        else:
            from repom.dbops.postgres.survey import ServerSurvey, refuse_space

            assert isinstance(survey, ServerSurvey)
            refuse_space(survey, facts.size)


@contextmanager
def _reported(report: Report, *, stops: bool = False) -> Iterator[None]:
    try:
        yield
    except RepomError as error:
        report.failed(error, stops=stops)
