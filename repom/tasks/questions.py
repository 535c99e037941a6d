"""What users are asked before something is replaced or deleted, in parts of one text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING

from repom.errors import NotFound, RepomError
from repom.settings import Settings

from .console import Lost
from .tables import age, counted, size

if TYPE_CHECKING:
    from repom.dbops.database import Database, Kept
    from repom.dbops.pull import Pull
    from repom.dbops.restore import Plan
    from repom.dbops.store.retention import Pruned
    from repom.dbops.undo import Undo


def about_restore(plan: Plan) -> list[str]:
    where = place(plan.settings, plan.database, plan.engine)
    made = f", made {age(plan.backup.created_at)}" if plan.backup.created_at else ""
    parts = [f"Restore {plan.backup.name} ({size(plan.backup.size)}{made}) into {where}?"]
    if plan.origin:
        parts.append(f"The backup is of {plan.origin}.")
    if plan.backup.facts.tables == 0:
        parts.append("The backup holds no tables.")
    if plan.foreign:
        parts.append("The file has no manifest, so its integrity cannot be checked.")
    parts += _left_out(plan.backup.partial)
    if not plan.survey.exists:
        return parts
    return [*parts, *_replaced(plan, plan.database, in_place=plan.in_place)]


def about_pull(plan: Pull, excluded: Sequence[str]) -> list[str]:
    found, here = plan.facts, place(plan.settings, plan.target, plan.engine)
    size_there = f"{size(found.size)}, {counted(found.tables or 0, 'table')}"
    asked = f"Copy {plan.source.name} on {plan.source.where} ({size_there}) into {here}?"
    return [asked, *_left_out(excluded), *_replaced(plan, plan.target)]


def _left_out(partial: Sequence[str]) -> list[str]:
    tables = ", ".join(partial)
    return [f"Tables that match {tables} come back empty."] if partial else []


def _replaced(plan: Plan | Pull, database: Database, *, in_place: bool = False) -> Iterator[str]:
    """What becomes of the current database."""
    from repom.dbops import work

    if in_place:
        back = "this cannot be undone"
    elif not plan.settings.undo_keep:
        back = "it will not be kept, because REPOM_UNDO_KEEP is 0"
    else:
        back = "db.undo brings it back"
    now = contents(plan.settings, database, plan.survey.size)
    yield Lost(f"The current database ({now})")
    yield f"will be replaced; {back}."
    yield from [*_ended(plan.survey.sessions), *plan.survey.notes]
    for old in [] if in_place else work.to_delete(plan.settings, plan.survey):
        yield Lost(f"The earlier undo copy ({undo_copy(old)})")
        yield "will be deleted."


def about_undo(plan: Undo) -> list[str]:
    where = place(plan.settings, plan.database, plan.engine)
    parts = [f"Bring the undo copy ({undo_copy(plan.kept)}) back as {where}?"]
    if plan.survey.exists:
        parts.append("The current database will be kept as the new undo copy.")
    return [*parts, *_ended(plan.survey.sessions), *plan.survey.notes]


def about_prune(planned: Pruned) -> list[str]:
    """What a prune of every server's backups would delete; `planned` deletes at least one."""
    gone = [b for b, _reason in planned.deleted]
    places = sorted({b.origin.where or "an unknown server" for b in gone})
    total = f"{counted(len(gone), 'backup')} ({size(sum(b.size for b in gone))})"
    ages = f"the oldest made {age(gone[-1].created_at)}, the newest {age(gone[0].created_at)}"
    kept = counted(len(planned.kept), "backup")
    return [Lost(f"Delete {total}"), f"of {', '.join(places)}, {ages}? {kept} will be kept."]


def place(settings: Settings, database: Database, engine: str) -> str:
    """A database and where it is: app on container app-db-1 (service db of this folder's
    Compose project, engine tcp://build:2375)."""
    from repom.runners.choose import Located

    details = [f"engine {engine}"] if engine else []
    if isinstance(settings, Located) and database.via == "docker":
        details.insert(0, settings.choice.whose)
    shown = ", ".join(filter(None, details))
    return f"{database.name} on {database.where}{f' ({shown})' if shown else ''}"


def undo_copy(kept: Kept) -> str:
    """Size and age of an undo copy."""
    return f"{size(kept.size)}, made {age(kept.created_at)}"


def contents(
    settings: Settings, database: Database | None = None, known_size: int | None = None
) -> str:
    """What the configured database holds and when it was last backed up: 8.4 MB, 11 tables,
    last backed up 2 days ago. Says so where one of these cannot be found out.

    :param database: the same, where it is open already.
    :param known_size: bytes, shown when the database cannot be asked.
    """
    from repom.dbops import work

    try:
        opened = (
            nullcontext(database) if database else closing(work.open_database(settings, "psql"))
        )
        with opened as asked:
            found = asked.identify()
        facts = [size(found.size if known_size is None else known_size)]
        facts += [] if found.tables is None else [counted(found.tables, "table")]
    except RepomError:
        facts = [] if known_size is None else [size(known_size)]
        facts.append("contents unknown")
    try:
        last = work.find_backup(settings)
        if last.identity != work.identity(settings):
            raise NotFound(f"{last.name} is of another server")
        facts.append(f"last backed up {age(last.created_at)}")
    except NotFound:
        facts.append("never backed up")
    except RepomError:
        facts.append("last backup unknown")
    return ", ".join(facts)


def _ended(sessions: Sequence[str]) -> list[str]:
    return [f"These sessions will be ended: {', '.join(sessions)}."] if sessions else []
