"""A disk that fails at any call, and files that unpack to more than it holds.

The faults are drawn by lot, with a seed that is in every message; REPOM_FAULT_SEED draws
others, REPOM_FAULTS_EACH more of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops import operations
from repom.dbops.store import Backup, check
from tests import requires
from tests.live import faults, inject
from tests.live.faults import Scene
from tests.live.servers import Server

SEED = os.environ.get("REPOM_FAULT_SEED", "ci")
EACH = int(os.environ.get("REPOM_FAULTS_EACH", "2"))
KEEP = 3


@pytest.fixture
def sqlite_scene() -> Iterator[Scene]:
    requires.strace()
    with faults.scene("sqlite") as at:
        yield settled(at)


@pytest.fixture
def host_scene(postgres_host: Server, project: Path) -> Scene:
    requires.strace()
    postgres_host.create("faults")
    env = postgres_host.environment("faults", REPOM_VIA="host")
    return settled(faults.prepare(Scene("host", project, env, postgres_host)))


def settled(at: Scene) -> Scene:
    """As many backups as are kept, so that each new one makes an old one go, beside the
    two that are restored; and an undo, which each restore replaces."""
    at.env["REPOM_KEEP"] = str(KEEP)
    for name in at.backups.values():
        dbops.pin(name, at.settings)
    for _ in range(KEEP):
        dbops.backup(at.settings)
    dbops.restore(at.backups[1], at.settings)
    return at


def proven(at: Scene) -> list[Backup]:
    return [b for b in dbops.list_backups(at.settings) if b.counts]


def task_of(at: Scene, verb: str, goal: int) -> list[str]:
    return (
        ["db.backup"] if verb == "backup" else ["db.restore", "--yes", "--backup", at.backups[goal]]
    )


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_disk_that_fails_at_any_call_sqlite(sqlite_scene: Scene, verb: str) -> None:
    every_fault(sqlite_scene, verb)


def test_a_disk_that_fails_at_any_call_store_of_postgresql(host_scene: Scene) -> None:
    every_fault(host_scene, "backup")


@pytest.mark.parametrize(
    ("mode", "call"), [("DELETE", "ftruncate"), ("DELETE", "pwrite64"), ("WAL", "fdatasync")]
)
def test_a_restore_that_fails_once_it_is_committed_keeps_the_old_data(
    sqlite_scene: Scene, mode: str, call: str
) -> None:
    """SQLite shortens the file behind its commit, and may tell of a failure there."""
    at = sqlite_scene
    before = at.generation()
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000)"
    at.execute(f"PRAGMA journal_mode = {mode}; CREATE TABLE more AS {rows} SELECT i FROM n;")
    undoable = operations.undoable(at.settings)
    task = task_of(at, "restore", 3 - before)
    ended, lines = inject.traced(at.project, at.env, task, f"{call}:error=ENOSPC:when=1+")
    assert any(inject.is_ours(at.project, hit) for hit in inject.hits(lines)), "nothing failed"
    if at.generation() == before:
        assert operations.undoable(at.settings) == undoable, "nothing was replaced"
    else:
        assert before in kept(at), f"the old data are gone; {ended.err}"


def every_fault(at: Scene, verb: str) -> None:
    dice = random.Random(f"{SEED}-{at.kind}-{verb}")
    failed = 0
    for fault in inject.faults(at.project, at.env, task_of(at, verb, 1), EACH, dice):
        try:
            failed += judged(at, verb, fault)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}, {verb}, {fault}: {error}") from error
    assert failed > 3, "hardly a fault did anything"


def judged(at: Scene, verb: str, fault: str) -> bool:
    """Run the task with this fault, and look at what is left; whether it failed."""
    before, stored = at.generation(), proven(at)
    goal = 3 - before if verb == "restore" else before
    ended, lines = inject.traced(at.project, at.env, task_of(at, verb, goal), fault)
    after = at.generation()
    said = f"exit status {ended.status}, {ended.err.strip()}"
    assert after in (before, goal), f"{before} became {after}; {said}"
    assert after == before or before in kept(at), f"the old data are gone; {said}"
    if ended.status == 0:
        assert after == goal, f"success was told, and the old data are there; {said}"
        assert verb == "restore" or Path(ended.out.strip()).is_file(), said
    elif all(inject.is_ours(at.project, hit) for hit in inject.hits(lines)):
        assert ended.status in range(1, 7), said
        assert ended.out == "", said
        assert "Traceback" not in ended.err, said
        assert len(ended.err.strip().splitlines()) == 1, said
    pruned = "older backup" in ended.err or "could not be deleted" in ended.err
    due = [b.name for b in stored if not b.pinned][: KEEP - 1 if pruned else None]
    lost = {*due, *at.backups.values()} - {b.name for b in proven(at)}
    assert not lost, f"{lost} are gone; {said}"
    for backup in proven(at):
        check(backup)
    follow_up(at, said)
    return ended.status != 0


def kept(at: Scene) -> set[int]:
    """The generations that `db.undo` could bring back."""
    names = [Path(k.name).name for k in operations.undoable(at.settings)]
    return {at.generation(name) for name in names}


def follow_up(at: Scene, said: str) -> None:
    """The next runs work, and clean up."""
    made = dbops.backup(at.settings)
    assert dbops.verify(made.name, at.settings).problems == (), said
    files = [p.name for p in at.settings.backup_dir.iterdir()]
    assert not [n for n in files if "partial" in n or n.endswith(".holder")], (files, said)
