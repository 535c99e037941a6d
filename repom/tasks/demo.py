"""`demo`: a backup and a restore of a small sample database, in a few seconds."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from invoke import Context

from repom.errors import CommandFailed
from repom.settings import Settings

from .console import command, run, say, show
from .tables import size, table

FOLDER = "repom-demo"

SHOP = """
CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE album (
    id INTEGER PRIMARY KEY, artist_id INTEGER NOT NULL REFERENCES artist, title TEXT NOT NULL,
    year INTEGER NOT NULL, cents INTEGER NOT NULL
);
CREATE TABLE sale (
    id INTEGER PRIMARY KEY, album_id INTEGER NOT NULL REFERENCES album, sold_on TEXT NOT NULL,
    copies INTEGER NOT NULL
);
CREATE INDEX sale_album ON sale (album_id);
INSERT INTO artist (name) VALUES ('The Index Scans'), ('Ada & the Cursors'), ('João do Join'),
    ('Nested Loop'), ('Lady Vacuum');
INSERT INTO album (artist_id, title, year, cents)
    SELECT a.id, 'Volume ' || n.value || ' of ' || a.name, 1990 + n.value, 999 + 50 * n.value
    FROM artist a, json_each('[1,2,3,4,5,6,7,8]') n;
WITH RECURSIVE day(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM day WHERE n < 99)
INSERT INTO sale (album_id, sold_on, copies)
    SELECT album.id, date('2026-01-01', '+' || n || ' days'), 1 + (album.id * n) % 5
    FROM album, day;
"""
DAMAGE = "DROP TABLE artist; DELETE FROM sale; UPDATE album SET cents = 0;"


@command(help={})
def demo(c: Context) -> None:
    """Back up, damage and restore a small sample database."""
    from repom import dbops

    folder = Path.cwd() / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / ".env").write_text("DATABASE_URL=sqlite:///shop.sqlite3\n")
    settings = Settings(folder, sqlite="shop.sqlite3", backup_dir=folder / "backups")
    path = settings.sqlite_path
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    _execute(path, SHOP)
    before, content = _rows(path), _content(path)
    made = dbops.backup(settings, label="demo")
    say(f"Backed up {sum(before.values())} rows: {made.name} ({size(made.size)})")
    _execute(path, DAMAGE)
    damaged = _rows(path)
    say("Damaged the database: one table dropped, one emptied, all prices set to 0")
    done = dbops.restore(made, settings)
    after = _rows(path)
    say(f"Restored in {done.duration_s:.2f} s; the damaged database is kept for db.undo")
    rows = [(t, str(n), str(damaged.get(t, "gone")), str(after.get(t))) for t, n in before.items()]
    show(table(("Table", "Before", "Damaged", "Restored"), rows))
    if _content(path) != content:
        raise CommandFailed("The restored database differs from the one that was backed up")
    say(f"Every row came back. Look around: cd {FOLDER}, then {run('db.list')} or {run('db.undo')}")


def _execute(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as shop:
        shop.executescript(script)


def _rows(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as shop:
        names = shop.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        count = "SELECT count(*) FROM {}"
        return {n: shop.execute(count.format(n)).fetchone()[0] for (n,) in names.fetchall()}


def _content(path: Path) -> list[str]:
    """Every table and row as SQL."""
    with closing(sqlite3.connect(path)) as shop:
        return list(shop.iterdump())
