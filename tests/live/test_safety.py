"""What could lose data, done to real servers: races, locks, roles, signals, full disks."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.archive.archive import Archive
from repom.dbops.postgres import queries
from repom.dbops.restore import carry_out, plan_restore
from repom.errors import CommandFailed, Damaged, Refused, RepomError
from repom.settings import Settings
from tests.live.cli import invoke, started
from tests.live.servers import PASSWORD, Server, container_server, settings_for
from tests.shop import SHOP, opened

PASSWORD_SQL = "'" + PASSWORD.replace("'", "''") + "'"


# -- the swap ---------------------------------------------------------------------------


@contextmanager
def pool(server: Server, sessions: int) -> Iterator[None]:
    """Sessions that hold long queries, and are back 10 ms after they were ended."""
    loop = (
        f"for i in $(seq {sessions}); do (while [ -e /tmp/pool ]; do"
        " psql -XqU postgres -d shop -c 'SELECT pg_sleep(60)'; sleep 0.01; done) & done; wait"
    )
    server.run("touch", "/tmp/pool")
    argv = ["docker", "exec", server.container, "sh", "-c", loop]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop'"
    while int(server.sql(query, "postgres")) < sessions:
        time.sleep(0.05)
    try:
        yield
    finally:
        server.run("rm", "/tmp/pool")
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'pg_sleep'"
            " AND pid <> pg_backend_pid()",
            "postgres",
        )
        process.wait(20)


def test_a_pool_that_reconnects_does_not_win_the_race(shop: Server, project: Path) -> None:
    settings = settings_for(shop, project)
    before = shop.dump()
    made = dbops.backup(settings)
    with pool(shop, 16):
        for _ in range(4):
            shop.sql("DROP TABLE IF EXISTS item")
            dbops.restore(made, settings)
            assert shop.dump() == before


def test_what_holds_the_name_is_refused_before_anything_is_made(
    postgres_logical: Server, project: Path
) -> None:
    with opened(postgres_logical) as server:
        settings = settings_for(server, project)
        made = dbops.backup(settings)
        server.sql("BEGIN; INSERT INTO item VALUES (0, ''); PREPARE TRANSACTION 'half'")
        with pytest.raises(Refused, match="half"):
            dbops.restore(made, settings)
        server.sql("ROLLBACK PREPARED 'half'")
        with active_slot(server), pytest.raises(Refused, match="tap"):
            dbops.restore(made, settings)
        assert server.leftovers() == []
        server.sql("SELECT pg_drop_replication_slot('tap')")
        dbops.restore(made, settings)


@contextmanager
def active_slot(server: Server) -> Iterator[None]:
    create = "SELECT pg_create_logical_replication_slot('tap', 'test_decoding')"
    server.sql(create, "shop")
    argv = ["docker", "exec", server.container, "pg_recvlogical", "-U", "postgres", "-d", "shop"]
    process = subprocess.Popen([*argv, "--slot=tap", "--start", "-f", "/dev/null"])
    active = "SELECT count(*) FROM pg_replication_slots WHERE active"
    while server.sql(active, "postgres") == "0":
        time.sleep(0.05)
    try:
        yield
    finally:
        server.sql(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active",
            "postgres",
        )
        process.kill()
        process.wait(10)
        while server.sql(active, "postgres") != "0":
            server.sql(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots", "postgres"
            )
            time.sleep(0.05)


def test_what_belongs_to_the_database_is_carried_over(server: Server, project: Path) -> None:
    server.create("shop", SHOP)
    server.sql(
        """ALTER DATABASE shop SET search_path = "$user", public, "odd, name";
        ALTER DATABASE shop SET work_mem = '7MB';
        ALTER DATABASE shop SET my.own = 'it''s';
        ALTER ROLE repom_reader IN DATABASE shop SET statement_timeout = '7s';
        REVOKE ALL ON DATABASE shop FROM PUBLIC;
        GRANT CONNECT ON DATABASE shop TO repom_reader WITH GRANT OPTION;
        COMMENT ON DATABASE shop IS 'the shop''s "own"';
        ALTER DATABASE shop CONNECTION LIMIT 77;"""
    )
    before = server.dump("shop", "-s", "-C")
    settings = settings_for(server, project)
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    assert server.dump("shop", "-s", "-C") == before
    dbops.undo(settings)
    assert server.dump("shop", "-s", "-C") == before


@pytest.fixture
def owner(postgres_17: Server) -> Iterator[Server]:
    """A user who is no superuser, has CREATEDB and owns the database."""
    server = postgres_17
    server.sql(
        f"""DROP DATABASE IF EXISTS owned WITH (FORCE);
        DROP ROLE IF EXISTS plain_owner;
        CREATE ROLE plain_owner LOGIN CREATEDB PASSWORD {PASSWORD_SQL};
        CREATE DATABASE owned OWNER plain_owner;""",
        "postgres",
    )
    server.sql(f"SET ROLE plain_owner; {SHOP}", "owned")
    yield server
    server.clean()


def test_an_owner_who_is_no_superuser(owner: Server, project: Path) -> None:
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    before = owner.dump("owned")
    made = dbops.backup(settings)
    owner.sql("DROP TABLE item", "owned")
    dbops.restore(made, settings)
    assert owner.dump("owned") == before
    dbops.undo(settings)
    dbops.undo(settings)
    assert owner.dump("owned") == before
    assert owner.leftovers() == []


def test_a_superusers_session_is_named_and_nothing_is_made(owner: Server, project: Path) -> None:
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    made = dbops.backup(settings)
    argv = ["docker", "exec", owner.container, "psql", "-XqU", "postgres", "-d", "owned"]
    session = subprocess.Popen([*argv, "-c", "SELECT pg_sleep(60)"], stdout=subprocess.DEVNULL)
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'owned'"
    while owner.sql(query, "postgres") == "0":
        time.sleep(0.05)
    try:
        with pytest.raises(Refused, match="postgres"):
            dbops.restore(made, settings)
    finally:
        owner.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'owned'",
            "postgres",
        )
        session.wait(10)
    assert owner.leftovers() == []


def test_a_user_who_may_not_create_a_database_restores_in_place(
    owner: Server, project: Path
) -> None:
    owner.sql("ALTER ROLE plain_owner NOCREATEDB", "postgres")
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    before = owner.dump("owned")
    for format in ("custom", "plain"):
        made = dbops.backup(settings, format=format)
        owner.sql("SET ROLE plain_owner; DROP TABLE item; CREATE TABLE stranger ()", "owned")
        with pytest.raises(Refused, match="may not create"):
            dbops.restore(made, settings)
        assert dbops.restore(made, settings, in_place=True).replaced is None
        assert owner.dump("owned") == before


def test_a_load_in_place_is_done_also_without_statistics(
    owner: Server, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    made = dbops.backup(settings)
    before = owner.dump("owned")
    owner.sql("DROP TABLE item", "owned")
    monkeypatch.setattr(queries, "ANALYZE", "ANALYZE nothing;\n")
    dbops.restore(made, settings, in_place=True)

    assert "without the planner's statistics" in caplog.text
    assert owner.dump("owned") == before


@pytest.mark.parametrize("format", ["custom", "plain"])
def test_a_load_in_place_that_fails_changes_nothing(
    owner: Server, project: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at its last check, when everything has been emptied and loaded anew."""
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    made = dbops.backup(settings, format=format)
    owner.sql("SET ROLE plain_owner; CREATE TABLE newer (a int)", "owned")
    before = owner.dump("owned")
    monkeypatch.setattr(Archive, "tables", 7)
    with pytest.raises(CommandFailed, match="the backup holds 7 tables, and 1 were restored"):
        dbops.restore(made, settings, in_place=True)
    assert owner.dump("owned") == before


def test_a_script_of_unknown_origin_is_not_loaded_in_place(owner: Server, project: Path) -> None:
    """A manifest beside it changes nothing: it could be forged."""
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    before = owner.dump("owned")
    made = dbops.backup(settings, format="plain")
    (project / "elsewhere").mkdir()
    for path in (made.path, made.manifest):
        path.rename(project / "elsewhere" / path.name)
    (project / "x.sql").write_text("CREATE TABLE a (a int);\nCOMMIT;\nCREATE TABLE a (a int);\n")
    for script in (project / "x.sql", project / "elsewhere" / made.name):
        with pytest.raises(Refused, match="unknown origin"):
            dbops.restore(script, settings, in_place=True)
    assert owner.dump("owned") == before


def test_into_restores_beside_and_touches_nothing_else(any_shop: Server, project: Path) -> None:
    server = any_shop
    server.sql('DROP DATABASE IF EXISTS "be side" WITH (FORCE)', "postgres")
    settings = settings_for(server, project)
    before = server.dump()
    made = dbops.backup(settings)
    server.sql("INSERT INTO item VALUES (0, 'new')")
    changed = server.dump()
    databases = server.databases()

    done = dbops.restore(made, settings, into="be side")
    assert done.database == "be side"
    assert server.dump("be side") == before
    assert server.dump() == changed
    assert server.databases() == databases | {"be side"}
    with pytest.raises(Refused, match="exists already"):
        dbops.restore(made, settings, into="be side")
    server.sql('DROP DATABASE "be side"', "postgres")


def test_a_database_that_is_gone_comes_back(any_shop: Server, project: Path) -> None:
    server = any_shop
    settings = settings_for(server, project)
    before = server.dump()
    made = dbops.backup(settings)
    server.sql("DROP DATABASE shop WITH (FORCE)", "postgres")
    assert dbops.restore(made, settings).replaced is None
    assert server.dump() == before


def undo_copies(server: Server, expected: int) -> list[str]:
    """The undo copies; the drop of one goes on after a restore, for a moment."""
    for _ in range(50):
        kept = [d for d in server.databases() if d.startswith("repom_undo_")]
        if len(kept) <= expected:
            break
        time.sleep(0.1)
    return kept


def test_kept_databases_are_limited_and_the_newest_stay(shop: Server, project: Path) -> None:
    made = dbops.backup(settings_for(shop, project))
    for keep, expected in ((2, 1), (2, 2), (2, 2), (1, 1), (0, 0)):
        settings = settings_for(shop, project, REPOM_UNDO_KEEP=str(keep))
        plan = plan_restore(made, settings)
        carry_out(plan)
        kept = undo_copies(shop, expected)
        assert len(kept) == expected
        assert not {old.name for old in plan.to_delete} & set(kept)


# -- settings of roles and databases that break dumps -----------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        "ALTER ROLE plain_owner SET statement_timeout = '1ms'",
        "ALTER ROLE plain_owner SET default_transaction_read_only = on",
        "ALTER DATABASE owned SET default_transaction_read_only = on",
        "ALTER ROLE plain_owner SET lock_timeout = '1ms'",
    ],
)
def test_a_setting_that_would_break_it(owner: Server, project: Path, setting: str) -> None:
    owner.sql(setting, "postgres")
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    before = owner.dump("owned")
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    assert owner.dump("owned") == before
    owner.sql("ALTER ROLE plain_owner RESET ALL", "postgres")


def test_row_level_security_hides_nothing_silently(owner: Server, project: Path) -> None:
    owner.sql(
        "CREATE TABLE secret (a int); INSERT INTO secret VALUES (1);"
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY; GRANT SELECT ON secret TO plain_owner",
        "owned",
    )
    settings = settings_for(owner, project, "owned", POSTGRES_USER="plain_owner")
    with pytest.raises(Refused, match="Row level security"):
        dbops.backup(settings)
    assert dbops.list_backups(settings) == []


def test_a_hostile_psqlrc_is_not_read(shop: Server, project: Path) -> None:
    shop.run("sh", "-c", r"printf '\\echo hostile\n\\set AUTOCOMMIT off\n' > ~/.psqlrc")
    try:
        settings = settings_for(shop, project)
        before = shop.dump()
        for format in ("custom", "plain"):
            dbops.restore(dbops.backup(settings, format=format), settings)
            assert shop.dump() == before
    finally:
        shop.run("sh", "-c", "rm ~/.psqlrc")


def test_a_locked_table_names_who_holds_it(
    shop: Server, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repom.dbops.postgres.commands.LOCK_WAIT", 500)
    argv = [
        "docker",
        "exec",
        "-e",
        "PGAPPNAME=migration",
        shop.container,
        "psql",
        "-XqU",
        "postgres",
    ]
    lock = "BEGIN; LOCK TABLE item; SELECT pg_sleep(60)"
    holder = subprocess.Popen([*argv, "-d", "shop", "-c", lock], stdout=subprocess.DEVNULL)
    held = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
    while shop.sql(held, "shop") == "0":
        time.sleep(0.05)
    try:
        with pytest.raises(Refused, match=r"locked by process \d+ \(postgres, migration"):
            dbops.backup(settings_for(shop, project))
    finally:
        holder.kill()
        shop.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'migration'",
            "postgres",
        )
        holder.wait(10)


def test_a_dump_that_stalls_is_ended_with_a_diagnosis(
    shop: Server, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repom.runners.process.STALL", 1.5)
    shop.sql("CREATE TABLE big AS SELECT md5(n::text) FROM generate_series(1, 2000000) n")
    stopper = threading.Timer(0.0, stop_pg_dump, [shop])
    stopper.start()
    try:
        with pytest.raises(CommandFailed, match=r"no byte for 1\.5 s"):
            dbops.backup(settings_for(shop, project))
    finally:
        stopper.join()
    assert dbops.list_backups(settings_for(shop, project)) == []


def stop_pg_dump(server: Server) -> None:
    for _ in range(200):
        script = "for p in /proc/[0-9]*; do read c < $p/comm; "
        script += '[ "$c" = pg_dump ] && kill -STOP ${p#/proc/} && echo stopped; done; true'
        if "stopped" in server.run("sh", "-c", script, check=False):
            return
        time.sleep(0.01)


# -- damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["sqlite", "custom", "plain"])
def test_every_flipped_bit_and_every_truncation_is_found(
    request: pytest.FixtureRequest, project: Path, format: str
) -> None:
    """Before the database is even asked: the plan fails at the file."""
    if format == "sqlite":
        with closing(sqlite3.connect(project / "x.db")) as database, database:
            database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('x'), ('y');")
        settings = Settings.load(environ={"DATABASE_URL": "sqlite:///x.db"}, cwd=project)
    else:
        server: Server = request.getfixturevalue("shop")
        settings = settings_for(server, project, REPOM_FORMAT=format)
        server.sql("DELETE FROM item WHERE n > 50")
    made = dbops.backup(settings)
    assert made.size <= 20_000
    away = replace(settings, docker="/nowhere")  # whoever asked a server would fail otherwise
    dice = random.Random(f"flip-{format}")
    for path in (made.path, made.manifest):
        whole = path.read_bytes()
        for _ in range(850):
            at, bit = dice.randrange(len(whole)), dice.randrange(8)
            broken = bytearray(whole)
            broken[at] ^= 1 << bit
            path.write_bytes(bytes(broken))
            with pytest.raises(Damaged):
                plan_restore(made.name, away)
        for size in range(0, len(whole), 1 if len(whole) < 3000 else 7):
            path.write_bytes(whole[:size])
            with pytest.raises(Damaged):
                plan_restore(made.name, away)
        path.write_bytes(whole)


# -- signals ----------------------------------------------------------------------------


@pytest.fixture
def large(postgres_17: Server) -> Iterator[Server]:
    """A database whose dump and restore take a second or more."""
    server = postgres_17
    if "large" not in server.databases():
        server.create("large")
        server.sql(
            "CREATE TABLE t AS SELECT n, md5(n::text) a, md5((n+1)::text) b"
            " FROM generate_series(1, 1500000) n; CREATE INDEX ON t (a);",
            "large",
        )
    yield server


@pytest.mark.parametrize("verb", ["backup", "restore"])
@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it_within_two_seconds_and_leaves_nothing(
    large: Server, project: Path, verb: str, signum: int, status: int
) -> None:
    env = large.environment("large")
    task = ["db.backup"]
    if verb == "restore":
        made = invoke(project, "db.backup", env=env)
        assert made.status == 0, made.err
        task = ["db.restore", "--latest", "--yes"]
    count = large.sql("SELECT count(*) FROM t", "large")
    stored = sorted(p.name for p in (project / "backups").glob("*.dump"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = started(project, *task, env=env, **pipes)
    wait_for_work(large, verb)
    sent = time.monotonic()
    process.send_signal(signum)
    out, err = process.communicate(timeout=20)
    seconds = time.monotonic() - sent

    assert process.returncode == status, err
    assert seconds < 2, f"{seconds:.1f} s"
    assert out == ""
    assert "Traceback" not in err
    assert large.sql("SELECT count(*) FROM t", "large") == count
    assert sorted(p.name for p in (project / "backups").glob("*.dump")) == stored
    assert [p.name for p in (project / "backups").glob(".*partial*")] == []
    assert large.leftovers() == []


def wait_for_work(server: Server, verb: str) -> None:
    """Until the program is in the middle of its work in the server."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^repom-' AND query ~ "
    query += "'^COPY'"
    for _ in range(400):
        if server.sql(query, "postgres") != "0":
            return
        time.sleep(0.01)
    raise AssertionError(f"the {verb} was never seen at work")


# -- several at once --------------------------------------------------------------------


def test_eight_processes_at_once(shop: Server, project: Path) -> None:
    env = shop.environment(REPOM_KEEP="3")
    before = shop.dump()
    assert invoke(project, "db.backup", env=env).status == 0
    tasks = [["db.backup"], ["db.restore", "--latest", "--yes"], ["db.prune"], ["db.backup"]] * 2
    with ThreadPoolExecutor(8) as threads:
        ended = list(threads.map(lambda task: invoke(project, *task, env=env), tasks))
    assert {e.status for e in ended} <= {0, 5}, [e.err for e in ended]
    assert any(e.status == 0 for e in ended)
    for refused in (e for e in ended if e.status == 5):
        assert "Another repom process" in refused.last
    assert shop.dump() == before
    settings = settings_for(shop, project)
    for backup in dbops.list_backups(settings):
        assert dbops.verify(backup.name, settings).problems == ()
    assert shop.leftovers() == []


# -- disks ------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_disk_that_is_full_at_any_size(
    request: pytest.FixtureRequest, project: Path, small_disk: Path, backend: str
) -> None:
    if backend == "sqlite":
        with closing(sqlite3.connect(project / "x.db")) as database, database:
            database.execute("CREATE TABLE t (a)")
            rows = [(os.urandom(1000),) for _ in range(700)]
            database.executemany("INSERT INTO t VALUES (?)", rows)
        env = {"DATABASE_URL": "sqlite:///x.db"}
    else:
        server: Server = request.getfixturevalue("shop")
        server.sql("CREATE EXTENSION IF NOT EXISTS pgcrypto")
        server.sql(
            "CREATE TABLE noise AS SELECT gen_random_bytes(1000) FROM generate_series(1, 600)"
        )
        env = server.environment()
    failed = 0
    for kilobytes in range(64, 2100, 288):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "repom", str(small_disk)]
        subprocess.run(mount, check=True)
        ended = invoke(project, "db.backup", env={**env, "REPOM_BACKUP_DIR": str(small_disk)})
        files = {
            p.name for p in small_disk.iterdir() if not p.name.endswith((".lock", ".gitignore"))
        }
        if ended.status:
            failed += 1
            assert ended.status in (1, 5), ended.err
            assert files == set(), ended.err
        else:
            assert len(files) == 2, ended.err
        subprocess.run(["umount", str(small_disk)], check=True)
    assert 0 < failed < 8


def test_a_full_tmp_in_the_container(postgres_cramped: Server, project: Path) -> None:
    server = postgres_cramped
    server.create("shop", "CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 20000) n")
    settings = settings_for(server, project)
    before = server.dump()
    made = dbops.backup(settings)
    with pytest.raises(RepomError, match="No space left"):
        dbops.restore(made, settings)
    assert server.dump() == before
    assert server.leftovers() == []
    for task in (["db.verify"], ["db.verify", "--drill"]):  # nothing is wrong with the backup
        ended = invoke(project, *task, env=server.environment())
        assert ended.status == 1, ended.err
    with pytest.raises(CommandFailed):
        dbops.verify(None, settings)
    (listed,) = dbops.list_backups(settings)
    assert (listed.verified, listed.is_verified) == (made.verified, True)


def test_a_server_without_room_is_refused_before_anything_is_made(project: Path) -> None:
    with container_server(17, "--tmpfs", "/var/lib/postgresql/data:size=300m") as server:
        server.create("shop")
        server.sql("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 400000) n")
        env, before = server.environment(), server.dump()
        assert invoke(project, "db.backup", env=env).status == 0
        room = int(server.run("df", "-Pk", "/var/lib/postgresql/data").split()[-3]) // 1024
        fill = ["dd", "if=/dev/zero", "of=/var/lib/postgresql/data/fill", "bs=1M"]
        server.run(*fill, f"count={room - 20}")
        databases = server.databases()

        ended = invoke(project, "db.restore", "--latest", "--yes", env=env)

        assert (ended.status, "The server's disk has" in ended.last) == (5, True), ended.err
        assert (server.databases(), server.leftovers()) == (databases, [])
        server.run("rm", "/var/lib/postgresql/data/fill")
        ended = invoke(project, "db.restore", "--latest", "--yes", env=env)
        assert ended.status == 0, ended.err
        assert server.dump() == before


# -- secrets ----------------------------------------------------------------------------


def test_the_password_is_nowhere_to_be_seen(postgres_host: Server, project: Path) -> None:
    postgres_host.create("shop")
    postgres_host.sql(SHOP)
    env = postgres_host.environment()
    seen: list[str] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if PASSWORD in line:
                    seen.append(line)
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    tasks = (["db.backup"], ["db.list"], ["db.restore", "--latest", "--yes"], ["db.verify"])
    ended = [invoke(project, "--echo", *task, env=env) for task in tasks]
    ended.append(invoke(project, "--debug", "--dry", "db.backup", env=env))
    done.set()
    watcher.join()
    assert [e.status for e in ended] == [0] * 5, [e.last for e in ended]
    assert seen == []
    for e in ended[:4]:
        assert PASSWORD not in e.out + e.err
    files = [p for p in (project / "backups").rglob("*") if p.is_file()]
    assert files
    assert not any(PASSWORD.encode() in p.read_bytes() for p in files)


# -- the store --------------------------------------------------------------------------


def test_a_much_smaller_backup_deletes_nothing(shop: Server, project: Path) -> None:
    env = shop.environment(REPOM_KEEP="1")
    assert invoke(project, "db.backup", env=env).status == 0
    shop.sql("DROP TABLE item")
    ended = invoke(project, "db.backup", env=env)
    assert ended.status == 0
    assert "nothing was pruned" in ended.err
    assert len(list((project / "backups").glob("*.dump"))) == 2


def test_a_drill_restores_for_real_and_is_recorded(any_shop: Server, project: Path) -> None:
    server = any_shop
    env = server.environment()
    made = json.loads(invoke(project, "db.backup", "--json", env=env).out)
    databases = server.databases()
    ended = invoke(project, "db.verify", "--drill", env=env)
    assert ended.status == 0, ended.err
    assert "1000 rows in 1 table)" in ended.out
    assert server.databases() == databases
    manifest = json.loads(Path(made["path"] + ".json").read_text())
    assert manifest["verified"] == ["complete", "sha256", "archive", "drill"]
    assert manifest["facts"]["drill"]["rows"] == {"public.item": 1000}
    assert invoke(project, "db.restore", "--latest", "--yes", env=env).status == 0
