"""The table of `db.list`: it fits a terminal, and what it shows of a name can be typed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from repom.dbops.database import Facts
from repom.dbops.store.backup import Backup, Origin
from repom.settings import Settings
from repom.tasks import listing
from tests.live.cli import invoke

NOW = datetime.now(UTC)
HERE = Origin(where="container app-db-1", project="/home/me/app", branch="main")


def made(name: str = "app_20260224T150000Z.dump", **more: Any) -> Backup:
    common = {"path": Path("/b") / name, "database": "app", "backend": "postgresql"}
    common |= {"format": "custom", "created_at": NOW - timedelta(hours=3), "size": 38_000_000}
    common |= {"verified": ("complete", "sha256"), "origin": HERE, "facts": Facts()}
    return Backup(name=name, **{**common, **more})


SETTINGS = Settings.load(environ={"POSTGRES_DB": "app"}, cwd=Path("/"))


def asked() -> str | None:
    raise AssertionError("the server was asked")


def rows(*backups: Backup, system: Callable[[], str | None] = asked) -> list[str]:
    head, _rule, *lines = listing.drawn(SETTINGS, backups, system).splitlines()
    return [head, *lines]


def test_the_table_shows_name_age_size_and_marks() -> None:
    newest, old = made(), made("app_20250101T000000Z.dump", created_at=NOW - timedelta(days=90))
    assert rows(newest, replace(old, size=3_800_000, pinned=True)) == [
        "Backup                Age      Size      Marks   Branch",
        "app_20260224T150000Z  3 hours   38 MB ▇  latest  main",
        "app_20250101T000000Z  90 days  3.8 MB ▁  pinned  main",
    ]


@pytest.mark.parametrize(
    ("more", "marks"),
    [
        ({}, "latest"),
        ({"pinned": True, "verified": ("complete", "sha256", "drill")}, "latest, pinned, drilled"),
        ({"partial": ("log_*",), "pulled": True}, "partial, pulled"),
        ({"verified": ()}, "unverified"),
        ({"verified": (), "problem": "its checksum differs"}, "damaged"),
        ({"created_at": NOW + timedelta(days=1)}, "latest, in the future"),
    ],
)
def test_what_is_special_about_a_backup_is_marked(more: dict[str, Any], marks: str) -> None:
    _head, row = rows(replace(made(), origin=Origin(), **more))
    assert row.partition("▇")[2].strip() == marks


def test_bars_compare_the_sizes_of_each_database() -> None:
    sizes = [1000, 750, 500, 250, 1, 0]
    small = [made(size=s) for s in sizes]
    other = made("big_20260224T150000Z.dump", database="big", size=10**12)
    bars = [char for row in rows(*small, other) for char in row if char in "▁▂▃▅▇"]
    assert "".join(bars) == "▇▅▃▂▁▁▇"


@pytest.mark.parametrize(
    ("origin", "system", "shown"),
    [
        (HERE, "1", ""),
        (replace(HERE, where="container old-db-1"), "2", "old-db-1"),
        (replace(HERE, where="db.example.com:5432"), None, "db.example.com:5432"),
        (HERE, "2", "another"),  # the container was made anew
        (Origin(), None, ""),
    ],
)
def test_the_server_is_shown_where_it_differs(
    origin: Origin, system: str | None, shown: str
) -> None:
    usual = made(facts=Facts(system_identifier="1"))
    head, _first, row = rows(
        usual,
        made(origin=replace(origin, branch=None), facts=Facts(system_identifier=system)),
        system=lambda: "1",
    )
    assert ("Server" in head) is bool(shown)
    assert row.partition("▇")[2].strip() == shown


def test_a_commit_stands_for_a_branch() -> None:
    detached = replace(HERE, branch=None, commit="0123456789abcdef")
    head, row = rows(made(origin=detached, facts=Facts(migration="9f1c")))
    assert head.split()[-2:] == ["Branch", "Migration"]
    assert row.split()[-2:] == ["0123456", "9f1c"]


LABELS = ["", "_before-migration", "_" + "x" * 40]
BRANCHES = ["", "main", "feature/a-very-long-branch-name-of-a-developer", "登录" * 20, "a\x1b[31mb"]


@pytest.mark.parametrize("numbered", [False, True])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("database", ["app", "data%2Fdb.sqlite3", "d" * 60])
@pytest.mark.parametrize("branch", BRANCHES)
def test_no_row_is_wider_than_a_terminal_unless_a_name_is(
    database: str, label: str, branch: str, numbered: bool
) -> None:
    backups = [
        made(
            f"{database}_20260224T1500{n:02}Z{label}.dump",
            database=database,
            verified=("complete", "sha256", "archive", "drill"),
            pinned=n == 3,
            origin=replace(HERE, branch=branch, where=f"container {'c' * n}-db-1"),
            facts=Facts(migration="0042_auto_20260101_1200" * (n % 5)),
        )
        for n in range(12)
    ]
    lines = listing.drawn(SETTINGS, backups, asked, numbered=numbered).splitlines()
    name = f"{database}_20260224T150000Z"
    rest = "12  " + "  59 minutes" + "  38 MB ▇" + "  latest, drilled"
    assert max(map(cell_len, lines)) <= max(80, len(name) + len("_x") + len(rest))
    assert all(b.name[: len(name)] in line for b, line in zip(backups, lines[2:], strict=True))
    assert "\x1b" not in "".join(lines)


def test_the_latest_is_that_of_this_server_and_project() -> None:
    there = made("app_20260224T160000Z.dump", facts=Facts(system_identifier="2"))
    here = made("app_20260224T150000Z.dump", facts=Facts(system_identifier="1"))
    other = made("big_20260224T170000Z.dump", database="big")
    for mine, marked in (("1", here), ("2", there), (None, there)):
        _head, *lines = rows(other, there, here, system=lambda known=mine: known)  # type: ignore[misc]
        assert [line[:20] for line in lines if "latest" in line] == [marked.name[:20]]


def test_the_list_marks_what_latest_takes_although_the_database_cannot_be_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    env = {"DATABASE_URL": "sqlite:///app.db"}
    with closing(sqlite3.connect(tmp_path / "app.db")) as database, database:
        database.execute("CREATE TABLE t (a)")
    assert invoke(tmp_path, "db.backup", env=env).status == 0
    (tmp_path / "app.db").write_text("not a database any more")
    ended = invoke(tmp_path, "db.list", env={**env, "PYTHONIOENCODING": "ascii"})
    assert ended.status == 0
    [_head, rule, row] = ended.out.splitlines()
    assert set(rule) == {"-"}
    assert row.endswith("#  latest")
