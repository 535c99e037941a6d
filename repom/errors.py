"""What can go wrong, and the exit status that says so.

RepomError
├── CommandFailed      1   a program ran and failed
│   └── NoSpace        1   a disk is full
├── SettingsError      2   a setting or a value is wrong
├── Unreachable        3   no engine, container, server or fitting program
├── NotFound           4   no such backup, snapshot or SQLite file
├── Refused            5   not started: unsafe, or bound to fail
└── Damaged            6   the backup is not what was written

`Interrupted` stands apart: it is a `KeyboardInterrupt`, so that no handler for
ordinary errors swallows a signal.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

PROGRAM = "repom"


class Advice(str):
    """Advice that names tasks. As text it names the console script; `by` names another
    program, such as ``invoke``, that a user started."""

    template: str
    tasks: tuple[str, ...]

    def by(self, program: str) -> str:
        return self.template.format(*(f"{program} {task}" for task in self.tasks))


def advice(template: str, *tasks: str) -> Advice:
    """Advice in which a task with its flags takes the place of each ``{}``.

    :param template: a constant, since braces in a user's text would be replaced, too.
    """
    text = Advice(template.format(*(f"{PROGRAM} {task}" for task in tasks)))
    text.template, text.tasks = template, tasks
    return text


class RepomError(Exception):
    """Root of everything that repom raises on purpose.

    :param message: what happened, in one line; never holds a secret.
    :param hint: what to do about it, in one line; may be empty. `advice` makes one that
        names a task.
    """

    exit_status = 1
    #: What exists all the same; a task with ``--json`` prints it beside the error.
    result: Mapping[str, Any] = {}

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def told(self, program: str) -> str:
        """Message and hint for a user who started `program`."""
        hint = self.hint_for(program)
        return f"{self.message}. {hint}" if hint else self.message

    def hint_for(self, program: str) -> str:
        """The hint for a user who started `program`; may be empty."""
        return self.hint.by(program) if isinstance(self.hint, Advice) else self.hint


class CommandFailed(RepomError):
    """A program ran and failed.

    :param stderr: what it wrote there, to tell one failure from another.
    """

    def __init__(self, message: str, hint: str = "", stderr: str = "") -> None:
        super().__init__(message, hint)
        self.stderr = stderr


class NoSpace(CommandFailed):
    """A disk is full."""


class SettingsError(RepomError):
    """A setting, a flag or a value is not one of those that are allowed."""

    exit_status = 2


class Unreachable(RepomError):
    """The database cannot be reached: engine, container, server, program or login."""

    exit_status = 3


class NotFound(RepomError):
    """No such backup, snapshot or SQLite file."""

    exit_status = 4


class Refused(RepomError):
    """The operation was not started: it could lose data, or cannot succeed."""

    exit_status = 5


class Damaged(RepomError):
    """A backup is truncated, altered, or not a backup."""

    exit_status = 6


class Hidden(str):
    """A value that may be a secret. Errors keep the environment of a program that failed,
    and some tools show a traceback with its variables; its representation hides the value
    in both."""

    def __repr__(self) -> str:
        return "'…'"


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    :param signum: the signal's number; the exit status is 128 more.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted by signal {int(signum)}")
        self.exit_status = 128 + int(signum)
