"""Runs the tasks as a user does: `invoke` in a project folder, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOREIGN = ("POSTGRES_", "REPOM_", "PG", "INVOKE_", "DATABASE_URL", "DOCKER_", "COMPOSE_")


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what would configure repom, and `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@dataclass
class Ended:
    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on standard error: for a failure, what happened."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def started(
    project: Path, *args: str, env: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """Start a task, without a terminal and without standard input.

    :param options: of `Popen`, in place of those here.
    """
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    return subprocess.Popen(
        [sys.executable, "-m", "invoke", *args],
        cwd=project,
        env=environment(**(env or {})),
        text=True,
        **{**quiet, "stderr": subprocess.DEVNULL, **options},
    )


def invoke(project: Path, *args: str, env: dict[str, str] | None = None) -> Ended:
    """Run a task without a terminal and without standard input."""
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *args],
        cwd=project,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)
