"""What a long step tells of itself: its phase, bytes done, bytes expected.

Nothing is printed here. Who wants to see it `listening`; without a listener a step costs an
addition per block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Step:
    """A long step at work; any thread may read it.

    :param phase: what is done, for people: Dumping app.
    :param expected: bytes that it will take, about; 0 when that is not known.
    :param done: bytes so far; stays 0 where none can be counted.
    :param after: the phase that follows when they are all there.
    """

    phase: str
    expected: int = 0
    done: int = 0
    after: str = ""

    def advance(self, count: int) -> None:
        """Count bytes that were moved."""
        self.done += count
        if self.after and self.done >= self.expected:
            self.expected, self.done, self.phase, self.after = 0, 0, self.after, ""


#: Follows a step from its begin to its end.
Listener = Callable[[Step], AbstractContextManager[None]]

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_current: ContextVar[Step | None] = ContextVar("current", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` follow the steps of this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def phase(name: str, expected: int = 0) -> Iterator[Step]:
    """A long step. One within another is part of that one, which goes on being shown.

    :param expected: bytes that it will take, about; 0 when that is not known.
    """
    listener, around = _listener.get(), _current.get()
    step = Step(name, expected)
    if listener is None or around is not None:
        yield around or step
        return
    token = _current.set(step)
    try:
        with listener(step):
            yield step
    finally:
        _current.reset(token)


def advance(count: int) -> None:
    """Count bytes for the step that this thread is in, if it is in one."""
    if step := _current.get():
        step.advance(count)


def rename(phase: str, expected: int = 0) -> None:
    """Begin another part, with a name of its own, of the step that this thread is in.

    :param expected: bytes that it takes; once they were moved, the name is as before.
    """
    if step := _current.get():
        step.after = (step.after or step.phase) if expected else ""
        step.expected, step.done, step.phase = expected, 0, phase
