"""What can go wrong, and the exit status that says so.

RepomError
├── CommandFailed      1   a program ran and failed
│   └── NoSpace        1   a disk is full
├── SettingsError      2   a setting or a value is wrong
├── Unreachable        3   no engine, container, server or fitting program
├── NotFound           4   no such backup, snapshot or SQLite file
├── Refused            5   it would be possible, and would be wrong
└── Damaged            6   the backup is not what was written

`Interrupted` stands apart: it is a `KeyboardInterrupt`, so that no handler for
ordinary errors swallows a signal.
"""

from __future__ import annotations

import re
import signal

PROGRAM = "repom"


class Advice(str):
    """Advice that names tasks. As text it reads as the console script; `by` spells it for
    a user who started another program, such as ``invoke``."""

    template: str
    tasks: tuple[str, ...]

    def by(self, program: str) -> str:
        return self.template.format(*(f"{program} {task}" for task in self.tasks))


def advice(template: str, *tasks: str) -> Advice:
    """Advice with a task and its flags in the place of each ``{}`` of `template`, which is
    a constant: what a user named has no place in it."""
    text = Advice(template.format(*(f"{PROGRAM} {task}" for task in tasks)))
    text.template, text.tasks = template, tasks
    return text


#: Modules that do not use `advice` yet write the task behind "invoke", in hints only.
_WRITTEN_OUT = re.compile(r"\binvoke (?=(?:db|postgres)\.[a-z])")


def spelled_for(program: str, text: str) -> str:
    """Advice as a user of `program` can type it."""
    if isinstance(text, Advice):
        return text.by(program)
    return _WRITTEN_OUT.sub(f"{program} ", text)


class RepomError(Exception):
    """Root of everything that repom raises on purpose.

    :param message: what happened, in one line; never holds a secret.
    :param hint: what to do about it, in one line; may be empty. If it names a task, it is
        made by `advice`.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message

    def told(self, program: str) -> str:
        """The same for a user who typed `program`."""
        hint = spelled_for(program, self.hint)
        return f"{self.message}. {hint}" if hint else self.message


class CommandFailed(RepomError):
    """A program ran and failed.

    :param stderr: what it said, for whoever needs to tell one failure from another.
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
    """There is no way to the database: engine, container, server, program or login."""

    exit_status = 3


class NotFound(RepomError):
    """No such backup, snapshot or SQLite file."""

    exit_status = 4


class Refused(RepomError):
    """The operation was not begun, because it could lose data or cannot succeed."""

    exit_status = 5


class Damaged(RepomError):
    """A backup is truncated, altered or no backup at all."""

    exit_status = 6


class Hidden(str):
    """A value that may be a secret. Errors keep the environment of a program that failed,
    and some tools show a traceback with its variables: this is not shown in either."""

    def __repr__(self) -> str:
        return "'…'"


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end.

    :param signum: the signal's number; the exit status is 128 more.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(f"interrupted by signal {int(signum)}")
        self.exit_status = 128 + int(signum)
