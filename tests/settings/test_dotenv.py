"""`.env` as a table; `tests/live/test_dotenv.py` asks a real Compose the same."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import given, settings
from hypothesis import strategies as st

from repom.errors import SettingsError
from repom.settings.dotenv import read_dotenv

CANARY = "s3cret-c4nary"
ENVIRON = {"FROM_ENV": "outside", "EMPTY": ""}

DOTENV = {
    "bare": ("A=b", "b"),
    "spaces around": ("A = b ", "b"),
    "export": ("export A=b", "b"),
    "empty": ("A=", ""),
    "double quotes": ('A="b c"', "b c"),
    "single quotes": ("A='b c'", "b c"),
    "a comment behind": ("A=b # c", "b"),
    "a hash inside": ("A=b#c", "b#c"),
    "a hash in quotes": ('A="b # c"', "b # c"),
    "an equals sign": ("A=b=c", "b=c"),
    "several lines": ('A="b\nc"', "b\nc"),
    "the last one counts": ("A=b\nA=c", "c"),
    "expanded from the environment": ("A=${FROM_ENV}", "outside"),
    "expanded from a line above": ("B=up\nA=${B}/x", "up/x"),
    "the environment counts more than a line above": ("FROM_ENV=up\nA=${FROM_ENV}", "outside"),
    "a line below is not known": ("A=${B}\nB=down", ""),
    "a default": ("A=${NONE:-else}", "else"),
    "expanded in double quotes": ('A="${FROM_ENV}"', "outside"),
    "single quotes inside double ones": ("A=\"x='${FROM_ENV}'\"", "x='outside'"),
    "literal in single quotes": ("A='${FROM_ENV}'", "${FROM_ENV}"),
    "literal in single quotes behind export": ("export A= '${FROM_ENV}'", "${FROM_ENV}"),
    "a dollar": ("A=$FROM_ENV", "outside"),
    "a dollar and more": ("A=$FROM_ENV-x.$FROM_ENV", "outside-x.outside"),
    "a dollar alone": ("A=a$", "a$"),
    "a dollar that means nothing": ("A=$1$(ls)$-", "$1$(ls)$-"),
    "two dollars": ("A=a$$b$${FROM_ENV}", "a$b${FROM_ENV}"),
    "a default without a colon": ("A=${NONE-shop}", "shop"),
    "no default for an empty one": ("A=${EMPTY-shop}", ""),
    "a default for an empty one": ("A=${EMPTY:-shop}", "shop"),
    "instead of a value": ("A=${FROM_ENV:+y}", "y"),
    "instead of an empty value": ("A=${EMPTY:+y}${EMPTY+z}", "z"),
    "instead of nothing": ("A=${NONE+y}${NONE:+z}", ""),
    "demanded": ("A=${FROM_ENV:?no}${EMPTY?no}", "outside"),
    "a nested default": ("A=${NONE:-${NONE2:-${FROM_ENV}}}", "outside"),
    "a default with signs": ("A=${NONE:-x:-y?z}", "x:-y?z"),
    "a brace behind": ("A={${FROM_ENV}}", "{outside}"),
    "braces in a default": ("A=${NONE:-{}}", "{}"),
    "an escaped dollar": ('A="\\$FROM_ENV"', "$FROM_ENV"),
    "an escaped backslash and a dollar": ('A="\\\\$FROM_ENV"', "\\outside"),
    "escapes in double quotes": ('A="a\\tb\\"c\\x"', 'a\tb"c\\x'),
    "escapes in single quotes": ("A='a\\nb\\'c'", "a\\nb'c"),
    "no escapes without quotes": ("A=a\\nb\\$", "a\\nb\\$"),
    "a colon": ("A: b", "b"),
    "a comment behind quotes": ("A='b'#c", "b"),
    "quotes inside": ("A=b'c'", "b'c'"),
    "a hash at the beginning": ("A=#b", "#b"),
    "another name in one's own": ("A-B=c\nA.B=d\nA=b", "b"),
}


@pytest.mark.parametrize(("text", "value"), DOTENV.values(), ids=list(DOTENV))
@pytest.mark.parametrize("ending", ["\n", "\r\n", "no end"])
def test_a_dotenv_file_is_read_as_compose_reads_it(text: str, value: str, ending: str) -> None:
    end = {"no end": ""}.get(ending, ending)
    separator = end or "\n"
    Path(".env").write_bytes((text.replace("\n", separator) + end).encode())

    assert value == read_dotenv(Path(".env"), ENVIRON)["A"]


SPECIAL = "#$'\"\\`"
PLAIN = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=SPECIAL),
    min_size=1,
)
QUOTES = st.sampled_from(["{}", "'{}'", '"{}"', " {}", "{} # comment"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.from_regex(r"[A-Z_]+", fullmatch=True), PLAIN, QUOTES)))
def test_plain_lines_are_read_as_python_dotenv_reads_them(
    lines: list[tuple[str, str, str]],
) -> None:
    path = Path(".env")
    path.write_text("".join(f"{n}={quotes.format(v)}\n" for n, v, quotes in lines), "utf-8")

    assert dotenv_values(path) == read_dotenv(path, {})


REFUSED = {
    "a demanded one": ("A=${NONE:?no}", 1),
    "a demanded one that is empty": ("B=c\nA=${EMPTY:?}", 2),
    "a demanded one in a default": ("A=${FROM_ENV:-${NONE?}}", 1),
    "assigning": ("A=${NONE:=x}", 1),
    "replacing": ("A=${FROM_ENV/a/b}", 1),
    "a part": ("A=${FROM_ENV:1:2}", 1),
    "a length": ("A=${#FROM_ENV}", 1),
    "an empty name": ("\n\nA=${}", 3),
    "no end": ("A=x${FROM_ENV", 1),
    "too deep": ("A=" + "${NONE:-" * 5000 + "}" * 5000, 1),
    "text behind quotes": ("A='b' c", 1),
    "two in one line": ('A="b" B=c', 1),
    "a name with a space": ("A B=c", 1),
    "a name in quotes": ("'A'=b", 1),
    "no name": ("=b", 1),
    "a comment or a value": ("A= # c", 1),
    "a comment behind a tab": ("A=b\t# c", 1),
    "an octal escape": ('A="\\0101"', 1),
    "an open quote": ("B=c\nA='b\nC=d", 2),
    "a NUL": ("B=c\nA=b\0c", 2),
    "an escape character": ("A=\x1b[0m", 1),
    "a lonely carriage return": ("A=b\rC=d", 1),
}


@pytest.mark.parametrize(("text", "line"), REFUSED.values(), ids=list(REFUSED))
def test_an_unclear_line_is_refused_and_only_its_number_shown(text: str, line: int) -> None:
    text = text.replace("b", CANARY)
    Path(".env").write_bytes(text.encode())

    with pytest.raises(SettingsError, match=rf"\.env line {line} cannot be parsed") as caught:
        read_dotenv(Path(".env"), ENVIRON)

    assert caught.value.exit_status == 2
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a\\$b"', "a$b"),
        ('"a$b"', "a$b"),
        ("a$b", "a$b"),
        ("'a$b'", "a$b"),
        ("a$$b", "a$$b"),
        ("${NONE:?x}", "${NONE:?x}"),
        ("#b", "#b"),
        ('"a\\\\\\"b"', 'a\\"b'),
    ],
)
def test_a_password_is_taken_as_it_stands(text: str, value: str) -> None:
    Path(".env").write_text(f"POSTGRES_PASSWORD={text}\nA=${{POSTGRES_PASSWORD}}\n")

    found = read_dotenv(Path(".env"), {"b": "no"})

    assert [value, value] == [found["POSTGRES_PASSWORD"], found["A"]]


def test_a_folder_of_this_name_is_left_alone() -> None:
    Path(".env").mkdir()

    assert read_dotenv(Path(".env"), {}) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX only")
def test_a_pipe_is_an_error_without_waiting_for_it() -> None:
    os.mkfifo(".env")

    with pytest.raises(SettingsError, match="not a regular file"):
        read_dotenv(Path(".env"), {})


def test_a_link_to_nothing_is_an_error() -> None:
    Path(".env").symlink_to("gone")

    with pytest.raises(SettingsError, match="not a regular file"):
        read_dotenv(Path(".env"), {})


@pytest.mark.parametrize("value", ["a/$NOPE", "a/${NOPE}", '"a/${NOPE}"', "${OTHER-x}/$NOPE"])
def test_a_value_that_chooses_a_database_or_a_folder_is_whole(tmp_path: Path, value: str) -> None:
    (tmp_path / ".env").write_text(f"OTHER_TOOLS={value}\n")
    assert "NOPE" not in read_dotenv(tmp_path / ".env", {})["OTHER_TOOLS"]
    (tmp_path / ".env").write_text(f"DATABASE_URL={value}\n")
    with pytest.raises(SettingsError, match="not set") as caught:
        read_dotenv(tmp_path / ".env", {})
    assert "NOPE" not in str(caught.value)
    assert "/y" in read_dotenv(tmp_path / ".env", {"NOPE": "y"})["DATABASE_URL"]
