from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from repom.dbops.script import LONGEST, for_psql
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


def through(
    script: bytes, size: int = 1 << 20, *, trusted: bool = False, restricts: bool = True
) -> bytes:
    return b"".join(for_psql(cut(script, size), restricts=restricts))


def statements(script: bytes) -> list[bytes]:
    """The lines that mean something."""
    return [line for line in script.splitlines() if line and not line.startswith(b"--")]


# -- what is taken out --------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "foreign"])
def test_a_plain_dump_passes_unchanged(size: int, trusted: bool) -> None:
    assert PLAIN == through(PLAIN, size, trusted=trusted)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "foreign"])
def test_its_own_restrict_pair_is_taken_out_and_nothing_else(size: int, trusted: bool) -> None:
    assert statements(PLAIN) == statements(through(RESTRICTED, size, trusted=trusted))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "foreign"])
def test_the_drop_section_is_taken_out_and_nothing_else(size: int, trusted: bool) -> None:
    assert statements(PLAIN) == statements(through(CLEAN, size, trusted=trusted))


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

    assert script == through(script, trusted=True)


def test_a_dump_without_objects_passes() -> None:
    script = HEADER + SETTINGS + b"\n" + TRAILER

    assert script == through(script)


def test_a_script_that_pg_dump_did_not_write_passes_unchanged() -> None:
    script = b"SET x = 1;\r\nDROP TABLE IF EXISTS a;\r\nCREATE TABLE a (b text);\r\n"

    assert script == through(script)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_script_without_a_last_line_feed_passes_unchanged(size: int) -> None:
    assert b"SELECT 1;\nSELECT 2" == through(b"SELECT 1;\nSELECT 2", size)


def test_a_byte_order_mark_is_taken_out() -> None:
    assert PLAIN == through(b"\xef\xbb\xbf" + PLAIN)


def test_an_empty_script_stays_empty() -> None:
    assert b"" == through(b"")


def test_lines_of_absurd_length_are_passed_on_in_pieces() -> None:
    line = b"INSERT INTO a VALUES ('" + b"DROP DATABASE x " * (LONGEST // 4) + b"');\n"
    given = 0
    kept = 0

    def blocks() -> Iterator[bytes]:
        nonlocal given
        for block in cut(line, 1 << 16):
            given += len(block)
            yield block

    for piece in for_psql(blocks(), restricts=True):
        kept += len(piece)
        assert given - kept < 3 * LONGEST
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
    "behind a COMMIT": b"COMMIT; DROP DATABASE x;",
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
    "behind COPY from a file": b"COPY a FROM '/x';\nDROP DATABASE x;",
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_script_that_touches_other_databases_is_refused(lines: bytes, size: int) -> None:
    with pytest.raises(Refused) as caught:
        through(b"SELECT 0;\n" + lines + b"\nSELECT 2;\n", size)

    assert 5 == caught.value.exit_status
    assert "database" in caught.value.message


def test_the_line_is_named() -> None:
    script = b"COPY a FROM stdin;\nx\n\\.\nSELECT '\n';\n\\connect other\n"

    with pytest.raises(Refused, match="Line 6 of the SQL script connects to another database"):
        through(script, 3)


def test_nothing_behind_the_refused_line_is_passed_on() -> None:
    passed = []
    with pytest.raises(Refused):
        for piece in for_psql(
            cut(b"SELECT 1;\n\\c x\nSELECT 2;\n", 5), restricts=True
        ):
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
    "a comment on a database": b"COMMENT ON DATABASE x IS 'DROP DATABASE x;';\n",
    "a name that begins alike": b"CREATE DATABASES;\n\\.\n",
    "copy": b"\\copy a from 'x'\n",
}


@pytest.mark.parametrize("script", HARMLESS.values(), ids=list(HARMLESS))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_what_only_looks_like_it_passes(script: bytes, size: int) -> None:
    assert script == through(script, size)


COMMANDS = (b"\\! rm -rf x", b"\\copy a from program 'x'", b"\\i other.sql", b" \\gexec", b"\\o x")


@pytest.mark.parametrize("line", [*COMMANDS, b"SELECT 'x' \\gexec", b"SELECT 1; \\! rm -rf x"])
def test_commands_of_psql_are_refused_where_psql_does_not_do_it_itself(line: bytes) -> None:
    with pytest.raises(Refused, match="command of psql"):
        through(b"SELECT 1;\n" + line + b"\n", restricts=False)


@pytest.mark.parametrize("line", [b"\\.", b"\\restrict x", b"\\unrestrict x"])
def test_what_pg_dump_itself_writes_is_no_command(line: bytes) -> None:
    assert line + b"\n" == through(line + b"\n", restricts=False)


def test_a_dump_of_repoms_own_is_not_scanned() -> None:
    script = PLAIN.replace(b"CREATE TABLE public.album", b"ALTER DATABASE x;\nCREATE TABLE a")

    assert script == through(script, trusted=True)


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
@pytest.mark.parametrize("trusted", [True, False], ids=["own", "foreign"])
def test_a_dump_without_its_end_is_damaged(script: bytes, size: int, trusted: bool) -> None:
    whole = script.index(TRAILER)
    for end in (len(HEADER), len(HEADER) + 90, whole // 2, whole - 1, whole + 20):
        with pytest.raises(Damaged, match="end"):
            through(script[:end], size, trusted=trusted)


@pytest.mark.parametrize("size", SIZES)
def test_a_dump_through_a_terminal_is_damaged(size: int) -> None:
    with pytest.raises(Damaged, match="carriage returns"):
        through(PLAIN.replace(b"\n", b"\r\n"), size)


def test_a_dump_whose_source_breaks_off_is_not_ended() -> None:
    def broken() -> Iterable[bytes]:
        yield PLAIN[:500]
        raise Damaged("cut short")

    with pytest.raises(Damaged, match="cut short"):
        list(for_psql(broken(), restricts=True))
