"""`db.*`: back up, restore and rewind the project's database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from invoke import Collection, Context

from ..dbops import operations
from ..dbops.operations import Plan, Restored
from ..dbops.store import Backup
from ..errors import CommandFailed, Damaged, SettingsError
from ..settings import Settings
from .console import DEFAULTS, ask, command, confirm, is_terminal, say, show
from .tables import age, size, table

JSON = "print the result as JSON"
YES = "do not ask"
VIA = "where the client programs run: auto, docker or host"
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
        "remote": "the database is on another machine, and that is meant",
        "into": "restore into a new database of this name (SQLite: a path)",
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
    no_owner: bool = False,
    jobs: str | None = None,
    via: str | None = None,
    json: bool = False,
) -> None:
    """Replace the database by a backup, whole or not at all."""
    settings = Settings.load(c.config, via=via, jobs=jobs)
    chosen = _chosen(settings, backup, latest)
    if chosen is None:
        say("Nothing was restored")
        return
    plan = operations.plan_restore(chosen, settings, into=into, owner=not no_owner, remote=remote)
    if not settings.dry and not confirm(_question(plan), yes):
        say("Nothing was restored")
        return
    _tell(operations.carry_out(plan), settings, json)


def _chosen(settings: Settings, name: str | None, latest: bool) -> Backup | None:
    if name and latest:
        raise SettingsError("Both --backup and --latest were given", "Give one of them")
    if name or latest:
        return operations.find_backup(settings, name)
    if not is_terminal():
        raise SettingsError("No backup was named", "Give --latest, or --backup with a name")
    return _menu(operations.list_backups(settings))


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
    was = plan.existing
    lines = [f"Restore {plan.backup.name} into {plan.database.name} on {plan.database.where}?"]
    if plan.foreign:
        lines.append("The file has no manifest, so nothing says that it is whole.")
    if was:
        lines.append(f"What it holds now ({size(was.size)}, {was.tables} tables) is replaced")
        lines[-1] += " and kept for db.undo." if plan.settings.undo_keep else "."
    for old in plan.going:
        lines.append(f"{old.name}, kept {age(old.created_at)}, goes.")
    return " ".join(lines)


def _tell(done: Restored, settings: Settings, json: bool) -> None:
    if settings.dry:
        return
    say(f"Restored: {done.database} from {done.backup} ({done.duration_s:.1f} s)")
    if done.replaced:
        say("What it replaced comes back with: invoke db.undo")
    result = {
        "database": done.database,
        "backup": done.backup,
        "replaced": done.replaced,
        "duration_s": done.duration_s,
    }
    show(result if json else done.database)


@command(help={"yes": YES, "json": JSON})
def undo(c: Context, yes: bool = False, json: bool = False) -> None:
    """Put back what the last restore replaced; once more undoes the undo."""
    settings = Settings.load(c.config)
    if not settings.dry and not confirm(f"Put back what {settings.database} held before?", yes):
        say("Nothing was changed")
        return
    _tell(operations.undo(settings), settings, json)


@command(name="list", help={"json": JSON})
def list_(c: Context, json: bool = False) -> None:
    """Show the backups, newest first, and what can be undone."""
    settings = Settings.load(c.config)
    backups = operations.list_backups(settings)
    if json:
        show([b.as_json() for b in backups])
        return
    if backups:
        show(table(("Backup", "Database", "Size", "Age", "Verified"), map(_row, backups)))
    else:
        say(f"There are no backups in {settings.backup_dir}")


def _row(b: Backup) -> tuple[str, ...]:
    marks = ", ".join([*b.verified, *(["pinned"] if b.pinned else [])]) or "no"
    return b.name, b.database, size(b.size), age(b.created_at), marks


@command(help={"backup": "a backup's name or path (default: the latest)", "json": JSON})
def verify(c: Context, backup: str | None = None, json: bool = False) -> None:
    """Check that a backup is still what was written, to its last byte."""
    settings = Settings.load(c.config)
    found = operations.verify(backup, settings)
    passed = ", ".join(found.verified) or "readable, but it has no manifest to compare with"
    if json:
        problems = list(found.problems)
        show({"name": found.name, "verified": list(found.verified), "problems": problems})
    if found.problems:
        raise Damaged(found.problems[0], "Restore another backup: invoke db.list shows them")
    if not json:
        show(f"{found.name}: {passed}")


@command(help={"keep": "how many verified backups to keep", "json": JSON})
def prune(c: Context, keep: str | None = None, json: bool = False) -> None:
    """Delete this database's backups beyond the newest ones."""
    settings = Settings.load(c.config, keep=keep)
    done = operations.prune(settings)
    verb = "Would delete" if settings.dry else "Deleted"
    for gone, reason in done.deleted:
        say(f"{verb} {gone.name}: {reason}")
    if json:
        show({"kept": _reasons(done.kept), "deleted": _reasons(done.deleted)})
    else:
        show(f"{len(done.kept)} kept, {len(done.deleted)} deleted")


def _reasons(pairs: Sequence[tuple[Backup, str]]) -> list[dict[str, Any]]:
    return [{"name": b.name, "reason": reason} for b, reason in pairs]


@command(help={"backup": "a backup's name", "off": "let prune have it again"})
def pin(c: Context, backup: str | None = None, off: bool = False) -> None:
    """Keep a backup whatever prune says."""
    if not backup:
        raise SettingsError("No backup was named", "Give --backup with a name")
    pinned = operations.pin(backup, Settings.load(c.config), off=off)
    show(f"{pinned.name} is {'no longer ' if off else ''}pinned")


@command(help={})
def shell(c: Context) -> None:
    """Open psql or the SQLite shell on the database."""
    status = operations.shell(Settings.load(c.config))
    if status:
        raise CommandFailed(f"The shell ended with exit status {status}")


db = Collection("db", backup, restore, undo, list_, verify, prune, pin, shell)
db.configure(DEFAULTS)
