"""Kills backups and restores at seeded moments and looks at what is left.

The long run, which can be interrupted and goes on where it was:

    python -m tests.live.faults --kills 1000 --record kills.json

Each kill is one seed. After it the database must hold the old or the new data, whole; a
run that ended with success must have done what it said; every backup in the store must be
what its manifest says; and the next run must work and clean up.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from repom import dbops
from repom.dbops.store.manifest import check
from repom.settings import Settings
from tests.live.cli import environment, invoke
from tests.live.servers import Server, container_server, host_server

TABLES = ("one", "two", "three")
ROWS = 2000
KINDS = ("sqlite", "host", "container-17", "container-18")


@dataclass
class Scene:
    """A project whose database is in generation 1 or 2, with a backup of each."""

    kind: str
    project: Path
    env: dict[str, str]
    server: Server | None = None
    backups: dict[int, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings.load(environ=self.env, cwd=self.project)

    def execute(self, script: str) -> None:
        if self.server:
            self.server.sql(script, "faults")
        else:
            with closing(sqlite3.connect(self.project / "faults.db", timeout=20)) as database:
                database.executescript(script)

    def generation(self, file: str = "faults.db") -> int:
        """The one generation that all rows of all tables are of; anything else is a loss."""
        query = " UNION ALL ".join(f"SELECT gen, count(*) FROM {t} GROUP BY gen" for t in TABLES)
        if self.server:
            lines = self._asked(query).splitlines()
            found = [tuple(map(int, line.split("|"))) for line in lines]
        else:
            with closing(sqlite3.connect(self.project / file, timeout=20)) as database:
                assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                found = database.execute(query).fetchall()
        generations = {gen for gen, _count in found}
        assert [count for _gen, count in found] == [ROWS] * len(TABLES), f"mixed: {found}"
        assert len(generations) == 1, f"mixed: {found}"
        return int(generations.pop())

    def _asked(self, query: str) -> str:
        """The programs of a killed run may still swap, and end this session as any other."""
        assert self.server
        for _ in range(5):
            try:
                return self.server.sql(query, "faults")
            except AssertionError as error:
                if not any(part in str(error) for part in ("terminat", "just been")):
                    raise
                time.sleep(0.3)
        return self.server.sql(query, "faults")

    def leftovers(self) -> list[str]:
        if self.server:
            return [d for d in self.server.databases() if d.startswith("repom_scratch")]
        return [p.name for p in self.project.glob(".repom/*.scratch_*")]

    def check_store(self) -> None:
        """Whatever is listed as proven is what its manifest says."""
        for backup in dbops.list_backups(self.settings):
            if backup.is_verified:
                check(backup)


def fill(generation: int) -> str:
    """A script that makes every row of every table one of this generation."""
    sql = ""
    for table in TABLES:
        sql += f"DROP TABLE IF EXISTS {table}; CREATE TABLE {table} (gen int, n int, text text);"
        numbers = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
        )
        sql += f"INSERT INTO {table} {numbers} SELECT {generation}, i, 'row ' || i FROM n;"
    return sql


def prepare(scene: Scene) -> Scene:
    (scene.project / "tasks.py").write_text("from repom.tasks import ns\n")
    for generation in (1, 2):
        scene.execute(fill(generation))
        made = invoke(scene.project, "db.backup", env=scene.env)
        assert made.status == 0, made.err
        scene.backups[generation] = Path(made.out.strip()).name
    return scene


@contextmanager
def scene(kind: str, server: Server | None = None) -> Iterator[Scene]:
    """A scene of this kind, on this server or on one of its own."""
    with ExitStack() as stack:
        project = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repom-faults-")))
        if kind == "sqlite":
            env = {"DATABASE_URL": "sqlite:///faults.db", "REPOM_KEEP": "50"}
            yield prepare(Scene(kind, project, env))
            return
        major = kind.partition("-")[2]
        if not server:
            server = stack.enter_context(container_server(int(major)) if major else host_server())
        server.create("faults")
        env = server.environment("faults", REPOM_KEEP="50")
        yield prepare(Scene(kind, project, env, server))
        server.clean()


def argv_of(at: Scene, verb: str, goal: int) -> list[str]:
    task = ["db.backup"] if verb == "backup" else ["db.restore", "--yes", "--backup"]
    chosen = [] if verb == "backup" else [at.backups[goal]]
    return [sys.executable, "-m", "invoke", *task, *chosen]


def run(at: Scene, verb: str, goal: int, kill_after: float | None, signum: int) -> tuple[int, str]:
    """Run a task, send it a signal after so many seconds, and return how it ended."""
    process = subprocess.Popen(
        argv_of(at, verb, goal),
        cwd=at.project,
        env=environment(**at.env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=120 if kill_after is None else kill_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
        if process.wait(60) == 0:  # it had just ended by itself, and has something to say
            return 0, process.communicate(timeout=60)[0].strip()
        # Its children may live on and hold the pipes, so these are not read to their end.
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
        return process.returncode, ""
    assert "Traceback" not in err, err
    return process.returncode, out.strip() if process.returncode == 0 else err.strip()


def kill(at: Scene, seed: str) -> str:
    """One kill: returns the phase it fell into; raises AssertionError for a loss."""
    dice = random.Random(seed)
    verb = dice.choice(["backup", "restore", "restore"])
    before = at.generation()
    goal = 3 - before if verb == "restore" else before
    if verb not in at.seconds:
        started = time.monotonic()
        status, said = run(at, verb, goal, None, signal.SIGKILL)
        assert status == 0, said
        at.seconds[verb] = time.monotonic() - started
        return "measured"
    moment = dice.uniform(0.1, at.seconds[verb] * 1.1)
    started = time.monotonic()
    status, said = run(at, verb, goal, moment, signal.SIGKILL)
    if status == 0:  # it came too late: the machine may have become faster
        at.seconds[verb] = (at.seconds[verb] + time.monotonic() - started) / 2
    after = at.generation()
    assert after in (before, goal), f"{before} became {after}"
    if status == 0 and verb == "restore":
        assert after == goal, "success was told, and the old data are there"
    if status == 0 and verb == "backup":
        assert Path(said).is_file(), "success was told, and there is no backup"
    at.check_store()
    if dice.random() < 0.2:
        follow_up(at)
    return "ended" if status == 0 else f"killed in {verb}"


def follow_up(at: Scene) -> None:
    """The next run works, and cleans up what the killed one left."""
    wait_for_orphans(at)
    goal = 3 - at.generation()
    status, said = run(at, "restore", goal, None, signal.SIGKILL)
    assert status == 0, said
    assert at.generation() == goal
    assert at.leftovers() == [], at.leftovers()


def wait_for_orphans(at: Scene) -> None:
    """Programs that a killed run had started may still be at work for a moment."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^repom-'"
    for _ in range(100):
        if not at.server or at.server.sql(query, "postgres") == "0":
            return
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", default="repom")
    parser.add_argument("--record", type=Path, default=Path("kills.json"))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    given = parser.parse_args()
    record = json.loads(given.record.read_text()) if given.record.exists() else {}
    each = given.kills // len(given.kinds)
    for kind in given.kinds:
        done = record.setdefault(kind, {"kills": 0, "phases": {}, "losses": []})
        with scene(kind) as at:
            while done["kills"] < each:
                seed = f"{given.seed}-{kind}-{done['kills']}"
                try:
                    phase = kill(at, seed)
                except AssertionError as error:
                    phase = "loss"
                    done["losses"].append(f"{seed}: {error}")
                if phase != "measured":
                    done["kills"] += 1
                    done["phases"][phase] = done["phases"].get(phase, 0) + 1
                    given.record.write_text(json.dumps(record, indent=2))
            follow_up(at)
        print(kind, json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
