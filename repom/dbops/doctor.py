"""`doctor`: what a backup would use here, and what stands in its way. Changes nothing."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from repom.dbops.store import retention
from repom.dbops.store.storage import OTHER_DISK
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, RepomError, advice
from repom.runners import choose, engine, programs
from repom.runners.choose import START, Located
from repom.runners.engine import EngineSilent, Trouble
from repom.runners.host import HostRunner
from repom.runners.runner import Runner
from repom.settings import Settings
from repom.settings.settings import listed

from . import work
from .database import Facts, Kept, Survey
from .files import check_space

log = logging.getLogger("repom")

ANSWER = 5.0  # seconds for any question, to the engine or to the server
BACKUP = advice("Run: {}", "db.backup")
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
    mend: str = ""
    status: int = 0


@dataclass
class Report:
    """What was found.

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

    def add(self, message: str, mend: str = "", status: int = 0) -> None:
        self.problems.append(Problem(message, mend, status))

    @contextmanager
    def failures(self, *, stops: bool = True) -> Iterator[None]:
        """Add what fails. :param stops: a backup would fail, too."""
        try:
            yield
        except RepomError as error:
            self.add(error.message, error.hint, error.exit_status if stops else 0)
        except OSError as error:  # a folder that this user may not look into
            self.add(f"{error.filename}: {error.strerror}", "", RepomError.exit_status)


def examine(config: Any = None) -> Report:
    """Ask settings, engine, server, store and files; each question has a time-out.

    :param config: Invoke's configuration.
    """
    report = Report()
    with _heard(report), report.failures():
        report.settings = listed(config)
        settings = replace(Settings.load(config), dry=False, echo=False)
        dotenv, asked = settings.project / ".env", None
        if os.name == "posix" and dotenv.is_file() and dotenv.stat().st_mode & 0o044:
            mend = f"Run: chmod 600 {shlex.quote(str(dotenv))}"
            report.add("Other users of this machine can read .env", mend)
        with report.failures():
            settings = located = _located(settings, report)
            _check_writable(settings.backup_dir, report)
            asked = _asked(located, report)
        _examine_store(settings, asked is not None, report)
        if asked and (survey := asked[1]):
            report.undo = survey.kept
            with report.failures(stops=False):
                _check_restore(settings, asked[0], survey)
    return report


@contextmanager
def _heard(report: Report) -> Iterator[None]:
    """Take warnings that are logged meanwhile for problems."""
    handler, before, up = logging.Handler(logging.WARNING), log.handlers[:], log.propagate
    handler.emit = lambda record: report.add(record.getMessage())  # type: ignore[method-assign]
    log.handlers[:], log.propagate = [handler], False
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before, up


# -- the server ---------------------------------------------------------------------------


def _located(settings: Settings, report: Report) -> Located:
    """The database that is meant, and where a backup's programs would run.

    :raises RepomError: it cannot be used.
    """
    server, docker = report.server, settings.docker
    if settings.configured and settings.backend == "sqlite":
        return choose.locate(settings)
    try:
        server["engine"] = engine.described(docker, ANSWER)
    except EngineSilent as silent:
        server["engine"] = silent.reason
        if silent.trouble is Trouble.OTHER:  # not asked again: it may hang
            if settings.via == "docker" or not settings.configured:
                raise
            report.add(silent.message, silent.hint)
            settings = replace(settings, via="host")
    there = [(programs.version_num("pg_dump", each), each) for _major, each in programs.installed()]
    server["host_programs"] = [f"{_dotted(number)} in {folder}" for number, folder in there]
    located = choose.locate(settings)
    choice, found = located.choice, located.choice.container
    if found:
        server["container"] = ", ".join(filter(None, (found.name, found.state, found.image)))
    server |= {"because": choice.reason or None, "rejected": list(choice.rejected) or None}
    for warning in choice.warnings:
        report.add(warning)
    if choice.problem:
        raise choice.problem
    if found and choice.fallback:
        server["because"] = choice.fallback
        report.add(choice.fallback, START)
    if located.backend == "postgresql":
        where = found.name if found and choice.is_inside else "this host"
        server["would_use"] = f"the programs of {where}"
    return located


def _dotted(number: int) -> str:
    return f"{number // 10_000}.{number % 10_000}"


def _asked(located: Located, report: Report) -> tuple[Facts, Survey | None]:
    """What the database says, and what a restore would find, which a backup does without.

    :raises RepomError: it cannot be asked.
    """
    survey: Survey | None = None
    is_sqlite = located.backend == "sqlite"
    if is_sqlite:
        from repom.dbops.sqlite.sqlite import Sqlite

        file = Sqlite(located.sqlite_path, located.database)
        facts, survey = file.identify(look=True), file.survey()
    else:
        from repom.dbops.postgres.postgres import Postgres

        runner, fallback = located.choice.runner(located), located.choice.fallback
        with closing(Postgres(runner, located.address, fallback=fallback)) as server:
            server.client.patience = ANSWER
            facts = server.identify()
            _check_holes(server.client.versions.psql, runner, report)
            with report.failures(stops=False):
                survey = server.survey()
    product = "SQLite" if is_sqlite else "PostgreSQL"
    report.server |= {"version": f"{product} {facts.server_version}", "database": located.database}
    report.server |= {"size": facts.size, "tables": facts.tables}
    return facts, survey


def _check_holes(psql: int, runner: Runner, report: Report) -> None:
    major, minor = divmod(psql, 10_000)
    report.server["client"] = f"psql {_dotted(psql)} in {runner.where}"
    known = {cve: first[major - 14] for cve, first in HOLES.items() if 14 <= major <= 18}
    if names := [cve for cve, first in known.items() if minor < first]:
        closed = f"closed in {major}.{max(known.values())}"
        image = "Pull a newer image of the container, and recreate it from that"
        mend = image if runner.via == "docker" else programs.install_hint(major)
        what = f"psql and pg_restore {_dotted(psql)} have known holes"
        report.add(f"{what} ({', '.join(names)}), {closed}", mend)


# -- the store ----------------------------------------------------------------------------


def _check_writable(folder: Path, report: Report) -> None:
    there = next(each for each in (folder, *folder.parents) if each.exists())
    rights = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK, **rights):
        mend = f"Run: chmod u+rwx {shlex.quote(str(there))}, or set REPOM_BACKUP_DIR"
        report.add(
            f"The store folder cannot be written to: {there}", mend, CommandFailed.exit_status
        )


def _examine_store(settings: Settings, is_there: bool, report: Report) -> None:
    folder, now = settings.backup_dir, datetime.now(UTC)
    disk = next(each for each in (folder, *folder.parents) if each.is_dir())
    every = Store(folder).backups()
    own = [b for b in every if b.identity == work.identity(settings) and b.is_verified]
    report.store |= {"folder": str(folder), "free": shutil.disk_usage(disk).free}
    report.store |= {"backups": len(every), "size": sum(b.size for b in every)}
    if every and _is_in_reach_of_git(every[0].path):
        quoted, ignore = (shlex.quote(str(path)) for path in (folder, folder / ".gitignore"))
        mend = f"Run: echo '*' > {ignore}; git rm -rq --cached --ignore-unmatch {quoted}"
        report.add("Git does not ignore the backups", mend)
    if not own and is_there:
        report.add(f"{settings.database} was never backed up", BACKUP)
    if not own:
        return
    newest = own[0]
    next_one = replace(newest, name="", created_at=now, pinned=False)
    planned = retention.plan([next_one, *own], keep=settings.keep, same_as=[next_one])
    report.store |= {"of_this_database": len(own), "newest": newest.name}
    report.store |= {"made": newest.created_at, "oldest": own[-1].created_at}
    report.store["next_backup_deletes"] = [b.name for b, _reason in planned.deleted]
    if now - newest.created_at > timedelta(days=7):
        report.add("The newest backup is more than a week old", BACKUP)
    with report.failures():
        check_space(disk, newest.size, "a backup", OTHER_DISK)


def _is_in_reach_of_git(path: Path) -> bool:
    argv = ["git", "-C", str(path.parent), "check-ignore", "-q", path.name]
    try:
        return HostRunner().run(argv, warn=True, timeout=ANSWER).exited == 1
    except RepomError:  # no Git
        return False


def _check_restore(settings: Settings, facts: Facts, survey: Survey) -> None:
    """:raises Refused: the disk of the data has no room for the database once more."""
    if settings.backend == "sqlite":
        check_space(settings.sqlite_path.parent, 3 * facts.size, "a restore")
    else:
        from repom.dbops.postgres.survey import ServerSurvey, refuse_space

        assert isinstance(survey, ServerSurvey)
        refuse_space(survey, facts.size)
