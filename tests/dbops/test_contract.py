"""The contract of a database: the same assertions on SQLite, on the host's PostgreSQL and on
each container. dump → damage → restore → equal, and nothing lost when it does not work."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import Damaged, RepomError
from repom.settings import Settings
from tests.live.servers import FIDELITY, SERVERS, Server, settings_for


class Subject:
    """A database that the contract is tried on."""

    settings: Settings

    def damage(self) -> None:
        raise NotImplementedError

    def content(self) -> str:
        """All of it as text: equal texts are equal databases."""
        raise NotImplementedError

    def leftovers(self) -> list[str]:
        raise NotImplementedError


@dataclass
class PostgresSubject(Subject):
    server: Server
    settings: Settings
    flags: tuple[str, ...]

    def damage(self) -> None:
        self.server.sql(
            "DROP TABLE shop.item, raw, measure CASCADE; CREATE TABLE stranger (a int);"
            "UPDATE moments SET n = 0; ALTER TYPE shop.mood ADD VALUE 'new'"
        )

    def content(self) -> str:
        return self.server.dump("shop", *self.flags)

    def leftovers(self) -> list[str]:
        return self.server.leftovers()


@dataclass
class SqliteSubject(Subject):
    path: Path
    settings: Settings

    def damage(self) -> None:
        with closing(sqlite3.connect(self.path)) as database, database:
            database.executescript("DROP TABLE raw; CREATE TABLE stranger (a); DELETE FROM shop")

    def content(self) -> str:
        with closing(sqlite3.connect(self.path)) as database:
            return "\n".join(database.iterdump())

    def leftovers(self) -> list[str]:
        return [p.name for p in self.path.parent.glob(".repom/*.scratch_*")]


def make_sqlite(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(
            "CREATE TABLE shop (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price REAL);"
            "CREATE TABLE raw (data BLOB, text TEXT);"
            "CREATE INDEX raw_text ON raw (text);"
            "CREATE VIEW dear AS SELECT * FROM shop WHERE price > 10;"
            "CREATE TRIGGER touch AFTER INSERT ON shop"
            " BEGIN INSERT INTO raw VALUES (NULL, 'x'); END;"
        )
        database.executemany(
            "INSERT INTO shop (name, price) VALUES (?, ?)", [(f"n{n}", n / 7) for n in range(500)]
        )
        rows = [(bytes([n]), f"{n}\r\n\\.\tあ") for n in range(256)]
        database.executemany("INSERT INTO raw VALUES (?, ?)", rows)


def subjects(*names: str) -> pytest.MarkDecorator:
    """The databases that a test is for, those in containers marked as live."""
    live = pytest.mark.live
    params = [pytest.param(n, marks=live if n.startswith("postgres_1") else ()) for n in names]
    return pytest.mark.parametrize("subject", params, indirect=True)


#: Each kind, major version and format; and one of each kind, where these do not matter.
EVERY = subjects("sqlite", *[f"{s}-{f}" for s in SERVERS for f in ("custom", "plain")])
EACH_KIND = subjects("sqlite", "postgres_host-plain", "postgres_18-custom")


@pytest.fixture
def subject(request: pytest.FixtureRequest, project: Path) -> Iterator[Subject]:
    """A filled database, and the format that its backups have."""
    if request.param == "sqlite":
        path = project / "shop.sqlite3"
        make_sqlite(path)
        environ = {"DATABASE_URL": "sqlite:///shop.sqlite3"}
        yield SqliteSubject(path, Settings.load(environ=environ, cwd=project))
        return
    name, format = request.param.split("-")
    server: Server = request.getfixturevalue(name)
    server.create("shop", FIDELITY.read_text())
    settings = settings_for(server, project, REPOM_FORMAT=format)
    flags = ("--no-owner", "--no-acl") if format == "plain" else ()
    yield PostgresSubject(server, settings, flags)
    server.clean()


@EVERY
def test_what_was_backed_up_comes_back_equal(subject: Subject) -> None:
    before = subject.content()
    made = dbops.backup(subject.settings)
    subject.damage()
    damaged = subject.content()
    assert damaged != before

    done = dbops.restore(made, subject.settings)

    assert subject.content() == before
    assert done.database == subject.settings.database
    assert done.replaced
    assert subject.leftovers() == []


@EVERY
def test_a_restore_can_be_undone_and_the_undo_too(subject: Subject) -> None:
    before = subject.content()
    made = dbops.backup(subject.settings)
    subject.damage()
    damaged = subject.content()
    dbops.restore(made, subject.settings)

    dbops.undo(subject.settings)
    assert subject.content() == damaged
    dbops.undo(subject.settings)
    assert subject.content() == before


@EACH_KIND
def test_a_backup_is_private_whole_and_described(subject: Subject) -> None:
    made = dbops.backup(subject.settings, label="first")

    assert made.path.stat().st_size == made.size > 0
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.path.parent.stat().st_mode) == 0o700
    assert made.verified == ("complete", "sha256")
    assert (made.facts.tables or 0) > 0
    assert made.server_version
    assert made.tool_version
    assert [b.name for b in dbops.list_backups(subject.settings)] == [made.name]
    files = sorted(
        p.name for p in made.path.parent.iterdir() if not p.name.endswith((".lock", ".gitignore"))
    )
    assert files == [made.name, f"{made.name}.json"]
    assert dbops.verify(made.name, subject.settings).problems == ()


@EACH_KIND
def test_a_truncated_backup_changes_nothing(subject: Subject, project: Path) -> None:
    made = dbops.backup(subject.settings)
    content, before = made.path.read_bytes(), subject.content()
    for share in (0.0, 0.3, 0.999):
        made.path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(Damaged):
            dbops.restore(made, subject.settings)
        # The same without the manifest's help, as a file from somewhere else.
        alone = project / made.name
        alone.write_bytes(made.path.read_bytes())
        with pytest.raises(RepomError):
            dbops.restore(alone, subject.settings)
    assert subject.content() == before
    assert subject.leftovers() == []


@EACH_KIND
def test_older_backups_are_pruned_and_the_newest_stay(subject: Subject) -> None:
    made = [dbops.backup(subject.settings, keep=2) for _ in range(4)]

    names = [b.name for b in dbops.list_backups(subject.settings)]
    assert names == [made[3].name, made[2].name]
