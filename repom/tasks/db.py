"""`db.*`: back up, restore and rewind the project's database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Collection, Context

from repom.errors import CommandFailed, Damaged, Refused, RepomError, SettingsError, advice
from repom.settings import Settings
from repom.settings.values import whole_number

from . import questions
from .console import DEFAULTS, ask, command, confirm, is_terminal, run, say, show, standard_input
from .tables import age, clock, counted, size, table

# Each task imports what it needs of the library, so that `invoke --list` stays fast.
if TYPE_CHECKING:
    from repom.dbops.restore import Plan
    from repom.dbops.store.backup import Backup
    from repom.dbops.store.retention import Pruned
    from repom.dbops.work import Restored


JSON = "print the result as JSON"
YES = "do not ask"
KEEP = "how many verified backups to keep"
VIA = "where the client programs run: auto, docker or host"
REMOTE = "allow a database on another machine"
BACKUP = "name, label or unambiguous beginning of a backup, or the path of any dump file"


@command(
    help={
        "label": "a label to add to the backup's name",
        "format": "custom (default) or plain (SQL)",
        "via": VIA,
        "keep": KEEP,
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
    """Write one verified backup, then prune older ones."""
    from repom import dbops

    settings = Settings.load(c.config, format=format, via=via, keep=keep)
    made = dbops.backup(settings, label=label)
    if settings.dry:
        return
    say(f"Backup created: {made.name} ({size(made.size)}, {made.duration_s:.1f} s)")
    show(made.as_json() if json else str(made.path))


@command(
    help={
        "backup": f"{BACKUP}; - for standard input",
        "latest": "use the newest verified backup of this database",
        "yes": YES,
        "remote": REMOTE,
        "into": "restore into a new database of this name (SQLite: a path)",
        "in-place": "load into the existing database, for users who may not create one; no undo",
        "no-owner": "leave out owners and grants",
        "jobs": "how many parallel workers load the data",
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
    """Replace the database with a backup, all or nothing."""
    from repom.dbops import work
    from repom.dbops.restore import carry_out, plan_restore

    settings: Settings = work.locate(Settings.load(c.config, via=via, jobs=jobs), "pg_restore")
    with _chosen(settings, backup, latest) as chosen:
        if chosen is None:
            say("Nothing was restored")
            return
        plan = plan_restore(
            chosen, settings, into=into, in_place=in_place, owner=not no_owner, remote=remote
        )
        if not _agreed(plan, yes, piped=backup == "-"):
            plan.database.close()
            say("Nothing was restored")
            return
        done = carry_out(plan)
    if settings.dry:
        return
    say(f"Restored: {done.database} from {done.backup} ({done.duration_s:.1f} s)")
    _show_replaced(done, json)


@contextmanager
def _chosen(settings: Settings, name: str | None, latest: bool) -> Iterator[Backup | Path | None]:
    """The backup that the flags or the menu name; ``None`` when the menu was cancelled."""
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
    """Ask for one of the backups by its number; ``None`` when the user cancels."""
    if not backups:
        make_one = advice("Make one with: {}", "db.backup")
        raise SettingsError("There are no backups to choose from", make_one)
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


def _agreed(plan: Plan, yes: bool, *, piped: bool) -> bool:
    """Whether to restore; asks only when something will be replaced.

    :param piped: the backup comes from standard input, which therefore cannot answer.
    """
    if yes or plan.settings.dry or not plan.survey.exists:
        return True
    question = questions.about_restore(plan)
    if piped:
        raise Refused(f"{question} Standard input cannot answer", "Pass --yes to proceed")
    return confirm(question, yes)


def _show_replaced(done: Restored, json: bool, way_back: str = "To undo") -> None:
    if done.replaced:
        say(f"{way_back}: {run('db.undo')}")
    show(asdict(done) if json else done.database)


@command(help={"yes": YES, "remote": REMOTE, "json": JSON})
def undo(c: Context, yes: bool = False, remote: bool = False, json: bool = False) -> None:
    """Bring back what the last restore replaced, or undo that again."""
    from repom.dbops.undo import carry_out_undo, plan_undo

    settings = Settings.load(c.config)
    plan = plan_undo(settings, remote=remote)
    if not settings.dry and not confirm(questions.about_undo(plan), yes):
        say("Nothing was changed")
        return
    done = carry_out_undo(plan)
    if settings.dry:
        return
    say(f"{done.database} is again what it was before {clock(plan.kept.created_at)}")
    _show_replaced(done, json, "To switch back")


@command(name="list", help={"json": JSON})
def list_(c: Context, json: bool = False) -> None:
    """Show the backups, newest first, and the undo copies."""
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
    _show_undo_copies(settings)


def _row(b: Backup) -> tuple[str, ...]:
    marks = ", ".join([*b.verified, *(["pinned"] if b.pinned else [])])
    marks = marks or (f"no: {b.problem}" if b.problem else "no")
    return b.name, b.database, size(b.size), age(b.created_at), marks


def _show_undo_copies(settings: Settings) -> None:
    """Never fails: the backups can be listed while the server is down."""
    from repom.dbops.undo import undoable

    try:
        copies = undoable(settings)
    except RepomError as error:
        say(f"Could not check for undo copies: {error.message}")
        return
    for number, each in enumerate(copies):
        how = f"; to bring it back: {run('db.undo')}" if number == 0 else ""
        say(f"Undo copy: {questions.undo_copy(each)}{how}")


@command(
    help={
        "backup": f"{BACKUP} (default: the latest)",
        "drill": "also restore it into a scratch database, which is dropped afterwards",
        "json": JSON,
    }
)
def verify(c: Context, backup: str | None = None, drill: bool = False, json: bool = False) -> None:
    """Check that a backup is still exactly what was written."""
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
        "keep": KEEP,
        "days": "only delete backups older than N days",
        "all-servers": "also delete backups of other servers, even of removed ones; asks first",
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
    """Delete old backups; with --dry, only list them."""
    from repom.dbops import upkeep, work

    settings: Settings = work.locate(Settings.load(c.config, keep=keep))
    age_limit = whole_number("--days", days)
    agreed = None
    if all_servers and not settings.dry:
        planned = upkeep.prune(replace(settings, dry=True), days=age_limit, all_servers=True)
        agreed = {b.name for b, _reason in planned.deleted}
        if agreed and not confirm(questions.about_prune(planned), yes):
            say("Nothing was deleted")
            return
    done = upkeep.prune(settings, days=age_limit, all_servers=all_servers, confirmed=agreed)
    _say_pruned(done, settings, all_servers)
    if json:
        show({"kept": _reasons(done.kept), "deleted": _reasons(done.deleted)})
    else:
        would = "would be " if settings.dry else ""
        show(f"{len(done.kept)} kept, {len(done.deleted)} {would}deleted")


def _say_pruned(done: Pruned, settings: Settings, all_servers: bool) -> None:
    from repom.dbops.store.retention import FROM_ELSEWHERE

    for gone, reason in done.deleted:
        say(f"{'Would delete' if settings.dry else 'Deleted'} {gone.name}: {reason}")
    others = sum(reason == FROM_ELSEWHERE for _b, reason in done.kept)
    if others:
        were = "was" if others == 1 else "were"
        more = "" if all_servers else f". To prune those, too: {run('db.prune --all-servers')}"
        say(f"{counted(others, 'backup')} {FROM_ELSEWHERE} {were} left alone{more}")


def _reasons(pairs: Sequence[tuple[Backup, str]]) -> list[dict[str, str]]:
    return [{"name": b.name, "reason": reason} for b, reason in pairs]


@command(help={"backup": BACKUP, "off": "unpin"})
def pin(c: Context, backup: str | None = None, off: bool = False) -> None:
    """Protect a backup from pruning."""
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
