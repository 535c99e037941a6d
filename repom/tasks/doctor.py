"""`doctor`: what repom would do here, and why."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from invoke import Context, Exit

from repom.errors import Advice

from .console import command, program, show
from .tables import age, printable, size

if TYPE_CHECKING:
    from repom.dbops.doctor import Report

WIDTH = 70


@command(help={"json": "print the result as JSON"})
def doctor(c: Context, json: bool = False) -> None:
    """Show what repom would do here and why, and what to mend. Changes nothing."""
    from repom.dbops.doctor import examine

    report = examine(c.config)
    show(_as_json(report) if json else "\n".join(_lines(report)))
    if report.exit_status:
        raise Exit(code=report.exit_status)


def _as_json(report: Report) -> Any:
    keys = ("name", "value", "origin")
    settings = [dict(zip(keys, each, strict=True)) for each in report.settings]
    return _plain(asdict(report) | {"settings": settings, "exit_status": report.exit_status})


def _plain(value: Any) -> Any:
    """The same as JSON has it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.by(program()) if isinstance(value, Advice) else value


def _lines(report: Report) -> Iterator[str]:
    default = [f"{n}={value}" for n, value, origin in report.settings if origin == "default"]
    given = [f"{n}={value} ({origin})" for n, value, origin in report.settings if origin[0] != "d"]
    yield from _block("Settings", given or ["none given"])
    yield from _block("  default", [" ".join(default)] if default else [])
    for head, found in (("Server", report.server), ("Store", report.store)):
        facts = [(n.replace("_", " "), v) for n, v in found.items() if v is not None]
        yield from _block(head, [f"{name}: {_shown(name, value)}" for name, value in facts])
    yield from _block("Undo", [f"{size(k.size)}, made {age(k.created_at)}" for k in report.undo])
    told = [f"{p.message}. {_plain(p.mend)}" if p.mend else p.message for p in report.problems]
    for number, each in enumerate(told or ["none"]):
        yield from _block("" if number else "Problems", [each])


def _block(head: str, facts: list[str]) -> Iterator[str]:
    """Facts beside a head, wrapped; short ones, paths and commands stay whole."""
    whole = [each.replace(" ", "\xa0") if len(each) < WIDTH else each for each in facts]
    how = {"break_long_words": False, "break_on_hyphens": False}
    for row in textwrap.wrap(printable("\xa0· ".join(whole), "\xa0"), WIDTH, **how):  # type: ignore[arg-type]
        yield f"{head:<10}{row}".replace("\xa0", " ")
        head = ""


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, datetime):
        return age(value)
    return size(value) if name in ("size", "free") else str(value)
