from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from repom.dbops.archive.archive import SQLITE_SCRIPT
from repom.dbops.archive.script import for_psql
from repom.errors import Damaged, Refused

KEY = b"f00Key"
HEADER = b"""--
-- PostgreSQL database dump
--

"""
RESTRICT = b"\\restrict " + KEY + b"\n\n"
SETTINGS = b"""-- Dumped from database version 17.6
-- Dumped by pg_dump version 17.6

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
SET row_security = off;
"""
DROPS = b"""
ALTER TABLE IF EXISTS ONLY public.album DROP CONSTRAINT IF EXISTS album_artist;
CREATE OR REPLACE VIEW s.totals AS
SELECT
    NULL::integer AS id;
DROP VIEW IF EXISTS s.totals;
DROP TABLE IF EXISTS public.album;
DROP SCHEMA IF EXISTS s;
"""
LATER = b"""SET default_tablespace = '';

SET default_table_access_method = heap;
"""
BODY = b"""
--
-- Name: album; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.album (
    id integer NOT NULL,
    title text
);


--
-- Name: f(); Type: FUNCTION; Schema: public; Owner: -
--

CREATE FUNCTION public.f() RETURNS text
    LANGUAGE plpgsql
    AS $_$
BEGIN
DROP DATABASE shop;
\\connect other
  RETURN '$$';
END $_$;


--
-- Data for Name: album; Type: TABLE DATA; Schema: public; Owner: -
--

COPY public.album (id, title) FROM stdin;
1\tit's one
2\t\\N
DROP DATABASE shop;
\\\\connect other
3\t$tag$ /* " -- E'
SET search_path = x;
-- Name: no object at all; Type: TABLE
\\.


--
-- Name: album album_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.album
    ADD CONSTRAINT album_pkey PRIMARY KEY (id);


"""
TRAILER = b"""--
-- PostgreSQL database dump complete
--

"""
UNRESTRICT = b"\\unrestrict " + KEY + b"\n\n"

PLAIN = HEADER + SETTINGS + b"\n" + LATER + BODY + TRAILER
RESTRICTED = HEADER + RESTRICT + SETTINGS + b"\n" + LATER + BODY + TRAILER + UNRESTRICT
CLEAN = HEADER + RESTRICT + SETTINGS + DROPS + LATER + BODY + TRAILER + UNRESTRICT
SIZES = (1, 7, 64, 4096, 1 << 20)


def cut(script: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(script), size):
        yield script[at : at + size]


LONG = 1 << 20


def through(
    script: bytes, size: int = 1 << 20, *, owner: bool = True, in_transaction: bool = True
) -> bytes:
    blocks = cut(script, size)
    return b"".join(for_psql(blocks, owner=owner, in_transaction=in_transaction))


def statements(script: bytes) -> list[bytes]:
    """The lines that mean something."""
    return [line for line in script.splitlines() if line and not line.startswith(b"--")]


# -- what is taken out --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_plain_dump_passes_unchanged(size: int) -> None:
    assert through(PLAIN, size) == PLAIN


@pytest.mark.parametrize("size", SIZES)
def test_its_own_restrict_pair_is_taken_out_and_nothing_else(size: int) -> None:
    assert statements(PLAIN) == statements(through(RESTRICTED, size))


@pytest.mark.parametrize("size", SIZES)
def test_the_drop_section_is_taken_out_and_nothing_else(size: int) -> None:
    assert statements(PLAIN) == statements(through(CLEAN, size))


@pytest.mark.parametrize("script", [PLAIN, RESTRICTED, CLEAN], ids=["plain", "restrict", "clean"])
def test_the_result_does_not_depend_on_the_size_of_the_blocks(script: bytes) -> None:
    whole = through(script, len(script))

    assert {whole} == {through(script, size) for size in [*range(1, 40), *SIZES]}


def test_a_script_of_many_blocks_passes_unchanged() -> None:
    rows = b"".join(b"%d\trow's \\\\ %d\n" % (n, n) for n in range(50_000))
    script = PLAIN.replace(b"2\t\\N\n", rows)

    assert script == through(script, 4096)


@pytest.mark.parametrize(
    "line", [b"-- \\restrict abc", b"7\t\\\\restrict abc\n8\tabc", b"7\tx \\\\restrict abc def"]
)
def test_what_looks_like_restrict_in_the_data_stays(line: bytes) -> None:
    script = PLAIN.replace(b"2\t\\N", line)

    assert script == through(script)


def test_a_dump_without_objects_passes() -> None:
    script = HEADER + SETTINGS + b"\n" + TRAILER

    assert script == through(script)


def test_a_script_that_pg_dump_did_not_write_passes_unchanged() -> None:
    script = b"SET x = 1;\r\nDROP TABLE IF EXISTS a;\r\nCREATE TABLE a (b text);\r\n"

    assert script == through(script)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_last_statement_without_a_semicolon_is_ended(size: int) -> None:
    """What repom sends behind the script would else become a part of it."""
    assert through(b"SELECT 1;\nSELECT 2", size) == b"SELECT 1;\nSELECT 2\n;"
    assert through(b"SELECT 1; -- end", size) == b"SELECT 1; -- end"


def test_a_byte_order_mark_is_taken_out() -> None:
    assert through(b"\xef\xbb\xbf" + PLAIN) == PLAIN


def test_an_empty_script_stays_empty() -> None:
    assert through(b"") == b""


def test_lines_of_absurd_length_are_passed_on_in_pieces() -> None:
    line = b"INSERT INTO a VALUES ('" + b"DROP DATABASE x " * (LONG // 4) + b"');\n"
    given = 0
    kept = 0

    def blocks() -> Iterator[bytes]:
        nonlocal given
        for block in cut(line, 1 << 16):
            given += len(block)
            yield block

    for piece in for_psql(blocks()):
        kept += len(piece)
        assert given - kept < 3 * LONG
    assert len(line) == kept


# -- what is refused ----------------------------------------------------------------------


REFUSED = {
    "connect": b"\\connect other",
    "c": b"\\c other",
    "c alone": b"\\c",
    "c, indented": b"  \\c other",
    "create": b"CREATE DATABASE x;",
    "drop": b"drop database x;",
    "alter": b"ALTER  DATABASE x SET search_path = y;",
    "indented": b"\t Drop Database If Exists x;",
    "with a carriage return": b"DROP DATABASE x;\r",
    "behind another statement": b"SELECT 1; DROP DATABASE x;",
    "behind a COMMIT": b"BEGIN; COMMIT; DROP DATABASE x;",
    "behind a carriage return": b"SELECT 1; -- x\rDROP DATABASE x;",
    "behind a rule": b"CREATE RULE r AS ON INSERT TO a DO (NOTIFY a; NOTIFY b);\nDROP DATABASE x;",
    "behind a function called begin": (
        b"CREATE FUNCTION s.begin() RETURNS int LANGUAGE sql AS 'SELECT 1';\nDROP DATABASE x;"
    ),
    "behind the body of a function": (
        b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1"
        b" ELSE 2 END; END;\nDROP DATABASE x;"
    ),
    "in the body of a function": (
        b"CREATE OR REPLACE PROCEDURE f() BEGIN ATOMIC SELECT 1; DROP DATABASE x; END;"
    ),
    "behind a comment": b"/* harmless */ DROP DATABASE x;",
    "behind a nested comment": b"/* /* */ ' */\nDROP DATABASE x;",
    "over two lines": b"DROP\nDATABASE x;",
    "around a comment": b"DROP /* the */ DATABASE x;",
    "behind a quoted quote": b"SELECT 'it''s', E'it\\'s', \"a\"\"b\";\nDROP DATABASE x;",
    "behind a backslash in a string": b"SELECT '\\';\nDROP DATABASE x;",
    "behind a dollar quote": b"DO $a$ ' $b$ $a$;\nDROP DATABASE x;",
    "behind a comment with a quote": b"SELECT 1; -- it's\nDROP DATABASE x;",
    "behind COPY": b"COPY a FROM stdin;\n1\n\\.\nDROP DATABASE x;",
    "behind COPY with CRLF": b"COPY a FROM stdin;\r\n1\r\n\\.\r\nDROP DATABASE x;",
    "behind a dollar in a name": b"CREATE TABLE a$b$c (x int);\nDROP DATABASE x;",
    "a grant": b"GRANT CONNECT ON DATABASE x TO y;",
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_script_that_touches_other_databases_is_refused(lines: bytes, size: int) -> None:
    with pytest.raises(Refused) as caught:
        through(b"SELECT 0;\n" + lines + b"\nSELECT 2;\n", size)

    assert caught.value.exit_status == 5
    assert "database" in caught.value.message or "body of a function" in caught.value.message


def test_the_line_is_named() -> None:
    script = b"COPY a FROM stdin;\nx\n\\.\nSELECT '\n';\n\\connect other\n"

    with pytest.raises(Refused, match="Line 6 of the SQL script connects to another database"):
        through(script, 3)


def test_nothing_behind_the_refused_line_is_passed_on() -> None:
    passed = []
    with pytest.raises(Refused):
        for piece in for_psql(cut(b"SELECT 1;\n\\c x\nSELECT 2;\n", 5)):
            passed.append(piece)

    assert b"SELECT 2" not in b"".join(passed)


HARMLESS = {
    "data of COPY": b"COPY a FROM stdin;\nDROP DATABASE x;\n\\\\c y\n\\.\n",
    "data of COPY with options": (
        b"COPY a (b) FROM stdin WITH (FORMAT csv);\nDROP DATABASE x;\n\\.\n"
    ),
    "data of COPY over two lines": b"COPY a (b)\n  FROM stdin;\nDROP DATABASE x;\n\\.\n",
    "data of COPY of a table with a line break": (
        b'COPY "a\nb" FROM stdin;\nDROP DATABASE x;\n\\.\n'
    ),
    "a string": b"INSERT INTO a VALUES ('\nDROP DATABASE x;\n\\c y\n');\n",
    "a string with escapes": b"INSERT INTO a VALUES (E'\\'\nDROP DATABASE x;\n');\n",
    "a name": b'CREATE TABLE "\nDROP DATABASE x;\n" (a int);\n',
    "a dollar quote": b"DO $$\nDROP DATABASE x;\n\\c y\n$$;\n",
    "a named dollar quote": b"DO $a_1$\n$$\nDROP DATABASE x;\n$a_1$;\n",
    "a comment": b"/*\nDROP DATABASE x;\n\\c y\n*/\n",
    "a comment of a line": b"-- DROP DATABASE x;\n--\\c y\n",
    "a parameter": b"PREPARE a AS SELECT $1, $2;\nSELECT 1;\n",
    "a name that begins alike": b"CREATE DATABASES;\n",
    "a table called stdin": b'COPY "stdin" FROM stdin;\nDROP DATABASE x;\n\\.\n',
    "a table called from": b"COPY s.from FROM STDIN;\nDROP DATABASE x;\n\\.\n",
    "a user mapping": b"CREATE USER MAPPING FOR a SERVER b;\nDROP USER MAPPING FOR a SERVER b;\n",
    "a grant": b"GRANT SELECT (a, b), UPDATE ON TABLE t TO x WITH GRANT OPTION;\n",
    "encodings": b"SET client_encoding = 'LATIN1';\nSET NAMES 'UTF8';\n",
    "strings": b"SET standard_conforming_strings = on;\n",
    "a slice of an array": b"CREATE VIEW v AS SELECT a[1:2], b::int FROM t;\n",
    "the body of a function": (
        b"CREATE FUNCTION f() RETURNS int\n BEGIN ATOMIC\n SELECT CASE WHEN (a = 1) THEN 2 END;\n"
        b" INSERT INTO t VALUES (1);\nEND;\nSELECT 1;\n"
    ),
    "a function over four lines": (
        b"CREATE FUNCTION f(n int) RETURNS int LANGUAGE sql AS $$\nSELECT 1;\n$$;\n"
    ),
    "strings of the kinds": b"SELECT U&'\\0041', n'a', x'1F', b'01', E'a\\'b', 1e5, 0.5, 2.e-3;\n",
    "what is in the catalog's name elsewhere": (
        b"COPY public.pg_authid (set_config) FROM stdin;\n\\.\nINSERT INTO a.pg_user VALUES (1);\n"
    ),
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=list(HARMLESS))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_only_looks_like_it_passes(script: bytes, size: int) -> None:
    assert script == through(script, size)


COMMANDS = (
    b"\\.",
    b"\\restrict x",
    b"\\;",
    b"\\unrestrict x",
    b"\\copy a from 'x'",
    b"\\! rm -rf x",
    b"\\copy a from program 'x'",
    b"\\i other.sql",
    b" \\gexec",
    b"\\o x",
)


@pytest.mark.parametrize("line", [*COMMANDS, b"SELECT 'x' \\gexec", b"SELECT 1; \\! rm -rf x"])
def test_commands_of_psql_are_refused(line: bytes) -> None:
    with pytest.raises(Refused, match="Line 2 of the SQL script holds a command of psql"):
        through(b"SELECT 1;\n" + line + b"\n")


SECOND = {
    "another pair": RESTRICTED.replace(b"\nSET", b"\n\\restrict k2\nSET", 1),
    "another key": RESTRICTED.replace(UNRESTRICT, b"\\unrestrict other\n"),
    "a backquote": RESTRICTED.replace(b"\\restrict f00Key", b"\\restrict `id`"),
    "an argument": RESTRICTED.replace(b"\\restrict f00Key", b"\\restrict f00Key \\! id"),
    "twice ended": RESTRICTED + UNRESTRICT,
    "no header": RESTRICTED.removeprefix(HEADER),
    "late": PLAIN.replace(b"\n\nCREATE", b"\n\nSELECT 1;\n\\restrict k\nCREATE", 1),
    "within a statement": RESTRICTED.replace(UNRESTRICT, b"SELECT 1\n" + UNRESTRICT),
}


@pytest.mark.parametrize("script", SECOND.values(), ids=list(SECOND))
def test_only_the_files_own_pair_is_taken_out(script: bytes) -> None:
    with pytest.raises(Refused, match="holds a command of psql"):
        through(script)


SERVER_WIDE = {
    "transactions": [
        b"COMMIT;", b"ROLLBACK;", b"END;", b"ABORT;", b"SAVEPOINT a;", b"RELEASE a;",
        b"PREPARE TRANSACTION 'x';", b"COMMIT PREPARED 'x';", b"BEGIN; BEGIN;",
        b"BEGIN; COMMIT AND CHAIN;", b"BEGIN; ROLLBACK;", b"BEGIN READ ONLY;",
        b"/* a */ commit\n;", b"SELECT 1;COMMIT;", b"ROLLBACK TO a;",
    ],
    "role": [
        b"CREATE ROLE a;", b"alter role a superuser;", b"CREATE USER a;", b"DROP GROUP a;",
        b"ALTER USER a SET x = 1;", b"GRANT a TO b;", b"REVOKE ADMIN OPTION FOR a FROM b;",
        b"REASSIGN OWNED BY a TO b;", b"DROP OWNED BY a;", b"SET ROLE a;", b"SET LOCAL ROLE a;",
        b"SET SESSION AUTHORIZATION a;", b"SET SESSION SESSION AUTHORIZATION a;",
        b"RESET ROLE;", b'SET "role" TO a;', b"SET session_authorization = a;",
        b"COMMENT ON ROLE a IS 'b';", b"SECURITY LABEL ON ROLE a IS 'b';",
        b"SELECT set_config('role', 'a', false);",
    ],
    "tablespace": [b"CREATE TABLESPACE a LOCATION '/x';", b"DROP TABLESPACE a;"],
    "settings": [
        b"ALTER SYSTEM SET x = 1;", b"RESET ALL;", b"DISCARD ALL;",
        b"GRANT SET ON PARAMETER x TO y;",
    ],
    "COPY": [
        b"COPY a TO STDOUT;",
        b"COPY (SELECT * FROM stdin) TO STDOUT;", b"COPY a FROM '/etc/passwd';",
        b"COPY a FROM PROGRAM 'id';",
        b"COPY (SELECT 1) TO PROGRAM 'id';", b"COPY a TO '/x';", b'COPY a FROM "stdin";',
        b"COPY a FROM STDOUT;", b"COPY a FROM 'stdin';",
    ],
    "same line": [b"COPY a FROM stdin; DROP DATABASE x;\n\\.", b"COPY a FROM stdin;;\n\\."],
    "encoding": [
        b"SET client_encoding = 'SJIS';", b"SET client_encoding TO BIG5;", b"SET NAMES 'GBK';",
        b"SET SESSION client_encoding = 'win932';", b'SET "client_encoding" = gb18030;',
        b"SELECT pg_catalog.set_config('client_encoding', 'SJIS', false);",
        b"RESET client_encoding;", b"SET client_encoding TO DEFAULT;",
    ],
    "standard_conforming_strings": [
        b"SET standard_conforming_strings = off;", b"SET standard_conforming_strings TO 'off';",
        b'SET LOCAL "Standard_Conforming_Strings" TO false;', b"RESET standard_conforming_strings;",
        b"SELECT set_config('standard_conforming_strings', 'off', false);",
    ],
    "cannot be checked": [
        b"SELECT set_config('a' || 'b', 'c', false);", b"SELECT 1, set_config('a', 'b', false);",
        b"SELECT set_config('client_'\n'encoding', 'SJIS', false);",
        b"WITH a AS (SELECT set_config('a', 'b', false)) SELECT 1;",
    ],
    "name is escaped": [b'SET U&"\\0073tandard_conforming_strings" = off;'],
    "catalog": [
        b"UPDATE pg_authid SET rolsuper = true;", b"UPDATE pg_catalog.pg_settings SET a = b;",
        b"COPY pg_catalog.pg_authid FROM stdin;\n\\.", b"INSERT INTO pg_auth_members VALUES (1);",
        b"WITH a AS (UPDATE pg_database SET x = 1 RETURNING 1) SELECT 1;",
        b'DELETE FROM "pg_authid";',
    ],
    "files": [b"SELECT lo_import('/etc/passwd');", b"SELECT pg_catalog.lo_export(1, '/x');"],
    "runs into a word": [
        b"SELECT 1a$b$c;", b"SELECT 1e'\\';--';", b"SELECT $1a'x';", b"SELECT $a;",
        b"SELECT a.e'x';",
    ],
    "in another line": [b"SELECT E'a'\n'\\'; DROP DATABASE x; --';", b"SELECT E'a' -- x\n 'b';"],
    "function": [
        b"CREATE FUNCTION f() BEGIN ATOMIC COPY a FROM stdin; END;",
        b"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; COMMIT; END;",
        b"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; BEGIN ATOMIC SELECT 2; END; END;",
        b"CREATE FUNCTION f() BEGIN ATOMIC SELECT a END; COPY a FROM stdin;\n\\! id\n\\.",
        b"CREATE SCHEMA s CREATE FUNCTION f() BEGIN ATOMIC SELECT 1; END;",
    ],
    "command of psql": [
        b"CREATE 1 2 3 FUNCTION f BEGIN ATOMIC; SELECT a;\n\\! id",
        b"CREATE n'x' FUNCTION f BEGIN ATOMIC; SELECT a;\n\\! id\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "script"), [(w, s) for w, scripts in SERVER_WIDE.items() for s in scripts]
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_no_dump_of_one_database_needs_is_refused(what: str, script: bytes, size: int) -> None:
    for in_transaction in (True, False):
        with pytest.raises(Refused, match=what) as caught:
            through(b"SELECT 0;\n" + script + b"\n", size, in_transaction=in_transaction)
        assert "Line " in caught.value.message
        assert caught.value.exit_status == 5


# -- transactions and owners --------------------------------------------------------------


WRAPPED = b"BEGIN;\nCREATE TABLE a (b int);\nCOMMIT WORK;\nSTART TRANSACTION;\nEND;\n"


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_scripts_own_transaction_is_taken_out_inside_of_ours(size: int) -> None:
    assert through(WRAPPED, size) == b"\nCREATE TABLE a (b int);\n\n\n\n"
    assert through(WRAPPED, size, in_transaction=False) == WRAPPED


def test_a_scripts_own_transaction_that_is_not_committed_is_damaged() -> None:
    for in_transaction in (True, False):
        with pytest.raises(Damaged, match="begins in line 2"):
            through(b"SELECT 1;\nBEGIN;\nSELECT 2;\n", in_transaction=in_transaction)


def test_what_holds_only_in_a_transaction_of_its_own_is_refused_inside_of_ours() -> None:
    script = b"BEGIN;\nSET LOCAL search_path = x;\nCOMMIT;\n"

    assert script == through(script, in_transaction=False)
    with pytest.raises(Refused, match=r"Line 2 .*transaction of its own"):
        through(script)


OWNED = b"""CREATE SCHEMA s AUTHORIZATION "a""b";
CREATE SCHEMA AUTHORIZATION joe;
ALTER TABLE public.a OWNER TO joe;
ALTER TABLE public.rename OWNER
  TO "the; boss";
ALTER FUNCTION f(a int, b text) OWNER TO joe;
ALTER TABLE public.a RENAME owner TO boss;
ALTER TABLE public.a RENAME COLUMN owner TO boss;
GRANT SELECT ON a TO joe;
GRANT joe TO ann;
REVOKE ALL ON a FROM joe;
ALTER DEFAULT PRIVILEGES FOR ROLE joe GRANT SELECT ON TABLES TO ann;
SET SESSION AUTHORIZATION joe;
RESET SESSION AUTHORIZATION;
CREATE TABLE c (d text DEFAULT '; OWNER TO x');
"""


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_owners_and_grants_are_taken_out_and_their_lines_stay(size: int) -> None:
    left = b"""CREATE SCHEMA s  ;
CREATE SCHEMA  joe;




ALTER TABLE public.a RENAME owner TO boss;
ALTER TABLE public.a RENAME COLUMN owner TO boss;






CREATE TABLE c (d text DEFAULT '; OWNER TO x');
"""

    assert left == through(OWNED, size, owner=False)


def test_a_comment_on_the_database_is_taken_out() -> None:
    script = b"COMMENT ON DATABASE x IS 'DROP DATABASE x;\n';\nSELECT 1;\n"

    assert through(script) == b"\n\nSELECT 1;\n"


# -- what psql would read in another way --------------------------------------------------


def test_variables_of_psql_are_not_filled_in() -> None:
    script = b"SELECT a[1:\"USER\"], b[i:DBNAME], :'HOST', :{?PORT}, c::text, d[1:2] FROM t;\n"

    assert script.replace(b':"', b': "').replace(b":D", b": D").replace(b":'", b": '").replace(
        b":{", b": {"
    ) == through(script)


def test_names_that_psql_takes_for_the_body_of_a_function_are_quoted() -> None:
    script = b"CREATE FUNCTION s.Begin() RETURNS int LANGUAGE sql AS 'SELECT 1';\n"

    assert script.replace(b"Begin", b'"begin"') == through(script)


def test_an_empty_statement_is_taken_out() -> None:
    """psql 17 and 18 lose the rest of a script at one behind the data of COPY."""
    assert (
        through(b"COPY a FROM stdin;\n\\.\n;\nSELECT 1;;")
        == b"COPY a FROM stdin;\n\\.\n\nSELECT 1;"
    )


def test_zero_bytes_are_no_text() -> None:
    with pytest.raises(Damaged, match="zero bytes"):
        through(b"SELECT 1;\n\0")


@pytest.mark.parametrize(
    "script", [b"SELECT 'a", b'SELECT "a', b"SELECT $a$ $b$", b"SELECT (1", b"SELECT E'\\'",
               b"/* /* */", b"COPY a FROM stdin;\n1\n", b"COPY a FROM stdin",
               b"CREATE FUNCTION f() BEGIN ATOMIC SELECT 1;"],
)  # fmt: skip
def test_a_script_that_ends_in_the_middle_is_damaged(script: bytes) -> None:
    with pytest.raises(Damaged, match="middle of a statement"):
        through(script)


# -- the section of DROP statements -------------------------------------------------------


HIDDEN = b"""
DROP FUNCTION IF EXISTS m."a
SET jit=on;ALTER ROLE mallory SUPERUSER;
b"();
DROP TABLE IF EXISTS m."--
-- Name: x; Type: TABLE; Schema: m; Owner: -
--

ALTER ROLE mallory SUPERUSER;";
SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '1';
ALTER TABLE IF EXISTS m.t ALTER COLUMN id DROP DEFAULT;
"""


@pytest.mark.parametrize("size", SIZES)
def test_a_name_in_the_drop_section_is_no_statement(size: int) -> None:
    script = CLEAN.replace(b"\nDROP TABLE", HIDDEN + b"DROP TABLE", 1)
    passed = through(script, size)

    assert b"ALTER ROLE" not in passed
    assert statements(PLAIN) == statements(passed)
    assert script.count(b"\n") == passed.count(b"\n")


def test_an_old_dump_that_drops_the_schema_public_does_not_create_it() -> None:
    script = CLEAN.replace(b"DROP SCHEMA IF EXISTS s", b"DROP SCHEMA public")
    script = script.replace(b"\nCREATE TABLE", b"\nCREATE SCHEMA public;\nCREATE TABLE", 1)

    assert statements(PLAIN) == statements(through(script))


def test_drops_of_a_script_that_pg_dump_did_not_write_stay() -> None:
    script = b"SELECT '\n-- PostgreSQL database dump\n';\nDROP TABLE IF EXISTS a;\n"

    assert script == through(script)


def test_an_end_that_only_looks_like_one_is_none() -> None:
    script = PLAIN.replace(TRAILER, b"SELECT '\n" + TRAILER + b"';\n")

    with pytest.raises(Damaged, match="end"):
        through(script)


@pytest.mark.parametrize(
    ("head", "is_sqlite"),
    [
        (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", True),
        (b"\xef\xbb\xbf-- made by me\npragma foreign_keys = off;\n", True),
        (b"BEGIN TRANSACTION;\nCREATE TABLE a (b);\n", False),
        (b"-- PRAGMA foreign_keys=OFF;\nSELECT 1;\n", False),
        (PLAIN, False),
    ],
)
def test_a_dump_of_sqlite_is_told_apart(head: bytes, is_sqlite: bool) -> None:
    assert is_sqlite == bool(SQLITE_SCRIPT.match(head))


@pytest.mark.parametrize("options", [b"", b"DROP DATABASE IF EXISTS shop;\n"], ids=["-C", "-C -c"])
def test_a_dump_that_creates_its_database_is_refused(options: bytes) -> None:
    create = b"--\n-- Name: shop; Type: DATABASE\n--\n\nCREATE DATABASE shop;\n\n\\connect shop\n"

    with pytest.raises(Refused, match="database"):
        through(HEADER + RESTRICT + SETTINGS + options + create + BODY + TRAILER + UNRESTRICT)


@pytest.mark.parametrize("restrict", [b"", RESTRICT])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_the_output_of_pg_dumpall_is_refused(restrict: bytes, size: int, end: bytes) -> None:
    script = (
        b"--\n-- PostgreSQL database cluster dump\n--\n\n"
        + restrict
        + b"SET default_transaction_read_only = off;\n\nCREATE ROLE ann;\n\n"
        + PLAIN
    )

    with pytest.raises(Refused, match="pg_dumpall"):
        through(script.replace(b"\n", end), size)


# -- what is damaged ----------------------------------------------------------------------


@pytest.mark.parametrize("script", [PLAIN, RESTRICTED, CLEAN], ids=["plain", "restrict", "clean"])
@pytest.mark.parametrize("size", SIZES)
def test_a_dump_without_its_end_is_damaged(script: bytes, size: int) -> None:
    whole = script.index(TRAILER)
    for end in (len(HEADER), len(HEADER) + 90, whole // 2, whole - 1, whole + 20):
        with pytest.raises(Damaged, match="end"):
            through(script[:end], size)


@pytest.mark.parametrize("size", SIZES)
def test_a_dump_through_a_terminal_is_damaged(size: int) -> None:
    with pytest.raises(Damaged, match="carriage returns"):
        through(PLAIN.replace(b"\n", b"\r\n"), size)


def test_a_dump_whose_source_breaks_off_is_not_ended() -> None:
    def broken() -> Iterable[bytes]:
        yield PLAIN[:500]
        raise Damaged("cut short")

    with pytest.raises(Damaged, match="cut short"):
        list(for_psql(broken()))
