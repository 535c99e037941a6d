"""Steps, as a listener sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from repom import progress


def test_a_listener_follows_a_step_and_what_is_within_it_counts_for_it() -> None:
    seen: list[progress.Step] = []

    @contextmanager
    def listener(step: progress.Step) -> Iterator[None]:
        seen.append(step)
        yield

    with progress.listening(listener), progress.phase("outer", 10):
        progress.advance(3)
        with progress.phase("inner"):
            progress.advance(4)
    assert seen == [progress.Step("outer", 10, 7)]


def test_without_a_listener_nothing_is_counted_afterwards() -> None:
    with progress.phase("quiet", 10) as step:
        progress.advance(3)
    assert step.done == 0


def test_a_part_of_a_step_has_a_name_until_its_bytes_were_moved() -> None:
    with progress.listening(lambda step: nullcontext()), progress.phase("Loading") as step:
        progress.rename("Copying", 10)
        progress.rename("Copying again", 10)
        progress.advance(9)
        assert (step.phase, step.expected, step.done) == ("Copying again", 10, 9)
        progress.advance(1)
        assert (step.phase, step.expected, step.done) == ("Loading", 0, 0)
        progress.rename("Making statistics")
        progress.advance(99)
        assert (step.phase, step.expected) == ("Making statistics", 0)
