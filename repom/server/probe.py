"""Whether a server could listen on a port, and whether it answers there."""

from __future__ import annotations

import errno
import logging
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping

from invoke.runners import Result

from repom.errors import CommandFailed, Unreachable
from repom.runners.engine import Trouble, meaning, port_taken
from repom.runners.runner import Runner

from .facts import HOST

log = logging.getLogger("repom")

PATIENCE = 60  # seconds until a server that does not answer has failed
SETTLED = 3  # the same after an answer of `FINAL`, unless the image sets its database up late
QUESTION = ("-X", "-w", "-A", "-t", "-c", "SELECT 1")
WRONG_PASSWORD = "password authentication failed"  # noqa: S105 - the server's words
#: What psql says when waiting does not help.
FINAL = (WRONG_PASSWORD, "no password supplied", "does not exist")


def check_port(port: int, platform: str = sys.platform) -> None:
    """Check that a server could listen on this port of 127.0.0.1.

    :raises Refused: a program does already.
    """
    with socket.socket() as listener:
        if platform != "win32":  # there it would take the port from its owner
            # Connections of a server that has just stopped linger; they do not count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_taken(port) from None


def answer(runner: Runner, psql: str, login: Mapping[str, str]) -> str:
    """Ask the target database over TCP; returns its complaint, or nothing."""
    try:
        result = runner.run([psql, *QUESTION], env=login, warn=True, dry=False, timeout=10)
    except CommandFailed as error:
        return error.message
    return "" if result.ok else last_line(result, f"exit status {result.exited}")


def check_answers(
    name: str,
    answer: Callable[[], str],
    state: Callable[[], str],
    log_lines: Callable[[int], Iterable[str]],
    password: str | None,
) -> None:
    """Wait until a server answers.

    :param password: hidden in what is shown of the server's log.
    :raises Unreachable: it does not, after the last lines of its log were shown.
    """
    if problem := wait(answer, state):
        show_log(log_lines(20), password)
        raise Unreachable(f"{name} {problem}", "Its last log lines are above")


def show_log(lines: Iterable[str], password: str | None = None) -> None:
    for line in lines:
        log.warning("  %s", line.replace(password or "\0", "***"))


def wait(answer: Callable[[], str], state: Callable[[], str]) -> str:
    """Wait until the target answers twice in a row: a server that sets itself up answers,
    and goes away again. Returns what is wrong, or nothing.

    :param state: the server's state, asked after a complaint.
    """
    deadline, answers = time.monotonic() + PATIENCE, 0
    while True:
        complaint = answer()
        answers = 0 if complaint else answers + 1
        if answers == 2:
            return ""
        now_in = state() if complaint else "running"
        if now_in != "running":
            return f"does not stay up ({now_in})"
        missing = meaning(complaint) is Trouble.PROGRAM_MISSING
        if missing or any(part in complaint for part in FINAL):
            deadline = min(deadline, time.monotonic() + SETTLED)
        if time.monotonic() > deadline:
            return f"does not answer ({complaint or 'only once'})"
        time.sleep(0.5)


def last_line(result: Result, otherwise: str) -> str:
    """The last line that a program said, for a message."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else otherwise
