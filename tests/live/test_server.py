"""`postgres.*` against a real engine, a real Compose and real host programs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from repom.dbops import backup
from repom.errors import Refused, RepomError, SettingsError, Unreachable
from repom.runners.container import PROJECT_LABEL, Container
from repom.server import cluster, server
from repom.settings import Settings
from repom.settings.address import Address
from tests import requires
from tests.live.cli import invoke
from tests.live.engine import run
from tests.live.servers import free_port

PASSWORD = "p%40ss w'ord$canary"
Load = Callable[..., Settings]


def sql(container: str, query: str, user: str = "shop", database: str = "shop") -> str:
    return run(
        *("docker", "exec", container, "psql", "-XAtq", "-h", "127.0.0.1"),
        *("-U", user, "-d", database, "-c", query),
    )


def there(kind: str, name: str) -> bool:
    done = subprocess.run(["docker", kind, "inspect", name], capture_output=True, timeout=60)
    return done.returncode == 0


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def load(name: str, port: int, tmp_path: Path) -> Load:
    """Settings of a project in `tmp_path` that has a database, unless told otherwise."""
    (tmp_path / ".git").mkdir()

    def load(**changes: str | None) -> Settings:
        environ = {
            "POSTGRES_USER": "shop",
            "POSTGRES_PASSWORD": PASSWORD,
            "POSTGRES_PORT": str(port),
            "REPOM_CONTAINER": None if "REPOM_COMPOSE_SERVICE" in changes else name,
            "REPOM_IMAGE": "postgres:18",
            **changes,
        }
        return Settings.load(environ={k: v for k, v in environ.items() if v}, cwd=tmp_path)

    return load


def bare(settings: Settings) -> Settings:
    """Nothing is configured, except that the tests must not fight for one port."""
    environ = {"REPOM_CONTAINER": settings.container, "REPOM_IMAGE": settings.image}
    loaded = Settings.load(environ=environ, cwd=settings.project)
    address = replace(loaded.address, port=loaded.port or settings.port)
    return replace(loaded, address=address, docker=settings.docker)


@pytest.mark.parametrize("major", [17, 18])
def test_data_survive_remove_and_start(load: Load, name: str, port: int, major: int) -> None:
    requires.image(major)
    settings = load(REPOM_IMAGE=f"postgres:{major}")
    started = server.start(settings)
    assert (started.kind, started.name, started.state) == ("container", name, "running")
    assert (started.port, started.version, started.data) == (port, str(major), f"{name}_data")
    assert started.url == f"postgresql://shop:***@127.0.0.1:{port}/shop"
    host = json.loads(run("docker", "inspect", name))[0]["HostConfig"]
    assert host["PortBindings"]["5432/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": str(port)}]
    assert host["ShmSize"] >= 256 << 20

    sql(name, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert server.remove(settings).data == f"{name}_data"
    assert not there("container", name)
    assert server.status(settings).state == "absent"
    server.start(settings)
    assert sql(name, "SELECT answer FROM kept") == "42"

    server.remove(settings)
    other = 35 - major
    requires.image(other)
    with pytest.raises(Refused, match=f"PostgreSQL {major}, and the image is PostgreSQL {other}"):
        server.start(load(REPOM_IMAGE=f"postgres:{other}"))
    assert not there("container", name)
    server.remove(settings, volume=True)
    assert not there("volume", f"{name}_data")


def test_slow_init_script_is_waited_for(
    load: Load, name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    requires.image(17)
    (tmp_path / "Dockerfile").write_text(
        "FROM postgres:17\nCOPY slow.sh /docker-entrypoint-initdb.d/\n"
    )
    (tmp_path / "slow.sh").write_text(
        'sleep 2; psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "CREATE TABLE slow ()"\n'
    )
    env = {**os.environ, "DOCKER_BUILDKIT": "0"}
    build = ["docker", "build", "-q", "-t", f"{name}:17", str(tmp_path)]
    subprocess.run(build, env=env, check=True, capture_output=True, timeout=120)
    request.addfinalizer(lambda: run("docker", "rmi", "-f", f"{name}:17"))
    server.start(load(REPOM_IMAGE=f"{name}:17"))
    assert sql(name, "SELECT count(*) FROM slow") == "0"


def test_second_start_paused_stopped(
    load: Load, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    requires.image(18)
    caplog.set_level(logging.INFO, "repom")
    settings = load()
    first = server.start(settings)
    assert server.start(settings) == first
    assert f"Container {name} is already running" in caplog.text
    run("docker", "pause", name)
    assert server.status(settings).state == "paused"
    assert server.start(settings) == first
    run("docker", "pause", name)
    assert server.stop(settings).state == "exited"
    assert server.stop(settings).state == "exited"
    assert server.status(settings).port == first.port
    assert "database system is shut down" in server.logs(settings)
    assert len(server.logs(settings, 3).splitlines()) == 3
    assert server.start(settings) == first


def test_fallback_tells_of_the_containers_port(
    load: Load, name: str, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    requires.image(18)
    server.start(load())
    told = f"Container {name} publishes port {port}, but the settings say port 5432;"
    with contextlib.suppress(RepomError):
        backup(load(POSTGRES_PORT="5432", POSTGRES_HOST="localhost"))
    assert told in caplog.text
    server.stop(load())
    with pytest.raises(Unreachable, match=r"is not running \(exited\).*postgres.start"):
        backup(load(POSTGRES_PORT=""))


def test_two_starts_at_once(load: Load, name: str, tmp_path: Path) -> None:
    requires.image(18)
    settings = bare(load())
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(server.start, [settings, settings]))
    assert [each.state for each in both] == ["running", "running"]
    assert (tmp_path / ".env").read_text().count("POSTGRES_PASSWORD") == 1


def test_what_no_waiting_changes(load: Load, name: str) -> None:
    requires.image(18)
    server.start(load())
    begun = time.monotonic()
    with pytest.raises(Unreachable, match='database "nowhere" does not exist'):
        server.start(load(POSTGRES_DB="nowhere"))
    assert time.monotonic() - begun < 30
    server.remove(load())
    with pytest.raises(Unreachable, match="rejects the password of 'shop'"):
        server.start(load(POSTGRES_PASSWORD="another than the volume's"))


def test_foreign_container_is_left_alone(load: Load, name: str) -> None:
    requires.image(18)
    run(
        *("docker", "create", "--name", name, "--label", f"{PROJECT_LABEL}=/elsewhere"),
        "postgres:18",
    )
    settings = load()
    for verb in (server.start, server.stop, server.remove):
        with pytest.raises(Refused, match="belongs to the project in /elsewhere"):
            verb(settings)
    assert "of the project in /elsewhere" in server.status(settings).state
    assert run("docker", "inspect", "-f", "{{.State.Status}}", name) == "created"


def test_foreign_volume_is_left_alone(load: Load, name: str, tmp_path: Path) -> None:
    requires.image(18)
    other = tmp_path / "other"
    other.mkdir()
    volume = f"{name}_data"
    run("docker", "volume", "create", "--label", f"{PROJECT_LABEL}={other}", volume)
    with pytest.raises(Refused, match=f"belongs to the project in {other}"):
        server.start(load())
    with pytest.raises(Refused, match=f"belongs to the project in {other}"):
        server.remove(load(), volume=True)
    assert there("volume", volume)
    assert not there("container", name)


def test_volume_that_nobody_made_for_the_project_is_kept(load: Load, name: str) -> None:
    requires.image(18)
    external = f"{name}_external"
    mount = f"{external}:/var/lib/postgresql"
    run("docker", "create", "--name", name, "-v", mount, "-e", "POSTGRES_PASSWORD=x", "postgres:18")
    with pytest.raises(Refused, match="was not made for this project") as caught:
        server.remove(load(), volume=True)
    assert caught.value.hint.endswith(f"docker volume rm {external}")
    assert there("container", name)
    assert server.remove(load()).data == external
    run("docker", "volume", "create", f"{name}_data")  # without a label, and no container
    with pytest.raises(Refused, match="was not made for this project"):
        server.remove(load(), volume=True)
    assert there("volume", f"{name}_data")
    assert there("volume", external)


def test_removing_the_data_says_what_is_lost(load: Load, name: str, project: Path) -> None:
    requires.image(18)
    environ = {"REPOM_CONTAINER": name, "POSTGRES_USER": "shop", "POSTGRES_PASSWORD": PASSWORD}
    server.start(load())
    sql(name, "CREATE TABLE item AS SELECT repeat('x', 99) FROM generate_series(1, 20000)")

    said = {}
    said["never"] = invoke(project, "postgres.remove", "--volume", env=environ)
    backup(load(POSTGRES_PORT=None))
    said["once"] = invoke(project, "postgres.remove", "--volume", env=environ)
    server.stop(load())
    said["stopped"] = invoke(project, "postgres.remove", "--volume", env=environ)

    assert {each.status for each in said.values()} == {5}
    question = rf"Delete {name} and its data in {name}_data\? .*shop \(1\d MB, 1 table, "
    assert re.search(question + "never backed up", said["never"].err), said["never"].err
    assert re.search(question + "last backed up just now", said["once"].err)
    assert "shop (contents unknown, last backed up just now)" in said["stopped"].err
    assert there("volume", f"{name}_data")


def test_what_was_agreed_to_is_what_is_removed(load: Load, name: str, tmp_path: Path) -> None:
    requires.image(18)
    server.start(load())
    seen = server.removable(load(), volume=True)
    run("docker", "rm", "-f", name)
    label = f"{PROJECT_LABEL}={tmp_path}"
    run("docker", "volume", "create", "--label", label, f"{name}-x")
    mount = f"{name}-x:/var/lib/postgresql"
    run("docker", "create", "--name", name, "--label", label, "-v", mount, "postgres:18")

    with pytest.raises(Refused, match="has changed"):
        server.remove(load(), volume=True, seen=seen)

    assert there("container", name)
    assert there("volume", f"{name}-x")
    assert there("volume", f"{name}_data")


def test_volume_that_others_use_is_kept(load: Load, name: str) -> None:
    requires.image(18)
    server.start(load())
    run("docker", "create", "--name", f"{name}-x", "-v", f"{name}_data:/v", "postgres:18")
    with pytest.raises(Refused, match=f"in use by container {name}-x, too"):
        server.remove(load(), volume=True)
    assert server.status(load()).state == "running", "nothing was begun"


def test_volume_in_use_is_refused(load: Load, name: str) -> None:
    requires.image(18)
    sleeper = ("--entrypoint", "sleep", "postgres:18", "60")
    run("docker", "run", "-d", "--name", f"{name}-x", "-v", f"{name}_data:/v", *sleeper)
    with pytest.raises(Refused, match=f"in use by container {name}-x"):
        server.start(load())


@pytest.fixture
def silenced(tmp_path: Path) -> Callable[[str], str]:
    """A container command that times out on what begins with the given words."""

    def silenced(words: str) -> str:
        program = tmp_path / "silenced-docker"
        timeout = "echo 'Error response from daemon: context deadline exceeded' >&2; exit 1"
        program.write_text(
            f'#!/bin/sh\ncase "$*" in "{words}"*) {timeout};; esac\nexec docker "$@"'
        )
        program.chmod(0o755)
        return str(program)

    return silenced


@pytest.mark.parametrize("words", ["volume inspect", "image inspect", "ps --filter"])
def test_engine_that_does_not_tell(
    load: Load, name: str, silenced: Callable[[str], str], words: str
) -> None:
    requires.image(18)
    volume = f"{name}_data"
    run("docker", "volume", "create", volume)
    settings = replace(load(), docker=silenced(words))
    with pytest.raises(Unreachable, match=r"engine does not .*\(.*deadline exceeded\)"):
        server.start(settings)
    assert there("volume", volume), "taken for a new one, and undone"
    assert not there("container", name)


def test_longer_name_is_another_container(load: Load, name: str) -> None:
    requires.image(18)
    run("docker", "create", "--name", f"{name}-longer", "postgres:18")
    server.stop(load())
    server.remove(load(), volume=True)
    assert server.status(load()).state == "absent"
    assert there("container", f"{name}-longer")


def test_taken_port(load: Load, name: str, port: int, tmp_path: Path) -> None:
    requires.image(18)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(Refused, match=f"Port {port} on this machine is taken"):
            server.start(bare(load()))
    holder = ("-p", f"127.0.0.1:{port}:5432", "--entrypoint", "sleep", "postgres:18", "60")
    run("docker", "run", "-d", "--name", f"{name}-x", *holder)
    with pytest.raises(
        Refused, match=f"Port {port} on this machine is taken by container {name}-x"
    ):
        server.start(load())
    assert not there("container", name)
    assert not there("volume", f"{name}_data")
    assert not (tmp_path / ".env").exists()


def test_taken_port_that_only_the_engine_notices(load: Load, name: str, port: int) -> None:
    requires.image(18)
    run("docker", "create", "--name", name, "-p", f"127.0.0.1:{port}:5432", "postgres:18")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(Refused, match=f"Port {port} on this machine is taken"):
            server.start(load())
    assert there("container", name)


def test_crash_shows_the_log(load: Load, name: str, caplog: pytest.LogCaptureFixture) -> None:
    requires.image(18)
    run("docker", "create", "--name", name, "postgres:18")  # and no password
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=r"does not stay up \(exited\)"):
        server.start(load())
    assert time.monotonic() - begun < 20
    assert "superuser password is not specified" in caplog.text


def test_missing_image(load: Load, name: str) -> None:
    requires.engine()
    with pytest.raises(Unreachable, match=r"Image 127.0.0.1:1/nothing:1 is not here"):
        server.start(load(REPOM_IMAGE="127.0.0.1:1/nothing:1"))


def test_dry_run_writes_nothing(load: Load, name: str, caplog: pytest.LogCaptureFixture) -> None:
    requires.image(18)
    caplog.set_level(logging.INFO, "repom")
    settings = replace(bare(load()), dry=True)
    assert server.start(settings).state == "absent"
    assert f"create --name {name}" in caplog.text
    assert f"start {name}" in caplog.text
    assert not there("container", name)
    assert not there("volume", f"{name}_data")
    assert not (settings.project / ".env").exists()


def test_data_inside_the_container_are_not_removed_unasked(load: Load, name: str) -> None:
    requires.image(18)
    run("docker", "create", "--name", name, "-e", "PGDATA=/srv/data", "postgres:18")
    nameless = json.loads(run("docker", "inspect", name))[0]["Mounts"][0]["Name"]
    with pytest.raises(Refused, match="in the container itself"):
        server.remove(load())
    try:
        server.remove(load(), volume=True)
        assert not there("container", name)
        assert there("volume", nameless), "of a container that somebody else made"
    finally:
        run("docker", "volume", "rm", nameless, check=False)


COMPOSE = """
name: {name}
services:
  database:
    image: postgres:17
    environment:
      POSTGRES_USER: ${{POSTGRES_USER:-}}
      POSTGRES_PASSWORD: ${{POSTGRES_PASSWORD:-}}
      POSTGRES_DB: ${{POSTGRES_DB:-}}
    ports: ["127.0.0.1:{port}:5432"]
    volumes: ["data:/var/lib/postgresql/data"]
volumes:
  data:
"""


def test_compose_service(load: Load, name: str, port: int, tmp_path: Path) -> None:
    requires.image(17)
    requires.compose()
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE.format(name=name, port=port))
    settings = replace(bare(load()), compose_service="database", address=Address())
    try:
        started = server.start(settings)
        assert (started.kind, started.state, started.port) == ("compose", "running", port)
        assert (started.user, started.database) == ("repom", "repom_dev")
        written = (tmp_path / ".env").read_text()
        assert "POSTGRES_PASSWORD=" in written  # the Compose file leaves it open
        assert "POSTGRES_PORT" not in written  # and gives this
        assert server.start(settings).state == "running"
        assert server.stop(settings).state == "exited"
        assert server.start(settings).state == "running"
        assert server.remove(settings).data == f"{name}_data"
        assert there("volume", f"{name}_data")
        server.start(settings)
        server.remove(settings, volume=True)
        assert not there("volume", f"{name}_data")
        external = f"  data:\n    external: true\n    name: {name}_external\n"
        file.write_text(file.read_text().replace("  data:\n", external))
        run("docker", "volume", "create", f"{name}_external")
        server.start(settings)
        with pytest.raises(Refused, match=f"docker volume rm {name}_external"):
            server.remove(settings, volume=True)
        assert server.status(settings).state == "running"
    finally:
        folder = str(tmp_path)
        run("docker", "compose", "--project-directory", folder, "down", "-v", check=False)


def test_compose_service_that_is_not_there(load: Load, name: str, project: Path) -> None:
    requires.compose()
    (project / "compose.yaml").write_text(COMPOSE.format(name=name, port=1))
    verbs = (server.start, server.stop, server.status, server.logs, server.remove)
    for verb in (*verbs, backup):
        with pytest.raises(SettingsError, match=r"no such service\. Set it to one of: database"):
            verb(load(REPOM_COMPOSE_SERVICE="shop"))
    done = invoke(project, "postgres.status", env={"REPOM_COMPOSE_SERVICE": "shop"})
    assert (done.status, done.out) == (2, "")


@pytest.mark.parametrize("broken", ["", "profiles: [extra]", "environment: nonsense"])
def test_compose_service_that_was_not_started_yet(
    load: Load, name: str, tmp_path: Path, broken: str
) -> None:
    requires.compose()
    written = COMPOSE.format(name=name, port=1)
    if broken:
        written = written.replace("image: postgres:17", f"image: postgres:17\n    {broken}")
    (tmp_path / "compose.yaml").write_text(written)
    assert server.status(load(REPOM_COMPOSE_SERVICE="database")).state == "absent"


class Watch(threading.Thread):
    """Collects every command line that this machine runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seen: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())


def test_nothing_configured(name: str, project: Path) -> None:
    requires.image(18)
    dotenv = project / ".env"
    environ = {"REPOM_CONTAINER": name}
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 5432)) == 0
    watch = Watch()
    watch.start()
    done = invoke(project, "--echo", "postgres.start", env=environ)
    watch.over.set()
    watch.join()
    if taken:
        assert (done.status, "Port 5432 on this machine is taken" in done.err) == (5, True)
        return
    assert done.status == 0, done.err
    values = dict(line.split("=", 1) for line in dotenv.read_text().splitlines())
    assert (values["POSTGRES_USER"], values["POSTGRES_DB"]) == ("repom", "repom_dev")
    assert stat.S_IMODE(dotenv.stat().st_mode) == 0o600
    assert "postgresql://repom:***@127.0.0.1:5432/repom_dev" in done.out
    assert "Added POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB to" in done.err
    secret = values["POSTGRES_PASSWORD"]
    assert secret not in done.out + done.err
    assert any(b"POSTGRES_PASSWORD" in line for line in watch.seen), "the watch saw nothing"
    assert not [line for line in watch.seen if secret.encode() in line]

    shown = json.loads(invoke(project, "postgres.status", "--json", env=environ).out)
    assert (shown["state"], shown["name"], shown["database"]) == ("running", name, "repom_dev")
    assert secret not in json.dumps(shown)
    assert "ready to accept" in invoke(project, "postgres.logs", env=environ).out
    refused = invoke(project, "postgres.remove", "--volume", env=environ)
    assert (refused.status, refused.out) == (5, "")
    assert invoke(project, "postgres.stop", env=environ).out == f"{name}: exited\n"
    dotenv.unlink()  # the container still knows, and a second start tells
    invoke(project, "postgres.start", env=environ)
    assert secret in dotenv.read_text()
    gone = invoke(project, "postgres.remove", "--volume", "--yes", env=environ)
    assert (gone.status, gone.out) == (0, f"Removed {name}\n")
    assert not there("container", name)
    assert not there("volume", f"{name}_data")


# Without an engine


@pytest.fixture
def open_project() -> Iterator[Path]:
    """A project folder that the server's user can enter: pytest's own are private."""
    requires.host_binaries()
    folder = Path(tempfile.mkdtemp(prefix="repom-test-")).resolve()
    folder.chmod(0o755)
    (folder / "tasks.py").write_text("from repom.tasks import ns\n")
    yield folder
    settings = Settings.load(environ={"REPOM_DOCKER": "/nonexistent-docker"}, cwd=folder)
    server.remove(settings)
    shutil.rmtree(folder)


def test_local_cluster(open_project: Path, port: int) -> None:
    project = open_project
    environ = {"REPOM_DOCKER": "/nonexistent-docker", "POSTGRES_PORT": str(port)}
    environ |= {"POSTGRES_USER": "shop", "POSTGRES_DB": "a b'c\"=x"}
    done = invoke(project, "postgres.start", env=environ)
    assert done.status == 0, done.err
    assert "/nonexistent-docker is not installed, so the server is a local cluster" in done.err
    assert f"@127.0.0.1:{port}/a%20b%27c%22%3Dx" in done.out
    secret = (project / ".env").read_text().partition("POSTGRES_PASSWORD=")[2].strip()
    assert secret
    assert secret not in done.out + done.err
    login = {"PGPASSWORD": secret, "PGHOST": "127.0.0.1", "PGPORT": str(port)}
    psql = ["psql", "-XAtwc", "SHOW listen_addresses", "-U", "shop", "-d", "postgres"]
    answer = subprocess.run(psql, env={**os.environ, **login}, capture_output=True, text=True)
    assert answer.stdout == "127.0.0.1\n", answer.stderr
    wrong = subprocess.run(
        psql, env={**os.environ, **login, "PGPASSWORD": "x"}, capture_output=True
    )
    assert b"password authentication failed" in wrong.stderr

    settings = Settings.load(environ=environ, cwd=project)
    assert server.start(settings).state == "running"
    shown = server.status(settings)
    assert (shown.kind, shown.state, shown.port) == ("local", "running", port)
    assert "ready to accept connections" in server.logs(settings)
    with pytest.raises(Refused, match=f"runs on port {port}"):
        server.start(replace(settings, address=replace(settings.address, port=port + 1)))
    with pytest.raises(Unreachable, match="password authentication failed"):
        server.start(replace(settings, address=replace(settings.address, password="wrong")))
    assert server.stop(settings).state == "stopped"
    assert server.stop(settings).state == "stopped"
    assert server.start(settings).state == "running"
    server.remove(settings)
    assert server.status(settings).state == "stopped"
    server.remove(settings, volume=True)
    assert not cluster.folder(project).exists()


def test_local_cluster_with_nothing_configured(open_project: Path, port: int) -> None:
    environ = {"REPOM_DOCKER": "/nonexistent-docker"}
    settings = replace(Settings.load(environ=environ, cwd=open_project), address=Address(port=port))
    dry = replace(settings, dry=True)
    server.start(dry)
    assert [each.name for each in open_project.iterdir()] == ["tasks.py"]
    started = server.start(settings)
    assert (started.user, started.database) == ("repom", "repom_dev")
    dotenv = open_project / ".env"
    assert stat.S_IMODE(dotenv.stat().st_mode) == 0o600
    again = Settings.load(environ=environ, cwd=open_project)
    again = replace(again, address=replace(again.address, port=port))
    assert server.start(again) == started
    dotenv.unlink()
    with pytest.raises(SettingsError, match="no setting names its user and password"):
        server.start(settings)


def test_copy_of_a_running_cluster_is_not_that_server(open_project: Path, port: int) -> None:
    environ = {"REPOM_DOCKER": "/nonexistent-docker", "POSTGRES_PORT": str(port)}
    environ |= {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "pw"}
    settings = Settings.load(environ=environ, cwd=open_project)
    server.start(settings)
    copy = open_project.with_name(f"{open_project.name}-copy")
    try:
        run("cp", "-a", str(open_project), str(copy))
        of_copy = replace(settings, project=copy)
        assert server.status(of_copy).state == "stopped"
        assert server.stop(of_copy).state == "stopped"
        server.remove(of_copy, volume=True)
        assert not cluster.folder(copy).exists()
        assert server.status(settings).state == "running"
        assert "ready" in server.logs(settings)
    finally:
        shutil.rmtree(copy)


def test_number_of_a_killed_server_that_another_program_has(open_project: Path, port: int) -> None:
    environ = {"REPOM_DOCKER": "/nonexistent-docker", "POSTGRES_PORT": str(port)}
    environ |= {"POSTGRES_USER": "shop", "POSTGRES_PASSWORD": "pw"}
    settings = Settings.load(environ=environ, cwd=open_project)
    server.start(settings)
    lock = cluster.folder(open_project) / "postmaster.pid"
    lines = lock.read_text().splitlines()
    os.kill(int(lines[0]), 9)
    user = cluster.LocalServer(settings, Container("", "absent")).account()
    account = cluster.as_account(["sleep", "60"], user, sys.platform)
    with subprocess.Popen(account) as other:
        try:
            time.sleep(0.5)
            below = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
            lines[0] = (below or [str(other.pid)])[0]
            lock.write_text("\n".join(lines) + "\n")
            assert server.stop(settings).state == "stopped"
            assert other.poll() is None, "another program was stopped"
        finally:
            other.terminate()
    lock.unlink()


def test_local_cluster_of_somebody_else(open_project: Path) -> None:
    data = cluster.folder(open_project)
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    settings = Settings.load(environ={"REPOM_DOCKER": "/nonexistent-docker"}, cwd=open_project)
    with pytest.raises(Refused, match="repom did not create it"):
        server.start(settings)
    assert [each.name for each in data.iterdir()] == ["PG_VERSION"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root only")
def test_private_folder_of_root_is_named(open_project: Path, port: int) -> None:
    open_project.chmod(0o700)
    settings = Settings.load(environ={"REPOM_DOCKER": "/nonexistent-docker"}, cwd=open_project)
    with pytest.raises(Unreachable, match=rf"cannot enter {open_project}\. Allow it with: chmod"):
        server.start(replace(settings, address=replace(settings.address, port=port)))
    assert not (open_project / ".env").exists()


def test_docker_forced_and_not_there(tmp_path: Path) -> None:
    environ = {"REPOM_DOCKER": "/nonexistent-docker", "REPOM_VIA": "docker"}
    settings = Settings.load(environ=environ, cwd=tmp_path)
    with pytest.raises(Unreachable, match="/nonexistent-docker is not installed"):
        server.start(settings)
    assert server.status(settings).state == "/nonexistent-docker is not installed"
