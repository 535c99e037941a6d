"""repom beside the best raw command and what people use instead, in one go.

    python -m pip install ".[bench]"          # django-dbbackup, one of the rivals
    python -m benchmarks.run                  # everything, about forty minutes
    python -m benchmarks.run --only chinook --runs 3

Needs a Docker engine with postgres:17 (or --major) and, for SQLite, the `sqlite3` and
`zstd` programs. Every comparison is interleaved (A B C, A B C, …), and what is reported is
the ratio of medians: these are ratios of one run on one machine, no absolute promises.
Results go to benchmarks/results.json, from which `benchmarks.chart` draws.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONTAINER, PASSWORD = "repom_benchmark", "benchmark"
JOBS = str(min(os.cpu_count() or 1, 8))

EVENTS = """CREATE TABLE events AS SELECT n::bigint AS id,
  '2026-01-01'::timestamptz + n * interval '1 second' AS at, md5(n::text) AS digest,
  jsonb_build_object('user', n % 1000, 'kind', md5((n % 50)::text), 'value', n * 1.5) AS payload
  FROM generate_series(1, {rows}) n;
CREATE INDEX ON events (at); CREATE INDEX ON events USING gin (payload); ANALYZE;"""
LARGE = """CREATE TABLE large_test (num1 bigint, num2 double precision, num3 double precision);
INSERT INTO large_test SELECT round(random() * 10), random(), random() * 142
  FROM generate_series(1, 20000000);"""
MANY = """SELECT format('CREATE TABLE t%s (id int PRIMARY KEY, a text);'
  'INSERT INTO t%s SELECT n, md5(n::text) FROM generate_series(1, 50) n', i, i)
  FROM generate_series(1, 300) i \\gexec"""

#: The classic pipeline: everything captured, then Python's gzip at its default level.
CLASSIC_BACKUP = """import gzip, subprocess, sys
argv = ["docker", "exec", sys.argv[1], "pg_dump", "-U", "postgres", "-d", sys.argv[2],
        "--clean", "--if-exists", "--no-owner", "--no-acl"]
done = subprocess.run(argv, capture_output=True, check=True)
with gzip.open(sys.argv[3], "wb") as file:
    file.write(done.stdout)
"""
CLASSIC_RESTORE = """import gzip, subprocess, sys
with gzip.open(sys.argv[3], "rb") as file:
    data = file.read()
argv = ["docker", "exec", "-i", sys.argv[1], "psql", "-U", "postgres", "-d", sys.argv[2],
        "-v", "ON_ERROR_STOP=1"]
subprocess.run(argv, input=data, capture_output=True, check=True)
"""


def shell(script: str, **variables: str) -> list[str]:
    """A rival is what somebody would type into a shell."""
    exports = "".join(f"{k}='{v}'; " for k, v in variables.items())
    return ["sh", "-ec", f"{exports}{script}"]


def docker_sql(script: str, database: str = "postgres") -> str:
    argv = ["docker", "exec", "-i", CONTAINER, "psql", "-XqAtU", "postgres", "-d", database]
    return subprocess.run(
        argv, input=script, capture_output=True, text=True, check=True
    ).stdout.strip()


class Measured:
    """Wall and CPU seconds and the largest process's peak memory of one command."""

    def __init__(self, argv: list[str], cwd: Path, env: dict[str, str]) -> None:
        started = time.monotonic()
        with tempfile.TemporaryFile() as out:
            process = subprocess.Popen(
                argv, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
            _pid, status, usage = os.wait4(process.pid, 0)
            self.wall = time.monotonic() - started
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            if process.returncode:
                raise SystemExit(f"{argv}: {out.read().decode(errors='replace')}")
        self.cpu = usage.ru_utime + usage.ru_stime
        self.memory = usage.ru_maxrss * 1024  # bytes; Linux counts in KiB


class Bench:
    def __init__(self, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self.results: dict[str, Any] = {}  # of this run; others in the file stay
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("REPOM_", "PG"))}
        self.env["PYTHONPATH"] = str(ROOT)
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # as installed: with compiled files

    def compare(
        self,
        name: str,
        commands: dict[str, list[str]],
        *,
        before: Callable[[], object] = lambda: None,
        size_of: dict[str, Callable[[], int]] | None = None,
        watch: str = "",
    ) -> None:
        """Run the commands in turn, `runs` times, and keep the medians.

        :param before: made ready before each run, and not timed.
        :param size_of: bytes on disk that a command left.
        :param watch: a database; the time that repom refuses connections to it is measured,
            in runs of their own, since asking all the time takes half a core.
        """
        seen: dict[str, list[Measured]] = {each: [] for each in commands}
        sizes: dict[str, int] = {}
        for turn in range(self.runs + 1):  # the first turn warms up and does not count
            for each, argv in commands.items():
                before()
                measured = Measured(argv, self.folder, self.env)
                if turn:
                    seen[each].append(measured)
                if size_of and each in size_of:
                    sizes[each] = size_of[each]()
        rows = {}
        for each, runs in seen.items():
            middle = {k: statistics.median(getattr(r, k) for r in runs) for k in vars(runs[0])}
            walls = [r.wall for r in runs]
            rows[each] = {**middle, "min": min(walls), "max": max(walls), "bytes": sizes.get(each)}
        refused = max(self.refused(commands["repom"], watch) for _ in "12") if watch else None
        self.results[name] = {"runs": self.runs, "rows": rows, "refused_s": refused}
        told = "  ".join(f"{k} {v['wall']:.2f}s" for k, v in rows.items())
        print(f"{name}: {told}", flush=True)

    def refused(self, argv: list[str], database: str) -> float:
        """Seconds that a restore keeps connections to its target out."""
        with outage(database) as gaps:
            Measured(argv, self.folder, self.env)
        return max(gaps)


@contextmanager
def outage(database: str) -> Iterator[list[float]]:
    """Ask for a connection again and again; collects how long each refusal lasted."""
    gaps: list[float] = []
    # One process inside the container, since every `docker exec` costs 60 ms.
    script = (
        "while [ -e /tmp/watch ]; do s=$(date +%s.%N); "
        f"psql -XqAtU postgres -d {database} -c 'SELECT 1' >/dev/null 2>&1; "
        "echo $? $s $(date +%s.%N); sleep 0.02; done"
    )
    subprocess.run(["docker", "exec", CONTAINER, "touch", "/tmp/watch"], check=True)
    argv = ["docker", "exec", CONTAINER, "sh", "-c", script]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    yield gaps
    subprocess.run(["docker", "exec", CONTAINER, "rm", "/tmp/watch"], check=True)
    lines = [line.split() for line in (process.communicate()[0] or "").splitlines()]
    gaps.append(longest_gap([(int(c), float(s), float(e)) for c, s, e in lines]))


def longest_gap(probes: list[tuple[int, float, float]]) -> float:
    """The longest time in which no connection that was asked for was given: from the start
    of the first refused or slow one to the end of the next that was not."""
    longest, since = 0.0, None
    for status, start, end in probes:
        since = start if since is None else since
        longest = max(longest, end - since)
        if status == 0:
            since = None
    return longest


def make_server(major: int) -> None:
    subprocess.run(["docker", "rm", "-fv", CONTAINER], capture_output=True)
    run = ["docker", "run", "-d", "--name", CONTAINER, "--shm-size", "512m"]
    run += ["-e", f"POSTGRES_PASSWORD={PASSWORD}", f"postgres:{major}"]
    subprocess.run(run, check=True, capture_output=True)
    ready = ["docker", "exec", CONTAINER, "pg_isready", "-h", "127.0.0.1"]
    while subprocess.run(ready, capture_output=True).returncode:
        time.sleep(0.2)


def configure(folder: Path, database: str) -> None:
    (folder / "tasks.py").write_text("from repom.tasks import ns\n")
    lines = [f"POSTGRES_DB={database}", f"POSTGRES_PASSWORD={PASSWORD}"]
    lines += [f"REPOM_CONTAINER={CONTAINER}", "REPOM_KEEP=2"]
    (folder / ".env").write_text("\n".join(lines) + "\n")


def repom(*task: str) -> list[str]:
    return [sys.executable, "-m", "invoke", *task]


def newest(folder: Path, pattern: str) -> Callable[[], int]:
    return lambda: max(folder.glob(pattern), key=lambda p: p.stat().st_mtime).stat().st_size


def postgres(bench: Bench, name: str, database: str, *, rivals: bool = True) -> None:
    """Backup and restore of one database, beside the limit and the rivals."""
    configure(bench.folder, database)
    work = bench.folder
    at = {"C": CONTAINER, "DB": database, "J": JOBS}
    limit = shell('docker exec "$C" pg_dump -U postgres -Fc -Z zstd:1 "$DB" >limit.dump', **at)
    classic = [sys.executable, "-c", CLASSIC_BACKUP, CONTAINER, database, "classic.sql.gz"]
    backups = {"repom": repom("db.backup"), "limit": limit, "classic": classic}
    if rivals:
        plain = (
            'docker exec "$C" pg_dump -U postgres --clean --if-exists "$DB" | gzip >shell.sql.gz'
        )
        backups["docker exec | gzip"] = shell(plain, **at)
        backups["pg_dump -Fc"] = shell(
            'docker exec "$C" pg_dump -U postgres -Fc "$DB" >raw.dump', **at
        )
    sizes = {
        "repom": newest(work / "backups", "*.dump"),
        "limit": lambda: (work / "limit.dump").stat().st_size,
        "classic": lambda: (work / "classic.sql.gz").stat().st_size,
        "docker exec | gzip": lambda: (work / "shell.sql.gz").stat().st_size,
        "pg_dump -Fc": lambda: (work / "raw.dump").stat().st_size,
    }
    django = rivals and find_spec("dbbackup")
    if django:
        (work / "dbbackup").mkdir(exist_ok=True)
        backups["django-dbbackup"] = django_admin(database, "dbbackup", "-z")
        sizes["django-dbbackup"] = newest(work / "dbbackup", "*.gz")
    bench.compare(f"backup {name}", backups, size_of=sizes)
    into_new = (
        'docker exec -i "$C" sh -c "cat >/tmp/limit.dump" <limit.dump; '
        'docker exec "$C" createdb -U postgres limit; '
        'docker exec "$C" pg_restore -U postgres -d limit -j"$J" /tmp/limit.dump; '
        'docker exec "$C" vacuumdb -U postgres -q --analyze-only -j"$J" limit; '
        'docker exec "$C" rm /tmp/limit.dump'
    )
    classic = [sys.executable, "-c", CLASSIC_RESTORE, CONTAINER, "classic", "classic.sql.gz"]
    restores = {
        "repom": repom("db.restore", "--latest", "--yes"),
        "limit": shell(into_new, **at),
        "classic": classic,
    }

    if django:
        restores["django-dbbackup"] = django_admin("django", "dbrestore", "-z", "--noinput")

    def fresh() -> None:
        for each in TARGETS:
            docker_sql(f"DROP DATABASE IF EXISTS {each} WITH (FORCE)")
        docker_sql("CREATE DATABASE classic")
        docker_sql("CREATE DATABASE django")
        docker_sql("CHECKPOINT")

    bench.compare(f"restore {name}", restores, before=fresh, watch=database)
    for leftover in TARGETS:
        docker_sql(f"DROP DATABASE IF EXISTS {leftover} WITH (FORCE)")


#: What the rivals restore into.
TARGETS = ("classic", "django", '"limit"')


def django_admin(database: str, *arguments: str) -> list[str]:
    """django-dbbackup, as `manage.py` would run it."""
    where = {"DJANGO_SETTINGS_MODULE": "benchmarks.django_settings"}
    where |= {"BENCHMARK_DATABASE": database, "BENCHMARK_CONTAINER": CONTAINER}
    pairs = [f"{name}={value}" for name, value in where.items()]
    return ["env", *pairs, sys.executable, "-m", "django", *arguments]


def make_a(database: str, scale: float) -> None:
    docker_sql(f"CREATE DATABASE {database}")
    pgbench = ["pgbench", "-q", "-i", "-s", str(max(1, round(30 * scale))), "-U", "postgres"]
    argv = ["docker", "exec", CONTAINER, *pgbench, database]
    subprocess.run(argv, check=True, capture_output=True)
    docker_sql(EVENTS.format(rows=round(1_500_000 * scale)), database)


def make(database: str, script: str) -> None:
    docker_sql(f"CREATE DATABASE {database}")
    docker_sql(script, database)


WRITER = """import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
while True:
    try:
        database.execute("INSERT INTO tick VALUES (1)")
    except sqlite3.OperationalError:
        pass
    time.sleep(float(sys.argv[2]))
"""


def sqlite(bench: Bench, gigabytes: float) -> None:
    """A WAL database with a live writer: the shell's .backup and zstd -1 are the limit. It
    begins anew at every commit, so it needs a writer that leaves it the time."""
    folder = bench.folder
    path = folder / "e.sqlite3"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE tick (n)")
        database.execute("CREATE TABLE e (id INTEGER PRIMARY KEY, a TEXT, b BLOB)")
        rows = ((f"row {n} " * 5, os.urandom(150)) for n in range(int(gigabytes * 4_500_000)))
        database.executemany("INSERT INTO e (a, b) VALUES (?, ?)", rows)
    (folder / "tasks.py").write_text("from repom.tasks import ns\n")
    (folder / ".env").write_text("DATABASE_URL=sqlite:///e.sqlite3\nREPOM_KEEP=2\n")
    with writing(path, every=15):
        backup = "rm -f copy copy.zst; sqlite3 e.sqlite3 '.timeout 9000' '.backup copy';"
        limit = shell(f"{backup} zstd -q -1 -T0 --rm copy")
        sizes = {
            "repom": newest(folder / "backups", "*.zst"),
            "limit": lambda: (folder / "copy.zst").stat().st_size,
        }
        bench.compare("backup E", {"repom": repom("db.backup"), "limit": limit}, size_of=sizes)
        restore = (
            "zstd -q -d -f copy.zst -o back; sqlite3 e.sqlite3 '.timeout 9000' '.restore back'"
        )
        latest = repom("db.restore", "--latest", "--yes")
        commands = {
            "repom": latest,
            "repom, nothing kept": ["env", "REPOM_UNDO_KEEP=0", *latest],
            "limit": shell(restore),
        }
        bench.compare("restore E", commands)
    with writing(path, every=0.01):
        bench.compare("backup E, 100 commits/s", {"repom": repom("db.backup")})


@contextmanager
def writing(path: Path, every: float) -> Iterator[None]:
    """A process that commits to the database, every so many seconds."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(every)])
    try:
        yield
    finally:
        writer.kill()
        writer.wait()


def fixed(bench: Bench) -> None:
    """What a task costs beyond its raw command, and what the list of tasks costs."""
    configure(bench.folder, "chinook")
    bare = bench.folder / "bare"
    bare.mkdir(exist_ok=True)
    (bare / "tasks.py").write_text("")
    bench.compare(
        "list",
        {
            "repom": repom("--list"),
            "bare invoke": shell(f"cd '{bare}'; '{sys.executable}' -m invoke --list || true"),
        },
    )
    raw = 'docker exec "$C" pg_dump -U postgres -Fc -Z zstd:1 chinook >limit.dump'
    bench.compare("fixed cost", {"repom": repom("db.backup"), "limit": shell(raw, C=CONTAINER)})


def chinook_script() -> str:
    path = ROOT.parent / "shared" / "data" / "chinook" / "Chinook_PostgreSql.sql"
    if not path.is_file():
        return MANY.replace("300", "11")
    skip = ("DROP DATABASE", "CREATE DATABASE", "\\c ")
    return "".join(x for x in path.open(encoding="utf-8") if not x.startswith(skip))


def about() -> dict[str, Any]:
    def said(*argv: str) -> str:
        done = subprocess.run(argv, capture_output=True, text=True)
        return (done.stdout.strip() or "–").splitlines()[0]

    filesystem = said("stat", "-f", "-c", "%T", tempfile.gettempdir())
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "filesystem": filesystem,
        "docker": said("docker", "version", "--format", "{{.Server.Version}}"),
        "postgres": said("docker", "exec", CONTAINER, "postgres", "--version"),
        "sqlite": sqlite3.sqlite_version,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--major", type=int, default=18)
    parser.add_argument("--only", nargs="*", default=["chinook", "a", "c", "e", "growth", "b"])
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results.json")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="repom-benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    make_server(given.major)
    bench = Bench(folder, given.runs)
    try:
        for part in given.only:
            PARTS[part](bench)
            before = json.loads(given.results.read_text()) if given.results.exists() else {}
            results = {**before.get("results", {}), **bench.results}
            everything = {"about": about(), "results": results}
            given.results.write_text(json.dumps(everything, indent=2) + "\n")
    finally:
        subprocess.run(["docker", "rm", "-fv", CONTAINER], capture_output=True)
        if not given.folder:
            shutil.rmtree(folder, ignore_errors=True)


def part_chinook(bench: Bench) -> None:
    make("chinook", chinook_script())
    fixed(bench)
    postgres(bench, "D", "chinook", rivals=False)


def part_a(bench: Bench) -> None:
    make_a("a", 1)
    postgres(bench, "A", "a")
    docker_sql("DROP DATABASE a WITH (FORCE)")


def part_growth(bench: Bench) -> None:
    for name, scale in (("A/4", 0.25), ("4A", 4.0)):
        make_a("g", scale)
        configure(bench.folder, "g")
        limit = shell(
            'docker exec "$C" pg_dump -U postgres -Fc -Z zstd:1 g >limit.dump', C=CONTAINER
        )
        bench.compare(f"backup {name}", {"repom": repom("db.backup"), "limit": limit})
        watched = {"repom": repom("db.restore", "--latest", "--yes")}
        bench.compare(f"restore {name}", watched, watch="g")
        for kept in docker_sql("SELECT datname FROM pg_database WHERE datname ~ '^repom_'").split():
            docker_sql(f"DROP DATABASE {kept} WITH (FORCE)")
        docker_sql("DROP DATABASE g WITH (FORCE)")


def part_b(bench: Bench) -> None:
    make("b", LARGE)
    postgres(bench, "B", "b", rivals=False)


def part_c(bench: Bench) -> None:
    make("c", MANY)
    postgres(bench, "C", "c", rivals=False)


def part_e(bench: Bench) -> None:
    sqlite(bench, 1.0)


PARTS: dict[str, Callable[[Bench], None]] = {
    "chinook": part_chinook,
    "a": part_a,
    "b": part_b,
    "c": part_c,
    "e": part_e,
    "growth": part_growth,
}

if __name__ == "__main__":
    main()
