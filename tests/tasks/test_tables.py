"""Sizes, times, tables and command lines as people read them."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repom.errors import NotFound, Refused, advice
from repom.tasks import console
from repom.tasks.tables import age, clock, counted, printable, size, table

NOW = datetime(2026, 2, 24, 15, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1_000, "1.0 kB"),
        (9_940, "9.9 kB"),
        (9_990, "10 kB"),
        (999_499, "999 kB"),
        (999_600, "1.0 MB"),
        (1_900_000, "1.9 MB"),
        (38_400_000, "38 MB"),
        (999_999_999, "1.0 GB"),
        (752_000_000_000, "752 GB"),
        (5 * 10**12, "5000 GB"),
    ],
)
def test_a_size(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**12 - 10**9))
def test_a_size_has_at_most_three_digits(count: int) -> None:
    assert float(size(count).split()[0]) < 1000


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (timedelta(), "just now"),
        (timedelta(seconds=59), "just now"),
        (timedelta(seconds=60), "1 minute ago"),
        (timedelta(minutes=59, seconds=59), "59 minutes ago"),
        (timedelta(hours=1), "1 hour ago"),
        (timedelta(hours=23, minutes=59), "23 hours ago"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=800), "800 days ago"),
        (timedelta(hours=-1), "just now"),  # a clock that was put back
    ],
)
def test_an_age(ago: timedelta, text: str) -> None:
    assert age(NOW - ago, NOW) == text


def test_a_time_of_day_has_a_date_unless_it_is_today() -> None:
    local = NOW.astimezone()
    assert clock(NOW, NOW) == f"{local:%H:%M}"
    assert clock(NOW - timedelta(days=2), NOW) == f"{local - timedelta(days=2):%Y-%m-%d %H:%M}"


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 tables"), (1, "1 table"), (2, "2 tables"), (1000, "1000 tables")]
)
def test_a_number_of_things(number: int, text: str) -> None:
    assert counted(number, "table") == text


def test_a_table_is_plain_text_that_is_never_cut() -> None:
    long = "x" * 300
    lines = table(("Backup", "Size"), [(long, "1 MB"), ("[red]b\x1b[0m", "2 MB")]).splitlines()
    assert [line.split() for line in lines if not line.startswith("─")] == [
        ["Backup", "Size"],
        [long, "1", "MB"],
        ["[red]b\\x1b[0m", "2", "MB"],
    ]


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_table_has_no_control_codes_whatever_the_terminal(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "1")
    assert "\x1b" not in table(("Name",), [("shop",)], numbered=True)


def test_rows_can_be_numbered() -> None:
    lines = table(("Backup",), [("a",), ("b",)], numbered=True).splitlines()
    assert [line.split() for line in (lines[0], *lines[-2:])] == [
        ["#", "Backup"],
        ["1", "a"],
        ["2", "b"],
    ]


def test_control_characters_are_escaped() -> None:
    assert printable("ä\x1b[31m\u202e\n") == "ä\\x1b[31m\\u202e\n"
    assert printable("a\nb", keep="") == "a\\nb"


# -- hints name the program that was typed ------------------------------------------------

HINT = advice("Run: {}. Or: {}", "db.undo", "db.restore --latest")


@pytest.mark.parametrize(
    ("typed", "started_as", "shown"),
    [
        ("/usr/bin/invoke", "", "invoke"),
        ("inv", "", "inv"),
        ("/home/me/.local/bin/repom", "repom", "repom"),
        ("inv.exe", "", "inv"),
        ("renamed", "repom", "repom"),
        ("/lib/python/invoke/__main__.py", "", "invoke"),
    ],
)
def test_a_command_line_begins_with_the_program_that_was_typed(
    monkeypatch: pytest.MonkeyPatch, typed: str, started_as: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [typed, "db.list"])
    monkeypatch.setattr(console, "_started_as", started_as)
    assert console.run("db.undo") == f"{shown} db.undo"
    error = Refused("Another restore ran", HINT)
    assert error.told(console.program()) == (
        f"Another restore ran. Run: {shown} db.undo. Or: {shown} db.restore --latest"
    )


@pytest.mark.parametrize("error", [NotFound("No backup", HINT), NotFound("No backup")])
def test_a_failure_shows_its_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: NotFound
) -> None:
    monkeypatch.setattr(sys, "argv", ["inv"])

    @console.command(help={})
    def fails(c: object) -> None:
        raise error

    with pytest.raises(console.Exit) as ended:
        fails.body(None)
    assert ended.value.code == 4
    hint = ". Run: inv db.undo. Or: inv db.restore --latest" if error.hint else ""
    assert capsys.readouterr().err == f"No backup{hint}\n"


def test_a_hint_in_the_log_names_the_program_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["inv"])

    @console.command(help={})
    def warns(c: object) -> None:
        logging.getLogger("repom").warning("Nothing was pruned. %s", HINT)

    warns.body(None)
    expected = "Nothing was pruned. Run: inv db.undo. Or: inv db.restore --latest\n"
    assert capsys.readouterr().err == expected
