"""How a task ends when a signal asks it to."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from repom.errors import Interrupted

#: Seconds that cleaning up after a signal may take.
PATIENCE = 1.8


@contextmanager
def raising() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise `Interrupted`, so that the task cleans up. The
    process ends at once on a second signal, or `PATIENCE` seconds after the first."""
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
    """Run a thread that can end the process even while the main thread waits for a disk and
    handles no signal: the interpreter writes each signal into a socket at once."""
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
    """Wait for a first signal; then end the process unless the task ends in time."""
    first = 0
    with reading:
        while not first:
            received = reading.recv(1)
            if not received:
                return  # the task has ended
            first = received[0] if received[0] in numbers else 0
        reading.settimeout(PATIENCE)
        try:
            second = reading.recv(1)
        except TimeoutError:
            os._exit(128 + first)
        if second:
            os._exit(128 + second[0])
