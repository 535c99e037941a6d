"""Backups of a few bytes, and another process that holds a lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from repom.dbops.store.backup import Backup
from repom.dbops.store.store import Store

NOW = datetime(2026, 2, 24, 15, 0, 0, tzinfo=UTC)
SHOP = ("postgresql", "shop", None)


def draft(target: Store, name: str, database: str = "shop", **more: object) -> Backup:
    known: dict[str, object] = {"backend": "postgresql", "format": "custom", "created_at": NOW}
    return Backup(name, target.folder / name, database, size=0, **{**known, **more})  # type: ignore[arg-type]


def make(
    target: Store,
    database: str = "shop",
    *,
    when: datetime = NOW,
    content: bytes = b"PGDMP content",
    label: str | None = None,
    **more: object,
) -> Backup:
    """Publish a backup of these bytes."""
    name = target.next_name(database, "custom", label, when)
    with target.writing(name) as file:
        file.write(content)
        described = draft(target, name, database, created_at=when, label=label, **more)
        return target.publish(file, described)


def names(target: Store) -> set[str]:
    return {path.name for path in target.folder.iterdir()} - {".gitignore"}


HOLD = """
import sys; from pathlib import Path; from repom.dbops.store.lock import locked
with locked(Path(sys.argv[1]), sys.argv[2], "backup"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, database: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock of a database."""
    argv = [sys.executable, "-c", HOLD, str(folder), database]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, env=env) as child:
        assert child.stdout and child.stdout.readline() == b"held\n"
        try:
            yield child
        finally:
            child.kill()
