"""`db.*`: back up, restore and rewind the project's database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Collection, Context

from repom.errors import CommandFailed, Damaged, Refused, RepomError, SettingsError, advice
from repom.settings import Settings
from repom.settings.values import duration, listed, whole_number

from . import listing, questions
from .console import DEFAULTS, ask, command, confirm, is_terminal, run, say, show, standard_input
from .tables import age, changed, clock, counted, short, size, table

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
EXCLUDE = "leave out the rows of tables that match these patterns, separated by commas"
AFTER_LOAD = "run these .sql files, separated by commas, in the restored database first"
NO_AFTER_LOAD = "run no .sql files, whatever REPOM_AFTER_LOAD says"
BACKUP = "name, label or unambiguous beginning of a backup, or the path of any dump file"


@command(
    help={
        "label": "a label to add to the backup's name",
        "format": "custom (default) or plain (SQL)",
        "via": VIA,
        "keep": KEEP,
        "exclude-table-data": EXCLUDE,
        "if-older": "do nothing while the newest verified backup is younger: 30m, 24h, 7d",
        "json": JSON,
    }
)
def backup(
    c: Context,
    label: str | None = None,
    format: str | None = None,
    via: str | None = None,
    keep: str | None = None,
    exclude_table_data: str | None = None,
    if_older: str | None = None,
    json: bool = False,
) -> None:
    """Write one verified backup, then prune older ones."""
    from repom import dbops

    began = datetime.now(UTC).replace(microsecond=0)
    settings = Settings.load(c.config, format=format, via=via, keep=keep)
    excluded = listed("--exclude-table-data", exclude_table_data)
    limit = duration("--if-older", if_older)
    made = dbops.backup(settings, label=label, exclude_table_data=excluded, if_older=limit)
    if made.created_at < began:
        say(f"No backup needed: {made.name} was made {age(made.created_at)}")
    elif settings.dry:
        return
    else:
        say(f"Backup created: {made.name} ({size(made.size)}, {made.duration_s:.1f} s)")
    show(made.as_json() if json else str(made.path))


@command(
    help={
        "backup": f"{BACKUP}; - for standard input",
        "latest": "use the newest verified backup of this database",
        "after-load": AFTER_LOAD,
        "no-after-load": NO_AFTER_LOAD,
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
    after_load: str | None = None,
    no_after_load: bool = False,
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

    settings = Settings.load(c.config, via=via, jobs=jobs, after_load=after_load)
    settings = _without_hooks(settings, after_load) if no_after_load else settings
    settings = work.locate(settings, "pg_restore")
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


@command(
    help={
        "source": "URL of the other database; with a password, set REPOM_PULL_URL instead",
        "label": "a label to add to the backup's name",
        "exclude-table-data": EXCLUDE,
        "after-load": AFTER_LOAD,
        "no-after-load": NO_AFTER_LOAD,
        "no-keep": "delete the backup of the other database after the restore",
        "yes": YES,
        "remote": f"{REMOTE} to be replaced",
        "json": JSON,
    }
)
def pull(
    c: Context,
    source: str | None = None,
    label: str | None = None,
    exclude_table_data: str | None = None,
    after_load: str | None = None,
    no_after_load: bool = False,
    no_keep: bool = False,
    yes: bool = False,
    remote: bool = False,
    json: bool = False,
) -> None:
    """Replace the database with a copy of another one, which is only read."""
    from repom.dbops.pull import carry_out_pull, plan_pull
    from repom.dbops.store.store import Store

    settings = Settings.load(c.config, pull_url=source, after_load=after_load)
    settings = _without_hooks(settings, after_load) if no_after_load else settings
    if source and getattr(settings.pull_url, "password", None):
        say("The password in --source shows in the list of processes; set REPOM_PULL_URL instead")
    excluded = listed("--exclude-table-data", exclude_table_data)
    Store.check_label(label)
    plan = plan_pull(settings, remote=remote)
    asks = plan.survey.exists and not settings.dry
    if asks and not confirm(questions.about_pull(plan, excluded), yes):
        say("Nothing was pulled")
        return
    done = carry_out_pull(plan, label=label, excluded=excluded, keep=not no_keep)
    if settings.dry:
        return
    kept = "" if no_keep else f"; the backup {done.backup} is not scrubbed"
    say(f"Pulled: {done.database} from {plan.source.where} ({done.duration_s:.1f} s){kept}")
    _show_replaced(done, json)


def _without_hooks(settings: Settings, after_load: str | None) -> Settings:
    if after_load is not None:
        raise SettingsError("Both --after-load and --no-after-load were given", "Pass one of them")
    return replace(settings, after_load=())


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
        yield _menu(settings, upkeep.list_backups(settings))
    else:
        raise SettingsError("No backup selected", "Pass --latest or --backup NAME")


def _menu(settings: Settings, backups: Sequence[Backup]) -> Backup | None:
    """Ask for one of the backups by its number; ``None`` when the user cancels."""
    from repom.dbops import work

    if not backups:
        make_one = advice("Make one with: {}", "db.backup")
        raise SettingsError("There are no backups to choose from", make_one)
    say(listing.drawn(settings, backups, lambda: work.system_of(settings), numbered=True))
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
        raise Refused(f"{' '.join(question)} Standard input cannot answer", "Pass --yes to proceed")
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
    from repom.dbops import upkeep, work
    from repom.dbops.undo import look

    settings = Settings.load(c.config)
    backups = upkeep.list_backups(settings)
    if json:
        show([b.as_json() for b in backups])
        return
    with suppress(RepomError):  # `look` says it
        settings = work.locate(settings)
    survey = cache(lambda: look(settings))  # the server is asked once, for two answers
    if backups:
        show(listing.drawn(settings, backups, lambda: survey().system_identifier))
    else:
        say(f"There are no backups in {settings.backup_dir}")
    for b in backups:
        if b.problem:
            say(f"{b.name} does not count: {b.problem}")
    for number, each in enumerate(survey().kept):
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
    problems, passed = list(found.problems), list(found.verified)
    result = {"name": found.name, "verified": passed, "problems": problems}
    if found.problems:
        error = Damaged(found.problems[0], found.hint)
        error.result = result
        raise error
    if json:
        show(result)
    else:
        restored = counted(sum(found.rows.values()), "row")
        rows = f" ({restored} in {counted(len(found.rows), 'table')})" if drill else ""
        show(f"{found.name}: {', '.join(found.verified)}{rows}")


@command(help={"backup": f"{BACKUP} (default: the latest)", "json": JSON})
def diff(c: Context, backup: str | None = None, json: bool = False) -> None:
    """Show which tables and row counts differ between a backup and the database."""
    from repom.dbops.diff import diff

    settings = Settings.load(c.config)
    found = diff(settings, backup)
    if settings.dry:
        return
    if json:
        show(asdict(found))
        return
    if found.unread:
        say(f"Could not count the rows of {', '.join(found.unread)}")
    same = f"{counted(found.same, 'table')} {'has' if found.same == 1 else 'have'} the same rows"
    if found.differ:
        rows = [(short(t.table), *changed(t.backup, t.now)) for t in found.differ]
        show(table(("Table", "     Backup", "        Now", " Difference"), rows))
        say(same)
    else:
        show(f"No differences in tables and row counts: {found.backup}, {found.database} ({same})")


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


db = Collection("db", backup, restore, pull, undo, list_, verify, diff, prune, pin, shell)
db.configure(DEFAULTS)
