"""The first minute in projects of all shapes: with no setting of repom's, the database is
found, said why, backed up, and brought back after a loss."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests import requires
from tests.live import engine
from tests.live.cli import environment, invoke
from tests.live.engine import run
from tests.live.servers import free_port
from tests.live.shapes import (
    BITNAMI,
    DB,
    OTHER,
    POSTGRES,
    PUBLISHED,
    SECOND,
    Database,
    build,
    round_trip,
    write,
)

URL = "DATABASE_URL=postgresql://shop:pw@localhost:HOSTSIDE/shop\n"
TASKS = "from repom.tasks import ns\n"
OURS = "of this folder's Compose project"


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    """Images besides the official one, by the word that stands for them in a file."""
    requires.image(18)
    requires.compose()
    there = requires.succeeds("docker", "image", "inspect", "repom-base:18")
    requires.need(there, "the image repom-base:18 (.ci/engine)")
    name = engine.unique()
    yield {
        # Built and not tagged: what removes it goes by the image's id.
        "POSTGIS": build(f"{name}-postgis", "FROM postgres:18\nLABEL name=postgis\n"),
        "BITNAMI": build(f"{name}-vendor", BITNAMI),
        "OTHER": build(f"{name}-other", OTHER),
    }
    engine.remove(name)


def compose(folder: Path, *arguments: str, check: bool = True) -> str:
    return run("docker", "compose", "--project-directory", str(folder), *arguments, check=check)


@dataclass(frozen=True)
class Shape:
    """A project as someone wrote it.

    :param files: by their paths; PREFIX, HOSTSIDE and an image's word are replaced.
    :param container: that of the database.
    :param reason: a part of the line that says why it is used.
    :param up: what Compose is told.
    :param inside: the folder in which the tasks run.
    """

    files: dict[str, str]
    container: str = "PREFIX-db-1"
    reason: str = f"service db {OURS}"
    up: tuple[str, ...] = ("up", "-d")
    inside: str = "."
    login: dict[str, str] = field(default_factory=dict)


SHAPES = {
    "fastapi's full-stack template": Shape(
        {
            "docker-compose.yml": f"services:\n  db: {PUBLISHED}\n  adminer: {{image: OTHER}}\n",
            ".env": f"DOMAIN=localhost\n{URL}",
        }
    ),
    "cookiecutter-django": Shape(
        {
            "docker-compose.local.yml": (
                "services:\n"
                "  django: {image: OTHER, env_file: [.envs/.local/.postgres]}\n"
                f"  postgres: {POSTGRES}, env_file: [.envs/.local/.postgres]}}\n"
            ),
            ".envs/.local/.postgres": (
                "POSTGRES_HOST=postgres\nPOSTGRES_PORT=5432\nPOSTGRES_DB=blog\n"
                "POSTGRES_USER=debug\nPOSTGRES_PASSWORD=pw\n"
            ),
            "manage.py": "",
        },
        "PREFIX-postgres-1",
        f"service postgres {OURS}",
        ("-f", "FOLDER/docker-compose.local.yml", "up", "-d"),
        login={"user": "debug", "database": "blog"},
    ),
    "the service's name in the URL, and container_name": Shape(
        {
            "compose.yaml": f"services:\n  db: {DB[:-1]}, container_name: PREFIX-database}}\n",
            ".env": "DATABASE_URL=postgres://shop:pw@db:5432/shop\n",
        },
        "PREFIX-database",
    ),
    "a vendor's image with other variables": Shape(
        {
            "compose.yaml": (
                "services:\n  db: {image: BITNAMI, environment: {POSTGRESQL_USERNAME: shop,"
                " POSTGRESQL_PASSWORD: pw, POSTGRESQL_DATABASE: shop}}\n"
            )
        }
    ),
    "another image name, and a project name in the file": Shape(
        {
            "compose.yaml": (
                f"name: PREFIX-gis\nservices:\n  db: {DB}\n".replace("postgres:18", "POSTGIS")
            )
        },
        "PREFIX-gis-db-1",
    ),
    "COMPOSE_PROJECT_NAME": Shape(
        {
            "compose.yaml": f"services:\n  db: {DB}\n",
            ".env": "COMPOSE_PROJECT_NAME=PREFIX-named\n",
        },
        "PREFIX-named-db-1",
    ),
    "a development container": Shape(
        {".devcontainer/docker-compose.yml": f"services:\n  db: {DB}\n", ".git/HEAD": ""},
        "PREFIX_devcontainer-db-1",
        "service db",
        (
            *("-p", "PREFIX_devcontainer", "--project-directory", "FOLDER/.devcontainer"),
            *("-f", "FOLDER/.devcontainer/docker-compose.yml", "up", "-d"),
        ),
    ),
    "backend/.env below the Compose file": Shape(
        {
            "docker-compose.yml": f"services:\n  db: {PUBLISHED}\n",
            "backend/.env": URL,
            ".git/HEAD": "",
        },
        inside="backend",
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_a_round_trip_with_no_setting(
    shape: Shape, name: str, images: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / name
    values = {**images, "PREFIX": name, "HOSTSIDE": str(free_port()), "FOLDER": str(folder)}
    write(folder, {**shape.files, f"{shape.inside}/tasks.py": TASKS}, **values)
    up = [each.replace("PREFIX", name).replace("FOLDER", str(folder)) for each in shape.up]
    compose(folder, *up)
    container = shape.container.replace("PREFIX", name)

    round_trip(folder / shape.inside, Database(container, **shape.login), container, shape.reason)  # type: ignore[arg-type]


def test_two_servers_in_one_project_are_both_named(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / name
    text = f"services:\n  db: {DB}\n  warehouse: {DB}\n"
    write(folder, {"compose.yaml": text, "tasks.py": TASKS})
    compose(folder, "create")

    done = invoke(folder, "db.backup")

    assert done.status == 2, done.err
    assert [w for w in ("db", "warehouse", "REPOM_COMPOSE_SERVICE") if w not in done.last] == []
    assert not list(folder.glob("backups/*.dump"))


def test_a_project_in_a_folder_of_another_has_its_own(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    outer = tmp_path / f"{name}-outer"
    inner = outer / f"{name}-inner"
    for folder in (outer, inner):
        write(folder, {"compose.yaml": f"services:\n  db: {DB}\n", "tasks.py": TASKS})
        compose(folder, "up", "-d")
    theirs = Database(f"{name}-outer-db-1")

    round_trip(inner, Database(f"{name}-inner-db-1"), f"{name}-inner-db-1", OURS)
    round_trip(outer, theirs, f"{name}-outer-db-1", OURS)

    compose(inner, "stop", "-t", "0")
    stopped = invoke(inner, "db.backup")
    restored = invoke(inner, "db.restore", "--latest", "--yes")
    assert (stopped.status, restored.status) == (3, 3), stopped.err + restored.err
    assert f"{name}-inner-db-1 is not running" in stopped.last
    theirs.sql("DELETE FROM item WHERE n > 7")
    round_trip_of_none(inner, theirs, "7")


def round_trip_of_none(folder: Path, other: Database, count: str) -> None:
    """No verb that changes something reaches another folder's database."""
    for verb in (("db.restore", "--latest", "--yes"), ("db.undo", "--yes")):
        assert invoke(folder, *verb).status != 0
    assert other.count() == count


# -- containers without Compose -------------------------------------------------------------


def started(name: str, *flags: str, image: str = "postgres:18", program: str = "docker") -> str:
    """A container of the shop's user and database; returns its id."""
    login = ("-e", "POSTGRES_USER=shop", "-e", "POSTGRES_PASSWORD=pw", "-e", "POSTGRES_DB=shop")
    light = ("--tmpfs", "/var/lib/postgresql")
    arguments = ("run", "-d", "--name", name, *login, *light, *flags, image, "-c", "fsync=off")
    return run(program, *arguments)


def test_githubs_service_container_by_its_id(name: str, project: Path) -> None:
    requires.image(18)
    id = started(name, "-p", f"127.0.0.1:{free_port()}:5432")[:12]

    round_trip(project, Database(name, env={"REPOM_CONTAINER": id}), name)


def test_another_folders_container_is_read_and_never_changed(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    port = str(free_port())
    theirs, ours = tmp_path / f"{name}-b", tmp_path / "app"
    write(
        theirs,
        {"compose.yaml": f"services:\n  db: {PUBLISHED}\n", "tasks.py": TASKS},
        HOSTSIDE=port,
    )
    write(ours, {".env": URL, "tasks.py": TASKS}, HOSTSIDE=port)
    compose(theirs, "up", "-d")
    database = Database(f"{name}-b-db-1")
    database.wait()
    database.fill()

    backup = invoke(ours, "db.backup")
    restore = invoke(ours, "db.restore", "--latest", "--yes")

    assert (backup.status, f"{name}-b-db-1" in backup.err) == (0, True), backup.err
    assert (restore.status, "REPOM_CONTAINER" in restore.last) == (5, True), restore.err
    round_trip_of_none(ours, database, "100")
    for setting in ("REPOM_CONTAINER", "REPOM_COMPOSE_SERVICE"):
        misspelt = invoke(ours, "db.restore", "--latest", "--yes", env={setting: "no-such"})
        assert (misspelt.status, "has its port" in misspelt.last) == (3, True), misspelt.err
    assert database.count() == "100"
    named = Database(database.container, env={"REPOM_CONTAINER": database.container})
    round_trip(ours, named, database.container)


def test_another_folders_server_on_a_port_of_its_own_is_never_changed(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    """Nothing runs in its container, but the port is no native server's, either."""
    port = str(free_port())
    theirs, ours = tmp_path / f"{name}-b", tmp_path / "app"
    server = PUBLISHED.replace("fsync=off", "fsync=off -p 6000").replace(":5432", ":6000")
    write(theirs, {"compose.yaml": f"services:\n  db: {server}\n"}, HOSTSIDE=port)
    write(ours, {".env": URL, "tasks.py": TASKS}, HOSTSIDE=port)
    compose(theirs, "up", "-d")
    asked = ("docker", "exec", "-e", "PGPORT=6000", f"{name}-b-db-1")
    run(*asked, "sh", "-c", "until pg_isready -q -h 127.0.0.1; do sleep 0.1; done")
    psql = (*asked, "psql", "-XAtqU", "shop", "-c")
    run(*psql, "CREATE TABLE item AS SELECT generate_series(1, 100) AS n")

    backup = invoke(ours, "db.backup")
    run(*psql, "DELETE FROM item WHERE n > 7")
    restore = invoke(ours, "db.restore", "--latest", "--yes")

    assert backup.status == 0, backup.err
    assert (restore.status, "REPOM_VIA=host" in restore.last) == (5, True), restore.err
    assert run(*psql, "SELECT count(*) FROM item").strip() == "7"


def test_a_stopped_container_is_not_replaced_by_a_neighbours_on_its_port(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    port = str(free_port())
    a, b = tmp_path / f"{name}-a", tmp_path / f"{name}-b"
    files = {"compose.yaml": f"services:\n  db: {PUBLISHED}\n", ".env": URL, "tasks.py": TASKS}
    for folder in (a, b):
        write(folder, files, HOSTSIDE=port)
    compose(a, "up", "-d")
    round_trip(a, Database(f"{name}-a-db-1"), OURS)
    compose(a, "stop", "-t", "0")
    compose(b, "up", "-d")
    theirs = Database(f"{name}-b-db-1")
    theirs.wait()
    theirs.fill()
    theirs.sql("DELETE FROM item WHERE n > 7")

    done = [invoke(a, *verb) for verb in (("db.backup",), ("db.restore", "--latest", "--yes"))]

    assert [each.status for each in done] == [3, 3], done
    assert all(f"{name}-a-db-1 is not running" in each.last for each in done), done
    round_trip_of_none(a, theirs, "7")


# -- other engines ----------------------------------------------------------------------------


def test_podman(name: str, project: Path) -> None:
    there = requires.succeeds("podman", "image", "exists", "postgres:18")
    requires.need(there, "Podman with the image postgres:18 (.ci/engine)")
    env = {"REPOM_DOCKER": "podman"}
    port = str(free_port())
    write(project, {".env": URL}, HOSTSIDE=port)
    try:
        started(name, "-p", f"127.0.0.1:{port}:5432", program="podman")
        round_trip(project, Database(name, engine=("podman",), env=env), name)
        url = f"postgresql://shop:pw@localhost:{free_port()}/shop"
        own = {**env, "REPOM_CONTAINER": f"{name}-own", "DATABASE_URL": url}
        made = invoke(project, "postgres.start", env=own)
        assert made.status == 0, made.err
    finally:
        for each in (name, f"{name}-own"):
            subprocess.run(["podman", "rm", "-f", "-v", each], capture_output=True)
            subprocess.run(["podman", "volume", "rm", f"{each}_data"], capture_output=True)


@pytest.fixture
def second(name: str) -> Iterator[str]:
    """The name of a container on the second engine, and of a context that leads there."""
    there = requires.succeeds("docker", "-H", SECOND, "image", "inspect", "postgres:18")
    requires.need(there, f"a second engine on {SECOND} with the image postgres:18 (.ci/engine)")
    run("docker", "context", "create", name, "--docker", f"host={SECOND}")
    yield name
    run("docker", "-H", SECOND, "rm", "-fv", name, check=False)
    run("docker", "context", "rm", "-f", name)


def test_docker_host_and_a_context(second: str, project: Path) -> None:
    port = str(free_port())
    write(project, {".env": URL}, HOSTSIDE=port)
    program = ("docker", "-H", SECOND)
    login = ("-e", "POSTGRES_USER=shop", "-e", "POSTGRES_PASSWORD=pw", "-e", "POSTGRES_DB=shop")
    publish = ("--tmpfs", "/var/lib/postgresql", "-p", f"127.0.0.1:{port}:5432")
    run(*program, "run", "-d", "--name", second, *login, *publish, "postgres:18")
    database = Database(second, engine=program, env={"DOCKER_HOST": SECOND})

    round_trip(project, database, second)
    round_trip(project, replace(database, env={"DOCKER_CONTEXT": second}), second)


# -- a server without programs on this host ---------------------------------------------------


@pytest.fixture
def remote(name: str, project: Path) -> Database:
    """A server on another address, newer than the host's programs."""
    requires.image(18)
    started(name)
    show = "{{.NetworkSettings.IPAddress}}"
    ip = run("docker", "inspect", "-f", show, name)
    write(project, {".env": f"DATABASE_URL=postgresql://shop:pw@{ip}/shop\n"})
    return Database(name)


def client_containers() -> list[str]:
    """Those that are there when the engine has had a moment to remove them."""
    for _ in range(10):
        names = run("docker", "ps", "-a", "--format", "{{.Names}}").splitlines()
        found = [each for each in names if re.fullmatch("repom-[0-9a-f]{8}-[0-9a-f]{8}", each)]
        if not found:
            break
        time.sleep(0.2)
    return found


def test_a_remote_server_from_a_one_shot_container(remote: Database, project: Path) -> None:
    round_trip(project, remote, "using a one-shot container of postgres:18", remote=True)
    remote.sql("CREATE TABLE later ()")
    undone = invoke(project, "db.undo", "--yes", "--remote")

    assert undone.status == 0, undone.err
    assert remote.sql("SELECT to_regclass('item'), to_regclass('later')") == "|"
    assert client_containers() == []


def test_a_client_container_holds_no_password_and_ends_with_a_killed_run(
    remote: Database, project: Path
) -> None:
    remote.wait()
    remote.sql("CREATE TABLE held ()")
    script = "BEGIN; LOCK held; SELECT pg_sleep(60)"
    argv = ["docker", "exec", remote.container, "psql", "-U", "shop", "-c", script]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    task = [sys.executable, "-m", "invoke", "db.backup"]
    url = (project / ".env").read_text().partition("=")[2].strip()
    env = environment(DATABASE_URL=url.replace(":pw@", ":s3cret-canary@"))
    remote.sql("ALTER ROLE shop PASSWORD 's3cret-canary'")
    with subprocess.Popen(argv, **quiet) as holder:  # type: ignore[call-overload]
        with subprocess.Popen(task, cwd=project, env=env, **quiet) as backup:  # type: ignore[call-overload]
            time.sleep(5)  # by now, pg_dump waits for the table
            [made] = client_containers()
            shown = run("docker", "inspect", made)
            backup.kill()
        holder.kill()

    assert "s3cret-canary" not in shown and "PGPASSWORD" not in shown
    assert client_containers() == []


def test_no_program_at_all_and_a_wrong_password(remote: Database, project: Path) -> None:
    requires.need(os.name == "posix" and os.geteuid() == 0, "root, to hide the host's programs")
    remote.wait()
    hide = 'mount -t tmpfs none /usr/lib/postgresql && exec "$@"'
    task = [sys.executable, "-m", "invoke", "db.backup"]
    hidden = ["unshare", "-m", "sh", "-c", hide, "sh", *task]
    how = {"cwd": project, "capture_output": True, "text": True}
    done = subprocess.run(hidden, env=environment(), **how)  # type: ignore[call-overload]
    url = (project / ".env").read_text().partition("=")[2].strip()
    wrong = {"DATABASE_URL": url.replace(":pw@", ":s3cret-canary@")}
    failed = subprocess.run(hidden, env=environment(**wrong), **how)  # type: ignore[call-overload]

    assert done.returncode == 0, done.stderr
    assert "programs on this host are none, using a one-shot container" in done.stderr
    assert "does not accept the password" in failed.stderr
    assert "s3cret-canary" not in failed.stderr
    assert client_containers() == []


# -- SQLite -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("db.sqlite3", {"manage.py": ""}),
        ("instance/site.db", {"app.py": ""}),
        ("db.sqlite3", {"compose.yaml": "services:\n  redis: {image: OTHER}\n"}),
    ],
    ids=["django", "flask", "beside a Compose file of Redis"],
)
def test_the_one_sqlite_file(
    path: str, files: dict[str, str], name: str, images: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / name
    write(folder, {**files, "tasks.py": TASKS}, **images)
    (folder / path).parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / path)) as db, db:
        db.executescript("CREATE TABLE item (n); INSERT INTO item VALUES (1), (2);")
    if "compose.yaml" in files:
        compose(folder, "up", "-d")

    made = invoke(folder, "db.backup")
    with closing(sqlite3.connect(folder / path)) as db, db:
        db.execute("DROP TABLE item")
    back = invoke(folder, "db.restore", "--latest", "--yes")

    assert (made.status, path in made.err) == (0, True), made.err
    assert back.status == 0, back.err
    with closing(sqlite3.connect(folder / path)) as db:
        assert db.execute("SELECT count(*) FROM item").fetchone() == (2,)


# -- starting and stopping beside a Compose file --------------------------------------------


def test_start_and_stop_are_those_of_the_one_compose_service(
    name: str, images: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / name
    write(folder, {"compose.yaml": f"services:\n  db: {DB}\n", "tasks.py": TASKS})
    ours = ("ps", "-a", "--filter", f"name={name}", "--format", "{{.Names}} {{.State}}")
    made = ("ps", "-aq", "--filter", f"label=repom.project={folder}")

    start = invoke(folder, "postgres.start")
    assert start.status == 0, start.err
    assert run("docker", *ours) == f"{name}-db-1 running"
    round_trip(folder, Database(f"{name}-db-1"), OURS)
    stop = invoke(folder, "postgres.stop")

    assert stop.status == 0, stop.err
    assert run("docker", *ours) == f"{name}-db-1 exited"
    assert not (folder / ".env").exists()
    assert run("docker", *made) == ""
