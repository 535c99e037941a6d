"""What every task shares: how it prints, asks, and ends."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from invoke import Exit, Task, task
from invoke.exceptions import UnexpectedExit

from repom import progress
from repom.errors import PROGRAM, Advice, Refused, RepomError
from repom.settings.sources import KEYS

from . import line, signals
from .tables import printable

log = logging.getLogger("repom")

#: Every `repom.*` key of Invoke's configuration; see `repom.settings.sources.KEYS`.
DEFAULTS = {"repom": dict.fromkeys(KEYS)}

#: Programs that start tasks.
PROGRAMS = (PROGRAM, "inv", "invoke")
#: Characters that tables are drawn with, and others of their width that every encoding has.
PLAIN = str.maketrans("▁▂▃▅▇─…–", "_.-=#-~-")
_started_as = ""


def command(
    help: Mapping[str, str], name: str | None = None
) -> Callable[[Callable[..., Any]], Task[Any]]:
    """Declare a task. Every flag has help and none a short form, arguments are never
    positional, and every failure ends in one line and the exit status of its error."""

    def declare(body: Callable[..., Any]) -> Task[Any]:
        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> None:
            _open_standard_streams()
            as_json = bool(kwargs.get("json"))
            seen = progress.listening(line.shown)
            with _log_shown(), signals.raising(), _failures_shown(as_json), seen:
                body(*args, **kwargs)

        return task(name=name, help=dict(help), auto_shortflags=False, positional=[])(run)  # type: ignore[no-any-return]

    return declare


def started_as(program: str) -> None:
    """Name the program for hints; a console script calls this, as it may be renamed."""
    global _started_as
    _started_as = program


def program() -> str:
    """The program that the user typed before the task's name."""
    name = Path(sys.argv[0]).stem if sys.argv else ""
    return name if name in PROGRAMS else _started_as or "invoke"


def run(task: str) -> str:
    """The command line of a task with its flags, as this user can type it."""
    return f"{program()} {task}"


def _open_standard_streams() -> None:
    """Open those that were closed (``2>&-``). Otherwise the next file to be opened, such as
    a backup, would get their number and what is printed to them."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


class _Lines(logging.Handler):
    """Shows log records as lines on standard error; looks the stream up for each."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            record.args = tuple(
                each.by(program()) if isinstance(each, Advice) else each for each in record.args
            )
        say(record.getMessage())


@contextmanager
def _log_shown() -> Iterator[None]:
    handler, level = _Lines(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def _failures_shown(as_json: bool) -> Iterator[None]:
    try:
        yield
    except (Exit, SystemExit):
        raise
    except KeyboardInterrupt as error:
        raise _failed("Interrupted", error, 130, as_json) from None
    except BaseException as error:
        if logging.getLogger("invoke").isEnabledFor(logging.DEBUG):  # --debug, INVOKE_DEBUG
            for line in traceback.format_exception(error):
                say(line.rstrip("\n"))
        raise _failed(_explained(error), error, 1, as_json) from None


def _explained(error: BaseException) -> str:
    """What happened, and what to do about it."""
    if isinstance(error, RepomError):
        return error.told(program())
    if isinstance(error, UnexpectedExit):
        return error.result.stderr.strip() or f"exit status {error.result.exited}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"Unexpected {type(error).__name__}: {error}. For details, run it again with --debug"


def _failed(text: str, error: BaseException, status: int, as_json: bool) -> Exit:
    """Print the one line of a failure, and the JSON if that was asked for; return what ends
    the task. `Exit` gets no message: Invoke would fail to print it to a closed pipe, or in an
    encoding that lacks a character.

    :param text: what happened and what to do, for people.
    :param status: the exit status of an error that has none of its own.
    """
    status = getattr(error, "exit_status", status)
    say(" ".join(text.split()), failed=True)
    if as_json:
        known = error if isinstance(error, RepomError) else RepomError(text)
        told = {
            "message": " ".join(known.message.split()),
            "hint": " ".join(known.hint_for(program()).split()),
            "exit_status": status,
        }
        with suppress(OSError):  # a full disk; the line on standard error was printed
            show({**known.result, "error": told})
    return Exit(code=status)


def say(text: str, *, failed: bool = False) -> None:
    """Print a line to standard error; standard output is for results.

    :param failed: it says what went wrong, so it is red on a terminal with colours.
    """
    if sys.stderr is None:  # `print` would take standard output instead
        return
    try:
        text = printable(text)
        _write(sys.stderr, f"\x1b[31m{text}\x1b[0m" if failed and line.has_colour() else text)
    except (OSError, ValueError, AttributeError):
        _silence(sys.stderr)  # a reader that has gone must not stop a backup


def show(value: Any) -> None:
    """Print the result to standard output: text as it is, anything else as JSON.

    :raises OSError: it could not be written, such as to a full disk.
    """
    if sys.stdout is None:
        return
    if not isinstance(value, str):
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        value = json.dumps(value, indent=2, ensure_ascii=not utf8)
    try:
        _write(sys.stdout, value)
    except (BrokenPipeError, ConnectionResetError):  # as in `db.list | head`
        _silence(sys.stdout)
    except OSError:
        _silence(sys.stdout)
        raise


def _write(stream: TextIO, text: str) -> None:
    """Write a line, with characters escaped that the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


def _silence(stream: TextIO) -> None:
    """Discard what the stream still buffers: Python would try to write it again at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def standard_input() -> BinaryIO:
    """What is piped into this process, as bytes.

    :raises Refused: standard input is a terminal, or closed.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise Refused("Nothing is piped into standard input", "Pipe a dump into it")
    return sys.stdin.buffer


def is_terminal() -> bool:
    """Whether a user can be asked."""
    streams = (sys.stdin, sys.stderr)
    return all(s is not None and not s.closed and s.isatty() for s in streams)


class Lost(str):
    """The part of a question that says what will be lost; a terminal shows it bold."""


def ask(*question: str) -> str:
    """Ask on standard error and return the line that was typed; empty at the end of input."""
    for part in question:
        text, is_bold = printable(part), isinstance(part, Lost) and line.has_colour()
        shown = f"\x1b[1m{text}\x1b[0m" if is_bold else text
        print(shown, end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def confirm(question: Sequence[str], yes: bool) -> bool:
    """Whether to proceed: `yes`, or the answer at the terminal, by default No.

    :param question: its parts.

    :raises Refused: there is no terminal to ask on.
    """
    if yes:
        return True
    if not is_terminal():
        raise Refused(f"{' '.join(question)} No terminal to ask on", "Pass --yes to proceed")
    return ask(*question, "[y/N]").lower() in ("y", "yes")
