"""Scripts that run in a restored SQLite file before it takes over."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import CommandFailed, SettingsError
from repom.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database, database:
        database.execute("CREATE TABLE person (mail)")
        database.execute("INSERT INTO person VALUES ('ann@secret.example')")
    return Settings(tmp_path, sqlite="shop.db", backup_dir=tmp_path / "backups")


def hooked(settings: Settings, *scripts: str) -> Settings:
    paths = [settings.project / f"{number}.sql" for number in range(len(scripts))]
    for path, script in zip(paths, scripts, strict=True):
        path.write_text(script)
    return replace(settings, after_load=tuple(paths))


def mails(settings: Settings) -> list[str]:
    with closing(sqlite3.connect(settings.sqlite_path)) as database:
        return [mail for (mail,) in database.execute("SELECT mail FROM person")]


def test_scripts_change_the_restored_file_and_leave_nothing_of_the_old_values(
    settings: Settings,
) -> None:
    made = dbops.backup(settings)
    scrub = "-- mails; all of them\nUPDATE person SET mail = 'scrubbed;';"
    dbops.restore(made, hooked(settings, scrub, "INSERT INTO person VALUES ('me')"))

    assert mails(settings) == ["scrubbed;", "me"]
    assert b"secret" not in settings.sqlite_path.read_bytes()
    dbops.undo(settings)
    assert mails(settings) == ["ann@secret.example"]


@pytest.mark.parametrize(
    ("script", "line", "words"),
    [
        ("\n\nSELECT 1;\nSELECT\n absent;", 4, "no such column: absent"),
        ("SELECT 1; ATTACH 'other.db' AS other;", 1, "ATTACH or VACUUM is not allowed"),
        ("SELECT 1;\nCOMMIT;", 2, "BEGIN, COMMIT or ROLLBACK is not allowed"),
        ("SAVEPOINT one;", 1, "SAVEPOINT is not allowed"),
        ("SELECT 1;\nSELECT 'open", 2, "unrecognized token"),
    ],
)
def test_a_script_that_fails_replaces_nothing(
    settings: Settings, script: str, line: int, words: str
) -> None:
    made = dbops.backup(settings)
    with closing(sqlite3.connect(settings.sqlite_path)) as database, database:
        database.execute("UPDATE person SET mail = 'now'")
    script = "UPDATE person SET mail = 'half'; " + script
    with pytest.raises(CommandFailed, match=f"0.sql failed in line {line}: .*{words}") as caught:
        dbops.restore(made, hooked(settings, script))

    assert caught.value.exit_status == 1
    assert mails(settings) == ["now"]
    assert {path.name for path in settings.project.iterdir()} == {
        *("shop.db", "backups", ".repom", "0.sql")
    }


def test_a_script_that_is_not_there_is_an_error_before_anything(settings: Settings) -> None:
    made = dbops.backup(settings)
    with pytest.raises(SettingsError, match=r"gone\.sql cannot be read"):
        dbops.restore(made, replace(settings, after_load=(settings.project / "gone.sql",)))
