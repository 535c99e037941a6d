"""`db.*`: back up, restore and rewind the project's database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from ..errors import CommandFailed, Damaged, NotFound, RepomError, SettingsError
from ..settings import Settings, whole_number
from .console import DEFAULTS, ask, command, confirm, is_terminal, say, show
from .tables import age, counted, size, table

# The library is imported by the tasks when they run: `invoke --list` need not pay for it.
if TYPE_CHECKING:
    from ..dbops.database import Database
    from ..dbops.operations import Plan, Restored
    from ..dbops.store import Backup


JSON = "print the result as JSON"
YES = "do not ask"
VIA = "where the client programs run: auto, docker or host"
REMOTE = "the database is on another machine, and that is meant"
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
    from ..dbops import operations

    settings = Settings.load(c.config, format=format, via=via, keep=keep)
    made = operations.backup(settings, label=label)
    if settings.dry:
        return
    say(f"Backup created: {made.name} ({size(made.size)}, {made.duration_s:.1f} s)")
    show(made.as_json() if json else str(made.path))


@command(
    help={
        "backup": "a backup's name, or the path of any dump",
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
    from ..dbops import operations

    settings = Settings.load(c.config, via=via, jobs=jobs)
    chosen = _chosen(settings, backup, latest)
    if chosen is None:
        say("Nothing was restored")
        return
    plan = operations.plan_restore(
        chosen, settings, into=into, in_place=in_place, owner=not no_owner, remote=remote
    )
    if not settings.dry and not yes and not confirm(_question(plan), yes):
        say("Nothing was restored")
        return
    _tell("Restored", operations.carry_out(plan), settings, json)


def _chosen(settings: Settings, name: str | None, latest: bool) -> Backup | None:
    from ..dbops import upkeep

    if name and latest:
        raise SettingsError("Both --backup and --latest were given", "Give one of them")
    if name or latest:
        return upkeep.find_backup(settings, name)
    if not is_terminal():
        raise SettingsError("No backup was named", "Give --latest, or --backup with a name")
    return _menu(upkeep.list_backups(settings))


def _menu(backups: Sequence[Backup]) -> Backup | None:
    """Let somebody choose a backup by its number; nothing when they cancel."""
    if not backups:
        raise SettingsError("There are no backups to choose from", "Make one: invoke db.backup")
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
    parts = [f"Restore {plan.backup.name} into {where}?"]
    if plan.backup.facts.get("tables") == 0:
        parts.append("The backup holds no table.")
    if plan.foreign:
        parts.append("The file has no manifest, so nothing says that it is whole.")
    if plan.survey.exists:
        keep = plan.settings.undo_keep and not plan.in_place
        fate = "replaced, and kept for db.undo" if keep else "replaced, and not kept"
        parts.append(f"What it holds now ({_holds(plan)}) is {fate}.")
    for old in plan.going:
        parts.append(f"{old.name} ({size(old.size)}), kept {age(old.created_at)}, goes.")
    return " ".join(parts)


def _holds(plan: Plan) -> str:
    """Size, tables and the age of the last backup of what will be replaced."""
    from ..dbops import upkeep

    facts = [size(plan.survey.size)]
    try:
        tables = plan.database.identify().tables
        facts += [] if tables is None else [counted(tables, "table")]
        last = upkeep.find_backup(plan.settings)
        facts.append(f"last backed up {age(last.created_at)}")
    except NotFound:
        facts.append("never backed up")
    except RepomError:
        facts.append("which cannot be looked into")
    return ", ".join(facts)


def _tell(what: str, done: Restored, settings: Settings, json: bool) -> None:
    if settings.dry:
        return
    say(f"{what}: {done.database} from {done.backup} ({done.duration_s:.1f} s)")
    if done.replaced:
        say("What it replaced comes back with: invoke db.undo")
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
    from ..dbops import operations

    settings = Settings.load(c.config)
    plan = operations.plan_undo(settings, remote=remote)
    kept, where = plan.kept, _where(plan.database, plan.engine)
    was = f"{kept.name} ({size(kept.size)}), replaced {age(kept.created_at)}"
    question = f"Put back {was}, into {where}? What it holds now is kept instead."
    if not settings.dry and not confirm(question, yes):
        say("Nothing was changed")
        return
    _tell("Put back", operations.carry_out_undo(plan), settings, json)


def _where(database: Database, engine: str) -> str:
    return f"{database.name} on {database.where}{f' (engine {engine})' if engine else ''}"


@command(name="list", help={"json": JSON})
def list_(c: Context, json: bool = False) -> None:
    """Show the backups, newest first, and what can be undone."""
    from ..dbops import upkeep

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
    marks = ", ".join([*b.verified, *(["pinned"] if b.pinned else [])]) or "no"
    return b.name, b.database, size(b.size), age(b.created_at), marks


def _show_undo(settings: Settings) -> None:
    """A list of files must not fail because the server is down."""
    from ..dbops import operations

    try:
        kept = operations.undoable(settings)
    except RepomError as error:
        say(f"What can be undone is not known: {error.message}")
        return
    for each in kept:
        say(f"db.undo: {each.name} ({size(each.size)}), replaced {age(each.created_at)}")


@command(
    help={
        "backup": "a backup's name or path (default: the latest)",
        "drill": "restore it for real into a scratch database, and drop that again",
        "json": JSON,
    }
)
def verify(c: Context, backup: str | None = None, drill: bool = False, json: bool = False) -> None:
    """Check that a backup is still what was written, to its last byte."""
    from ..dbops import upkeep

    settings = Settings.load(c.config)
    found = upkeep.verify(backup, settings, drill=drill)
    if json:
        problems, passed = list(found.problems), list(found.verified)
        show({"name": found.name, "verified": passed, "problems": problems})
    if found.problems:
        raise Damaged(found.problems[0])
    if not json:
        restored = counted(sum(found.rows.values()), "row")
        rows = f" ({restored} in {counted(len(found.rows), 'table')})" if drill else ""
        show(f"{found.name}: {', '.join(found.verified)}{rows}")


@command(
    help={
        "keep": "how many verified backups stay",
        "days": "how many days old a backup must be to go, too",
        "json": JSON,
    }
)
def prune(c: Context, keep: str | None = None, days: str | None = None, json: bool = False) -> None:
    """Delete old backups of this database; with --dry, only say which."""
    from ..dbops import upkeep
    from ..dbops.store import FROM_ELSEWHERE

    settings = Settings.load(c.config, keep=keep)
    done = upkeep.prune(settings, days=whole_number("--days", days))
    verb = "Would delete" if settings.dry else "Deleted"
    for gone, reason in done.deleted:
        say(f"{verb} {gone.name}: {reason}")
    if strangers := [b for b, reason in done.kept if reason == FROM_ELSEWHERE]:
        say(f"{counted(len(strangers), 'backup')} {FROM_ELSEWHERE} stay until you delete the files")
    if json:
        show({"kept": _reasons(done.kept), "deleted": _reasons(done.deleted)})
    else:
        would = "would be " if settings.dry else ""
        show(f"{len(done.kept)} kept, {len(done.deleted)} {would}deleted")


def _reasons(pairs: Sequence[tuple[Backup, str]]) -> list[dict[str, Any]]:
    return [{"name": b.name, "reason": reason} for b, reason in pairs]


@command(help={"backup": "a backup's name", "off": "let prune have it again"})
def pin(c: Context, backup: str | None = None, off: bool = False) -> None:
    """Keep a backup whatever prune says."""
    from ..dbops import upkeep

    if not backup:
        raise SettingsError("No backup was named", "Give --backup with a name")
    pinned = upkeep.pin(backup, Settings.load(c.config), off=off)
    show(f"{pinned.name} is {'no longer ' if off else ''}pinned")


@command(help={})
def shell(c: Context) -> None:
    """Open psql or the SQLite shell on the database."""
    from ..dbops import operations

    status = operations.shell(Settings.load(c.config))
    if status:
        raise CommandFailed(f"The shell ended with exit status {status}")


db = Collection("db", backup, restore, undo, list_, verify, prune, pin, shell)
db.configure(DEFAULTS)
