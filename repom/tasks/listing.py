"""The table of backups that `db.list` shows and `db.restore` lets choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from repom.settings import Settings

from .tables import GAP, age, short, size, table

if TYPE_CHECKING:
    from repom.dbops.store.backup import Backup

WIDTH = 80  # columns of a terminal
LEAST = len("Migration")  # columns below which the end of a cell says too little
BARS = "▁▂▃▅▇"


def drawn(
    settings: Settings,
    backups: Sequence[Backup],
    system: Callable[[], str | None],
    *,
    numbered: bool = False,
) -> str:
    """One row for each backup, in 80 columns unless a name needs more. What is shown of a name
    can be given to ``--backup``.

    :param system: identifies the server; called only when backups of several are there.
    :param numbered: begin each row with its number, from 1.
    """
    from repom.dbops.store.store import beginning, latest_of
    from repom.dbops.work import identity

    latest = latest_of(backups, identity(settings), settings.project, system)
    usual, every = latest or backups[0], [b.name for b in backups]
    columns = {
        "Age": [age(b.created_at).removesuffix(" ago") for b in backups],
        "Size": _sizes(backups),
        "Marks": [", ".join(_marks(b, is_latest=b is latest)) for b in backups],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    numbers = len(f"{len(backups)}{GAP}") if numbered else 0
    room = WIDTH - numbers - sum(_width(*column) for column in columns.items())
    names = [beginning(name, every, room) for name in every]
    details = {
        "Server": [_server(b, usual) for b in backups],
        "Branch": [b.origin.branch or (b.origin.commit or "")[:7] for b in backups],
        "Migration": [b.facts.migration or "" for b in backups],
    }
    left = room + len(GAP) - _width("Backup", names)
    columns = {"Backup": names} | columns | dict(_fitting(details, left))
    return table([*columns], zip(*columns.values(), strict=True), numbered=numbered)


def _width(head: str, cells: Sequence[str]) -> int:
    """Columns that it takes with the gap before or behind it."""
    return max(map(len, [head, *cells])) + len(GAP)


def _sizes(backups: Sequence[Backup]) -> list[str]:
    """Sizes, each with a bar that compares it with the largest backup of its database."""
    largest = {b.database: b.size for b in sorted(backups, key=lambda b: b.size)}
    levels = [b.size * (len(BARS) - 1) // (largest[b.database] or 1) for b in backups]
    return [f"{size(b.size):>6} {BARS[n]}" for b, n in zip(backups, levels, strict=True)]


def _marks(b: Backup, *, is_latest: bool) -> Iterator[str]:
    """What is special about a backup."""
    from repom.dbops.store.backup import is_ahead

    marks = {
        "latest": is_latest,
        "damaged": bool(b.problem),
        "unverified": not (b.is_verified or b.problem),
        "pinned": b.pinned,
        "drilled": "drill" in b.verified,
        "partial": bool(b.partial),
        "pulled": b.pulled,
        "in the future": is_ahead(b),
    }
    return (mark for mark, is_set in marks.items() if is_set)


def _server(b: Backup, usual: Backup) -> str:
    """Where a backup comes from, if that is not where the usual one does."""
    if b.origin.where and b.origin.where != usual.origin.where:
        return b.origin.where.removeprefix("container ")
    return "" if b.database != usual.database or b.is_same_database_as(usual) else "another"


def _fitting(details: dict[str, list[str]], room: int) -> Iterator[tuple[str, list[str]]]:
    """The columns that have something to say, and room to say it in."""
    for head, cells in details.items():
        wanted = _width(head, cells) - len(GAP)
        width = min(room - len(GAP), wanted)
        if any(cells) and width >= min(LEAST, wanted):
            yield head, [short(cell, width) for cell in cells]
            room -= width + len(GAP)
