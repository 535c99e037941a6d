"""Parts that break under a run: the container, the stream, the disk's promises; and dumps
that somebody else made."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops import files
from repom.dbops.store import store
from repom.errors import CommandFailed
from repom.settings import Settings
from tests.live.cli import invoke
from tests.live.servers import Server, settings_for, wait_until_ready

FILL = "CREATE TABLE t AS SELECT n, md5(n::text) a FROM generate_series(1, 400000) n;"
COUNT = "SELECT count(*), sum(n) FROM t"


@pytest.mark.parametrize("verb", ["backup", "restore"])
@pytest.mark.parametrize("after", [0.4, 0.9])
def test_the_container_is_killed_under_it(
    postgres_fragile: Server, project: Path, verb: str, after: float
) -> None:
    server = postgres_fragile
    server.create("shop", FILL)
    before = server.sql(COUNT)
    env = server.environment()
    made = invoke(project, "db.backup", env=env)
    assert made.status == 0, made.err
    stored = sorted(p.name for p in (project / "backups").glob("*.dump"))
    task = ["db.backup"] if verb == "backup" else ["db.restore", "--latest", "--yes"]
    killer = threading.Timer(after, subprocess.run, [["docker", "kill", server.container]])
    killer.start()
    ended = invoke(project, *task, env=env)
    killer.join()
    subprocess.run(["docker", "start", server.container], check=True, capture_output=True)
    wait_until_ready(server)

    assert server.sql(COUNT) == before
    kept = sorted(p.name for p in (project / "backups").glob("*.dump"))
    if ended.status:
        assert ended.out == ""
        assert kept == stored
    assert invoke(project, "db.restore", "--latest", "--yes", env=env).status == 0
    assert server.sql(COUNT) == before
    assert server.leftovers() == []


def test_a_reader_that_stalls_near_the_end_of_the_stream(
    postgres_fragile: Server, project: Path
) -> None:
    """`docker exec` may lose the end and exit 0: then it is a failure, and else it is whole."""
    server = postgres_fragile
    server.create("shop", FILL.replace("400000", "200000"))
    settings = settings_for(server, project)
    size = dbops.backup(settings).size
    lost = 0
    for before_end in (400_000, 1_300_000):
        script = project / "stalling-docker"
        script.write_text(
            "#!/bin/sh\n"
            'case "$*" in *pg_dump*) docker "$@" | '
            f"(head -c {max(1, size - before_end)}; sleep 4; cat);;"
            ' *) exec docker "$@";; esac\n'
        )
        script.chmod(0o755)
        known = {b.name for b in dbops.list_backups(settings)}
        try:
            made = dbops.backup(replace(settings, docker=str(script)))
        except CommandFailed as error:
            lost += 1
            assert "stream from the container ended" in error.message
            assert {b.name for b in dbops.list_backups(settings)} == known
        else:
            assert dbops.verify(made.name, settings).problems == ()
    print(f"{lost} of 2 streams lost their end")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_disk_that_fails_late(
    project: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Errors that come only with fsync or rename: nothing is published, nothing is left."""
    with closing(sqlite3.connect(project / "x.db")) as database, database:
        database.execute("CREATE TABLE t (a)")
    settings = Settings.load(environ={"DATABASE_URL": "sqlite:///x.db"}, cwd=project)
    first = dbops.backup(settings)

    def fail(*_args: object) -> None:
        raise OSError(code, os.strerror(code))

    if call == "fsync":
        monkeypatch.setattr(files.os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(CommandFailed, match=os.strerror(code)):
        dbops.backup(settings)
    monkeypatch.undo()
    assert [b.name for b in store.Store(settings.backup_dir).backups()] == [first.name]
    left = {p.name for p in settings.backup_dir.iterdir()} - {".x.db.lock", ".gitignore"}
    assert left <= {first.name, f"{first.name}.json", left_manifest(left)}
    dbops.backup(settings)
    assert not [p for p in settings.backup_dir.iterdir() if "partial" in p.name]


def left_manifest(names: set[str]) -> str:
    """A manifest's own partial file may stay until the next run sweeps it."""
    return next((n for n in names if n.endswith(".json.partial")), "")


def test_two_backups_in_one_second_are_two(project: Path) -> None:
    with closing(sqlite3.connect(project / "x.db")) as database, database:
        database.execute("CREATE TABLE t (a)")
    settings = Settings.load(environ={"DATABASE_URL": "sqlite:///x.db"}, cwd=project)
    started = time.monotonic()
    names = {dbops.backup(settings).name for _ in range(3)}
    assert len(names) == 3, f"in {time.monotonic() - started:.1f} s"
