"""What every task shares: how it talks, how it asks, and how it ends."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from invoke import Exit, Task, task
from invoke.exceptions import UnexpectedExit

from ..errors import Interrupted, Refused, RepomError
from ..settings import KEYS

log = logging.getLogger("repom")

#: Every `repom.*` key of Invoke's configuration; see `repom.settings.KEYS`.
DEFAULTS = {"repom": dict.fromkeys(KEYS)}


def command(
    help: Mapping[str, str], name: str | None = None
) -> Callable[[Callable[..., Any]], Task[Any]]:
    """Declare a task: help for every flag, no automatic short flags, no positional
    arguments, and every failure turned into one line and the exit status of the contract."""

    def declare(body: Callable[..., Any]) -> Task[Any]:
        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> None:
            with _talking(), _signals(), _ending():
                body(*args, **kwargs)

        return task(name=name, help=dict(help), auto_shortflags=False, positional=[])(run)  # type: ignore[no-any-return]

    return declare


class _Talk(logging.Handler):
    """Messages of the library as lines on standard error, wherever that is by now."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def _talking() -> Iterator[None]:
    handler, level = _Talk(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end a task in order; a second one does not disturb the
    cleaning up, a third one ends it at once."""
    seen = 0

    def handle(signum: int, _frame: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise Interrupted(signum)
        if seen > 2:
            os._exit(128 + signum)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [n for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {n: signal.signal(getattr(signal, n), handle) for n in names}
    try:
        yield
    finally:
        for each, previous in before.items():
            signal.signal(getattr(signal, each), previous)


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except RepomError as error:
        raise Exit(one_line(str(error)), code=error.exit_status) from None
    except KeyboardInterrupt as error:
        raise Exit("Interrupted", code=getattr(error, "exit_status", 130)) from None
    except UnexpectedExit as error:
        said = error.result.stderr.strip() or f"exit status {error.result.exited}"
        raise Exit(one_line(said), code=1) from None
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise Exit(one_line(f"{error.strerror or error}{where}"), code=1) from None


def one_line(text: str) -> str:
    """The text without line breaks: one failure is one line. What it advises to run is
    spelled as this was run: the console script works where Invoke finds no tasks."""
    script = Path(sys.argv[0]).stem == "repom"
    return " ".join((text.replace("invoke ", "repom ") if script else text).split())


def say(text: str) -> None:
    """A line for people, on standard error; standard output belongs to the result."""
    # When nobody listens any more, that is no reason to stop a backup.
    with suppress(OSError, ValueError, AttributeError):
        print(text, file=sys.stderr, flush=True)


def show(value: Any) -> None:
    """The result, on standard output: text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    print(text, flush=True)


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    streams = (sys.stdin, sys.stderr)
    return all(s is not None and not s.closed and s.isatty() for s in streams)


def ask(question: str) -> str:
    """A line from the terminal; empty at its end. The question goes to standard error."""
    print(f"{question} ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def confirm(question: str, yes: bool) -> bool:
    """Whether to go on: `yes`, or the answer at the terminal, by default No.

    :raises Refused: there is no terminal to ask at.
    """
    if yes:
        return True
    if not is_terminal():
        raise Refused(f"{question} Nobody can be asked here", "Add --yes to go on")
    return ask(f"{question} [y/N]").lower() in ("y", "yes")
