"""Programs and sessions that are killed or stopped in the middle, one at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest

from repom import dbops
from repom.dbops.restore import carry_out, plan_restore
from repom.dbops.work import open_database
from repom.errors import Refused
from tests.live.cli import Ended, environment, invoke
from tests.live.servers import Server, settings_for

FILL = "CREATE TABLE t AS SELECT n, md5(n::text) a FROM generate_series(1, 300000) n"
COUNT = "SELECT count(*), sum(n), count(a) FROM t"

#: Answers with the process id of a session of repom's that is moving data, once there is one.
FOUND = """
CREATE TEMPORARY TABLE found (pid int);
DO $$ BEGIN
  FOR look IN 1..4000 LOOP
    PERFORM pg_stat_clear_snapshot();
    INSERT INTO found SELECT pid FROM pg_stat_activity
      WHERE application_name ~ '^repom-' AND query ~ '^COPY' LIMIT 1;
    EXIT WHEN FOUND;
    PERFORM pg_sleep(0.002);
  END LOOP;
END $$;
"""
KILLERS = {
    "session ended": FOUND + "SELECT pg_terminate_backend(pid) FROM found",
    "server process killed": FOUND + "COPY found TO PROGRAM 'read pid; kill -9 $pid'",
}


@pytest.fixture(scope="module")
def busy(postgres_fragile: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Path]:
    """A server that may crash, with a database whose COPY takes a while, and a project
    with a backup of it."""
    project = tmp_path_factory.mktemp("busy")
    (project / "tasks.py").write_text("from repom.tasks import ns\n")
    postgres_fragile.create("shop", FILL)
    made = invoke(project, "db.backup", env=postgres_fragile.environment())
    assert made.status == 0, made.err
    return postgres_fragile, project


def kill_program(server: Server) -> None:
    """SIGKILL for the first program of repom's that has been at work for a moment."""
    script = """
    for i in $(seq 2000); do
      for p in /proc/[0-9]*; do
        read c 2>/dev/null <$p/comm || continue
        case $c in pg_dump|pg_restore) sleep 0.05; kill -9 ${p#/proc/}; exit;; esac
      done
      sleep 0.005
    done"""
    server.run("sh", "-c", script, check=False)


def kill(server: Server, what: str) -> None:
    if what == "program killed":
        kill_program(server)
    else:
        server.sql(KILLERS[what], "postgres", check=False)


@pytest.mark.parametrize("verb", ["backup", "restore"])
@pytest.mark.parametrize("what", ["program killed", *KILLERS])
def test_one_part_is_killed_in_the_middle(busy: tuple[Server, Path], verb: str, what: str) -> None:
    server, project = busy
    env = server.environment(REPOM_UNDO_KEEP="0")
    before, crashed = server.sql(COUNT), crashes(server)
    stored = sorted(p.name for p in (project / "backups").glob("*.dump*"))
    task = ["db.backup"] if verb == "backup" else ["db.restore", "--latest", "--yes"]
    killer = Thread(target=kill, args=(server, what))
    killer.start()
    ended = invoke(project, *task, env=env)
    killer.join()
    answering(server)

    # An orphan of repom's in the container is a child of the server.
    assert crashes(server) == crashed + (what == "server process killed")
    assert ended.status in (1, 3), ended.err
    assert ended.out == ""
    # With "Using Docker container", and perhaps without a server that could drop a database.
    said = [x for x in ended.err.strip().splitlines() if "Could not remove" not in x]
    assert len(said) == 2, ended.err
    assert server.sql(COUNT) == before
    assert sorted(p.name for p in (project / "backups").glob("*.dump*")) == stored
    assert invoke(project, *task, env=env).status == 0
    assert server.sql(COUNT) == before
    assert server.leftovers() == []


def crashes(server: Server) -> int:
    """How often the server ended all sessions, since a process of it was killed."""
    log = subprocess.run(["docker", "logs", server.container], capture_output=True, text=True)
    return log.stderr.count("terminating any other active server processes")


def answering(server: Server) -> None:
    """Until the server has recovered."""
    for _ in range(200):
        if server.sql("SELECT 1", check=False) == "1":
            return
        time.sleep(0.05)
    raise AssertionError("the server did not come back")


# -- stopped ----------------------------------------------------------------------------

#: The tasks with a patience that is shorter than the time they are stopped.
IMPATIENT = "from repom.runners import process; process.STALL = 1.5; "
IMPATIENT += "from invoke.main import program; program.run()"


@pytest.mark.parametrize("whom", ["repom", "repom and its programs"])
def test_a_backup_that_is_stopped_for_a_while_ends_well(
    postgres_host: Server, project: Path, whom: str
) -> None:
    """As by a debugger, a frozen container or a paused machine: that is no stall."""
    postgres_host.create("shop", FILL)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, "db.backup"],
        cwd=project,
        env=environment(**postgres_host.environment(REPOM_VIA="host")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    groups = [dumping(project, process), process.pid][0 if "programs" in whom else 1 :]
    for group in groups:
        os.killpg(group, signal.SIGSTOP)
    time.sleep(3)
    for group in reversed(groups):
        os.killpg(group, signal.SIGCONT)
    ended = Ended(0, *process.communicate(timeout=60))
    assert process.returncode == 0, ended.err
    assert invoke(project, "db.verify", env=postgres_host.environment()).status == 0


def test_a_load_into_a_container_that_is_paused_is_ended(busy: tuple[Server, Path]) -> None:
    server, project = busy
    env, before = server.environment(), server.sql(COUNT)
    process = subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, "db.restore", "--latest", "--yes"],
        cwd=project,
        env=environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.sql(FOUND + "SELECT pid FROM found", "postgres")
    subprocess.run(["docker", "pause", server.container], check=True, capture_output=True)
    try:
        _out, said = process.communicate(timeout=60)
    finally:
        subprocess.run(["docker", "unpause", server.container], check=True, capture_output=True)

    assert process.returncode == 1, said
    assert "does not answer" in said.splitlines()[-1]
    assert server.sql(COUNT) == before
    assert invoke(project, "db.restore", "--latest", "--yes", env=env).status == 0
    assert server.sql(COUNT) == before
    assert server.leftovers() == []


def dumping(project: Path, process: subprocess.Popen[str]) -> int:
    """The group of pg_dump, once it has written something."""
    for _ in range(2000):
        partial = next((project / "backups").glob(".*.dump.partial"), None)
        if partial and partial.stat().st_size:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            return os.getpgid(int(children.split()[-1]))
        time.sleep(0.002)
    raise AssertionError("the dump was never seen at work")


IDLE = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
  WHERE application_name ~ '^repom-' AND datname = 'postgres' AND state = 'idle'"""


def test_an_idle_session_that_is_ended_costs_nothing(shop: Server, project: Path) -> None:
    """Such as by a killer of idle sessions, while the user is asked."""
    settings = settings_for(shop, project)
    made, rows = dbops.backup(settings), shop.sql("SELECT count(*) FROM item")
    plan = plan_restore(made, settings)
    shop.sql("DELETE FROM item")
    assert shop.sql(IDLE, "postgres") == "1"
    assert carry_out(plan).replaced
    assert shop.sql("SELECT count(*) FROM item") == rows


def test_a_lock_whose_session_was_ended_is_taken_again(shop: Server, project: Path) -> None:
    settings = settings_for(shop, project)
    database = open_database(settings, "psql")
    with closing(database), database.exclusive("restore"):
        assert shop.sql(IDLE, "postgres") == "1"
        database.survey()
        other = open_database(settings, "psql")
        with (
            closing(other),
            pytest.raises(Refused, match="Another repom"),
            other.exclusive("restore"),
        ):
            pass
