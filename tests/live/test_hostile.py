"""An ordinary role who prepares a database for whoever backs it up or restores it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import NotFound, RepomError
from tests.live.servers import Server, settings_for
from tests.shop import COUNT, ITEMS

#: Gives mallory what she wants when a superuser runs it; else does nothing.
TRAP = """DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mallory') THEN
    CREATE ROLE mallory LOGIN CREATEDB;
  END IF;
END $$;
ALTER ROLE mallory NOSUPERUSER;
CREATE TABLE good AS SELECT n FROM generate_series(1, 20) n;
CREATE SCHEMA m AUTHORIZATION mallory;
GRANT ALL ON SCHEMA public TO mallory;
SET ROLE mallory;
CREATE FUNCTION m.spring() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
  IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'ALTER ROLE mallory SUPERUSER';
  END IF;
  RETURN '0001';
END $$;
"""

#: An immutable function is evaluated as soon as a query of the table is planned.
FIXED = """CREATE FUNCTION m.fixed(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
  PERFORM m.spring(); RETURN 1; END $$;
"""

#: One function for each that repom's questions call, with a signature that fits better.
OVERLOADS = """
CREATE FUNCTION public.json_build_object(text, text) RETURNS json LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN '{}'; END $$;
CREATE FUNCTION public.json_build_object(text, int) RETURNS json LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN '{}'; END $$;
CREATE FUNCTION public.json_build_object(text, bigint) RETURNS json LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN '{}'; END $$;
CREATE FUNCTION public.json_build_object(text, json) RETURNS json LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN '{}'; END $$;
CREATE FUNCTION public.json_build_array(text, text) RETURNS json LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN '[]'; END $$;
CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN 'SELECT 1'; END $$;
CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN 'SELECT 1'; END $$;
CREATE FUNCTION public.format(text, text, text) RETURNS text LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN 'SELECT 1'; END $$;
"""

OPERATORS = """
CREATE FUNCTION m.same(name, text) RETURNS bool LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN false; END $$;
CREATE OPERATOR public.!~ (LEFTARG = name, RIGHTARG = text, FUNCTION = m.same);
CREATE OPERATOR public.<> (LEFTARG = name, RIGHTARG = text, FUNCTION = m.same);
CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = m.same);
CREATE FUNCTION m.same(name, name) RETURNS bool LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN false; END $$;
CREATE OPERATOR public.<> (LEFTARG = name, RIGHTARG = name, FUNCTION = m.same);
CREATE FUNCTION m.same("char", text) RETURNS bool LANGUAGE plpgsql
  AS $$ BEGIN PERFORM m.spring(); RETURN false; END $$;
CREATE OPERATOR public.= (LEFTARG = "char", RIGHTARG = text, FUNCTION = m.same);
"""

SCHEMAS = {
    "overloads": OVERLOADS,
    "operators": OPERATORS,
    "relations of the catalog's names": """
        CREATE VIEW public.pg_class AS SELECT m.spring() AS relname;
        CREATE VIEW public.pg_roles AS SELECT m.spring() AS rolname;""",
    "a view in place of Alembic's table": """
        CREATE VIEW public.alembic_version AS SELECT m.spring()::varchar AS version_num;""",
    "a policy on Alembic's table": """
        CREATE TABLE public.alembic_version (version_num varchar(32));
        INSERT INTO public.alembic_version VALUES ('a1');
        ALTER TABLE public.alembic_version ENABLE ROW LEVEL SECURITY;
        CREATE POLICY p ON public.alembic_version USING (m.spring() = '0001');""",
    "an index on Alembic's table": FIXED
    + """CREATE TABLE public.alembic_version (version_num varchar(32));
        INSERT INTO public.alembic_version VALUES ('a1');
        CREATE INDEX ON public.alembic_version (m.fixed(1));""",
    "an index on a table": FIXED
    + """CREATE TABLE m.rows AS SELECT n FROM generate_series(1, 50) n;
        CREATE INDEX ON m.rows (m.fixed(1));
        CREATE INDEX ON m.rows (n) WHERE m.fixed(2) = 1;
        CREATE STATISTICS m.st ON (m.fixed(3)), n FROM m.rows;""",
}


@pytest.fixture
def trapped(postgres_18: Server, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A database that mallory has prepared for a superuser."""
    server = postgres_18
    server.create("shop")
    server.sql(TRAP + SCHEMAS[request.param])
    yield server
    server.create("shop")
    server.sql("DROP OWNED BY mallory; ALTER ROLE mallory NOSUPERUSER", "postgres")


def rights(server: Server) -> str:
    query = "SELECT rolname, rolsuper, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
    return server.sql(f"{query} ORDER BY 1", "postgres")


@pytest.mark.parametrize("trapped", SCHEMAS, indirect=True)
def test_nobody_gains_rights_from_what_a_superuser_asks(trapped: Server, project: Path) -> None:
    before = rights(trapped)
    settings = settings_for(trapped, project)
    plain = dbops.backup(settings, format="plain")
    assert dbops.verify(plain, settings).problems == ()
    made = dbops.backup(settings)
    found = dbops.verify(made, settings, drill=True)
    assert found.problems == ()
    assert found.rows["public.good"] == 20
    dbops.restore(made, settings, into="shop_too")
    dbops.restore(made, settings)
    dbops.undo(settings)
    trapped.sql("DROP DATABASE shop_too WITH (FORCE)", "postgres")
    assert rights(trapped) == before
    assert trapped.sql("SELECT count(*) FROM good") == "20"
    assert trapped.leftovers() == []


def test_nobody_else_connects_to_a_database_while_it_is_loaded(
    postgres_18: Server, project: Path
) -> None:
    """A trigger that mallory put on her table in time would run as the user who loads it."""
    server, ended, tried, inside = postgres_18, threading.Event(), list[str](), list[str]()
    server.create("shop")
    server.sql(TRAP)
    server.sql("CREATE TABLE big AS SELECT n, md5(n::text) FROM generate_series(1, 300000) n")
    server.sql("GRANT CONNECT ON DATABASE shop TO mallory; ALTER DATABASE shop OWNER TO mallory")
    before = server.sql("SELECT datdba::regrole FROM pg_database WHERE datname = 'shop'")

    def knock() -> None:
        while not ended.is_set():
            for name in server.databases():
                if name.startswith("repom_scratch_"):
                    tried.append(name)
                    argv = ["psql", "-XqAt", "-U", "mallory", "-d", name, "-c", "SELECT 'in'"]
                    inside.extend(server.run(*argv, check=False).split())

    settings = settings_for(server, project)
    made = dbops.backup(settings)
    thread = threading.Thread(target=knock)
    thread.start()
    try:
        dbops.restore(made, settings)
        assert dbops.verify(made, settings, drill=True).problems == ()
    finally:
        ended.set()
        thread.join()
    assert tried
    assert inside == []
    assert server.sql("SELECT datdba::regrole FROM pg_database WHERE datname = 'shop'") == before
    allowed = "SELECT has_database_privilege('mallory', 'shop', 'CONNECT')"
    assert server.sql(allowed, "postgres") == "t"
    server.create("shop")


def test_functions_that_become_the_superusers_are_told(
    postgres_18: Server, project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = postgres_18
    server.create("shop")
    server.sql(
        TRAP + "CREATE FUNCTION m.mine() RETURNS text LANGUAGE sql SECURITY DEFINER"
        " AS $$ SELECT current_user::text $$;"
    )
    settings = settings_for(server, project)
    made = dbops.backup(settings, format="plain")
    with caplog.at_level("WARNING"):
        dbops.restore(made, settings)
    assert "SECURITY DEFINER" in caplog.text
    assert "m.mine()" in caplog.text
    server.create("shop")


NOTE = {
    "kind": "undo",
    "database": "shop",
    "created_at": "2099-01-01T00:00:00+00:00",
    "session": "repom-00000000",
    "machine": "x",
    "pid": 1,
}

NOTES = {
    "as repom writes it": json.dumps(NOTE),
    "without a time": json.dumps({k: v for k, v in NOTE.items() if k != "created_at"}),
    "with a time of no zone": json.dumps({**NOTE, "created_at": "2099-01-01T00:00:00"}),
    "with wrong types": json.dumps({**NOTE, "created_at": 5, "pid": []}),
    "a list": "[1]",
    "a number that is none": json.dumps({**NOTE, "pid": "1e999"}),
    "deep": "[" * 5000,
}


def test_another_roles_database_is_no_undo_copy(shop: Server, project: Path) -> None:
    shop.sql(
        """DROP DATABASE IF EXISTS repom_undo_deadbeef;
        DROP ROLE IF EXISTS mallory;
        CREATE ROLE mallory LOGIN CREATEDB;
        CREATE DATABASE repom_undo_deadbeef OWNER mallory;""",
        "postgres",
    )
    settings = settings_for(shop, project)
    try:
        for comment in NOTES.values():
            text = comment.replace("'", "''")
            note = f"COMMENT ON DATABASE repom_undo_deadbeef IS '{text}'"
            shop.sql(f"SET ROLE mallory; {note}", "postgres")
            with pytest.raises(NotFound):
                dbops.undo(settings)
        shop.sql(note.replace(text, NOTES["as repom writes it"]), "postgres")
        made = dbops.backup(settings)
        shop.sql("DROP TABLE item")
        dbops.restore(made, settings)
        dbops.restore(made, settings)  # pushes its own undo copy out, and not hers
        assert "repom_undo_deadbeef" in shop.databases()
        dbops.undo(settings)
        assert shop.sql(COUNT) == str(ITEMS)
    finally:
        shop.sql("DROP DATABASE IF EXISTS repom_undo_deadbeef", "postgres")
        shop.sql("DROP ROLE mallory", "postgres")


def test_a_fact_that_cannot_be_had_is_a_fact_less(any_shop: Server, project: Path) -> None:
    server = any_shop
    settings = settings_for(server, project)
    for sql in (
        "CREATE TABLE alembic_version (version_num varchar(32) NOT NULL)",
        "CREATE TABLE alembic_version (version_num int); INSERT INTO alembic_version VALUES (7)",
        "CREATE TABLE alembic_version (other text)",
        "CREATE VIEW alembic_version AS SELECT 1/0 AS version_num",
        "CREATE SCHEMA a; CREATE TABLE a.alembic_version (version_num text);"
        " INSERT INTO a.alembic_version VALUES ('a1b2'), (E'two\\nlines')",
    ):
        server.create("shop", f"CREATE TABLE item (n int); {sql}")
        made = dbops.backup(settings)
        expected = "a1b2,two\\nlines" if "a1b2" in sql else None
        assert made.facts.migration == expected
        dbops.restore(made, settings)


def test_a_login_that_cannot_be_used_is_one_error(postgres_17: Server, project: Path) -> None:
    settings = settings_for(postgres_17, project, POSTGRES_USER="nobody at all")
    with pytest.raises(RepomError, match="nobody at all"):
        dbops.backup(settings)
