"""What every task shares: how it talks, how it asks, and how it ends."""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from invoke import Exit, Task, task
from invoke.exceptions import UnexpectedExit

from repom.errors import PROGRAM, Advice, Interrupted, Refused, RepomError
from repom.settings.sources import KEYS

from .tables import printable

log = logging.getLogger("repom")

#: Every `repom.*` key of Invoke's configuration; see `repom.settings.KEYS`.
DEFAULTS = {"repom": dict.fromkeys(KEYS)}

#: Seconds that cleaning up after a signal may take.
PATIENCE = 1.8

#: How a user starts tasks: what the console script says, else what this process is called.
PROGRAMS = (PROGRAM, "inv", "invoke")
_started_as = ""


def command(
    help: Mapping[str, str], name: str | None = None
) -> Callable[[Callable[..., Any]], Task[Any]]:
    """Declare a task: help for every flag, no automatic short flags, no positional
    arguments, and every failure turned into one line and the exit status of the contract."""

    def declare(body: Callable[..., Any]) -> Task[Any]:
        @functools.wraps(body)
        def run(*args: Any, **kwargs: Any) -> None:
            _open_standard_streams()
            with _talking(), _signals(), _ending():
                body(*args, **kwargs)

        return task(name=name, help=dict(help), auto_shortflags=False, positional=[])(run)  # type: ignore[no-any-return]

    return declare


def started_as(program: str) -> None:
    """Told by a console script: hints name it."""
    global _started_as
    _started_as = program


def program() -> str:
    """What a user types before a task's name here."""
    name = Path(sys.argv[0]).stem if sys.argv else ""
    return name if name in PROGRAMS else _started_as or "invoke"


def run(task: str) -> str:
    """A task with its flags as a user can type it here."""
    return f"{program()} {task}"


class _Talk(logging.Handler):
    """Messages of the library as lines on standard error, wherever that is by now."""

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):
            told = (a.by(program()) if isinstance(a, Advice) else a for a in record.args)
            record.args = tuple(told)
        say(record.getMessage())


def _open_standard_streams() -> None:
    """Where one was closed (``2>&-``), the next file to be opened would take its number,
    and a backup would receive what is meant for a person."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


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
    """SIGINT, SIGTERM and SIGHUP end a task in order, within `PATIENCE` seconds; a second
    one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    seen: list[int] = []

    def handle(signum: int, _frame: object) -> None:
        seen.append(signum)
        if len(seen) == 1:
            raise Interrupted(signum)

    with _watched(numbers):
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)


@contextmanager
def _watched(numbers: Sequence[int]) -> Iterator[None]:
    """A thread that ends the process by itself. The interpreter tells it of a signal at
    once, also while the main thread waits for a disk and cannot handle any."""
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    threading.Thread(target=_watch, args=(reading, numbers), daemon=True).start()
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writing.close()


def _watch(reading: socket.socket, numbers: Sequence[int]) -> None:
    """Wait for a first signal for ever, and for the second one, or the end of the task,
    for `PATIENCE` seconds."""
    first = 0
    with reading:
        while not first:
            told = reading.recv(1)
            if not told:
                return  # the task is over
            first = told[0] if told[0] in numbers else 0
        reading.settimeout(PATIENCE)
        try:
            second = reading.recv(1)
        except TimeoutError:
            os._exit(128 + first)
        if second:
            os._exit(128 + second[0])


@contextmanager
def _ending() -> Iterator[None]:
    try:
        yield
    except (Exit, SystemExit):
        raise
    except KeyboardInterrupt as error:
        raise _failed("Interrupted", getattr(error, "exit_status", 130)) from None
    except BaseException as error:
        if logging.getLogger("invoke").isEnabledFor(logging.DEBUG):  # --debug, INVOKE_DEBUG
            for line in traceback.format_exception(error):
                say(line.rstrip("\n"))
        raise _failed(_told(error), getattr(error, "exit_status", 1)) from None


def _told(error: BaseException) -> str:
    """What happened, and what to do about it."""
    if isinstance(error, RepomError):
        return error.told(program())
    if isinstance(error, UnexpectedExit):
        return error.result.stderr.strip() or f"exit status {error.result.exited}"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}"
    return f"Unexpected {type(error).__name__}: {error}. For details, run it again with --debug"


def _failed(text: str, status: int) -> Exit:
    """The end of a task. Invoke prints nothing then: it cannot write to a pipe that was
    closed, nor what an encoding lacks."""
    say(one_line(text))
    return Exit(code=status)


def one_line(text: str) -> str:
    """The text without line breaks: one failure is one line."""
    return " ".join(text.split())


def say(text: str) -> None:
    """A line for people, on standard error; standard output belongs to the result."""
    if sys.stderr is None:  # `print` would take standard output instead
        return
    try:
        _write(sys.stderr, printable(text))
    except (OSError, ValueError, AttributeError):
        _silence(sys.stderr)  # when nobody listens any more, that is no reason to stop


def show(value: Any) -> None:
    """The result, on standard output: text as it is, anything else as JSON."""
    if sys.stdout is None:
        return
    if not isinstance(value, str):
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        value = json.dumps(value, indent=2, ensure_ascii=not utf8)
    try:
        _write(sys.stdout, value)
    except (BrokenPipeError, ConnectionResetError):  # whoever read it has seen enough
        _silence(sys.stdout)
    except OSError:
        _silence(sys.stdout)
        raise


def _write(stream: TextIO, text: str) -> None:
    """A line, in which characters that the stream's encoding lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    print(text, file=stream, flush=True)


def _silence(stream: TextIO) -> None:
    """Let what is still to be written go nowhere: at its exit Python would try again."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def standard_input() -> BinaryIO:
    """What is piped into this process, as bytes.

    :raises Refused: that is a terminal, or closed.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise Refused("Nothing is piped into standard input", "Pipe a dump into it")
    return sys.stdin.buffer


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    streams = (sys.stdin, sys.stderr)
    return all(s is not None and not s.closed and s.isatty() for s in streams)


def ask(question: str) -> str:
    """A line from the terminal; empty at its end. The question goes to standard error."""
    print(printable(question), end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()


def confirm(question: str, yes: bool) -> bool:
    """Whether to go on: `yes`, or the answer at the terminal, by default No.

    :raises Refused: there is no terminal to ask on.
    """
    if yes:
        return True
    if not is_terminal():
        raise Refused(f"{question} No terminal to ask on", "Pass --yes to proceed")
    return ask(f"{question} [y/N]").lower() in ("y", "yes")
