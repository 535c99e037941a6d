"""SQL that wants to be taken for something else: in the names and texts of a database of
our own, in scripts of others. The server is the oracle: what was restored equals what was
backed up, and nothing else on the server has changed."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from repom import dbops
from repom.dbops.archive.script import for_psql
from repom.errors import CommandFailed, Damaged, Refused
from repom.settings import Settings
from tests.live.cli import invoke
from tests.live.servers import FIDELITY, Server, ident, settings_for

#: More of them: REPOM_EXAMPLES=500 python -m pytest -m live tests/live/test_scripts.py
EXAMPLES = int(os.environ.get("REPOM_EXAMPLES", "3"))

#: Everything that belongs to the whole server: roles and their rights, who is a member of
#: what, databases and their settings. Databases of repom's own come and go.
WHOLE_SERVER = """
SELECT 'role', rolname, rolsuper, rolcreatedb, rolcreaterole, rolcanlogin, rolbypassrls
  FROM pg_roles ORDER BY 2;
SELECT 'member', roleid::regrole, member::regrole FROM pg_auth_members ORDER BY 2, 3;
SELECT 'database', datname, datdba::regrole, (SELECT array_agg(a::text ORDER BY a::text)
    FROM unnest(coalesce(datacl, acldefault('d', datdba))) a),
    datconnlimit, datallowconn, datistemplate
  FROM pg_database WHERE datname !~ '^repom_undo_' ORDER BY 2;
SELECT 'setting', d.datname, setrole, setconfig FROM pg_db_role_setting s
  LEFT JOIN pg_database d ON d.oid = s.setdatabase ORDER BY 2, 3;
SELECT 'tablespace', spcname FROM pg_tablespace ORDER BY 2;
"""
PLAIN = ("--no-owner", "--no-acl")
AFRESH = r"""
SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', datname) FROM pg_database
  WHERE datname ~ '^repom_' OR datname = 'shop' \gexec
CREATE DATABASE shop;
\connect shop
CREATE TABLE kept AS SELECT 7 AS a;
"""


@dataclass
class Shop:
    """A server with the databases shop and victim, and the role mallory.

    :ivar before: what the whole server was before.
    """

    server: Server
    settings: Settings
    project: Path
    before: str

    def restore(self, script: bytes, *, owner: bool = True) -> None:
        path = self.project / "script.sql"
        path.write_bytes(script)
        dbops.restore(path, self.settings, owner=owner)

    def check(self) -> None:
        """Nothing but the database has changed, and no scratch database is left."""
        assert self.server.sql(WHOLE_SERVER, "postgres") == self.before


#: For what also depends on how a script gets to psql.
BOTH = pytest.mark.parametrize(
    "ground", ["postgres_host", "postgres_17"], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def ground(request: pytest.FixtureRequest) -> Iterator[Server]:
    server: Server = request.getfixturevalue(getattr(request, "param", "postgres_host"))
    server.create("victim")
    server.sql("DROP ROLE IF EXISTS mallory; CREATE ROLE mallory LOGIN", "postgres")
    yield server
    server.sql(AFRESH + "\\connect postgres\nDROP DATABASE shop; DROP DATABASE victim", "postgres")
    server.sql("DROP ROLE mallory", "postgres")


@pytest.fixture
def shop(ground: Server, project: Path) -> Iterator[Shop]:
    before = ground.sql(AFRESH + WHOLE_SERVER, "postgres")
    settings = settings_for(ground, project, REPOM_FORMAT="plain")
    shop = Shop(ground, settings, project, before)
    yield shop
    shop.check()


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# -- names and texts of our own database --------------------------------------------------

HOSTILE = [
    "\n", "\r\n", "\t", " ", "'", "''", '"', '""', ";", "--", "/*", "*/", "$$", "$a$", "$1",
    "\\", "\\.", "\n\\.\n", "\\!", "\\connect x\n", "\n\\q\n", "\\restrict a\n", "`id`", ":",
    ":USER", ':"USER"', "::", "(", ")", "[1:2]", "E'", "U&'", "é", "漢", "\u2028", "a", "B", "1",
    "stdin", "FROM stdin;\n", "BEGIN", "begin", "END", "case", "COMMIT;", "\nCOMMIT;\n",
    "\nALTER ROLE mallory SUPERUSER;\n", "\nDROP DATABASE victim;\n", "\n\\unrestrict a\n",
    "\n--\n-- Name: ", "\n-- PostgreSQL database dump\n", "\nSET role=mallory;\n", "OWNER TO x",
    "\n-- PostgreSQL database dump complete\n", "\nDROP TABLE x;\n", "GRANT a TO b;", "NULL::x",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=8).map("".join)


def is_a_name(name: str) -> bool:
    return 0 < len(name.encode()) < 60


#: Names of: schema, table, column, view, type, domain, sequence, function, trigger, index,
#: rule, constraint, policy, argument, procedure, collation.
NAMES = st.lists(TEXTS.filter(is_a_name), min_size=16, max_size=16, unique=True)


def objects(names: list[str], texts: list[str]) -> str:
    """One of each kind of object, with these names and these texts in it."""
    s, t, c, v, ty, d, q, f, tr, i, r, co, p, a, pr, cl = map(ident, names)
    one, two, three = map(text, texts)
    escaped = "E" + text(texts[0].replace("\\", "\\\\"))
    rows = ", ".join(f"({n}, {text(value)})" for n, value in enumerate([*texts, *names], 1))
    return f"""SET check_function_bodies = off;
        CREATE SCHEMA {s};
        CREATE TYPE {s}.{ty} AS ENUM ({text(names[0])}, {text(names[1])});
        CREATE DOMAIN {s}.{d} AS text CONSTRAINT {co} CHECK (VALUE <> {one});
        CREATE SEQUENCE {s}.{q};
        CREATE COLLATION {s}.{cl} (LOCALE = 'C');
        CREATE TABLE {s}.{t} (id int PRIMARY KEY, {c} text DEFAULT {two}, z {s}.{ty},
            y text[] DEFAULT ARRAY[{one}, {three}], CONSTRAINT {co} CHECK ({c} <> {three} || 'x'));
        CREATE TABLE {s}.stdin ("USER" text DEFAULT {escaped});
        INSERT INTO {s}.{t} (id, {c}) VALUES {rows};
        INSERT INTO {s}.stdin DEFAULT VALUES;
        CREATE VIEW {s}.{v} AS SELECT id, {c}, y[1:id] AS part, count(*) FROM {s}.{t} GROUP BY id;
        CREATE FUNCTION {s}.{f}() RETURNS trigger LANGUAGE plpgsql AS {two};
        CREATE PROCEDURE {s}.{pr}({a} text) LANGUAGE plpgsql AS {one};
        CREATE FUNCTION {s}."begin"() RETURNS int LANGUAGE sql AS 'SELECT 1';
        CREATE FUNCTION {s}."end"(int) RETURNS text LANGUAGE sql
            BEGIN ATOMIC SELECT CASE WHEN true THEN {one} ELSE "USER" END AS "case" FROM {s}.stdin;
              SELECT {two} AS "begin"; END;
        CREATE TRIGGER {tr} BEFORE INSERT ON {s}.{t} FOR EACH ROW EXECUTE FUNCTION {s}.{f}({three});
        CREATE INDEX {i} ON {s}.{t} (({c} || {one})) WHERE {c} <> {two};
        CREATE RULE {r} AS ON UPDATE TO {s}.stdin DO ALSO
            (INSERT INTO {s}.stdin VALUES ({one}); DELETE FROM {s}.stdin WHERE "USER" = {two});
        CREATE POLICY {p} ON {s}.{t} USING ({c} = {three});
        COMMENT ON TABLE {s}.{t} IS {one};
        COMMENT ON COLUMN {s}.{t}.{c} IS {two};
        COMMENT ON CONSTRAINT {co} ON {s}.{t} IS {three};
        SELECT lo_from_bytea(4711, '\\x00');
        COMMENT ON LARGE OBJECT 4711 IS {three};"""


@BOTH
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate] if EXAMPLES < 100 else list(Phase),  # to shrink takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(names=NAMES, texts=st.lists(TEXTS, min_size=3, max_size=3))
def test_any_names_and_texts_come_back_as_they_were(
    shop: Shop, names: list[str], texts: list[str]
) -> None:
    shop.server.sql(AFRESH + objects(names, texts), "postgres")
    before = shop.server.dump("shop", *PLAIN)
    made = dbops.backup(shop.settings)
    shop.server.sql("CREATE TABLE stranger (a int)")

    dbops.restore(made, shop.settings)

    assert shop.server.dump("shop", *PLAIN) == before
    shop.check()


ATTACKS = (
    "a\nSET jit=on;ALTER ROLE mallory SUPERUSER;\nb",
    "\n--\n-- Name: \nALTER ROLE mallory SUPERUSER;--",
    "\n--\n-- Data for Name: \nALTER ROLE mallory SUPERUSER;--",
)


@BOTH
def test_a_name_gives_nobody_rights(shop: Shop) -> None:
    """In the drill, too, which loads the same script."""
    server, env = shop.server, shop.server.environment()
    server.sql("CREATE SCHEMA m AUTHORIZATION mallory; SET ROLE mallory; CREATE TABLE m.t (a int)")
    for name in map(ident, ATTACKS):
        server.sql(f"CREATE FUNCTION m.{name}() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    before = server.dump("shop", *PLAIN)
    made = invoke(shop.project, "db.backup", "--format", "plain", env=env)
    assert made.status == 0, made.err
    drilled = invoke(shop.project, "db.verify", "--drill", env=env)
    restored = invoke(shop.project, "db.restore", "--latest", "--yes", env=env)

    assert (drilled.status, restored.status) == (0, 0), drilled.err + restored.err
    assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'") == "f"
    assert server.dump("shop", *PLAIN) == before


# -- scripts of others --------------------------------------------------------------------

TABLE = b"CREATE TABLE t (a text);\n"
BYPASSES = {
    "a table called stdin": (
        b"CREATE TABLE stdin (a int);\nCOPY (SELECT * FROM stdin) TO STDOUT;\n"
        b"COMMIT;\nDROP DATABASE victim;\n\\.\n"
    ),
    "strings with backslashes": (
        TABLE + b"SET standard_conforming_strings = off;\n"
        b"SELECT '\\'';\nCOMMIT;\nDROP DATABASE victim; --';\n"
    ),
    "an encoding with quotes in characters": (
        TABLE + b"SET client_encoding = 'SJIS';\nSELECT '\x83';COMMIT;DROP DATABASE victim;--';\n"
    ),
    "a comment that ends at a carriage return": (
        TABLE + b"COMMIT; -- harmless\rDROP DATABASE victim;\n"
    ),
    "behind the data": TABLE + b"COPY t FROM stdin; COMMIT; DROP DATABASE victim;\nx\n\\.\n",
    "a body of a function": (
        TABLE + b"CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"
        b"COMMIT; DROP DATABASE victim; SELECT 1 AS end;\n"
    ),
    "a string that goes on": (TABLE + b"SELECT E'a'\n'\\'; COMMIT; DROP DATABASE victim; --';\n"),
    "a role": TABLE + b"ALTER ROLE mallory SUPERUSER;\n",
    "a role in the catalog": TABLE + b"UPDATE pg_authid SET rolsuper = true;\n",
    "a setting of the server": TABLE + b"COMMIT; ALTER SYSTEM SET work_mem = '1MB';\n",
    "a program": TABLE + b"COPY t FROM PROGRAM 'id';\n",
    "a command": TABLE + b"SELECT 1 \\g | id > /tmp/pwned\n",
    "two keys": b"--\n-- PostgreSQL database dump\n--\n\\restrict a\n\\restrict b\n" + TABLE,
}


@pytest.mark.parametrize("script", BYPASSES.values(), ids=list(BYPASSES))
def test_a_script_of_others_reaches_nothing_but_its_database(shop: Shop, script: bytes) -> None:
    with pytest.raises(Refused, match=r"Line \d+ of the SQL script"):
        shop.restore(script)
    assert shop.server.sql("SELECT a FROM kept") == "7"


def test_a_forged_manifest_makes_no_script_trusted(shop: Shop, tmp_path: Path) -> None:
    made = dbops.backup(shop.settings)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = folder / made.name
    path.write_bytes(gzip.compress(TABLE + b"COMMIT; DROP DATABASE victim;\n"))
    manifest = json.loads(made.manifest.read_text())
    content = path.read_bytes()
    manifest.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    (folder / made.manifest.name).write_text(json.dumps(manifest))
    before = shop.server.dump()

    with pytest.raises((Refused, Damaged)):
        dbops.restore(path, shop.settings)
    path.with_name(made.manifest.name).unlink()
    with pytest.raises(Refused, match="Line 2"):
        dbops.restore(path, shop.settings)

    assert shop.server.dump() == before


def test_a_transaction_of_the_scripts_own_is_no_hindrance(shop: Shop) -> None:
    script = b"BEGIN;\nCREATE TABLE t (a text);\nINSERT INTO t VALUES ('x');\nCOMMIT;\n"
    shop.restore(script)
    assert shop.server.sql("SELECT a FROM t") == "x"


def test_a_script_that_rolls_back_changes_nothing(shop: Shop) -> None:
    with pytest.raises(Refused, match=r"controls transactions \(ROLLBACK\)"):
        shop.restore(TABLE + b"BEGIN;\nINSERT INTO t VALUES ('x');\nROLLBACK;\n")
    assert shop.server.sql("SELECT a FROM kept") == "7"


@BOTH
def test_a_last_statement_without_a_semicolon_is_run(shop: Shop) -> None:
    shop.restore(TABLE + b"INSERT INTO t VALUES ('x')")
    assert shop.server.sql("SELECT a FROM t") == "x"


OWNED = (
    b"CREATE SCHEMA s AUTHORIZATION stranger;\n"
    b"CREATE TABLE s.t (a text);\n"
    b"ALTER TABLE s.t OWNER TO stranger;\n"
    b"GRANT SELECT ON TABLE s.t TO stranger;\n"
    b"REVOKE ALL ON TABLE s.t FROM stranger;\n"
    b"ALTER DEFAULT PRIVILEGES FOR ROLE stranger GRANT SELECT ON TABLES TO stranger;\n"
    b"SET SESSION AUTHORIZATION 'stranger';\n"
    b"RESET SESSION AUTHORIZATION;\n"
    b"INSERT INTO s.t VALUES ('OWNER TO stranger;');\n"
)


def test_a_script_of_absent_owners_is_loaded_without_them(shop: Shop) -> None:
    with pytest.raises((Refused, CommandFailed)):
        shop.restore(OWNED)
    shop.restore(OWNED, owner=False)
    assert shop.server.sql("SELECT a FROM s.t") == "OWNER TO stranger;"


@BOTH
def test_a_dump_of_absent_owners_is_loaded_without_them(shop: Shop) -> None:
    """As pg_dump writes it, with owners and grants, on a server that lacks the role."""
    server = shop.server
    server.sql("CREATE ROLE stranger; GRANT SELECT ON kept TO stranger")
    server.sql("CREATE SCHEMA s AUTHORIZATION stranger; CREATE TABLE s.t (a int)")
    server.sql("ALTER TABLE s.t OWNER TO stranger; ALTER TABLE kept OWNER TO stranger")
    script, before = server.run("pg_dump", "-d", "shop"), server.dump("shop", *PLAIN)
    server.sql("DROP OWNED BY stranger CASCADE; DROP ROLE stranger")

    with pytest.raises(Refused, match="stranger"):
        shop.restore(script.encode())
    shop.restore(script.encode(), owner=False)

    assert server.dump("shop", *PLAIN) == before


@BOTH
def test_an_archive_whose_view_was_altered_ends_no_transaction(shop: Shop) -> None:
    """Its table of contents is SQL, too, and goes through psql when it is loaded in place."""
    server = shop.server
    padding = "x" * 80
    server.sql(f"CREATE VIEW v AS SELECT '{padding}'::text AS a")
    made = dbops.backup(shop.settings, format="custom")
    path = shop.project / "odd.dump"
    evil = "x'::text AS a; COMMIT; DROP TABLE kept; CREATE TABLE evil (a int); --"
    content = made.path.read_bytes().replace(padding.encode(), evil.ljust(80).encode())
    path.write_bytes(content)
    before = server.dump()

    with pytest.raises(Refused, match=r"controls transactions \(COMMIT\)"):
        dbops.restore(path, shop.settings, in_place=True)

    assert server.dump() == before


@pytest.mark.parametrize("tool", ["postgres_15", "postgres_17", "postgres_18"])
def test_a_script_of_any_pg_dump_passes_as_it_is(request: pytest.FixtureRequest, tool: str) -> None:
    """Nothing is taken out but the pair of \\restrict, and what --clean drops."""
    server: Server = request.getfixturevalue(tool)
    server.create("fidelity", FIDELITY.read_text())
    for flags in [(), ("--clean", "--if-exists"), ("--inserts",)]:
        script = server.run("pg_dump", *flags, "-d", "fidelity").encode()
        passed = b"".join(for_psql([script], in_transaction=False))
        own = (b"\\restrict", b"\\unrestrict")
        lines = [b"" if x.startswith(own) else x for x in script.split(b"\n")]
        assert len(lines) == passed.count(b"\n") + 1
        assert passed == b"\n".join(lines) or flags[:1] == ("--clean",)
    server.sql("DROP DATABASE fidelity", "postgres")
