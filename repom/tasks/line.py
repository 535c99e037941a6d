"""One line on a terminal that shows how far a long step is, and goes when that ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from repom.progress import Step

from .tables import printable

if TYPE_CHECKING:
    from rich.console import Console

DELAY = 1.0  # seconds that a step may take before it is shown
LOOK = 0.25  # seconds between two looks at a step
COUNTED = 100_000  # bytes from which they say something; fewer may be a script's own


@contextmanager
def shown(step: Step) -> Iterator[None]:
    """Show a step while it lasts, if standard error is a terminal that can redraw a line."""
    if sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    drawing = threading.Thread(target=_draw, args=(step, ended), daemon=True)
    drawing.start()
    try:
        yield
    finally:
        ended.set()
        drawing.join()  # what is printed next must find the line gone


def has_colour() -> bool:
    """Whether standard error is a terminal that shows colours, and the user wants them."""
    if sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty():
        return False
    console = _console()
    return bool(console.color_system) and not (console.no_color or console.is_dumb_terminal)


def _draw(step: Step, ended: threading.Event) -> None:
    if ended.wait(DELAY):
        return
    console = _console()
    while not (console.is_dumb_terminal or ended.is_set()):
        _draw_part(console, step, ended)


def _draw_part(console: Console, step: Step, ended: threading.Event) -> None:
    """Show the step as long as it is called the same and knows as much of its size."""
    from rich import progress

    name, is_sized, is_counted = about = _about(step)
    rate, elapsed = progress.TransferSpeedColumn(), progress.TimeElapsedColumn()
    if is_sized:
        counted = [progress.DownloadColumn(), rate, progress.TimeRemainingColumn(compact=True)]
    else:
        counted = [*([progress.FileSizeColumn(), rate] if is_counted else []), elapsed]
    columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn(20)]
    with progress.Progress(
        *columns,
        *counted,
        console=console,
        transient=True,
        refresh_per_second=1 / LOOK,
        redirect_stdout=False,
    ) as bar:
        shown = bar.add_task(printable(name), total=step.expected or None)
        while _about(step) == about and not ended.wait(LOOK):
            # An estimate that was too low grows, so that the line never says it is over.
            total = max(step.expected, step.done) or None
            bar.update(shown, completed=step.done, total=total if is_sized else None)


def _about(step: Step) -> tuple[str, bool, bool]:
    """What decides how a step is shown: its name, and whether its size and its bytes are known."""
    return step.phase, bool(step.expected), step.done > COUNTED


def _console() -> Console:
    """Standard error, as rich sees it: it respects NO_COLOR and TERM. The cursor stays
    visible, since a second Ctrl-C ends the process at once."""
    from rich.console import Console

    class Steady(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Steady(stderr=True)
