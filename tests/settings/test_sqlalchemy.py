"""What a Python program works with, SQLAlchemy's engines and URLs, names the database."""

from __future__ import annotations

import subprocess
import sys
import traceback
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url

from repom import dbops
from repom.errors import SettingsError
from repom.settings import Settings
from repom.settings.address import Address
from tests.live.cli import environment

CANARY = "s3cret:/@c#?%4 nary"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Of a file that is relative to the working directory, in a project with a database
    of its own."""
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///other.db\nREPOM_KEEP=3\n")
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    made = create_engine("sqlite:///~shop.db")
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE album (title)"))
        connection.execute(text("INSERT INTO album VALUES ('first')"))
    return made


def test_an_engines_database_is_backed_up_and_restored(tmp_path: Path, engine: Engine) -> None:
    made = dbops.backup(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE album SET title = 'second'"))
    engine.dispose()

    done = dbops.restore(made, engine)

    assert (made.database, done.database) == ("src/~shop.db", "src/~shop.db")
    assert tmp_path / "backups" == made.path.parent
    with closing(engine.connect()) as connection:
        assert connection.execute(text("SELECT title FROM album")).scalar() == "first"
    engine.dispose()
    assert [made.name] == [b.name for b in dbops.list_backups(engine.url)]
    assert dbops.verify(made.name, engine.url).problems == ()
    assert list(dbops.prune(engine).deleted) == []
    assert dbops.pin(made.name, engine).pinned
    assert made.name != dbops.undo(engine).replaced


def test_all_other_settings_are_the_configured_ones(tmp_path: Path, engine: Engine) -> None:
    found = Settings.of(engine)

    assert (tmp_path, 3, True) == (found.project, found.keep, found.configured)
    assert tmp_path / "src/~shop.db" == found.sqlite_path
    assert found is Settings.of(found)
    assert Settings.load() == Settings.of(None) == Settings.of()


def test_a_configured_url_that_cannot_be_used_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "junk")

    assert Settings.of(make_url("postgresql://db/shop")).backend == "postgresql"


@pytest.mark.parametrize("user", ["ann", "a@n:n"])
def test_a_url_of_postgresql_is_an_address(user: str) -> None:
    query = {"sslmode": "require", "options": "-c a=b", "application_name": "x"}
    url = URL.create("postgresql+psycopg", user, CANARY, "::1", 5433, "a b'c%20", query)

    found = Settings.of(url)

    options = (("sslmode", "require"),)
    assert Address("::1", 5433, user, "a b'c%20", CANARY, options, "-c a=b") == found.address
    assert CANARY not in repr(found)


def test_what_a_url_leaves_out_is_left_open() -> None:
    found = Settings.of(URL.create("postgresql", query={"host": "/run/pg"})).address

    assert Address("/run/pg", None, "postgres", "postgres") == found


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (URL.create("mysql", "u", CANARY, "h"), "is a mysql URL"),
        (URL.create("sqlite"), "does not name an SQLite file on disk"),
        (URL.create("sqlite", database=":memory:"), "does not name an SQLite file on disk"),
        (URL.create("sqlite", database="file:x.db"), "does not name an SQLite file on disk"),
        (URL.create("postgresql", "u", CANARY, "a b"), "The host in SQLAlchemy's URL"),
        (URL.create("postgresql", "u", CANARY, "h", 70000), "The port in SQLAlchemy's URL"),
        (URL.create("postgresql", "u", CANARY, "h", 0), "The port in SQLAlchemy's URL"),
        (URL.create("postgresql", "u", f"{CANARY}\0", "h"), "not a database URL"),
        (URL.create("postgresql", "u", CANARY, query={"host": ("a", "b")}), "several hosts"),
        (URL.create("postgresql", "u", CANARY, "a", query={"host": "b"}), "two values for host"),
        (URL.create("postgresql", "u", CANARY, query={"service": "x"}), "parameter service"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(url: URL, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.of(url)

    assert said in caught.value.message
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("source", ["sqlite:///x.db", Path("x.db"), 5, object()])
def test_what_names_no_database_is_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match="expected Settings"):
        dbops.backup(source)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["--list", "db.backup"])
@pytest.mark.parametrize("name", ["DATABASE_URL", "OTHER"])
def test_a_task_does_not_import_sqlalchemy(tmp_path: Path, task: str, name: str) -> None:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    (tmp_path / ".env").write_text(f"{name}=sqlite:///shop.db\n")
    configured = tmp_path / ("shop.db" if name == "DATABASE_URL" else "data/repom.sqlite3")
    for path in [configured]:
        path.parent.mkdir(exist_ok=True)
        with closing(create_engine(f"sqlite:///{path}").connect()) as connection:
            connection.execute(text("CREATE TABLE album (title)"))

    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "invoke", task],
        env=environment(),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "repom.settings" in done.stderr
    assert not {"sqlalchemy", "dotenv"} & {
        n.split("|")[-1].strip() for n in done.stderr.split("\n")
    }


def test_only_the_settings_know_of_sqlalchemy() -> None:
    root = Path(__file__).parents[2] / "repom"
    knowing = {p.parent.name for p in root.rglob("*.py") if "sqlalchemy" in p.read_text("utf-8")}

    assert {"settings"} == knowing
