"""`doctor`, `db.diff`, `--if-older` and `--seed` on real servers, containers and programs."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom.dbops import backup
from repom.dbops.diff import Table, diff
from repom.runners import programs
from tests.live.cli import invoke
from tests.live.servers import PASSWORD, Server, free_port, settings_for
from tests.shop import SHOP, opened


@pytest.fixture
def here(project: Path) -> Path:
    """A project that nothing is wrong with."""
    (project / ".env").touch(0o600)
    return project


def doctor(project: Path, env: dict[str, str]) -> tuple[int, dict[str, str], str]:
    """The exit status, each problem with its mend, and what is said of the server."""
    done = invoke(project, "doctor", "--json", env=env)
    found = json.loads(done.out)
    assert (done.status, PASSWORD in done.out + done.err) == (found["exit_status"], False)
    return done.status, {p["message"]: p["mend"] for p in found["problems"]}, str(found["server"])


@pytest.fixture
def fragile(postgres_fragile: Server) -> Iterator[Server]:
    with opened(postgres_fragile) as server:
        yield server
        subprocess.run(["docker", "start", server.container], check=True, capture_output=True)


def test_a_container_that_is_down(fragile: Server, here: Path) -> None:
    env = fragile.environment(POSTGRES_PORT=str(fragile.port))
    assert invoke(here, "db.backup", env=env).status == 0
    status, problems, said = doctor(here, env)
    assert (status, problems) == (0, {})
    assert f"Using Docker container: {fragile.container}" in said
    for change in ("kill", "pause"):
        subprocess.run(["docker", change, fragile.container], check=True, capture_output=True)
        status, problems, _said = doctor(here, env)
        assert status == 3
        down = f"Container {fragile.container} is not running"
        (mend,) = {m for problem, m in problems.items() if problem.startswith(down)}
        assert mend == "Run: invoke postgres.start"
        assert invoke(here, *mend.split()[2:], env=env).status == 0
        assert doctor(here, env)[:2] == (0, {})


def test_a_server_that_stopped_answering(fragile: Server, here: Path) -> None:
    env, name = fragile.environment(), fragile.container
    subprocess.run(["docker", "kill", "-s", "STOP", name], check=True, capture_output=True)
    try:
        began = time.monotonic()
        status, problems, _said = doctor(here, env)
        assert time.monotonic() - began < 20
        assert (status != 0, len(problems)) == (True, 1)
    finally:
        subprocess.run(["docker", "kill", "-s", "CONT", name], check=True, capture_output=True)


def test_a_client_that_is_too_old(postgres_18: Server, here: Path) -> None:
    if max(major for major, _folder in programs.installed()) >= 18:
        pytest.skip("missing on this machine: only programs before 18")
    env = postgres_18.environment(POSTGRES_PORT=str(postgres_18.port))
    env |= {"REPOM_VIA": "host", "REPOM_DOCKER": "no-such-docker"}  # which would have an image
    with opened(postgres_18):
        status, problems, _said = doctor(here, env)
        assert status == invoke(here, "db.backup", env=env).status == 3
        (message,) = problems
        assert message.startswith("The server is PostgreSQL 18, and the client programs")
        assert "postgresql-client-18" in problems[message] or "postgresql" in problems[message]
        # What it names is what mends it: programs of 18, here those in the container.
        del env["REPOM_VIA"], env["REPOM_DOCKER"]
        assert doctor(here, env)[0] == 0


def test_a_client_with_a_known_hole(postgres_host: Server, here: Path) -> None:
    """Debian's 15.18 is behind 15.20."""
    with opened(postgres_host):
        env = postgres_host.environment()
        status, problems, said = doctor(here, env)
        folder = programs.fitting(postgres_host.major)
        minor = programs.version_num("psql", folder) % 10_000
        is_open = (postgres_host.major, minor) < (15, 20)
        assert status == 0
        assert is_open == any("CVE-2026-116314" in message for message in problems)
        assert f"psql {postgres_host.major}.{minor} in host" in said


def test_a_wrong_password_and_a_missing_database(postgres_host: Server, here: Path) -> None:
    with opened(postgres_host):
        for wrong in ({"POSTGRES_PASSWORD": "wrong"}, {"POSTGRES_DB": "no_such"}):
            env = postgres_host.environment() | wrong
            status, problems, _said = doctor(here, env)
            assert status == invoke(here, "db.backup", env=env).status == 3
            assert any("Set " in mend for mend in problems.values())


def test_what_only_a_restore_needs_does_not_fail_it(postgres_host: Server, here: Path) -> None:
    with opened(postgres_host) as server:
        server.sql("CREATE ROLE clerk LOGIN PASSWORD 'clerk'; GRANT SELECT ON item TO clerk")
        server.sql("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
        try:
            env = server.environment(POSTGRES_USER="clerk", POSTGRES_PASSWORD="clerk")
            status, problems, _said = doctor(here, env)
            assert status == invoke(here, "db.backup", env=env).status == 0
            assert any("permission denied" in message for message in problems)
        finally:
            server.sql("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
            server.sql("DROP OWNED BY clerk; DROP ROLE clerk")


def test_nothing_is_left_in_the_server(any_shop: Server, here: Path) -> None:
    before = any_shop.databases()
    assert doctor(here, any_shop.environment())[0] == 0
    assert (any_shop.databases(), any_shop.leftovers()) == (before, [])
    assert not (here / "backups").exists()


# -- db.diff ------------------------------------------------------------------------------


def test_a_backup_is_compared_with_the_database(any_shop: Server, project: Path) -> None:
    any_shop.sql("CREATE TABLE gone (n int); CREATE TABLE same AS SELECT 1; CREATE SCHEMA s")
    settings = settings_for(any_shop, project)
    made = backup(settings)
    assert (diff(settings).differ, any_shop.leftovers()) == ((), [])
    any_shop.sql(
        "DROP TABLE gone; DELETE FROM item WHERE n <= 3;"
        'CREATE TABLE s."new⏎one" AS SELECT generate_series(1, 7); CREATE VIEW v AS SELECT 1'
    )
    found = diff(settings)
    assert found.differ == (
        Table("public.gone", 0, None),
        Table("public.item", 1000, 997),
        Table("s.new⏎one", None, 7),
    )
    assert (found.same, found.unread, found.backup) == (1, (), made.name)


def test_all_tables_are_counted_at_one_moment(shop: Server, project: Path) -> None:
    """Rows move from one table to the other all the time; their sum never changes."""
    shop.sql("CREATE TABLE a AS SELECT generate_series(1, 1000) n; CREATE TABLE b (n int)")
    settings = settings_for(shop, project)
    backup(settings)
    diff(settings)
    moving = threading.Event()

    def move() -> None:
        while not moving.is_set():
            shop.sql("WITH x AS (DELETE FROM a WHERE n % 7 = 0 RETURNING n) INSERT INTO b TABLE x;")
            shop.sql("WITH x AS (DELETE FROM b RETURNING n) INSERT INTO a TABLE x;")

    mover = threading.Thread(target=move)
    mover.start()
    try:
        for _ in range(10):
            now = {t.table: t.now or 0 for t in diff(settings).differ}
            assert now.get("public.a", 1000) + now.get("public.b", 0) == 1000
    finally:
        moving.set()
        mover.join()


def test_a_table_that_cannot_be_read_is_named(postgres_host: Server, project: Path) -> None:
    with opened(postgres_host, SHOP + "CREATE TABLE hidden (n int);") as server:
        settings = settings_for(server, project)
        backup(settings)
        diff(settings)
        server.sql("CREATE ROLE clerk LOGIN PASSWORD 'clerk'; GRANT SELECT ON item TO clerk")
        try:
            env = server.environment(POSTGRES_USER="clerk", POSTGRES_PASSWORD="clerk")
            done = invoke(project, "db.diff", "--json", env=env)
            assert done.status == 0, done.err
            found = json.loads(done.out)
            assert (found["unread"], found["differ"], found["same"]) == (["public.hidden"], [], 1)
        finally:
            server.sql("DROP OWNED BY clerk; DROP ROLE clerk")


def test_what_db_diff_shows_fits_a_terminal(shop: Server, project: Path) -> None:
    env = shop.environment()
    assert invoke(project, "db.backup", env=env).status == 0
    name = "customer_orders_of_the_year_before_last_in_the_archive"
    shop.sql(f"CREATE TABLE {name} AS SELECT generate_series(1, 1234567) n")
    done = invoke(project, "db.diff", env=env)
    assert done.status == 0
    assert max(map(len, done.out.splitlines())) <= 80
    assert re.search(r"  1,234,567 +new$", done.out, re.MULTILINE)
    assert invoke(project, "db.diff", "--json", "--backup", "nothing", env=env).status == 4


# -- db.backup --if-older -----------------------------------------------------------------


def test_a_backup_of_this_very_server_counts(
    shop: Server, postgres_18: Server, project: Path
) -> None:
    made = json.loads(invoke(project, "db.backup", "--json", env=shop.environment()).out)
    again = ("db.backup", "--if-older", "24h", "--json")
    assert json.loads(invoke(project, *again, env=shop.environment()).out) == made
    with opened(postgres_18) as other:  # the same name on another server
        assert json.loads(invoke(project, *again, env=other.environment()).out) != made


# -- postgres.start --seed ----------------------------------------------------------------


def test_a_new_server_is_filled_from_the_latest_backup(name: str, project: Path) -> None:
    env = {
        "POSTGRES_USER": "shop",
        "POSTGRES_PASSWORD": PASSWORD,
        "POSTGRES_PORT": str(free_port()),
        "REPOM_CONTAINER": name,
        "REPOM_IMAGE": "postgres:17",
    }

    def sql(query: str) -> str:
        argv = ["docker", "exec", name, "psql", "-XAtqU", "shop", "-c", query]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    first = invoke(project, "postgres.start", "--seed", env=env)
    assert first.status == 0, first.err
    assert "Not seeded: There is no verified backup of shop" in first.err
    sql("CREATE TABLE item AS SELECT generate_series(1, 1000) n")
    assert invoke(project, "db.backup", env=env).status == 0
    sql("DELETE FROM item")
    second = invoke(project, "postgres.start", "--seed", env=env)
    assert "Not seeded: shop has tables or an undo copy already" in second.err
    assert sql("SELECT count(*) FROM item") == "0"
    assert invoke(project, "postgres.remove", "--volume", "--yes", env=env).status == 0
    third = invoke(project, "postgres.start", "--seed", env=env)
    assert third.status == 0, third.err
    assert "Seeded shop from shop_" in third.err
    assert sql("SELECT count(*) FROM item") == "1000"
