"""The lexer: its tokens are the script, and how the script is cut changes nothing."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given, settings
from hypothesis import strategies as st

from repom.dbops.archive.lexer import COMMENT, LONGEST, SPACE, Lexer
from repom.dbops.archive.script import for_psql
from repom.errors import RepomError

PIECES = [
    b"'", b"''", b'"', b"E'", b"\\", b"\\'", b"\\.\n", b"\\.\r\n", b"$$", b"$a$", b"$a", b"$1",
    b";", b"\n", b"\r", b"\r\n", b" ", b"--", b"-- x\n", b"/*", b"*/", b"*", b"/", b"(", b")", b"a",
    b"e",
    b"1", b"1e5", b"U&'", b"n'x'", b":", b"::", b":x", b":'x'", b"\xc3", b"\xff", b"\\restrict k\n",
    b"CREATE FUNCTION f() ", b"BEGIN ATOMIC ", b"END;", b"CASE ", b"SELECT 1;\n", b"begin",
    b".begin", b"COPY t FROM stdin;\n", b"COPY t FROM stdin;\n1\n\\.\n",
    b"INSERT INTO t VALUES (1, 'a');\n",
    b"BEGIN;\n", b"COMMIT;\n", b"DROP TABLE x;\n", b"--\n-- PostgreSQL database dump\n--\n",
    b"-- PostgreSQL database dump complete\n", b"ALTER TABLE t OWNER TO x;\n", b"\xef\xbb\xbf",
    b"GRANT a ON b TO c;\n", b"SET x = 1;\n", b"CREATE TABLE t (a int DEFAULT f(('x')));\n",
]  # fmt: skip
SCRIPTS = st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join)
CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def cut(script: bytes, sizes: list[int]) -> list[bytes]:
    blocks, at, n = [], 0, 0
    while at < len(script):
        blocks.append(script[at : at + sizes[n % len(sizes)]])
        at, n = at + sizes[n % len(sizes)], n + 1
    return blocks


def tokens(blocks: list[bytes]) -> list[tuple[str, bytes]] | str:
    """Tokens; what is invisible or comes in parts put together again."""
    try:
        found = [(SPACE if k == COMMENT else k, t) for k, t in Lexer(blocks)]
    except RepomError as error:
        return error.message
    return [(k, b"".join(t for _, t in group)) for k, group in groupby(found, lambda t: t[0])]


def passed(blocks: list[bytes], owner: bool) -> bytes | str:
    try:
        return b"".join(for_psql(blocks, owner=owner))
    except RepomError as error:
        return error.message


@settings(derandomize=True, deadline=None, max_examples=400)
@given(SCRIPTS, CUTS)
def test_the_tokens_do_not_depend_on_how_the_script_is_cut(script: bytes, sizes: list[int]) -> None:
    whole = tokens([script])

    assert tokens(cut(script, sizes)) == whole
    if isinstance(whole, list):
        assert b"".join(t for _, t in whole) == script.removeprefix(b"\xef\xbb\xbf")


@settings(derandomize=True, deadline=None, max_examples=400)
@given(SCRIPTS, CUTS, st.booleans())
def test_what_passes_does_not_depend_on_how_the_script_is_cut(
    script: bytes, sizes: list[int], owner: bool
) -> None:
    whole = passed([script], owner)

    assert passed(cut(script, sizes), owner) == whole
    if isinstance(whole, bytes):
        assert whole.count(b"\n") - script.count(b"\n") in (0, 1)  # one more ends a statement


def test_what_is_long_comes_in_parts() -> None:
    """In all states, memory does not grow with the script."""
    filler = b"x" * 1000
    for start, end in [
        (b"SELECT '", b"';"), (b"SELECT E'", b"';"), (b'SELECT "', b'";'), (b"SELECT $a$", b"$a$;"),
        (b"-- ", b"\n"), (b"/*", b"*/"), (b"COPY t FROM stdin;\n", b"\n\\.\n"),
    ]:  # fmt: skip
        blocks = [start, *[filler] * 2000, end]
        sizes = [len(text) for _, text in Lexer(blocks)]

        assert sum(sizes) == sum(map(len, blocks))
        assert max(sizes) < 2 * LONGEST
