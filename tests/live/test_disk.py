"""A disk that fails at any call, and files that unpack to more than it holds.

The faults are drawn by lot, with a seed that is in every message; REPOM_FAULT_SEED draws
others, REPOM_FAULTS so many of each task.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.archive.codecs import zstd
from repom.dbops.store.backup import Backup
from repom.dbops.store.manifest import check
from repom.dbops.undo import look
from tests import requires
from tests.live import faults, inject
from tests.live.cli import Ended, environment, invoke
from tests.live.faults import Scene
from tests.live.servers import Server, container_server
from tests.shop import SHOP

SEED = os.environ.get("REPOM_FAULT_SEED", "ci")
FAULTS = int(os.environ.get("REPOM_FAULTS", "11"))
KEEP = 3


@pytest.fixture
def sqlite_scene() -> Iterator[Scene]:
    requires.strace()
    with faults.scene("sqlite") as at:
        yield settled(at)


@pytest.fixture(params=["delete", "wal"])
def resized_scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The backups have pages of two sizes, so that each restore changes the file's."""
    requires.strace()
    with faults.scene("sqlite") as at:
        at.execute(f"PRAGMA page_size = 1024; VACUUM; PRAGMA journal_mode = {request.param}")
        at.backups[at.generation()] = dbops.backup(at.settings).name
        yield settled(at)


@pytest.fixture
def host_scene(postgres_host: Server) -> Iterator[Scene]:
    requires.strace()
    with faults.scene("host", postgres_host) as at:
        at.env["REPOM_VIA"] = "host"
        yield settled(at)


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
    return [b for b in dbops.list_backups(at.settings) if b.is_verified]


def task_of(at: Scene, verb: str, goal: int) -> list[str]:
    return (
        ["db.backup"] if verb == "backup" else ["db.restore", "--yes", "--backup", at.backups[goal]]
    )


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_a_disk_that_fails_at_any_call_sqlite(sqlite_scene: Scene, verb: str) -> None:
    every_fault(sqlite_scene, verb)


def test_a_disk_that_fails_at_any_call_page_size_of_sqlite(resized_scene: Scene) -> None:
    every_fault(resized_scene, "restore")


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
    known = look(at.settings).kept
    task = task_of(at, "restore", 3 - before)
    ended, lines = inject.traced(at.project, at.env, task, f"{call}:error=ENOSPC:when=1+")
    assert any(inject.is_ours(at.project, hit) for hit in inject.hits(lines)), "nothing failed"
    if at.generation() == before:
        assert look(at.settings).kept == known, "nothing was replaced"
    else:
        assert before in kept(at), f"the old data are gone; {ended.err}"


def every_fault(at: Scene, verb: str) -> None:
    dice = random.Random(f"{SEED}-{at.kind}-{verb}")
    failed = 0
    for fault in inject.faults(at.project, at.env, task_of(at, verb, 1), FAULTS, dice):
        try:
            failed += judged(at, verb, fault)
        except AssertionError as error:
            raise AssertionError(f"seed {SEED}, {verb}, {fault}: {error}") from error
    assert failed, "no fault did anything"


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
    return {at.generation(k.name) for k in look(at.settings).kept}


def follow_up(at: Scene, said: str) -> None:
    """The next runs work, and clean up."""
    made = dbops.backup(at.settings)
    assert dbops.verify(made.name, at.settings).problems == (), said
    files = [p.name for p in at.settings.backup_dir.iterdir()]
    assert not [n for n in files if "partial" in n or n.endswith(".holder")], (files, said)


# -- what unpacks to more than there is -------------------------------------------------

HUGE = 20 << 30  # bytes that a bomb unpacks to
MUCH = 1 << 28  # the same, where psql reads all of it before it tells of an error
PACK: dict[str, Callable[[bytes], bytes]] = {
    "sqlite3.zst": lambda data: zstd.compress(data, 1),
    "sqlite3.gz": lambda data: gzip.compress(data, 1),
    "sql.zst": lambda data: zstd.compress(data, 1),
    "sql.gz": lambda data: gzip.compress(data, 1),
}


def bomb(
    folder: Path, kind: str, head: bytes, filling: bytes, size: int = HUGE, tail: bytes = b""
) -> Path:
    """A small file of `head` and very much `filling`: one frame, many times over."""
    pack, path = PACK[kind], folder / f"bomb.{kind}"
    block = filling * ((64 << 20) // len(filling))
    end = pack(tail) if tail else b""
    path.write_bytes(pack(head) + pack(block) * (size // len(block)) + end)
    return path


@pytest.fixture
def disk(small_disk: Path) -> Path:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "repom", str(small_disk)]
    subprocess.run(mount, check=True)
    return small_disk


#: A task that writes down how much memory it needed at most, itself: what the kernel
#: tells a parent of its child begins with the parent's own.
MEASURED = """
import atexit, re
from pathlib import Path
from invoke.main import program
most = lambda: re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
atexit.register(lambda: Path("kilobytes").write_text(most()))
program.run()
"""


def measured(project: Path, *task: str, env: dict[str, str]) -> tuple[Ended, int]:
    """Run a task; returns also the megabytes that it needed at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *task],
        cwd=project,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    megabytes = int((project / "kilobytes").read_text()) // 1024
    return Ended(done.returncode, done.stdout, done.stderr), megabytes


def refused(ended: Ended, megabytes: int) -> None:
    assert ended.status in (1, 5), ended.err  # full, or seen to be too small before
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert re.search("is full|No space left| free, and ", ended.err), ended.err
    assert ended.out == ""
    assert megabytes < 100


@pytest.mark.parametrize("kind", ["sqlite3.zst", "sqlite3.gz"])
def test_a_file_that_unpacks_to_20_gb_beside_the_database(
    project: Path, disk: Path, kind: str
) -> None:
    with closing(sqlite3.connect(disk / "x.db")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('old')")
    before, head = (disk / "x.db").read_bytes(), (disk / "x.db").read_bytes()[:4096]
    path = bomb(project, kind, head, bytes(1 << 20))
    env = {"DATABASE_URL": f"sqlite:///{disk}/x.db"}
    assert invoke(project, "db.backup", env=env).status == 0  # which makes its folder
    free = shutil.disk_usage(disk).free
    refused(*measured(project, "db.restore", "--backup", str(path), "--yes", env=env))
    assert (disk / "x.db").read_bytes() == before
    assert not list(disk.rglob("*.scratch_*"))
    assert shutil.disk_usage(disk).free == free
    assert invoke(project, "db.backup", env=env).status == 0


def test_a_file_that_unpacks_to_20_gb_for_its_check(project: Path, disk: Path) -> None:
    """`db.verify` unpacks it into the folder of temporary files."""
    with closing(sqlite3.connect(project / "x.db")) as database, database:
        database.execute("CREATE TABLE t (a)")
    path = bomb(project, "sqlite3.zst", (project / "x.db").read_bytes()[:4096], bytes(1 << 20))
    env = {"DATABASE_URL": "sqlite:///x.db", "TMPDIR": str(disk)}
    ended, megabytes = measured(project, "db.verify", "--backup", str(path), env=env)
    assert ended.status in (1, 6), ended.err
    assert "is full" in ended.last
    assert megabytes < 100
    assert list(disk.iterdir()) == []


def test_an_archive_that_is_larger_as_a_script_than_the_folder_of_temporary_files(
    postgres_host: Server, project: Path, disk: Path
) -> None:
    server = postgres_host
    rows = "SELECT repeat('x', 1000) a FROM generate_series(1, 80000) n"
    server.create("shop", f"CREATE TABLE t AS {rows}")
    env = server.environment(REPOM_VIA="host")
    assert invoke(project, "db.backup", env=env).status == 0
    server.sql("DELETE FROM t WHERE ctid <> '(0,1)'")
    task = ("db.restore", "--latest", "--in-place", "--yes")
    refused(*measured(project, *task, env={**env, "TMPDIR": str(disk)}))
    assert server.sql("SELECT count(*) FROM t") == "1"
    assert list(disk.iterdir()) == []
    assert invoke(project, *task, env=env).status == 0
    assert server.sql("SELECT count(*) FROM t") == "80000"


@pytest.mark.parametrize("kind", ["sql.zst", "sql.gz"])
def test_a_script_that_unpacks_to_more_than_the_servers_disk_holds(
    project: Path, roomless: Server, kind: str
) -> None:
    server = roomless
    before, free = server.dump(), server.run("df", "--output=avail", "/small")
    head = b"CREATE TABLE bomb (a text);\nCOPY bomb FROM stdin;\n"
    path = bomb(project, kind, head, b"x" * 1023 + b"\n", MUCH, tail=b"\\.\n")
    env = server.environment()
    task = ("db.restore", "--backup", str(path), "--yes")
    ended, megabytes = measured(project, *task, env=env)
    assert ended.status == 1, ended.err
    assert "No space left on device" in ended.last
    assert megabytes < 100
    assert server.dump() == before
    assert server.leftovers() == []
    assert server.run("df", "--output=avail", "/small") == free
    assert invoke(project, "db.backup", env=env).status == 0


@pytest.fixture(scope="module")
def roomless() -> Iterator[Server]:
    """A server whose tables go to a small disk. Its log is elsewhere: a server that can
    write no log stops, whoever filled the disk."""
    with container_server(17, "--tmpfs", "/small:size=64m") as server:
        server.run("install", "-d", "-o", "postgres", "/small/tables")
        server.sql("CREATE TABLESPACE small LOCATION '/small/tables'", "postgres")
        server.sql("ALTER ROLE postgres SET default_tablespace = 'small'", "postgres")
        server.create("shop", SHOP)
        yield server
