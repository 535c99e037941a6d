"""`db.*`: back up, restore and rewind the project's database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from repom.errors import (
    CommandFailed,
    Damaged,
    NotFound,
    Refused,
    RepomError,
    SettingsError,
    advice,
)
from repom.settings import Settings
from repom.settings.values import whole_number

from .console import DEFAULTS, ask, command, confirm, is_terminal, run, say, show, standard_input
from .tables import age, counted, size, table

# The library is imported by the tasks when they run: `invoke --list` need not pay for it.
if TYPE_CHECKING:
    from repom.dbops.database import Database, Kept
    from repom.dbops.restore import Plan
    from repom.dbops.store.backup import Backup
    from repom.dbops.store.retention import Pruned
    from repom.dbops.work import Restored


JSON = "print the result as JSON"
YES = "do not ask"
ALL_SERVERS = "db.prune --all-servers"
VIA = "where the client programs run: auto, docker or host"
REMOTE = "allow a database on another machine"
BACKUP = "a backup's name, its label or an unambiguous beginning, or the path of any dump"
MAKE_ONE = advice("Make one with: {}", "db.backup")
JOBS = "parallel workers that load"


@command(
    help={
        "label": "a word for the backup's name",
        "format": "custom (default) or plain SQL",
        "via": VIA,
        "keep": "how many verified backups to keep",
        "json": JSON,
    }
)
def backup(
    c: Context,
    label: str | None = None,
    format: str | None = None,
    via: str | None = None,
    keep: str | None = None,
    json: bool = False,
) -> None:
    """Write one verified backup of the database, then prune older ones."""
    from repom import dbops

    settings = Settings.load(c.config, format=format, via=via, keep=keep)
    made = dbops.backup(settings, label=label)
    if settings.dry:
        return
    say(f"Backup created: {made.name} ({size(made.size)}, {made.duration_s:.1f} s)")
    show(made.as_json() if json else str(made.path))


@command(
    help={
        "backup": f"{BACKUP}; - is standard input",
        "latest": "the newest verified backup of this database",
        "yes": YES,
        "remote": REMOTE,
        "into": "restore into a new database of this name (SQLite: a path)",
        "in-place": "load into the database itself, for users who may not create one",
        "no-owner": "leave out owners and grants",
        "jobs": JOBS,
        "via": VIA,
        "json": JSON,
    }
)
def restore(
    c: Context,
    backup: str | None = None,
    latest: bool = False,
    yes: bool = False,
    remote: bool = False,
    into: str | None = None,
    in_place: bool = False,
    no_owner: bool = False,
    jobs: str | None = None,
    via: str | None = None,
    json: bool = False,
) -> None:
    """Replace the database by a backup, whole or not at all."""
    from repom.dbops.restore import carry_out, plan_restore

    settings = Settings.load(c.config, via=via, jobs=jobs)
    with _chosen(settings, backup, latest) as chosen:
        if chosen is None:
            say("Nothing was restored")
            return
        how = {"in_place": in_place, "owner": not no_owner, "remote": remote}
        plan = plan_restore(chosen, settings, into=into, **how)
        if not _agreed(plan, yes, piped=backup == "-"):
            say("Nothing was restored")
            return
        _tell("Restored", carry_out(plan), settings, json)


def _agreed(plan: Plan, yes: bool, *, piped: bool) -> bool:
    """Whether to go on. Where nothing is replaced there is nothing to ask.

    :param piped: standard input is the backup, so nobody can answer there.
    """
    if yes or plan.settings.dry or not plan.survey.exists:
        return True
    if piped:
        raise Refused(f"{_question(plan)} Standard input cannot answer", "Pass --yes to proceed")
    return confirm(_question(plan), yes)


@contextmanager
def _chosen(settings: Settings, name: str | None, latest: bool) -> Iterator[Backup | Path | None]:
    from repom.dbops import upkeep
    from repom.dbops.archive import staging

    if name is not None and latest:
        raise SettingsError("Both --backup and --latest were given", "Pass one of them")
    if name == "-":
        with staging.staged(standard_input()) as path:
            yield path
    elif name is not None or latest:
        yield upkeep.find_backup(settings, name)
    elif is_terminal():
        yield _menu(upkeep.list_backups(settings))
    else:
        raise SettingsError("No backup selected", "Pass --latest or --backup NAME")


def _menu(backups: Sequence[Backup]) -> Backup | None:
    """Let somebody choose a backup by its number; nothing when they cancel."""
    if not backups:
        raise SettingsError("There are no backups to choose from", MAKE_ONE)
    rows = [
        (b.name, size(b.size), age(b.created_at), "newest" if number == 0 else "")
        for number, b in enumerate(backups)
    ]
    say(table(("Backup", "Size", "Age", ""), rows, numbered=True))
    while True:
        answer = ask(f"Which one? [1-{len(backups)}, q cancels]")
        if answer.lower() in ("", "q"):
            return None
        if answer.isdecimal() and 1 <= int(answer) <= len(backups):
            return backups[int(answer) - 1]
        say(f"{answer} is not a number between 1 and {len(backups)}")


def _question(plan: Plan) -> str:
    """What will happen to what, before somebody says yes."""
    where = _where(plan.database, plan.engine)
    made = f", {age(plan.backup.created_at)}" if plan.backup.created_at else ""
    parts = [f"Restore {plan.backup.name} ({size(plan.backup.size)}{made}) into {where}?"]
    if plan.origin:
        parts.append(f"The backup is of {plan.origin}.")
    if plan.backup.facts.tables == 0:
        parts.append("The backup holds no tables.")
    if plan.foreign:
        parts.append("The file has no manifest, so its integrity cannot be checked.")
    if not plan.survey.exists:
        return " ".join(parts)
    back = "cannot be undone" if plan.in_place else "db.undo brings it back"
    if not plan.in_place and not plan.settings.undo_keep:
        back = "is not kept (REPOM_UNDO_KEEP is 0)"
    parts.append(f"The current database ({_holds(plan)}) will be replaced; {back}.")
    if plan.survey.sessions:
        parts.append(f"These sessions will be ended: {', '.join(plan.survey.sessions)}.")
    parts += plan.survey.notes
    for old in plan.to_delete:
        parts.append(f"The earlier undo copy ({_kept(old)}) will be deleted.")
    return " ".join(parts)


def _kept(old: Kept) -> str:
    return f"{size(old.size)}, made {age(old.created_at)}"


def _holds(plan: Plan) -> str:
    """Size, tables and the age of the last backup of what will be replaced."""
    from repom.dbops import upkeep

    facts = [size(plan.survey.size)]
    try:
        tables = plan.database.identify().tables
        facts += [] if tables is None else [counted(tables, "table")]
        last = upkeep.find_backup(plan.settings)
        facts.append(f"last backed up {age(last.created_at)}")
    except NotFound:
        facts.append("never backed up")
    except RepomError:
        facts.append("contents unknown")
    return ", ".join(facts)


def _tell(what: str, done: Restored, settings: Settings, json: bool) -> None:
    if settings.dry:
        return
    say(f"{what}: {done.database} from {done.backup} ({done.duration_s:.1f} s)")
    if done.replaced:
        say(f"To undo: {run('db.undo')}")
    result = {
        "database": done.database,
        "backup": done.backup,
        "replaced": done.replaced,
        "duration_s": done.duration_s,
    }
    show(result if json else done.database)


@command(help={"yes": YES, "remote": REMOTE, "json": JSON})
def undo(c: Context, yes: bool = False, remote: bool = False, json: bool = False) -> None:
    """Put back what the last restore replaced; once more undoes the undo."""
    from repom.dbops.undo import carry_out_undo, plan_undo

    settings = Settings.load(c.config)
    plan = plan_undo(settings, remote=remote)
    where = _where(plan.database, plan.engine)
    question = f"Put the undo copy ({_kept(plan.kept)}) back as {where}?"
    if plan.survey.exists:
        question += " The current database will be kept as the new undo copy."
    if plan.survey.sessions:
        question += f" These sessions will be ended: {', '.join(plan.survey.sessions)}."
    question = " ".join([question, *plan.survey.notes])
    if not settings.dry and not confirm(question, yes):
        say("Nothing was changed")
        return
    done = carry_out_undo(plan)
    _tell("Put back", done, settings, json)


def _where(database: Database, engine: str) -> str:
    return f"{database.name} on {database.where}{f' (engine {engine})' if engine else ''}"


@command(name="list", help={"json": JSON})
def list_(c: Context, json: bool = False) -> None:
    """Show the backups, newest first, and what can be undone."""
    from repom.dbops import upkeep

    settings = Settings.load(c.config)
    backups = upkeep.list_backups(settings)
    if json:
        show([b.as_json() for b in backups])
        return
    if backups:
        show(table(("Backup", "Database", "Size", "Age", "Verified"), map(_row, backups)))
    else:
        say(f"There are no backups in {settings.backup_dir}")
    _show_undo(settings)


def _row(b: Backup) -> tuple[str, ...]:
    marks = ", ".join([*b.verified, *(["pinned"] if b.pinned else [])])
    marks = marks or (f"no: {b.problem}" if b.problem else "no")
    return b.name, b.database, size(b.size), age(b.created_at), marks


def _show_undo(settings: Settings) -> None:
    """A list of files must not fail because the server is down."""
    from repom.dbops.undo import undoable

    try:
        kept = undoable(settings)
    except RepomError as error:
        say(f"Could not check for undo copies: {error.message}")
        return
    for each in kept:
        say(f"An undo copy ({_kept(each)}) can be put back with: {run('db.undo')}")


@command(
    help={
        "backup": f"{BACKUP} (default: the latest)",
        "drill": "restore it for real into a scratch database, and drop that again",
        "json": JSON,
    }
)
def verify(c: Context, backup: str | None = None, drill: bool = False, json: bool = False) -> None:
    """Check that a backup is still what was written, to its last byte."""
    from repom import dbops

    settings = Settings.load(c.config)
    found = dbops.verify(backup, settings, drill=drill)
    if settings.dry and not found.problems:
        return
    if json:
        problems, passed = list(found.problems), list(found.verified)
        show({"name": found.name, "verified": passed, "problems": problems})
    if found.problems:
        raise Damaged(found.problems[0], found.hint)
    if not json:
        restored = counted(sum(found.rows.values()), "row")
        rows = f" ({restored} in {counted(len(found.rows), 'table')})" if drill else ""
        show(f"{found.name}: {', '.join(found.verified)}{rows}")


@command(
    help={
        "keep": "how many verified backups to keep",
        "days": "only delete backups older than N days",
        "all-servers": "also backups of other servers, such as ones that no longer exist; asks",
        "yes": YES,
        "json": JSON,
    }
)
def prune(
    c: Context,
    keep: str | None = None,
    days: str | None = None,
    all_servers: bool = False,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Delete old backups of this database; with --dry, only say which."""
    from repom.dbops import upkeep

    settings = Settings.load(c.config, keep=keep)
    how: dict[str, Any] = {"days": whole_number("--days", days), "all_servers": all_servers}
    agreed = None
    if all_servers and not settings.dry:
        planned = upkeep.prune(replace(settings, dry=True), **how)
        agreed = {b.name for b, _reason in planned.deleted}
        if agreed and not confirm(_doomed(planned), yes):
            say("Nothing was deleted")
            return
    done = upkeep.prune(settings, confirmed=agreed, **how)
    _tell_pruned(done, settings, all_servers)
    if json:
        show({"kept": _reasons(done.kept), "deleted": _reasons(done.deleted)})
    else:
        would = "would be " if settings.dry else ""
        show(f"{len(done.kept)} kept, {len(done.deleted)} {would}deleted")


def _doomed(planned: Pruned) -> str:
    """What a prune of every server's backups would delete."""
    gone = [b for b, _reason in planned.deleted]
    places = {b.origin.where or "an unknown server" for b in gone}
    total = f"{counted(len(gone), 'backup')} ({size(sum(b.size for b in gone))})"
    ages = f"made {age(gone[-1].created_at)} to {age(gone[0].created_at)}"
    return f"Delete {total} of {', '.join(sorted(places))}, {ages}? {len(planned.kept)} stay."


def _tell_pruned(done: Pruned, settings: Settings, all_servers: bool) -> None:
    from repom.dbops.store.retention import FROM_ELSEWHERE

    for gone, reason in done.deleted:
        say(f"{'Would delete' if settings.dry else 'Deleted'} {gone.name}: {reason}")
    strangers = [b for b, reason in done.kept if reason == FROM_ELSEWHERE]
    if strangers:
        were = "was" if len(strangers) == 1 else "were"
        more = "" if all_servers else f". To delete old ones of those, too: {run(ALL_SERVERS)}"
        say(f"{counted(len(strangers), 'backup')} {FROM_ELSEWHERE} {were} left alone{more}")


def _reasons(pairs: Sequence[tuple[Backup, str]]) -> list[dict[str, Any]]:
    return [{"name": b.name, "reason": reason} for b, reason in pairs]


@command(help={"backup": BACKUP, "off": "unpin"})
def pin(c: Context, backup: str | None = None, off: bool = False) -> None:
    """Keep a backup whatever prune says."""
    from repom.dbops import upkeep

    if backup is None:
        raise SettingsError("No backup selected", "Pass --backup NAME")
    settings = Settings.load(c.config)
    pinned = upkeep.pin(backup, settings, off=off)
    if not settings.dry:
        show(f"{pinned.name} is {'no longer ' if off else ''}pinned")


@command(help={})
def shell(c: Context) -> None:
    """Open psql or the SQLite shell on the database."""
    from repom.dbops import upkeep

    status = upkeep.shell(Settings.load(c.config))
    if status:
        raise CommandFailed(f"The shell ended with exit status {status}")


db = Collection("db", backup, restore, undo, list_, verify, prune, pin, shell)
db.configure(DEFAULTS)
