"""What a terminal shows of the long steps on real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from repom import progress
from repom.runners.exec import ExecRunner
from tests.lines import in_order, seen
from tests.live.servers import Server
from tests.shop import opened


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    return tmp_path


def test_each_long_step_in_a_container_shows_a_line(postgres_17: Server, project: Path) -> None:
    with opened(postgres_17) as shop:
        copying = f"Copying into container {shop.container}"[:30]
        loading = ["Loading shop_", copying, "Loading shop_", "Making statistics of shop"]
        verbs: dict[tuple[str, ...], list[str]] = {
            ("db.backup",): ["Dumping shop", "Checking shop_"],
            ("db.restore", "--latest", "--yes"): ["Checking shop_", *loading, "Replacing shop"],
            ("db.verify", "--drill"): ["Reading shop_", copying, *loading, "Counting rows of"],
        }
        for verb, steps in verbs.items():
            status, told = seen(project, *verb, env=shop.environment(COLUMNS="150"))
            assert status == 0, told
            assert in_order(told, *steps) == steps, told
            assert "\x1b[2K" in told.split(steps[-1])[-1], "the line was not erased"


def test_a_copy_into_a_container_is_counted_while_it_goes(
    postgres_17: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "big.dump"
    path.write_bytes(b"x" * 30_000_000)
    counts: list[int] = []
    monkeypatch.setattr(progress, "advance", counts.append)
    runner = ExecRunner("docker", postgres_17.container, postgres_17.container)
    runner.run_on_file(["sh", "-c", "sleep 0.3"], path)
    assert sum(counts) == 30_000_000
    assert len(counts) > 1
