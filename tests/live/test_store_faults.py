"""What stands in a store's way: a clock that is wrong, databases with names that look like
one another's, and links that lead elsewhere."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest

from repom import dbops
from repom.dbops import upkeep
from repom.dbops.store.backup import Backup
from repom.errors import NotFound, RepomError
from repom.settings import Settings
from tests.live.cli import invoke
from tests.live.servers import Server, settings_for

NOW = datetime(2025, 10, 26, 0, 30, tzinfo=UTC)  # 02:30 in Berlin, for the first time


class Clock(datetime):
    """A clock that shows what it is set to."""

    shown = NOW

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(Clock.shown.timestamp(), tz)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    Clock.shown = NOW
    for module in ("backup", "store.backup", "store.manifest"):
        monkeypatch.setattr(sys.modules[f"repom.dbops.{module}"], "datetime", Clock)
    return Clock


@pytest.fixture
def settings(project: Path) -> Settings:
    with closing(sqlite3.connect(project / "x.db")) as database, database:
        database.executescript("CREATE TABLE t (a); INSERT INTO t VALUES ('first')")
    return Settings.load(environ={"DATABASE_URL": "sqlite:///x.db"}, cwd=project)


def names(settings: Settings) -> list[str]:
    return [b.name for b in dbops.list_backups(settings)]


def latest(settings: Settings) -> str:
    return upkeep.find_backup(settings).name


# -- the clock --------------------------------------------------------------------------


def test_the_hour_that_comes_twice(
    clock: type[Clock], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        first = dbops.backup(settings)
        clock.shown += timedelta(hours=1)
        assert clock.now().hour == 2, "it is 02:30 again"
        second = dbops.backup(settings)
        assert names(settings) == [second.name, first.name]
        assert latest(settings) == second.name
        dbops.prune(settings, keep=1)
        assert names(settings) == [second.name]
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("back", [timedelta(hours=1), timedelta(days=3653)])
def test_a_clock_that_jumps_back(
    clock: type[Clock], settings: Settings, back: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """The new backup is not the newest by name: it says so, counts as it, and stays."""
    ahead = dbops.backup(settings)
    clock.shown -= back
    made: list[Backup] = []
    for _ in range(3):
        clock.shown += timedelta(minutes=1)
        made.append(dbops.backup(settings, keep=1))
        assert f"{ahead.name} is dated in the future" in caplog.text
        assert ahead.name in names(settings)
        assert made[-1].name in names(settings), "the backup just made is gone"
        assert latest(settings) == made[-1].name
    dbops.prune(settings, keep=1)
    assert names(settings) == [ahead.name, made[-1].name]
    clock.shown += back
    made.append(dbops.backup(settings, keep=1))
    assert names(settings) == [made[-1].name]
    assert latest(settings) == made[-1].name


def test_a_clock_that_stands_still(clock: type[Clock], settings: Settings) -> None:
    made = [dbops.backup(settings).name for _ in range(3)]
    dbops.prune(settings, keep=1)
    made.append(dbops.backup(settings, label="again").name)
    assert len(set(made)) == 4
    assert names(settings) == [made[3], made[2]]
    assert latest(settings) == made[3]


def test_no_clock_makes_all_go(clock: type[Clock], settings: Settings) -> None:
    """Ages count from the newest backup, not from the clock."""
    made = [dbops.backup(settings).name]
    clock.shown += timedelta(days=3653)
    dbops.prune(settings, keep=1, days=1)
    assert names(settings) == made
    clock.shown += timedelta(seconds=1)
    made.append(dbops.backup(settings).name)
    dbops.prune(settings, keep=1, days=1)
    assert names(settings) == made[1:]


# -- names ------------------------------------------------------------------------------

ALIKE = ("a", "a_b", "a_test", "a.b", "A", "a_20260101T000000Z")


@pytest.fixture
def alike(postgres_host: Server) -> Iterator[Server]:
    """Databases whose names begin like one another's, each with its name in a table."""
    for name in ALIKE:
        postgres_host.create(name)
        postgres_host.sql(f"CREATE TABLE who AS SELECT '{name}'::text AS name", name)
    yield postgres_host
    for name in postgres_host.databases():
        if name in ALIKE or name.startswith("repom_"):
            postgres_host.sql(f'DROP DATABASE "{name}" WITH (FORCE)', "postgres")


def test_databases_with_names_alike_in_one_store(alike: Server, project: Path) -> None:
    each = {name: settings_for(alike, project, name) for name in ALIKE}
    made = {name: [dbops.backup(each[name]) for _ in range(2)] for name in ALIKE}
    for name in ALIKE:
        others = {b.name for other in ALIKE if other != name for b in made[other]}
        (each[name].backup_dir / f".{made[name][1].name}.partial").touch()
        gone = [b.name for b, _reason in dbops.prune(each[name], keep=1).deleted]
        assert gone == [made[name][0].name]
        assert latest(each[name]) == made[name][1].name
        alike.sql("UPDATE who SET name = 'changed'", name)
        dbops.restore(made[name][1], each[name])
        for other in ALIKE:
            assert alike.sql("SELECT name FROM who", other) == other
        assert others <= set(names(each[name])) | {made[n][0].name for n in ALIKE}
        made[name].pop(0)
    assert sorted(names(each["a"])) == sorted(b.name for bs in made.values() for b in bs)
    dbops.undo(each["a"])
    assert [alike.sql("SELECT name FROM who", n) for n in ALIKE] == ["changed", *ALIKE[1:]]


def test_a_clean_up_takes_only_the_partial_files_of_its_database(
    alike: Server, project: Path
) -> None:
    each = {name: settings_for(alike, project, name) for name in ALIKE}
    folder = each["a"].backup_dir
    folder.mkdir()
    partial = {name: folder / f".{name}_20260102T000000Z.dump.partial" for name in ALIKE}
    for path in partial.values():
        path.touch()
    for name in ALIKE:
        dbops.backup(each[name])
        assert not partial.pop(name).exists()
        assert all(path.exists() for path in partial.values())


# -- links ------------------------------------------------------------------------------

NEXT = "x.db_20251026T003000Z.sqlite3.zst"
PLACES = {
    "backup": NEXT,
    "manifest": f"{NEXT}.json",
    "partial": f".{NEXT}.partial",
    "copy": f".{NEXT}.partial.copy.partial",
    "partial manifest": f".{NEXT}.json.partial",
    "lock": ".x.db.lock",
    "holder": ".x.db.holder",
}


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that is none of repom's business, looked at again afterwards."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "precious").write_text("precious")
    before = look(folder)
    yield folder
    assert look(folder) == before


def look(folder: Path) -> list[tuple[str, str, int]]:
    return [(p.name, p.read_text(), p.stat().st_mtime_ns) for p in sorted(folder.iterdir())]


@pytest.mark.parametrize("target", ["precious", "missing", "."])
@pytest.mark.parametrize("place", PLACES)
def test_a_link_in_the_store_is_never_followed(
    clock: type[Clock], settings: Settings, outside: Path, place: str, target: str
) -> None:
    clock.shown -= timedelta(hours=1)
    first = dbops.backup(settings)
    clock.shown = NOW
    link = settings.backup_dir / PLACES[place]
    link.unlink(missing_ok=True)
    link.symlink_to(outside / target)
    try:
        made = [dbops.backup(settings).name]
    except RepomError as error:
        assert place == "lock", error
        link.unlink()
        made = []
    assert names(settings) == [*made, first.name]
    clock.shown += timedelta(minutes=1)
    made.append(dbops.backup(settings, keep=1).name)
    dbops.prune(settings, keep=1)
    assert names(settings) == made[-1:]
    assert dbops.verify(None, settings).problems == ()
    dbops.restore(made[-1], settings)


def test_a_manifest_that_became_a_link(settings: Settings, outside: Path) -> None:
    made = dbops.backup(settings)
    made.manifest.rename(settings.backup_dir / "moved")
    made.manifest.symlink_to(outside / "precious")
    assert [b.is_verified for b in dbops.list_backups(settings)] == [False]
    with pytest.raises(RepomError, match="manifest"):
        dbops.pin(made.name, settings)
    dbops.backup(settings, keep=1)
    assert made.name in names(settings), "what is not proven is not deleted"


def test_a_backup_that_became_a_link(settings: Settings, outside: Path) -> None:
    """A link is no backup: not listed, not found, not deleted."""
    made = dbops.backup(settings)
    made.path.unlink()
    made.path.symlink_to(outside / "precious")
    assert names(settings) == []
    with pytest.raises(NotFound):
        dbops.restore(made.name, settings)
    dbops.backup(settings, keep=1)
    assert made.path.is_symlink()


def test_a_store_that_is_a_link(
    settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is the folder that it leads to."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    settings.backup_dir.symlink_to(elsewhere)
    first = dbops.backup(settings)
    second = dbops.backup(settings, keep=1)
    assert names(settings) == [second.name] != [first.name]
    assert {p.name for p in elsewhere.iterdir()} >= {second.name, f"{second.name}.json"}
    dbops.restore(second, settings)


def test_a_store_that_leads_nowhere(settings: Settings, outside: Path) -> None:
    settings.backup_dir.symlink_to(outside / "missing")
    for task in (["db.backup"], ["db.restore", "--latest", "--yes"], ["db.prune"], ["db.verify"]):
        ended = invoke(settings.project, *task, env={"DATABASE_URL": "sqlite:///x.db"})
        assert ended.status in (1, 4), ended.err
        assert len(ended.err.strip().splitlines()) == 1
    settings.backup_dir.unlink()
    assert dbops.backup(settings).path.is_file()
