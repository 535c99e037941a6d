"""A user's first day, with the tasks and nothing else: a scratch project with a one-line
`tasks.py` and a `.env`, and a database of music."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import requires
from tests.live import engine
from tests.live.cli import environment, invoke
from tests.live.servers import Server, free_port

#: For PostgreSQL and SQLite alike.
NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
MUSIC = f"""
CREATE TABLE artist (artist_id INTEGER PRIMARY KEY, name VARCHAR(120));
CREATE TABLE album (album_id INTEGER PRIMARY KEY, title VARCHAR(160) NOT NULL,
  artist_id INTEGER NOT NULL REFERENCES artist (artist_id));
CREATE TABLE track (track_id INTEGER PRIMARY KEY, name VARCHAR(200) NOT NULL,
  album_id INTEGER REFERENCES album (album_id), unit_price NUMERIC(10,2) NOT NULL);
CREATE TABLE genre (genre_id INTEGER PRIMARY KEY, name VARCHAR(120));
INSERT INTO artist {NUMBERS} SELECT i, 'Antônio ' || i FROM n WHERE i <= 200;
INSERT INTO album {NUMBERS} SELECT i, 'D''accord ' || i, i % 200 + 1 FROM n WHERE i <= 399;
INSERT INTO track {NUMBERS} SELECT i, 'Track ' || i, i % 399 + 1, 0.99 FROM n;
INSERT INTO genre VALUES (1, 'Rock'), (2, 'Bossa Nova');
CREATE INDEX track_album ON track (album_id);
"""
LOSS = "DROP TABLE track; DROP TABLE album; DROP TABLE artist;"


def start(project: Path, **settings: str) -> None:
    lines = [f"{key}={value}\n" for key, value in settings.items()]
    (project / ".env").write_text("".join(lines))
    started = invoke(project, "postgres.start")
    assert started.status == 0, started.err
    assert "***" in started.out
    assert "pw-canary" not in started.out + started.err


@pytest.fixture(params=[17, 18])
def container_project(request: pytest.FixtureRequest, project: Path) -> Iterator[Server]:
    """A project whose server `postgres.start` has made as a container."""
    requires.image(request.param)
    name, port = engine.unique(), free_port()
    login = {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "pw-canary", "POSTGRES_DB": "music"}
    where = {"POSTGRES_PORT": str(port), "REPOM_CONTAINER": name}
    try:
        start(project, **login, **where, REPOM_IMAGE=f"postgres:{request.param}")
        yield Server("container", request.param, port, name)
    finally:
        removed = invoke(project, "postgres.remove", "--volume", "--yes")
        assert removed.status == 0, removed.err


SCRIPT = ("psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-f", "-")


def run(server: Server, *argv: str, stdin: str = "") -> str:
    inside = ["docker", "exec", "-i", "-e", "PGUSER=shop", "-e", "PGDATABASE=music"]
    command = [*inside, server.container, *argv]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.M)


def test_a_project_with_a_container(container_project: Server, project: Path) -> None:
    server = container_project
    run(server, *SCRIPT, stdin=MUSIC)
    before = run(server, "pg_dump")
    for format in ("custom", "plain"):
        made = invoke(project, "db.backup", "--format", format)
        assert made.status == 0, made.err
        assert f"Using Docker container: {server.container}" in made.err
        assert "Backup created: music_" in made.err
        assert Path(made.out.strip()).is_file()
        run(server, *SCRIPT, stdin=LOSS)

        restored = invoke(project, "db.restore", "--latest", "--yes")
        assert restored.status == 0, restored.err
        assert run(server, "pg_dump") == before
    undone = invoke(project, "db.undo", "--yes")
    assert undone.status == 0, undone.err
    assert "CREATE TABLE public.track" not in run(server, "pg_dump")

    assert invoke(project, "postgres.stop").status == 0
    ended = invoke(project, "db.backup")
    warning = f"Container {server.container} is not running (exited), using host pg_dump"
    assert warning in ended.err
    assert ended.status == 3
    assert "localhost:" in ended.last
    assert "invoke postgres.start" in ended.last
    assert invoke(project, "postgres.start").status == 0
    assert invoke(project, "db.backup").status == 0


def test_the_fallback_that_reaches_another_server_deletes_and_replaces_nothing(
    postgres_17: Server, postgres_host: Server, project: Path
) -> None:
    postgres_17.create("shop", "CREATE TABLE a (a int)")
    env = postgres_17.environment()
    assert invoke(project, "db.backup", env=env).status == 0
    postgres_host.create("shop", "CREATE TABLE b (b int)")
    before = postgres_host.dump()
    away = {**postgres_host.environment(), "REPOM_CONTAINER": "repom_nobody", "REPOM_KEEP": "1"}

    first = next((project / "backups").glob("*.dump"))
    for count in (2, 3):  # the second one must not take the first one for the container's
        backup = invoke(project, "db.backup", env=away)
        assert backup.status == 0, backup.err
        assert "not be the server of the last backup" in backup.err
        assert first.is_file()
        assert len(list((project / "backups").glob("*.dump"))) == count, "nothing is pruned"
    restore = invoke(project, "db.restore", "--latest", "--yes", env=away)
    assert restore.status == 5
    assert "--via host" in restore.last
    assert postgres_host.dump() == before

    own = sorted(p.name for p in (project / "backups").glob("*.dump"))[-1]
    chosen = ["--backup", own, "--yes", "--via", "host"]
    meant = invoke(project, "db.restore", *chosen, env=away)
    assert meant.status == 0, meant.err
    assert postgres_host.dump() == before

    again = invoke(project, "db.restore", "--latest", "--yes", env=env)
    assert again.status == 0, again.err  # not what the other server held
    assert "CREATE TABLE public.a" in postgres_17.dump()


@pytest.fixture
def local_project() -> Iterator[Path]:
    """A folder that the unprivileged user of a local cluster can enter."""
    requires.host_binaries()
    folder = Path(tempfile.mkdtemp(prefix="repom-test-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "tasks.py").write_text("from repom.tasks import ns\n")
    yield folder
    invoke(folder, "postgres.stop")
    shutil.rmtree(folder, ignore_errors=True)


def test_a_project_with_a_local_cluster(local_project: Path) -> None:
    port = str(free_port())
    login = {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "pw-canary", "POSTGRES_DB": "music"}
    where = {"POSTGRES_PORT": port, "REPOM_CONTAINER": "repom_nobody", "REPOM_VIA": "host"}
    start(local_project, **login, **where)
    libpq = {"PGUSER": "shop", "PGPASSWORD": "pw-canary", "PGDATABASE": "music"}
    bin = requires.host_binaries()

    def program(*argv: str, stdin: str = "") -> str:
        env = environment(**libpq, PGHOST="127.0.0.1", PGPORT=port)
        done = subprocess.run(
            [str(bin / argv[0]), *argv[1:]], input=stdin, capture_output=True, text=True, env=env
        )
        assert done.returncode == 0, done.stderr
        return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.M)

    program(*SCRIPT, stdin=MUSIC)
    before = program("pg_dump")
    for format in ("custom", "plain"):
        made = invoke(local_project, "db.backup", "--format", format)
        assert made.status == 0, made.err
        program(*SCRIPT, stdin=LOSS)
        restored = invoke(local_project, "db.restore", "--latest", "--yes")
        assert restored.status == 0, restored.err
        assert program("pg_dump") == before


WRITER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE IF NOT EXISTS tick (n)")
print("ready", flush=True)
n = 0
while True:
    try:
        database.execute("CREATE TABLE IF NOT EXISTS tick (n)")
        database.execute("INSERT INTO tick VALUES (?)", (n,))
    except sqlite3.OperationalError as error:
        if "locked" not in str(error) and "changed" not in str(error):
            raise
    n += 1
    time.sleep(0.002)
"""


def test_a_project_with_sqlite_while_another_process_writes(project: Path) -> None:
    path = project / "music.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(MUSIC)
    (project / ".env").write_text("DATABASE_URL=sqlite:///music.sqlite3\n")
    before = tables(path)
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        made = invoke(project, "db.backup")
        assert made.status == 0, made.err
        with closing(sqlite3.connect(path, timeout=10)) as database, database:
            database.executescript(LOSS)
        restored = invoke(project, "db.restore", "--latest", "--yes")
        assert restored.status == 0, restored.err
        assert writer.poll() is None, "the writer was broken by the restore"
    finally:
        writer.kill()
        writer.communicate()
    assert tables(path) == before
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def tables(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table but the writer's."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        wanted = sorted(n for (n,) in names if n != "tick")
        return {n: database.execute(f'SELECT * FROM "{n}"').fetchall() for n in wanted}
