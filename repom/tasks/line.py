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
    """Show the step; anew when another part begins, or when more is known of its size."""
    if ended.wait(DELAY):
        return
    from rich import progress

    console = _console()
    while not (console.is_dumb_terminal or ended.is_set()):
        name, is_counted = begun = step.phase, step.done > COUNTED
        rate, elapsed = progress.TransferSpeedColumn(), progress.TimeElapsedColumn()
        if step.expected:
            counted = [progress.DownloadColumn(), rate, progress.TimeRemainingColumn(compact=True)]
        else:
            counted = [*([progress.FileSizeColumn(), rate] if is_counted else []), elapsed]
        columns = [progress.TextColumn("{task.description}", markup=False), progress.BarColumn(20)]
        with progress.Progress(
            *columns,
            *counted,
            console=console,
            transient=True,
            redirect_stdout=False,
            refresh_per_second=1 / LOOK,
        ) as bar:
            shown = bar.add_task(printable(name), total=step.expected or None)
            while (step.phase, step.done > COUNTED) == begun and not ended.wait(LOOK):
                # An estimate that was too low grows, so that the line never says it is over.
                total = max(step.expected, step.done) if step.expected else None
                bar.update(shown, completed=step.done, total=total)


def _console() -> Console:
    """Standard error, as rich sees it: it respects NO_COLOR and TERM. The cursor stays
    visible, since a second Ctrl-C ends the process at once."""
    from rich.console import Console

    class Steady(Console):
        def show_cursor(self, show: bool = True) -> bool:
            return False

    return Steady(stderr=True)
