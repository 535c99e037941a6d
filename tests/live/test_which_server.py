"""Every verb against what is nearly the project's server: a sub-folder's, a neighbour's, the
same port of another address, a name that leads elsewhere."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom.runners.container import PROJECT_LABEL
from tests import requires
from tests.live.cli import Ended, invoke
from tests.live.engine import run
from tests.live.servers import PASSWORD, Server

COMPOSE = """
name: {name}
services:
  db:
    image: postgres:17
    environment: {{POSTGRES_USER: shop, POSTGRES_PASSWORD: pw}}
    volumes: ["data:/var/lib/postgresql/data"]
volumes:
  data:
"""
SERVICE = {"REPOM_COMPOSE_SERVICE": "db", "POSTGRES_USER": "shop"}


def sql(container: str, query: str) -> str:
    login = ("-U", "shop", "-h", "127.0.0.1", "-d", "shop")
    return run("docker", "exec", container, "psql", "-XAtqw", *login, "-c", query)


def wait(container: str) -> None:
    ready = ("pg_isready", "-q", "-h", "127.0.0.1", "-U", "shop")
    script = f"for i in $(seq 300); do {' '.join(ready)} && exit 0; sleep 0.1; done; exit 1"
    run("docker", "exec", container, "sh", "-c", script)


def state(container: str) -> str:
    return run("docker", "inspect", "-f", "{{.State.Status}}", container)


def compose(folder: Path, *arguments: str, check: bool = True) -> None:
    run("docker", "compose", "--project-directory", str(folder), *arguments, check=check)


@pytest.fixture
def name(name: str) -> str:
    requires.image(17)
    requires.compose()
    return name


@pytest.fixture
def mono(name: str, project: Path) -> Path:
    """A project with a Compose file, of which nothing runs, and a folder inside of it with
    another one, whose service has the same name and data."""
    (project / "compose.yaml").write_text(COMPOSE.format(name=f"{name}-mono"))
    sub = project / "sub"
    sub.mkdir()
    (sub / "compose.yaml").write_text(COMPOSE.format(name=f"{name}-sub"))
    compose(sub, "up", "-d", "db")
    wait(f"{name}-sub-db-1")
    sql(f"{name}-sub-db-1", "CREATE TABLE precious AS SELECT 42 AS answer")
    return project


VERBS = {
    "db.restore": ("db.restore", "--backup", "other.sql", "--yes"),
    "db.restore --via docker": (
        *("db.restore", "--backup", "other.sql", "--yes", "--via", "docker"),
    ),
    "db.undo": ("db.undo", "--yes"),
    "db.backup": ("db.backup", "--via", "docker"),
    "postgres.stop": ("postgres.stop",),
    "postgres.remove": ("postgres.remove",),
    "postgres.remove --volume": ("postgres.remove", "--volume", "--yes"),
}


def verbs(project: Path, **environ: str) -> dict[str, Ended]:
    """Each verb in turn, on nothing that it could rightly act on."""
    (project / "other.sql").write_text("CREATE TABLE other ();\n")
    nowhere = {"POSTGRES_PORT": "1", "POSTGRES_HOST": "localhost"}
    env = {**nowhere, **SERVICE, **environ}
    return {verb: invoke(project, *argv, env=env) for verb, argv in VERBS.items()}


@pytest.mark.parametrize("made", [False, True], ids=["absent", "stopped"])
def test_no_verb_acts_on_the_server_of_a_folder_inside(mono: Path, name: str, made: bool) -> None:
    theirs, ours = f"{name}-sub-db-1", f"{name}-mono-db-1"
    if made:
        compose(mono, "create", "db")

    done = verbs(mono)

    assert state(theirs) == "running"
    assert sql(theirs, "SELECT answer FROM precious") == "42"
    assert "shop" in sql(theirs, "SELECT string_agg(datname, ',') FROM pg_database")
    assert f"{name}-sub_data" in run("docker", "volume", "ls", "-q")
    assert all(done[verb].status for verb in done if verb.startswith("db.")), done
    assert ours not in run("docker", "ps", "-a", "--format", "{{.Names}}")


def test_the_folder_inside_acts_on_its_own(mono: Path, name: str) -> None:
    (mono / "sub" / "tasks.py").write_text("from repom.tasks import ns\n")

    done = invoke(mono / "sub", "postgres.stop", env=SERVICE)

    assert (done.status, done.out) == (0, f"{name}-sub-db-1: exited\n"), done.err


def test_a_neighbours_container_may_be_used_by_name_and_not_be_ended(mono: Path, name: str) -> None:
    theirs = f"{name}-sub-db-1"
    env = {"REPOM_CONTAINER": theirs, "POSTGRES_USER": "shop"}

    backup = invoke(mono, "db.backup", env=env)
    ended = [
        invoke(mono, *argv, env=env)
        for argv in (("postgres.stop",), ("postgres.remove", "--volume", "--yes"))
    ]

    assert backup.status == 0, backup.err
    assert [each.status for each in ended] == [5, 5]
    assert all(f"belongs to the Compose project in {mono / 'sub'}" in each.err for each in ended)
    assert state(theirs) == "running"


def test_of_two_compose_projects_of_one_folder_composes_own_counts(
    name: str, project: Path
) -> None:
    (project / "compose.yaml").write_text(COMPOSE.format(name=f"{name}-mono"))
    compose(project, "-p", f"{name}-ci", "up", "-d", "db")
    other = f"{name}-ci-db-1"
    wait(other)

    stopped = invoke(project, "postgres.stop", env=SERVICE)
    removed = invoke(project, "postgres.remove", "--volume", "--yes", env=SERVICE)

    assert state(other) == "running"
    assert f"{name}-ci_data" in run("docker", "volume", "ls", "-q")
    assert (stopped.status, removed.status) == (0, 5)


def test_another_checkouts_container_is_left_alone(
    name: str, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("clone")
    label = f"{PROJECT_LABEL}={other}"
    run("docker", "create", "--name", name, "--label", label, "postgres:17")

    (project / "other.sql").write_text("CREATE TABLE other ();\n")
    env = {"REPOM_CONTAINER": name, "POSTGRES_USER": "shop"}
    done = [invoke(project, *argv, env=env) for argv in VERBS.values()]

    assert {each.status for each in done} == {5}
    assert state(name) == "created"


# -- addresses ----------------------------------------------------------------------------


def test_the_same_port_of_another_address_is_another_server(
    name: str, project: Path, postgres_host: Server
) -> None:
    port = postgres_host.port
    secret = ("-e", f"POSTGRES_PASSWORD={PASSWORD}", "-e", "POSTGRES_USER=shop")
    publish = ("-p", f"127.0.0.2:{port}:5432")
    run("docker", "run", "-d", "--name", name, *publish, *secret, "postgres:17")
    wait(name)
    sql(name, "CREATE TABLE in_the_container ()")
    postgres_host.create("shop")
    postgres_host.sql("CREATE TABLE on_the_host ()")
    env = {**postgres_host.environment(), "REPOM_CONTAINER": name}
    (project / "new.sql").write_text("CREATE TABLE restored ();\n")

    done = invoke(project, "db.restore", "--backup", "new.sql", "--yes", env=env)

    assert done.status == 0, done.err
    tables = "SELECT string_agg(relname, ',') FROM pg_class WHERE relkind = 'r' AND oid > 16000"
    assert sql(name, tables) == "in_the_container"
    assert postgres_host.sql(tables) == "restored"
    forced = invoke(project, "db.backup", "--via", "docker", env=env)
    assert (forced.status, f"does not publish port {port} on 127.0.0.1" in forced.err) == (2, True)


@pytest.fixture
def named_host() -> Iterator[str]:
    """A host name that leads to this machine, by /etc/hosts."""
    hosts = Path("/etc/hosts")
    requires.need(os.access(hosts, os.W_OK), "a writable /etc/hosts")
    before, name = hosts.read_text(), f"repom-test-{uuid.uuid4().hex[:8]}"
    hosts.write_text(f"{before.rstrip()}\n127.0.0.1 {name}\n")
    yield name
    hosts.write_text(before)


def test_a_containers_name_that_leads_elsewhere_is_another_machine(
    named_host: str, project: Path, postgres_host: Server
) -> None:
    """There is no container of that name, and the name server knows one."""
    assert socket.gethostbyname(named_host) == "127.0.0.1"
    postgres_host.create("shop")
    postgres_host.sql("CREATE TABLE precious ()")
    env = postgres_host.environment(POSTGRES_HOST=named_host, REPOM_CONTAINER=named_host)
    (project / "new.sql").write_text("CREATE TABLE restored ();\n")

    done = invoke(project, "db.restore", "--backup", "new.sql", "--yes", env=env)
    meant = invoke(project, "db.restore", "--backup", "new.sql", "--yes", "--remote", env=env)

    assert (done.status, named_host in done.last) == (5, True), done.err
    assert meant.status == 0, meant.err


def test_session_options_of_a_url_are_kept_beside_repoms_own(
    project: Path, postgres_host: Server, postgres_17: Server
) -> None:
    script = "CREATE SCHEMA mine;\nCREATE TABLE restored AS SELECT pg_sleep(0.1) IS NULL;\n"
    (project / "new.sql").write_text(script)
    for server in (postgres_host, postgres_17):
        server.create("shop")
        options = "-c%20statement_timeout%3D50%20-c%20search_path%3Dmine,public"
        at = f"127.0.0.1:{server.port}/shop?options={options}"
        secret = PASSWORD.replace(" ", "%20").replace("'", "%27")
        env = {"DATABASE_URL": f"postgresql://postgres:{secret}@{at}"}
        env["REPOM_CONTAINER"] = server.container or "repom_no_such_container"
        restored = invoke(project, "db.restore", "--backup", "new.sql", "--yes", env=env)
        backup = invoke(project, "db.backup", env=env)

        assert (restored.status, backup.status) == (0, 0), restored.err + backup.err
        assert server.sql("SELECT count(*) FROM mine.restored") == "1"
