"""Invoke's own `--debug`, which prints every source of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.cli import invoke

CANARY = "s3cretc4nary"
URLS = (
    f"postgresql://ann:{CANARY}@127.0.0.1:1/shop",
    f"postgresql://127.0.0.1:1/shop?user=ann&password={CANARY}",
    f"postgresql://ann:{CANARY}'\"\\x@127.0.0.1:1/shop",
)


@pytest.mark.slow
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("source", ["environment", "file"])
@pytest.mark.parametrize("tasks", ["whole", "mounted"])
def test_debugging_shows_no_password(tmp_path: Path, url: str, source: str, tasks: str) -> None:
    mounted = "from invoke import Collection\nfrom repom.tasks.db import db\nns = Collection(db)\n"
    whole = "from repom.tasks import ns\n"
    (tmp_path / "tasks.py").write_text(whole if tasks == "whole" else mounted)
    if source == "file":
        quoted = url.replace("\\", "\\\\").replace('"', '\\"')
        (tmp_path / "invoke.yaml").write_text(f'repom:\n  database_url: "{quoted}"\n')
    env = {"INVOKE_REPOM_DATABASE_URL": url} if source == "environment" else {}

    done = invoke(tmp_path, "--debug", "db.list", env=env)

    assert "database_url" in done.err, "nothing was printed, so nothing was tested"
    assert CANARY not in done.out + done.err
