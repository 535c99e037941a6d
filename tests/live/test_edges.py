"""Databases of unusual shape, and servers in unusual states."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import CommandFailed, Refused, Unreachable
from repom.settings import Settings
from tests.live.cli import invoke, started
from tests.live.servers import Server, ident, settings_for
from tests.shop import COUNT, ITEMS, SHOP, opened

# -- files without a manifest -------------------------------------------------------------

DUMPS = {
    "x.dump": ("-Fc",),
    "x.sql": ("-Fp",),
    "x.sql.gz": ("-Fp", "-Z1"),
    "clean.sql": ("-Fp", "--clean", "--if-exists"),
}


@pytest.mark.parametrize("name", DUMPS)
def test_a_colleagues_file_makes_a_database_that_is_not_there(
    shop: Server, project: Path, name: str
) -> None:
    before = shop.dump()
    (project / name).write_bytes(raw_dump(shop, *DUMPS[name]))
    shop.sql("DROP DATABASE shop", "postgres")
    dbops.restore(name, settings_for(shop, project))
    assert shop.dump() == before
    dbops.restore(name, settings_for(shop, project), into="shop_too")
    assert shop.dump("shop_too") == before
    shop.sql("DROP DATABASE shop_too", "postgres")


def raw_dump(server: Server, *flags: str) -> bytes:
    command = server.command("pg_dump", *flags, "-d", "dbname=shop")
    return subprocess.run(command, env=server.login, check=True, capture_output=True).stdout


def test_an_icu_database_is_made_like_the_old_one(postgres_17: Server, project: Path) -> None:
    server = postgres_17
    server.sql("DROP DATABASE IF EXISTS shop WITH (FORCE)", "postgres")
    make = "CREATE DATABASE shop TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE'"
    server.sql(make, "postgres")
    server.sql(SHOP)
    query = "SELECT datlocprovider, datlocale, datcollate FROM pg_database WHERE datname = 'shop'"
    before = server.sql(query, "postgres"), server.dump()
    made = dbops.backup(settings_for(server, project))
    server.sql("DROP DATABASE shop", "postgres")
    dbops.restore(made, settings_for(server, project))
    assert (server.sql(query, "postgres"), server.dump()) == before


# -- tables that come and go --------------------------------------------------------------


def test_tables_that_come_and_go_during_a_backup(shop: Server, project: Path) -> None:
    settings, ended = settings_for(shop, project), threading.Event()
    loop = "CREATE TABLE passing (a int); SELECT pg_sleep(0.05); DROP TABLE passing;" * 20

    def churn() -> None:
        while not ended.is_set():
            shop.sql(loop, check=False)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        made: list[dbops.Backup] = []
        while len(made) < 6:
            try:
                made.append(dbops.backup(settings, format="plain" if len(made) % 3 == 2 else None))
            except CommandFailed as error:  # the table went before pg_dump could lock it
                assert "passing" in str(error) or "OID" in str(error)
    finally:
        ended.set()
        thread.join()
    for backup in made:
        dbops.restore(backup, settings)
        assert shop.sql(COUNT) == str(ITEMS)


# -- databases that cannot be dropped -----------------------------------------------------


def test_a_drop_that_was_cut_short_is_finished_and_never_put_back(
    shop: Server, project: Path
) -> None:
    settings = settings_for(shop, project)
    made = dbops.backup(settings)
    dbops.restore(made, settings)
    (kept,) = shop.copies()
    # What a server leaves that dies during DROP DATABASE.
    cut = f"UPDATE pg_database SET datconnlimit = -2 WHERE datname = '{kept}'"
    shop.sql(cut, "postgres")
    ended = invoke(project, "db.undo", "--yes", env=shop.environment())
    assert ended.status == 4, ended.err
    assert shop.sql(COUNT) == str(ITEMS)
    dbops.restore(made, settings)
    assert kept not in shop.databases()


BLOCKERS = {
    "a disabled subscription": """CREATE SUBSCRIPTION sub CONNECTION 'host=nowhere dbname=x'
        PUBLICATION p WITH (connect = false, slot_name = 'far');""",
    "a template": "ALTER DATABASE shop IS_TEMPLATE true;",
}


@pytest.mark.parametrize("sql", BLOCKERS.values(), ids=list(BLOCKERS))
def test_what_keeps_a_database_from_being_dropped_leaves_no_copy(
    shop: Server, project: Path, sql: str
) -> None:
    shop.sql(sql)
    settings = settings_for(shop, project)
    try:
        made = dbops.backup(settings)
        assert dbops.verify(made, settings, drill=True).problems == ()
        assert shop.copies() == set()
        for _ in range(3):
            dbops.restore(made, settings)
        query = "SELECT datistemplate FROM pg_database WHERE datname = 'shop'"
        assert shop.sql(query, "postgres") == ("t" if "TEMPLATE" in sql else "f")
        assert shop.leftovers() == []
        wait_for(lambda: len(shop.copies()) == 1, 4)
    finally:
        shop.sql("ALTER DATABASE shop IS_TEMPLATE false", "postgres")
        for name in [*shop.copies(), "shop"]:
            detach = "ALTER SUBSCRIPTION sub DISABLE; ALTER SUBSCRIPTION sub SET (slot_name=NONE);"
            shop.sql(f"{detach} DROP SUBSCRIPTION sub", name, check=False)


def test_a_replication_slot_is_not_lost_with_the_replaced_database(
    postgres_logical: Server, project: Path
) -> None:
    with opened(postgres_logical) as server:
        server.sql("SELECT pg_create_logical_replication_slot('feed', 'pgoutput')")
        settings = settings_for(server, project)
        made = dbops.backup(settings)
        with pytest.raises(Refused, match="feed"):
            dbops.restore(made, settings)
        query = "SELECT database FROM pg_replication_slots WHERE slot_name = 'feed'"
        assert server.sql(query, "postgres") == "shop"
        assert server.copies() == set()
        server.sql("SELECT pg_drop_replication_slot('feed')")


# -- loads --------------------------------------------------------------------------------

PARTS = """CREATE TABLE parts (day int, x text) PARTITION BY RANGE (day);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (50);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (50) TO (1000) PARTITION BY RANGE (day);
CREATE TABLE parts_2a PARTITION OF parts_2 FOR VALUES FROM (50) TO (1000);
INSERT INTO parts SELECT n % 900, md5(n::text) FROM generate_series(1, 3000) n;
CREATE TABLE big AS SELECT n, n % 7 AS a, n % 49 AS b, md5(n::text) || md5((n+1)::text) AS t
  FROM generate_series(1, {rows}) n;
CREATE STATISTICS st (dependencies) ON a, b FROM big;
CREATE MATERIALIZED VIEW seen AS SELECT a, count(*) FROM big GROUP BY a;
ANALYZE;
"""

STATISTICS = """SELECT string_agg(DISTINCT tablename, ' ' ORDER BY tablename) FROM pg_stats
  WHERE schemaname = 'public'"""


@pytest.mark.parametrize(
    ("server", "rows"),
    [("postgres_host", 3000), ("postgres_17", 220_000), ("postgres_18", 3000)],
    indirect=["server"],
)
def test_a_plain_owner_gets_statistics_for_every_table(
    server: Server, project: Path, rows: int
) -> None:
    server.sql("DROP DATABASE IF EXISTS owned WITH (FORCE)", "postgres")
    server.sql("DROP ROLE IF EXISTS part_owner", "postgres")
    secret = server.environment()["POSTGRES_PASSWORD"].replace("'", "''")
    server.sql(f"CREATE ROLE part_owner LOGIN CREATEDB PASSWORD '{secret}'", "postgres")
    server.sql("CREATE DATABASE owned OWNER part_owner", "postgres")
    server.sql(f"SET ROLE part_owner; {PARTS.format(rows=rows)}", "owned")
    before = server.sql(STATISTICS, "owned")
    assert before == "big parts parts_1 parts_2 parts_2a seen"
    settings = settings_for(server, project, "owned", POSTGRES_USER="part_owner", REPOM_JOBS="3")
    for format in ("custom", "plain"):
        dbops.restore(dbops.backup(settings, format=format), settings)
        assert server.sql(STATISTICS, "owned") == before
        assert server.sql("SELECT count(*) FROM pg_stats_ext", "owned") == "1"
    server.sql("DROP DATABASE owned WITH (FORCE)", "postgres")
    server.clean()
    server.sql("DROP ROLE part_owner", "postgres")


def test_an_archive_with_statistics_goes_into_an_older_server(
    postgres_18: Server, shop: Server, project: Path
) -> None:
    postgres_18.create("shop")
    postgres_18.sql(SHOP + "ANALYZE;")
    made = dbops.backup(settings_for(postgres_18, project))
    shop.sql("DROP TABLE item")
    (project / "older").mkdir()
    (project / "older" / "tasks.py").write_text("")
    dbops.restore(str(made.path), settings_for(shop, project / "older"))
    assert shop.sql(COUNT) == str(ITEMS)
    assert shop.sql(STATISTICS) == "item"


LOOSE = """ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO repom_reader;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE TYPE mood AS ENUM ('a'); CREATE FUNCTION to_mood(int) RETURNS mood LANGUAGE sql
  AS $$ SELECT 'a'::mood $$;
CREATE CAST (int AS mood) WITH FUNCTION to_mood(int);
CREATE ACCESS METHOD heaps TYPE TABLE HANDLER heap_tableam_handler;
CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
CREATE FOREIGN TABLE distant (a int) SERVER far;
CREATE PUBLICATION pub FOR ALL TABLES;
CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER noticing ON ddl_command_end EXECUTE FUNCTION noticed();
SELECT lo_create(0) FROM generate_series(1, 5);
"""


def test_a_restore_in_place_leaves_nothing_of_what_was_there(shop: Server, project: Path) -> None:
    settings = settings_for(shop, project)
    empty = dbops.backup(settings)
    before = shop.dump()
    shop.sql(LOOSE)
    full, with_all = dbops.backup(settings), shop.dump()
    dbops.restore(empty, settings, in_place=True)
    assert shop.dump() == before
    dbops.restore(full, settings, in_place=True)
    assert shop.dump() == with_all
    dbops.restore(full, settings, in_place=True)
    assert shop.dump() == with_all


def test_too_many_large_objects_for_one_transaction_are_refused(
    shop: Server, project: Path
) -> None:
    settings = settings_for(shop, project)
    made = dbops.backup(settings)
    shop.sql("SELECT count(lo_create(0)) FROM generate_series(1, 20000)")
    with pytest.raises(Refused, match="locks at once"):
        dbops.restore(made, settings, in_place=True)
    assert shop.sql(COUNT) == str(ITEMS)
    dbops.restore(made, settings)


def test_a_kill_during_a_restore_in_place_leaves_no_file(shop: Server, project: Path) -> None:
    settings = settings_for(shop, project)
    made = dbops.backup(settings)
    folder = project / "tmp"
    folder.mkdir()
    with locked(shop, "item"):
        process = started(
            *(project, "db.restore", "--yes", "--in-place", "--backup", made.name),
            env=shop.environment(TMPDIR=str(folder)),
        )
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        wait_for(lambda: shop.sql(query, "postgres") != "0")
        process.kill()
        process.wait()
    assert [p.name for p in folder.iterdir() if p.is_file()] == []
    assert shop.sql(COUNT) == str(ITEMS)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


@contextmanager
def locked(server: Server, table: str, database: str = "shop") -> Iterator[None]:
    """A session that holds a table, so that nobody may even read it."""
    script = f"BEGIN; LOCK TABLE {ident(table)}; SELECT pg_sleep(60); COMMIT;"
    thread = threading.Thread(target=lambda: server.sql(script, database, check=False))
    thread.start()
    query = (
        "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted"
        " AND relation = '{}'::regclass"
    )
    wait_for(lambda: server.sql(query.format(table), database) != "0")
    try:
        yield
    finally:
        server.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()",
            "postgres",
        )
        thread.join()


# -- waiting ------------------------------------------------------------------------------


def test_a_locked_table_of_alembic_holds_nobody_up(shop: Server, project: Path) -> None:
    shop.sql("CREATE TABLE alembic_version (version_num text)")
    with locked(shop, "alembic_version"):
        started = time.monotonic()
        ended = invoke(project, "db.list", env=shop.environment())
        assert ended.status == 0
        assert time.monotonic() - started < 10


def test_a_pooler_that_says_nothing_is_given_up(project: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        settings = Settings.load(
            environ={"DATABASE_URL": f"postgresql://a:b@127.0.0.1:{port}/x", "REPOM_VIA": "host"},
            cwd=project,
        )
        started = time.monotonic()
        with pytest.raises(Unreachable):
            dbops.backup(settings)
        assert time.monotonic() - started < 40


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_whose_server_is_silent(project: Path, signum: int) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        env = {"DATABASE_URL": f"postgresql://a:b@127.0.0.1:{port}/x", "REPOM_VIA": "host"}
        process = started(project, "db.backup", env=env)
        time.sleep(2)
        process.send_signal(signum)
        assert process.wait(5) == 128 + signum


# -- names, encodings, owners, permissions ------------------------------------------------


def test_a_role_whose_name_has_the_encoding_of_its_database(
    postgres_17: Server, project: Path
) -> None:
    server = postgres_17
    server.sql("DROP DATABASE IF EXISTS latin WITH (FORCE)", "postgres")
    make = "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"
    server.sql(make, "postgres")
    for role, database in (("rölé", "latin"), ("größe", "postgres")):
        server.sql(f'SET client_encoding = "UTF8"; DROP ROLE IF EXISTS "{role}"', database)
        server.sql(f'SET client_encoding = "UTF8"; CREATE ROLE "{role}"', database)
    table = 'CREATE TABLE item (n int); ALTER TABLE item OWNER TO "rölé"'
    server.sql(f'SET client_encoding = "UTF8"; {table}', "latin")
    settings = settings_for(server, project, "latin")
    before = server.dump("latin", "--encoding=UTF8")
    dbops.restore(dbops.backup(settings), settings)
    assert server.dump("latin", "--encoding=UTF8") == before
    server.sql("DROP DATABASE latin WITH (FORCE)", "postgres")
    server.clean()
    server.sql('SET client_encoding = "UTF8"; DROP ROLE "größe"', "postgres")


def test_a_plain_restore_says_to_whom_all_will_belong(shop: Server, project: Path) -> None:
    make = "CREATE ROLE app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL;"
    shop.sql(f"DO $$ BEGIN {make} END $$")
    shop.sql("ALTER DATABASE shop OWNER TO app; ALTER TABLE item OWNER TO app")
    env = shop.environment()
    assert invoke(project, "db.backup", "--format", "plain", env=env).status == 0
    ended = invoke(project, "db.restore", "--latest", "--yes", env=env)
    assert ended.status == 0, ended.err
    assert "no owners or grants" in ended.err
    assert "postgres" in ended.err


def test_a_table_that_this_user_may_not_read_is_named(shop: Server, project: Path) -> None:
    secret = shop.environment()["POSTGRES_PASSWORD"].replace("'", "''")
    shop.sql(
        "DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
        f"ALTER ROLE reader PASSWORD '{secret}'"
    )
    env = shop.environment(POSTGRES_USER="reader")
    ended = invoke(project, "db.backup", env=env)
    assert ended.status == 1, ended.err
    assert "permission denied for table item" in ended.last


# -- a tar that is cut short, and programs that would outlive an interrupt ------------------


def test_a_tar_that_is_cut_short_is_damaged(shop: Server, project: Path) -> None:
    shop.sql("CREATE TABLE long AS SELECT md5(n::text) FROM generate_series(1, 3000) n")
    whole = raw_dump(shop, "-Ft")
    for length in (len(whole) // 2, len(whole) - 20_000):
        (project / "cut.tar").write_bytes(whole[:length])
        for task in ("db.verify", "db.restore"):
            more = ["--into", "other"] if task == "db.restore" else []
            ended = invoke(project, task, "--backup", "./cut.tar", *more, env=shop.environment())
            assert ended.status == 6, ended.err
    (project / "whole.tar").write_bytes(whole)
    dbops.restore(str(project / "whole.tar"), settings_for(shop, project))
    assert shop.sql("SELECT count(*) FROM long") == "3000"


def test_an_interrupt_leaves_no_program_in_the_container(shop: Server, project: Path) -> None:
    """pg_restore that only reads a file has no session in the server."""
    shop.sql("CREATE TABLE long AS SELECT n, md5(n::text) FROM generate_series(1, 600000) n")
    settings = settings_for(shop, project)
    made = dbops.backup(settings)
    look = ["sh", "-c", "grep -ls 'pg_restor[e]' /proc/[0-9]*/cmdline || true"]
    seen = ""
    for _ in range(9):  # it may have ended before it is seen
        process = started(project, "db.verify", "--backup", made.name, env=shop.environment())
        while process.poll() is None and not seen:
            seen = shop.run(*look)
        if seen:
            break
        process.communicate()
    assert seen
    process.send_signal(signal.SIGINT)
    assert process.wait(10) in (0, 130)
    wait_for(lambda: shop.run(*look) == "", 5)
    assert shop.leftovers() == []


# -- two at once --------------------------------------------------------------------------


def test_two_checkouts_do_not_restore_at_once(any_shop: Server, project: Path) -> None:
    shop, settings = any_shop, settings_for(any_shop, project)
    other = project / "other"
    other.mkdir()
    (other / "tasks.py").write_text("from repom.tasks import ns\n")
    shop.sql("CREATE TABLE big AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n")
    path, env = str(dbops.backup(settings).path), shop.environment()
    task = ("db.restore", "--yes", "--backup", path)
    runs = [started(cwd, *task, env=env, stderr=subprocess.PIPE) for cwd in (project, other)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 5], said
    refused = said[0] if runs[0].returncode else said[1]
    assert "Another repom process" in refused
    shop.sql("DROP TABLE big")
    dbops.undo(settings)
    assert shop.sql("SELECT count(*) FROM big") == "200000"


def test_a_lock_goes_with_a_killed_run(any_shop: Server, project: Path) -> None:
    shop, settings = any_shop, settings_for(any_shop, project)
    made = dbops.backup(settings)
    task = ("db.restore", "--yes", "--backup", made.name)
    process = started(project, *task, env=shop.environment())
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    wait_for(lambda: shop.sql(locks, "postgres") != "0")
    process.kill()
    process.wait()
    wait_for(lambda: shop.sql(locks, "postgres") == "0")
    assert dbops.restore(made, settings).replaced


def test_a_database_that_allows_one_connection_is_backed_up(shop: Server, project: Path) -> None:
    make = "BEGIN CREATE ROLE single LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END"
    shop.sql(f"DO $$ {make} $$")
    shop.sql("CREATE DATABASE one OWNER single CONNECTION LIMIT 1", "postgres")
    env = shop.environment("one", POSTGRES_USER="single", REPOM_VIA="docker")
    ended = invoke(project, "db.backup", env=env)
    shop.sql("DROP DATABASE one", "postgres")
    assert ended.status == 0, ended.err
