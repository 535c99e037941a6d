"""Sizes, times and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

GAP = "  "  # between two columns of a table


def size(count: int) -> str:
    """A number of bytes in decimal units: 38 MB."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        value = count / factor
        if value >= 0.9995:  # from here on the smaller unit would show 1000
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"
    return f"{count} bytes"


def counted(number: int, noun: str) -> str:
    """A number of things: 1 table, 2 tables."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def changed(before: int | None, now: int | None) -> tuple[str, str, str]:
    """Two numbers of rows and how they differ, right-aligned; a dash where there is no table."""
    one, other = ("–" if rows is None else f"{rows:,}" for rows in (before, now))
    if before is None or now is None:
        return one.rjust(11), other.rjust(11), ("new" if before is None else "gone").rjust(11)
    return one.rjust(11), other.rjust(11), f"{now - before:+,}".rjust(11)


def short(name: str, most: int = 38) -> str:
    """A name that takes no more than `most` columns, with its end: schemas repeat."""
    from rich.cells import cell_len

    end = name = printable(name, keep="")
    while cell_len(end) > most - (end != name):
        end = end[1:]
    return name if end == name else f"…{end}"


def printable(text: str, keep: str = "\n\t") -> str:
    """The text with control characters escaped: a database or a file may have a name that
    would drive the terminal."""
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def age(when: datetime, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that fits: 3 hours ago. Both times have a zone."""
    seconds = int(((now or datetime.now(UTC)) - when).total_seconds())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = seconds // length
        if count >= 1:
            return f"{counted(count, unit)} ago"
    return "just now"


def clock(when: datetime, now: datetime | None = None) -> str:
    """The local time of day, with the date unless that is today: 23:34."""
    local, today = when.astimezone(), (now or datetime.now(UTC)).astimezone()
    return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbered: bool = False) -> str:
    """Rows under a head, in columns, as plain text; long cells are neither cut nor wrapped.

    :param numbered: begin each row with its number, from 1.
    """
    from rich.cells import cell_len

    lines = [[*head], *([printable(cell, keep="") for cell in row] for row in rows)]
    if numbered:
        lines = [[str(number or "#"), *line] for number, line in enumerate(lines)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    rule = "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    drawn = [
        GAP.join(cell + " " * (w - cell_len(cell)) for cell, w in zip(line, widths, strict=True))
        for line in lines
    ]
    return "\n".join(line.rstrip() for line in [drawn[0], rule, *drawn[1:]])
