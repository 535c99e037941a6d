"""A sample of PostgreSQL's own regression database, and what it has taught, in small; the
whole runs by `python -m tests.live.regression`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import Refused
from tests import requires
from tests.live import regression
from tests.live.regression import lacking_statistics
from tests.live.servers import PASSWORD, Server, container_server, settings_for

MAJOR = 18
FORMATS = regression.FORMATS


@pytest.fixture(scope="module")
def regressed() -> Iterator[Server]:
    """A server with the database that the sample of the tests leaves."""
    source = requires.regression_source(MAJOR)
    with container_server(MAJOR) as server:
        regression.install(server, source)
        regression.create(server, regression.NAME)
        names = [n for n in regression.schedule(source) if n in regression.SAMPLE]
        regression.fill(server, names)
        assert int(server.sql("SELECT count(*) FROM pg_class", regression.NAME)) > 1000
        yield server


@pytest.mark.parametrize("format", FORMATS)
def test_the_regression_database_comes_back_as_by_the_raw_programs(
    regressed: Server, project: Path, format: str
) -> None:
    settings = regression.settings_of(regressed, project)
    came = regression.check(regressed, settings, format)
    assert came.problems == []


# -- loads that only one worker can make ------------------------------------------------

#: In the archive the constraint comes between the partition's table and its rows.
NOT_VALID = """
CREATE TABLE parted (a int, b int) PARTITION BY LIST (a);
ALTER TABLE parted ADD CONSTRAINT whole NOT NULL a NOT VALID;
CREATE TABLE part (a int, b int);
INSERT INTO part VALUES (NULL, 1);
ALTER TABLE part ADD CONSTRAINT own NOT NULL a NOT VALID;
ALTER TABLE parted ATTACH PARTITION part FOR VALUES IN (NULL, 5);
"""


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_a_load_that_only_one_worker_can_make(
    postgres_18: Server, project: Path, jobs: str
) -> None:
    postgres_18.create("shop", NOT_VALID)
    settings = settings_for(postgres_18, project, REPOM_JOBS=jobs)
    backup, wanted = dbops.backup(settings), postgres_18.dump()
    verified = dbops.verify(backup, settings, drill=True)
    assert (verified.problems, verified.rows) == ((), {"public.part": 1})
    dbops.restore(backup, settings)
    assert postgres_18.dump() == wanted
    assert postgres_18.leftovers() == []


# -- plain dumps ------------------------------------------------------------------------

PLAIN = {
    "a view that leans on a key": """CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY, n int);
        CREATE VIEW s.v AS SELECT id, n, count(*) FROM s.t GROUP BY id;""",
    "a constraint of a domain not yet valid": """CREATE DOMAIN d AS int; CREATE TABLE t (x d);
        ALTER DOMAIN d ADD CONSTRAINT positive CHECK (value > 0) NOT VALID;
        COMMENT ON CONSTRAINT positive ON DOMAIN d IS 'positive';""",
}


@pytest.mark.parametrize("kind", PLAIN)
def test_what_the_drops_of_a_plain_dump_trip_over(
    postgres_18: Server, project: Path, kind: str
) -> None:
    postgres_18.create("shop", PLAIN[kind])
    settings = settings_for(postgres_18, project)
    backup, wanted = dbops.backup(settings, format="plain"), postgres_18.dump()
    assert dbops.verify(backup, settings, drill=True).problems == ()
    dbops.restore(backup, settings)
    assert postgres_18.dump() == wanted


@pytest.fixture(scope="module")
def few_locks() -> Iterator[Server]:
    """A server whose lock table is soon full."""
    small = "-c max_locks_per_transaction=10 -c max_connections=20 -c autovacuum_worker_slots=2"
    with container_server(MAJOR, "-e", f"POSTGRES_INITDB_ARGS={small}") as server:
        yield server


def test_more_tables_than_a_transaction_may_lock(few_locks: Server, project: Path) -> None:
    few_locks.create()
    table = "CREATE TABLE t%s (id int PRIMARY KEY, x text UNIQUE)"
    few_locks.sql(f"SELECT format('{table}', i) FROM generate_series(1, 400) i \\gexec")
    settings = settings_for(few_locks, project)
    backup = dbops.backup(settings, format="plain")
    assert dbops.verify(backup, settings, drill=True).problems == ()
    dbops.restore(backup, settings)
    assert few_locks.sql(COUNT) == "400"
    with pytest.raises(Refused, match="locks at once"):
        dbops.restore(backup, settings, in_place=True)
    assert few_locks.sql(COUNT) == "400"


# -- how many tables there are ----------------------------------------------------------

#: Every session that comes in makes the table or drops it, in turn.
FLICKER = """
CREATE TABLE stays AS SELECT 1 AS n;
CREATE FUNCTION flicker() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_database() = 'shop' AND to_regclass('public.flickers') IS NULL THEN
    CREATE TABLE public.flickers ();
  ELSIF current_database() = 'shop' THEN
    DROP TABLE public.flickers;
  END IF;
END $$;
CREATE EVENT TRIGGER flicker ON login EXECUTE FUNCTION flicker();
"""
COUNT = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


@pytest.mark.parametrize("format", FORMATS)
def test_tables_come_and_go_while_it_is_backed_up(
    postgres_18: Server, project: Path, format: str
) -> None:
    """The manifest counts the tables of the dump, not those before and after it."""
    postgres_18.create("shop", FLICKER)
    settings = settings_for(postgres_18, project, REPOM_KEEP="9")
    try:
        for turn in range(2):  # whatever the number of sessions that a backup takes
            backup = dbops.backup(settings, format=format, label=str(turn))
            assert dbops.verify(backup, settings, drill=True).problems == ()
            postgres_18.sql("DROP DATABASE IF EXISTS beside WITH (FORCE)", "postgres")
            dbops.restore(backup, settings, into="beside")
            found = postgres_18.sql(COUNT, "beside")
            if format == "custom":  # a plain file does not tell how many are in it
                assert backup.facts.tables == int(found)
            postgres_18.sql("SELECT 1")
    finally:
        postgres_18.sql("DROP DATABASE shop WITH (FORCE)", "postgres")


# -- the planner's statistics -----------------------------------------------------------

PLANNED = """
CREATE TABLE parted (n int, x text) PARTITION BY RANGE (n);
CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (500);
CREATE TABLE high PARTITION OF parted FOR VALUES FROM (500) TO (2000);
INSERT INTO parted SELECT i, 'x' || i % 7 FROM generate_series(1, 1000) i;
CREATE TABLE parent (n int, x text);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO child SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE together (a int, b int);
INSERT INTO together SELECT i % 10, i % 20 FROM generate_series(1, 1000) i;
CREATE STATISTICS both_of_them ON a, b FROM together;
CREATE STATISTICS of_parted (dependencies) ON n, x FROM parted;
CREATE INDEX of_expression ON together ((a + b));
CREATE MATERIALIZED VIEW seen AS SELECT a, count(*) FROM together GROUP BY a;
ANALYZE;
"""
#: Larger than what one session analyzes alone; hardly compressible.
LARGE = """CREATE TABLE large AS SELECT i, noise FROM generate_series(1, 22000) i,
  LATERAL (SELECT string_agg(md5(random()::text || i || j), '') AS noise
           FROM generate_series(1, 32) j) x;
ANALYZE large;"""
#: Where, who, and with how much. From 18 on a dump holds the statistics.
PLANNERS = [
    ("postgres_host", "planner", LARGE),
    ("postgres_17", "postgres", LARGE),
    ("postgres_18", "postgres", ""),
    ("postgres_18", "postgres", LARGE),
    ("postgres_18", "planner", LARGE),
]


@pytest.fixture
def planning(request: pytest.FixtureRequest) -> Server:
    """A server with a role that may create databases and no more."""
    server: Server = request.getfixturevalue(request.param)
    server.sql("CREATE ROLE planner LOGIN CREATEDB", "postgres", check=False)
    quoted = PASSWORD.replace("'", "''")
    again = "DROP DATABASE IF EXISTS beside WITH (FORCE)"
    server.sql(f"ALTER ROLE planner PASSWORD '{quoted}'; {again}", "postgres")
    server.create()
    return server


@pytest.mark.parametrize(("planning", "user", "more"), PLANNERS, indirect=["planning"])
def test_the_planner_knows_what_it_knew(
    planning: Server, project: Path, user: str, more: str
) -> None:
    planning.sql(f"ALTER DATABASE shop OWNER TO {user}", "postgres")
    planning.sql(f"SET client_min_messages = error; SET ROLE {user}; {PLANNED} {more}")
    settings = settings_for(planning, project, POSTGRES_USER=user, REPOM_JOBS="2")
    backup = dbops.backup(settings)
    assert (backup.size > 10_000_000) == bool(more)
    dbops.restore(backup, settings, into="beside")
    assert lacking_statistics(planning, "shop", "beside") == []


# -- in place ---------------------------------------------------------------------------

#: What belongs to a database and to no schema of its own.
OUTSIDE = {
    "transform": """CREATE TRANSFORM FOR int LANGUAGE sql (
        FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal))""",
    "access method": "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler",
    "cast": "CREATE CAST (int AS uuid) WITH INOUT",
    "language": """CREATE FUNCTION pl2() RETURNS language_handler LANGUAGE c
        AS '$libdir/plpgsql', 'plpgsql_call_handler'; CREATE LANGUAGE pl2 HANDLER pl2""",
    "default privileges": "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO repom_reader",
    "grants in the catalog": """GRANT SELECT (rolname) ON pg_catalog.pg_authid TO repom_reader;
        GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO repom_reader""",
    "much else": """SELECT lo_from_bytea(4711, 'x');
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
        CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
        CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION e();
        CREATE PUBLICATION p FOR TABLES IN SCHEMA public; CREATE EXTENSION pg_trgm;
        GRANT CREATE ON SCHEMA public TO repom_reader""",
}


def restored_or_refused(server: Server, project: Path, format: str, script: str) -> None:
    """A backup of what `server` holds goes into the same database, changed by a script:
    it holds what it held, or nothing was touched."""
    settings = settings_for(server, project)
    backup, wanted = dbops.backup(settings, format=format), server.dump()
    server.sql(script)
    before = server.dump()
    try:
        dbops.restore(backup, settings, in_place=True)
    except Refused:
        wanted = before
    assert server.dump() == wanted


@pytest.fixture
def place(postgres_18: Server) -> Iterator[Server]:
    postgres_18.create("shop", "CREATE TABLE t AS SELECT 1 AS n")
    yield postgres_18
    postgres_18.sql("DROP DATABASE shop WITH (FORCE)", "postgres")


@pytest.mark.parametrize("kind", OUTSIDE)
def test_in_place_leaves_nothing_that_the_backup_has_not(
    place: Server, project: Path, kind: str
) -> None:
    restored_or_refused(place, project, "custom", OUTSIDE[kind])


@pytest.mark.parametrize("kind", OUTSIDE)
def test_in_place_brings_back_what_the_database_still_has(
    place: Server, project: Path, kind: str
) -> None:
    place.sql(OUTSIDE[kind])
    restored_or_refused(place, project, "custom", "INSERT INTO t VALUES (2)")
