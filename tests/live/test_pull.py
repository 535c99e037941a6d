"""Data from elsewhere: pulled from another server, and scrubbed before it takes over."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.pull import plan_pull
from repom.errors import CommandFailed, Refused
from tests.live.cli import ROOT, environment, invoke
from tests.live.servers import PASSWORD, Server, settings_for
from tests.shop import SHOP, opened

SOURCE = """CREATE ROLE theirs;
CREATE TABLE auth_user (id int, username text, first_name text, last_name text, email text,
  password text, is_superuser bool);
INSERT INTO auth_user VALUES (7, 'ann', 'Ann', 'Lee', 'ann@secret.example', 'hash', true);
ALTER TABLE auth_user OWNER TO theirs;
CREATE TABLE django_session (session_key text, session_data text, expire_date timestamptz);
INSERT INTO django_session VALUES ('key', 'ann', now());
CREATE TABLE django_admin_log (id int, object_repr text);
"""
USERS = "SELECT id, username, first_name, email, password FROM auth_user"
SCRUBBED = "7|user7||user7@example.org|!"


@pytest.fixture
def theirs(postgres_15: Server) -> Iterator[Server]:
    """The other server. It is older, so that the programs of the project's container fit."""
    postgres_15.create("live_shop", SOURCE)
    yield postgres_15
    postgres_15.sql("DROP DATABASE live_shop; DROP ROLE theirs", "postgres")


@pytest.fixture
def here(postgres_17: Server, project: Path) -> Iterator[Server]:
    for script in (ROOT / "docs" / "scrub").iterdir():
        shutil.copy(script, project)
    with opened(postgres_17) as server:
        yield server


def address(server: Server) -> str:
    """Of a container on the network that all of them share."""
    form = "{{.NetworkSettings.IPAddress}}"
    argv = ["docker", "inspect", "-f", form, server.container]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def url(host: str, port: int = 5432, database: str = "live_shop", user: str = "postgres") -> str:
    secret = PASSWORD.replace(" ", "%20").replace("'", "%27")
    return f"postgresql://{user}:{secret}@{host}:{port}/{database}"


def test_another_database_is_pulled_scrubbed_and_undone(
    here: Server, theirs: Server, project: Path
) -> None:
    before, source = here.dump(), theirs.dump("live_shop")
    env = here.environment(REPOM_PULL_URL=url(address(theirs)))
    env["REPOM_AFTER_LOAD"] = "only_known_columns.sql,scrub_django.sql"
    ended = invoke(project, "--echo", "db.pull", "--yes", "--json", env=env)

    assert ended.status == 0, ended.err
    assert json.loads(ended.out)["database"] == "shop"
    assert f"Using the programs in container {here.container}" in ended.err
    assert here.sql(USERS) == SCRUBBED
    assert here.sql("SELECT count(*) FROM django_session") == "0"
    assert here.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'auth_user'") == "postgres"
    assert theirs.dump("live_shop") == source
    assert here.leftovers() == theirs.leftovers() == []

    [made] = dbops.list_backups(settings_for(here, project))
    assert (made.database, made.pulled, made.partial, made.via) == ("live_shop", True, (), "docker")
    assert made.system_identifier == theirs.sql(
        "SELECT system_identifier FROM pg_control_system()", "postgres"
    )
    written = "".join(p.read_text() for p in made.path.parent.glob("*.json"))
    assert PASSWORD not in written + ended.err + ended.out
    assert "pulled" in invoke(project, "db.list", env=env).out

    assert invoke(project, "db.undo", "--yes", env=env).status == 0
    assert here.dump() == before


def test_a_partial_pull_that_is_not_kept(here: Server, theirs: Server, project: Path) -> None:
    env = here.environment(REPOM_PULL_URL=url("127.0.0.1", theirs.port))
    flags = ["--exclude-table-data", "django_*,nothing", "--no-keep"]
    asked = invoke(project, "db.pull", *flags, env=env)
    assert asked.status == 5
    assert "Tables that match django_*, nothing come back empty." in asked.err
    ended = invoke(project, "db.pull", *flags, "--yes", env=env)

    assert ended.status == 0, ended.err
    assert here.sql("SELECT count(*) FROM django_session") == "0"
    assert here.sql("SELECT count(*) FROM auth_user") == "1"
    assert dbops.list_backups(settings_for(here, project)) == []


def test_a_database_is_not_pulled_onto_itself(here: Server, project: Path) -> None:
    before = here.dump()
    for source in (address(here), "localhost"):
        port = here.port if source == "localhost" else 5432
        env = here.environment(REPOM_PULL_URL=url(source, port, "shop"))
        ended = invoke(project, "db.pull", "--yes", env=env)
        assert (ended.status, "would be replaced" in ended.last) == (5, True), ended.err
    # Another database of the same server is another one.
    here.create("shop_too", SHOP)
    env["REPOM_PULL_URL"] = url("localhost", here.port, "shop_too")
    assert invoke(project, "db.pull", "--yes", env=env).status == 0
    assert here.dump() == before
    here.sql("DROP DATABASE shop_too", "postgres")


def test_an_empty_source_replaces_nothing(here: Server, theirs: Server, project: Path) -> None:
    before = here.dump()
    env = here.environment(REPOM_PULL_URL=url("127.0.0.1", theirs.port, "postgres"))
    ended = invoke(project, "db.pull", "--yes", env=env)

    assert (ended.status, "has no tables" in ended.last) == (5, True), ended.err
    assert "set POSTGRES_PORT" not in ended.err
    assert here.dump() == before


def test_a_source_is_only_read(here: Server, theirs: Server, project: Path) -> None:
    """What a session of the pull finds set."""
    settings = settings_for(here, project, REPOM_PULL_URL=url(address(theirs)))
    plan = plan_pull(settings)
    try:
        said = plan.source.client.environment()["PGOPTIONS"]
        assert said.endswith("-c default_transaction_read_only=on")
        argv = ["psql", "-XAt", "-d", plan.source.client.conninfo("live_shop")]
        query = [*argv, "-c", "SHOW transaction_read_only"]
        assert plan.source.client.run(query).stdout == "on\n"
    finally:
        plan.source.close()
        plan.target.close()


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("\nSELECT *\n  FROM nowhere;", CommandFailed, 'line 3: relation "nowhere" does not exist'),
        ("SELECT 1;\nCOMMIT;", Refused, r"Line 2 of the SQL script controls transactions"),
        ("\\! touch /tmp/repom-hook", Refused, "command of psql"),
        ("\\c postgres", Refused, "connects to another database"),
        ("DROP ROLE repom_reader;", Refused, "drops or alters a role"),
        ("DO $$ BEGIN COMMIT; END $$;", CommandFailed, "line 1: invalid transaction termination"),
        ("SELECT 'open", Refused, "ends in the middle of a statement"),
    ],
)
def test_a_script_that_fails_replaces_nothing(
    here: Server, project: Path, script: str, kind: type[Exception], message: str
) -> None:
    plain = settings_for(here, project)
    made = dbops.backup(plain)
    here.sql("DELETE FROM item")
    (project / "hook.sql").write_text(f"UPDATE item SET name = 'half'; {script}")
    settings = settings_for(here, project, REPOM_AFTER_LOAD="hook.sql")
    with pytest.raises(kind, match=f"hook.sql.*{message}"):
        dbops.restore(made, settings)

    assert here.sql("SELECT count(*) FROM item") == "0"
    assert here.leftovers() == []


def test_a_script_runs_as_the_owner_of_the_database_in_its_own_schema(
    here: Server, project: Path
) -> None:
    here.sql("""CREATE ROLE keeper; ALTER DATABASE shop OWNER TO keeper;
      ALTER DATABASE shop SET search_path TO inner_room; CREATE SCHEMA inner_room;
      ALTER SCHEMA inner_room OWNER TO keeper""")
    try:
        script = """BEGIN; CREATE TEMPORARY TABLE passing (a int); COMMIT;
          CREATE TABLE made AS SELECT current_user AS who;"""
        (project / "hook.sql").write_text(script)
        settings = settings_for(here, project, REPOM_AFTER_LOAD="hook.sql")
        made = dbops.backup(settings_for(here, project))
        dbops.restore(made, settings)
        assert here.sql("SELECT who FROM inner_room.made") == "keeper"
        dbops.restore(made, settings, into="shop_into")  # a new one, with nothing of its own
        assert here.sql("SELECT who FROM public.made", "shop_into") == "postgres"
        with pytest.raises(Refused, match="--in-place"):
            dbops.restore(made, settings, in_place=True)
        drill = dbops.verify(settings=settings, drill=True)
        assert "inner_room.made" not in drill.rows
    finally:
        here.create("shop")
        here.clean()
        here.sql("DROP DATABASE IF EXISTS shop_into; DROP ROLE keeper", "postgres")


def test_a_column_that_the_list_does_not_know_keeps_the_old_data(
    here: Server, theirs: Server, project: Path
) -> None:
    before = here.dump()
    theirs.sql("ALTER TABLE auth_user ADD phone text", "live_shop")
    env = here.environment(REPOM_PULL_URL=url("127.0.0.1", theirs.port))
    env["REPOM_AFTER_LOAD"] = "only_known_columns.sql,scrub_django.sql"
    ended = invoke(project, "db.pull", "--yes", env=env)

    assert ended.status == 1
    assert re.search(r"only_known_columns\.sql failed in line \d+: .*auth_user\.phone", ended.last)
    assert here.dump() == before


def test_the_page_on_data_from_elsewhere(here: Server, theirs: Server, project: Path) -> None:
    """Its commands, in order; each that asks gets --yes."""
    for name, form in {"dump": "c", "tar": "t", "sql": "p"}.items():
        flags = ["-Ox", "-d", "dbname=live_shop", f"-F{form}"]
        with (project / f"theirs.{name}").open("wb") as file:
            argv = theirs.command("pg_dump", *flags)
            subprocess.run(argv, check=True, stdout=file, env=theirs.login)
    page = (ROOT / "docs" / "data-from-elsewhere.md").read_text()
    commands = re.findall(r"^\$ (invoke .*)$", page, re.M)
    assert len(commands) == 10
    env = environment(**here.environment(REPOM_PULL_URL=url("127.0.0.1", theirs.port)))
    for command in commands:
        task, _, source = command.replace("invoke", "python -m invoke", 1).partition(" < ")
        asked = f"{task} --yes" + (f" < {source}" if source else "")
        done = subprocess.run(asked, shell=True, cwd=project, env=env, capture_output=True)
        assert done.returncode == 0, (command, done.stderr)
    assert here.sql(USERS) == "7|ann|Ann|ann@secret.example|hash"
    assert here.sql(USERS, "shop_theirs") == "7|ann|Ann|ann@secret.example|hash"
    here.sql("DROP DATABASE shop_theirs", "postgres")
