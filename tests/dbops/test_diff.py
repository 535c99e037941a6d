"""`diff` and `if_older`, on SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.diff import Table, diff
from repom.dbops.store.store import Store
from repom.errors import Damaged, NotFound, SettingsError
from repom.settings import Settings
from repom.settings.values import duration
from repom.tasks.tables import changed, short
from tests.live.cli import invoke

DAY = timedelta(days=1)


def sql(script: str) -> None:
    with closing(sqlite3.connect("shop.db")) as database:
        database.executescript(script)


@pytest.fixture
def settings(project: Path) -> Settings:
    (project / ".env").write_text("DATABASE_URL=sqlite:///shop.db\n")
    sql("CREATE TABLE item (n INTEGER PRIMARY KEY AUTOINCREMENT); CREATE TABLE gone (n);")
    sql("INSERT INTO item VALUES (1), (2)")
    return Settings.load()


def aged(settings: Settings, age: timedelta) -> None:
    """Give the newest backup another age."""
    newest = dbops.list_backups(settings)[0]
    Store(settings.backup_dir).update(replace(newest, created_at=datetime.now(UTC) - age))


def test_tables_and_rows_that_differ(settings: Settings) -> None:
    dbops.backup(settings)
    assert diff(settings).differ == ()
    sql('DELETE FROM item WHERE n = 1; DROP TABLE gone; CREATE TABLE "new one" (n)')
    found = diff(settings)
    assert found.differ == (
        Table("gone", 0, None),
        Table("item", 2, 1),
        Table("new one", None, 0),
    )
    assert (found.database, found.same, found.unread) == ("shop.db", 0, ())


def test_a_drill_that_is_recorded_is_not_repeated(settings: Settings, project: Path) -> None:
    dbops.backup(settings)
    first, second = (invoke(project, "db.diff") for _ in range(2))
    assert "into a scratch database to count its rows" in first.err
    assert (first.out, second.err) == (second.out, "")
    assert first.out.startswith("No differences in tables and row counts: shop.db_")


def test_a_backup_that_is_damaged(settings: Settings) -> None:
    made = dbops.backup(settings)
    with made.path.open("r+b") as file:
        file.write(b"damage")
    with pytest.raises(Damaged):
        diff(settings, made)


def test_a_database_or_a_backup_that_is_missing(settings: Settings, project: Path) -> None:
    with pytest.raises(NotFound):
        diff(settings)
    dbops.backup(settings)
    (project / "shop.db").unlink()
    with pytest.raises(NotFound):
        diff(settings)
    assert not (project / "shop.db").exists()


def test_a_dry_run_compares_nothing(settings: Settings, project: Path) -> None:
    dbops.backup(settings)
    done = invoke(project, "--dry", "db.diff")
    assert (done.status, done.out) == (0, "")


def test_a_table_whose_module_is_missing_is_named(settings: Settings, project: Path) -> None:
    dbops.backup(settings)
    diff(settings)
    sql(
        "PRAGMA writable_schema = on; INSERT INTO sqlite_master VALUES"
        " ('table', 'odd', 'odd', 0, 'CREATE VIRTUAL TABLE odd USING no_such_module()')"
    )
    assert json.loads(invoke(project, "db.diff", "--json").out)["unread"] == ["odd"]


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (1000, 997, ["1,000", "997", "-3"]),
        (0, 1_234_567, ["0", "1,234,567", "+1,234,567"]),
        (None, 0, ["–", "0", "new"]),
        (5, None, ["5", "–", "gone"]),
    ],
)
def test_how_a_difference_is_shown(before: int | None, now: int | None, said: list[str]) -> None:
    assert [cell.strip() for cell in changed(before, now)] == said


def test_a_long_name_keeps_its_end() -> None:
    assert short("public.item") == "public.item"
    assert short("x" * 60 + ".item") == "…" + "x" * 32 + ".item"


# -- if_older -----------------------------------------------------------------------------


def test_a_younger_backup_will_do(settings: Settings) -> None:
    made = dbops.backup(settings)
    assert dbops.backup(settings, if_older=DAY) == made
    aged(settings, DAY + timedelta(seconds=5))
    assert dbops.backup(settings, if_older=DAY).name != made.name


def test_one_from_the_future_does_not(settings: Settings) -> None:
    made = dbops.backup(settings)
    aged(settings, -timedelta(hours=1))
    assert dbops.backup(settings, if_older=DAY).name != made.name


def test_one_that_was_cut_does_not(settings: Settings) -> None:
    made = dbops.backup(settings)
    os.truncate(made.path, made.size - 1)
    assert dbops.backup(settings, if_older=DAY).name != made.name


def test_one_of_another_file_does_not(settings: Settings, project: Path) -> None:
    made = dbops.backup(settings)
    (project / "shop.db").rename(project / "other.db")
    other = settings.with_database("other.db")
    assert dbops.backup(other, if_older=DAY).name != made.name


def test_what_the_task_says(settings: Settings, project: Path) -> None:
    made = json.loads(invoke(project, "db.backup", "--json").out)
    aged(settings, timedelta(hours=3))
    done = invoke(project, "db.backup", "--if-older", "1d")
    assert (done.status, done.out.strip()) == (0, made["path"])
    assert done.err.strip() == f"No backup needed: {made['name']} was made 3 hours ago"
    again = json.loads(invoke(project, "db.backup", "--if-older", "24h", "--json").out)
    assert again["name"] == made["name"]
    assert len(dbops.list_backups(settings)) == 1


@pytest.mark.parametrize(
    ("text", "minutes"), [("30m", 30), ("24h", 24 * 60), ("7d", 7 * 24 * 60), (None, None)]
)
def test_units(text: str | None, minutes: int | None) -> None:
    expected = None if minutes is None else timedelta(minutes=minutes)
    assert duration("--if-older", text) == expected


@pytest.mark.parametrize("text", ["", "24", "h", "0h", "-1h", "1.5h", "1w", "1h30m", "24H", "1 h"])
def test_a_time_that_is_none(text: str, project: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        duration("--if-older", text)
    assert str(caught.value) == (
        f"--if-older is {text!r}. Allowed: minutes, hours or days, such as 30m, 24h or 7d"
    )
