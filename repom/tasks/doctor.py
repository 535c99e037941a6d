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

WIDTH = 80


@command(help={"json": "print the result as JSON"})
def doctor(c: Context, json: bool = False) -> None:
    """Show what repom would do here and why, and what to mend. Changes nothing."""
    from repom.dbops.doctor import examine

    report = examine(c.config)
    show(_as_json(report) if json else "\n".join(_lines(report)))
    if report.exit_status:
        raise Exit(code=report.exit_status)


def _as_json(report: Report) -> dict[str, Any]:
    keys = ("name", "value", "origin")
    found = asdict(report) | {"exit_status": report.exit_status}
    found["settings"] = [dict(zip(keys, each, strict=True)) for each in report.settings]
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: Any) -> Any:
    """The same as JSON has it; a name for people becomes a key."""
    if isinstance(value, dict):
        return {name.replace(" ", "_"): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.by(program()) if isinstance(value, Advice) else value


def _lines(report: Report) -> Iterator[str]:
    default = [f"{name}={value}" for name, value, origin in report.settings if origin == "default"]
    given = [(f"{n}={v} ({o})") for n, v, o in report.settings if o != "default"]
    yield from _block("Settings", [*given, f"default: {' '.join(default)}"] if default else given)
    for head, found in (("Server", report.server), ("Store", report.store)):
        yield from _block(head, [f"{n}: {_shown(n, v)}" for n, v in found.items() if v is not None])
    copies = [f"{size(each.size)}, made {age(each.created_at)}" for each in report.undo]
    yield from _block("Undo", copies)
    told = [
        (p.message, p.mend.by(program()) if isinstance(p.mend, Advice) else p.mend)
        for p in report.problems
    ]
    problems = [f"{message}. {mend}" if mend else message for message, mend in told]
    for number, each in enumerate(problems or ["none"]):
        yield from _block("" if number else "Problems", [each])


def _block(head: str, lines: list[str]) -> Iterator[str]:
    """Lines beside a head, wrapped; a long word such as a path or a command stays whole."""
    for number, line in enumerate(_packed(lines)):
        wrapped = textwrap.wrap(
            printable(line, keep=""),
            WIDTH - 10,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for row, text in enumerate(wrapped):
            yield f"{head if not number and not row else '':<10}{text}"


def _packed(lines: list[str]) -> list[str]:
    """Several short ones on a line."""
    found: list[str] = []
    for line in lines:
        joined = f"{found[-1]} · {line}" if found else ""
        if joined and len(joined) <= WIDTH - 10:
            found[-1] = joined
        else:
            found.append(line)
    return found


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, datetime):
        return age(value)
    return size(value) if name in ("size", "free") else str(value)
