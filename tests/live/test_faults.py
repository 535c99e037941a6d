"""A short run of the seeded kills; the long one is `python -m tests.live.faults`."""

from __future__ import annotations

import os

import pytest

from tests.live import faults

KILLS = 6  # of each kind
SEED = os.environ.get("REPOM_FAULT_SEED", "ci")


@pytest.mark.parametrize("kind", ["sqlite", "host", "container-18"])
def test_a_killed_run_leaves_the_old_or_the_new_data_whole(
    request: pytest.FixtureRequest, kind: str
) -> None:
    known = {"host": "postgres_host", "container-18": "postgres_18"}
    server = request.getfixturevalue(known[kind]) if kind in known else None
    with faults.scene(kind, server) as at:
        for number in range(KILLS + 2):
            seed = f"{SEED}-{kind}-{number}"
            try:
                faults.kill(at, seed)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}: {error}") from error
        faults.follow_up(at)
