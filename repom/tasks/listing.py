"""The table of backups that `db.list` shows and `db.restore` lets choose from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .tables import GAP, age, fitted, size, table

if TYPE_CHECKING:
    from repom.dbops.store.backup import Backup

WIDTH = 80  # columns of a terminal
LEAST = 8  # columns below which the beginning of a cell says too little
BARS = "▁▂▃▅▇"


def drawn(backups: Sequence[Backup], latest: Backup | None, *, numbered: bool = False) -> str:
    """One row for each backup, in 80 columns unless a name needs more. What is shown of a name
    can be given to ``--backup``.

    :param latest: what ``--latest`` would take.
    :param numbered: begin each row with its number, from 1.
    """
    from repom.dbops.store.store import beginning

    columns = {
        "Age": [age(b.created_at).removesuffix(" ago") for b in backups],
        "Size": _sizes(backups),
        "Marks": [", ".join(_marks(b, is_latest=b is latest)) for b in backups],
    }
    columns = {head: cells for head, cells in columns.items() if any(cells)}
    numbers = max(len(str(len(backups))), 1) + len(GAP) if numbered else 0
    room = WIDTH - numbers - sum(_width(*column) for column in columns.items())
    every = [b.name for b in backups]
    names = [beginning(name, every, room) for name in every]
    room -= _width("Backup", names) - len(GAP)
    columns = {"Backup": names} | columns | dict(_fitting(_details(backups, latest), room))
    return table([*columns], zip(*columns.values(), strict=True), numbered=numbered)


def _width(head: str, cells: Sequence[str]) -> int:
    """Columns that it takes with the gap before or behind it."""
    return max(map(len, [head, *cells])) + len(GAP)


def _sizes(backups: Sequence[Backup]) -> list[str]:
    """Sizes, each with a bar that compares it with the largest backup of its database."""
    largest: dict[str, int] = {}
    for b in backups:
        largest[b.database] = max(b.size, largest.get(b.database, 1))
    shown = [size(b.size) for b in backups]
    width = max(map(len, shown), default=0)
    levels = [b.size * (len(BARS) - 1) // largest[b.database] for b in backups]
    return [f"{text:>{width}} {BARS[level]}" for text, level in zip(shown, levels, strict=True)]


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


def _details(backups: Sequence[Backup], latest: Backup | None) -> dict[str, list[str]]:
    """What else is known of the backups, the most important first."""
    usual = latest or backups[0]
    return {
        "Server": [_server(b, usual) for b in backups],
        "Branch": [b.origin.branch or (b.origin.commit or "")[:7] for b in backups],
        "Migration": [b.facts.migration or "" for b in backups],
    }


def _server(b: Backup, usual: Backup) -> str:
    """Where a backup comes from, if that is not where the usual one does."""
    if b.origin.where and b.origin.where != usual.origin.where:
        return b.origin.where.removeprefix("container ")
    return "" if b.database != usual.database or b.is_same_database_as(usual) else "another"


def _fitting(details: dict[str, list[str]], room: int) -> Iterator[tuple[str, list[str]]]:
    """The columns that have something to say, and room to say it in."""
    for head, cells in details.items():
        width = min(room - len(GAP), _width(head, cells) - len(GAP))
        if any(cells) and width >= max(len(head), min(LEAST, *map(len, filter(None, cells)))):
            yield head, [fitted(cell, width) for cell in cells]
            room -= width + len(GAP)
