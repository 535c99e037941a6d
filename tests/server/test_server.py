"""What `postgres.*` decides and which command lines it makes, without any server."""

from __future__ import annotations

import json
import socket
import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repom.errors import CommandFailed, Refused, SettingsError, Unreachable
from repom.runners import engine, ownership
from repom.runners.container import PROJECT_LABEL, Container, data_mount
from repom.runners.engine import Engine, Trouble
from repom.server import cluster, containers, credentials, probe, server, volumes
from repom.server.cluster import LocalServer
from repom.settings import Settings
from repom.settings.address import Address
from repom.settings.dotenv import read_dotenv
from repom.tasks.postgres import table
from tests.fakes import FakeDocker, inspected

PROJECT = Path("/work/shop")
EMPTY = Settings(PROJECT, configured=False)
SHOP = Settings(PROJECT, Address(user="me", database="shop", password="pw"))


def test_create_argv() -> None:
    argv = containers.create_argv("db", PROJECT, "postgres:17", "/var/lib/postgresql/data", 5433)
    assert argv == [
        *("create", "--name", "db", "--label", f"repom.project={PROJECT}"),
        *("--shm-size", "256m", "--volume", "db_data:/var/lib/postgresql/data"),
        *("--publish", "127.0.0.1:5433:5432"),
        *("--env", "POSTGRES_USER", "--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_DB"),
        "postgres:17",
    ]


def test_compose_argv() -> None:
    argv = engine.compose_argv(PROJECT, "up", "-d", "db")
    assert argv == ["compose", "--project-directory", str(PROJECT), "up", "-d", "db"]


@pytest.mark.parametrize(
    ("pgdata", "mounts", "expected"),
    [
        pytest.param(
            "/var/lib/postgresql/data",
            ["/var/lib/postgresql/data"],
            "/var/lib/postgresql/data",
            id="17 declares the data folder",
        ),
        pytest.param(
            "/var/lib/postgresql/18/docker",
            ["/var/lib/postgresql"],
            "/var/lib/postgresql",
            id="18 declares its parent",
        ),
        pytest.param(
            "/var/lib/postgresql/18/docker",
            ["/backups", "/var/lib/postgresql", "/var/lib/postgresql/18"],
            "/var/lib/postgresql/18",
            id="the innermost of several",
        ),
        pytest.param(
            "", ["/var/lib/postgresql/data"], "/var/lib/postgresql/data", id="PGDATA is not set"
        ),
        pytest.param("/srv/data", ["/var/lib/postgresql"], "", id="outside of all volumes"),
        pytest.param(
            "/var/lib/postgresql2", ["/var/lib/postgresql"], "", id="a longer name is no child"
        ),
    ],
)
def test_data_mount(pgdata: str, mounts: list[str], expected: str) -> None:
    assert data_mount({"PGDATA": pgdata}, mounts) == expected


@pytest.mark.parametrize(
    ("looked", "expected"),
    [
        pytest.param("postgres (PostgreSQL) 18.0\n", ("18", frozenset()), id="empty volume"),
        pytest.param(
            "postgres (PostgreSQL) 17.5 (Debian 17.5-1)\n17\n", ("17", {"17"}), id="old layout"
        ),
        pytest.param(
            "postgres (PostgreSQL) 18beta1\n17\n18\n", ("18", {"17", "18"}), id="both layouts"
        ),
        pytest.param("sh: postgres: not found\n17\n", ("", {"17"}), id="no such program"),
        pytest.param("", ("", frozenset()), id="nothing"),
    ],
)
def test_versions(looked: str, expected: object) -> None:
    assert volumes.versions(looked) == expected


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        pytest.param(
            "Error response from daemon: driver failed on endpoint db (0e25):"
            " Bind for 127.0.0.1:5433 failed: port is already allocated\n"
            "Error: failed to start containers: db",
            Refused,
            "Port 5433 on this machine is taken",
            id="port, another container",
        ),
        pytest.param(
            "Error response from daemon: listen tcp4 127.0.0.1:5433: bind: address already in use",
            Refused,
            "Port 5433 on this machine is taken",
            id="port, another process",
        ),
        pytest.param(
            "Error response from daemon: Ports are not available: exposing port TCP"
            " 127.0.0.1:5433 -> 0.0.0.0:0: listen tcp 127.0.0.1:5433: bind: Only one usage",
            Refused,
            "Port 5433 on this machine is taken",
            id="port, Docker Desktop",
        ),
        pytest.param(
            "unknown flag: --project-directory\nSee 'docker --help'.",
            Unreachable,
            "The container command has no Compose plugin",
            id="no Compose",
        ),
        pytest.param(
            "docker: unknown command: docker compose\n\nRun 'docker --help' for more information",
            Unreachable,
            "The container command has no Compose plugin",
            id="no Compose, newer client",
        ),
        pytest.param(
            "Error response from daemon: no space left on device\nError: failed to start: db\n",
            CommandFailed,
            "The container engine failed: Error response from daemon: no space left on device",
            id="the first error is the cause",
        ),
        pytest.param("", CommandFailed, "The container engine failed: no reason", id="silence"),
    ],
)
def test_failure(said: str, kind: type[Exception], message: str) -> None:
    error = engine.failure(said)
    assert type(error) is kind
    assert error.message == message


@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_check_port(platform: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Refused, match=f"Port {port} on this machine is taken"):
            probe.check_port(port, platform)
    probe.check_port(port, platform)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"x": "y"}, "", id="others"),
        pytest.param({PROJECT_LABEL: str(PROJECT)}, "", id="ours"),
        pytest.param({PROJECT_LABEL: "/elsewhere"}, "/elsewhere", id="another project's"),
    ],
)
def test_owner(labels: dict[str, str], expected: str) -> None:
    assert ownership.owner(labels, PROJECT) == expected


OURS, THEIRS = {PROJECT_LABEL: str(PROJECT)}, {PROJECT_LABEL: "/elsewhere"}
NAMELESS = "0123456789abcdef" * 4


def composed(folder: Path | str = PROJECT, project: str = "shop") -> dict[str, str]:
    names = {"project.working_dir": str(folder), "project": project}
    return {f"com.docker.compose.{name}": value for name, value in names.items()}


@pytest.mark.parametrize(
    ("volume", "labels", "of_container", "expected"),
    [
        pytest.param("x", OURS, {}, True, id="labelled, whatever the container"),
        pytest.param("db_data", THEIRS, OURS, False, id="another project's in our container"),
        pytest.param("db_data", {}, OURS, True, id="our container's own"),
        pytest.param("x", {}, OURS, False, id="somebody's in our container"),
        pytest.param("db_data", {}, {}, False, id="somebody's with the expected name"),
        pytest.param("db_data", {"x": "y"}, composed(), False, id="external in Compose"),
        pytest.param("x", composed(), composed(), True, id="the Compose service's"),
        pytest.param("x", composed(project="web"), composed(), False, id="another Compose's"),
        pytest.param("x", composed(), composed("/else"), False, id="Compose elsewhere"),
        pytest.param("x", composed(), {}, False, id="Compose's in a container by hand"),
        pytest.param("db_data", composed(), OURS, False, id="Compose's in our container"),
        pytest.param(NAMELESS, {}, OURS, True, id="nameless, ours"),
        pytest.param(NAMELESS, {}, composed(), True, id="nameless, Compose"),
        pytest.param(
            NAMELESS, {}, composed(PROJECT / "sub"), False, id="nameless, of a sub-folder"
        ),
        pytest.param("x", composed(), composed(PROJECT / "sub"), False, id="a sub-folder's"),
        pytest.param("x", composed(), composed(PROJECT.parent), False, id="a parent's"),
        pytest.param(NAMELESS, {}, {}, False, id="nameless, by hand"),
    ],
)
def test_which_volumes_were_made_for_the_project(
    volume: str, labels: dict[str, str], of_container: dict[str, str], expected: bool
) -> None:
    found = Container("db", "exited", "id", labels=of_container)
    assert volumes.made_for(PROJECT, volume, labels, found) is expected


NOT_TOLD = {
    "no engine": "Cannot connect to the Docker daemon at unix:///run/docker.sock.",
    "no permission": "permission denied while trying to connect to the Docker daemon socket",
    "a time-out": "Error response from daemon: context deadline exceeded",
    "silence": "",
}


def create(settings: Settings) -> None:
    absent = Container(settings.container, "absent", trouble=Trouble.ABSENT)
    containers.ContainerServer(settings, absent).create()


@pytest.mark.parametrize("said", NOT_TOLD.values(), ids=list(NOT_TOLD))
def test_an_engine_that_does_not_tell_is_not_an_absence(
    docker: FakeDocker, tmp_path: Path, said: str
) -> None:
    docker.answers("volume inspect", "[]\n", said, status=1)
    docker.answers("image inspect", '[{"Config": {}}]')
    settings = replace(SHOP, project=tmp_path, docker=docker.program)
    with pytest.raises(Unreachable, match="does not answer") as caught:
        create(replace(settings, container="shop"))
    assert "\n" not in str(caught.value)
    assert "docker info" in caught.value.hint
    assert [each.split()[:2] for each in docker.calls] == [
        ["image", "inspect"],
        ["volume", "inspect"],
    ]


@pytest.mark.parametrize("answer", ["", "no JSON", "{}", "null", "[]"])
def test_a_program_that_is_no_engine_tells_nothing(docker: FakeDocker, answer: str) -> None:
    docker.answers("volume inspect", answer)
    with pytest.raises(Unreachable, match="unexpected output"):
        volumes.labels_of(Engine(docker.program), "shop_data")


@pytest.mark.parametrize(
    "said",
    [
        "Error response from daemon: get shop_data: no such volume",
        "Error: No such volume: shop_data",
        "Error response from daemon: no such image: x: No such image: x:latest",
        "Error: inspecting object: x: image not known",
    ],
)
def test_what_there_is_not_is_nothing(docker: FakeDocker, said: str) -> None:
    docker.answers("volume inspect", "[]\n", said, status=1)
    assert volumes.labels_of(Engine(docker.program), "shop_data") is None


@pytest.mark.parametrize("said", NOT_TOLD.values(), ids=list(NOT_TOLD))
@pytest.mark.parametrize("service", [None, "db"])
def test_status_tells_why_there_is_no_answer(
    docker: FakeDocker, tmp_path: Path, said: str, service: str | None
) -> None:
    docker.answers("", stderr=said, status=1)
    settings = replace(SHOP, project=tmp_path, docker=docker.program, compose_service=service)
    shown = server.status(replace(settings, via="docker", is_named=bool(service)))
    assert (shown.data, shown.state == "absent") == ("", False)
    assert len(docker.calls) == 1


def test_volume_of_a_service_without_a_container_is_not_guessed(
    docker: FakeDocker, tmp_path: Path
) -> None:
    docker.answers("ps -aq")
    settings = replace(
        SHOP, project=tmp_path, docker=docker.program, compose_service="db", is_named=True
    )
    assert server.remove(settings).data == ""
    with pytest.raises(Refused, match=r"no container of the Compose service db, .*down --volumes"):
        server.remove(settings, volume=True)


def test_engine_without_a_filter_for_ports_can_start(docker: FakeDocker, tmp_path: Path) -> None:
    docker.answers("image inspect", '[{"Config": {}}]')
    docker.answers("volume inspect", stderr="Error: no such volume shop_data", status=125)
    docker.answers("ps", stderr='Error: "publish" is an invalid filter', status=125)
    for done in ("volume create", "create", "start"):
        docker.answers(done)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    known = replace(SHOP, project=tmp_path, docker=docker.program, container="shop")
    create(replace(known, address=replace(SHOP.address, port=port)))
    assert docker.calls[-1] == "start shop"


def test_data_on_another_machine_are_kept(docker: FakeDocker, tmp_path: Path) -> None:
    """There, a folder of the same path is another one."""
    labels = {PROJECT_LABEL: str(tmp_path)}
    shown = {**inspected("shop", labels=labels), "Mounts": []}
    shown["Mounts"] = [{"Destination": "/var/lib/postgresql/data", "Name": "shop_data"}]
    docker.answers("container inspect", json.dumps([shown]))
    volume = {"Name": "shop_data", "Labels": labels}
    docker.answers("volume inspect", json.dumps([volume]))
    docker.answers("context inspect", "ssh://ann@build.example.com\n")
    settings = replace(SHOP, project=tmp_path, docker=docker.program, container="shop")
    settings = replace(settings, is_named=True)
    with pytest.raises(Refused, match="engine is on another machine"):
        server.remove(settings, volume=True)
    assert not [call for call in docker.calls if call.startswith(("rm", "stop", "volume rm"))]


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        pytest.param({}, False, id="nobody's"),
        pytest.param(OURS, False, id="ours"),
        pytest.param(composed(), False, id="this folder's Compose"),
        pytest.param(THEIRS, True, id="another project's"),
        pytest.param(composed("/elsewhere"), True, id="another Compose's"),
        pytest.param(composed(PROJECT / "sub"), True, id="a sub-folder's"),
        pytest.param(composed(PROJECT.parent), True, id="a parent's"),
        pytest.param({**composed("/elsewhere"), **OURS}, False, id="ours, out of Compose"),
        pytest.param({PROJECT_LABEL: "."}, True, id="no path"),
        pytest.param({PROJECT_LABEL: "\x1b[2J/x"}, True, id="a forged one"),
    ],
)
def test_whose_container_may_be_ended(labels: dict[str, str], refused: bool) -> None:
    found = Container("db", "exited", "id", labels=labels)
    if not refused:
        return ownership.check_ours(found, PROJECT)
    with pytest.raises(Refused, match="belongs to the") as caught:
        ownership.check_ours(found, PROJECT)
    assert caught.value.message.isprintable()
    return None


@pytest.mark.parametrize("moved", [False, True])
def test_a_neighbours_private_folder_is_there(unprivileged: Path, moved: bool) -> None:
    private = unprivileged / "private"
    private.mkdir(mode=0o000)
    found = Container("db", "running", "id", labels={PROJECT_LABEL: str(private / "shop")})
    with pytest.raises(Refused, match="belongs to the project in"):
        ownership.check_owner(found, PROJECT, moved=moved)


# Which server


@pytest.mark.parametrize(
    ("trouble", "via", "expected"),
    [
        (Trouble.ABSENT, "auto", False),
        (Trouble.ABSENT, "host", True),
        (Trouble.ABSENT, "docker", False),
        (Trouble.NOT_INSTALLED, "auto", True),
        (Trouble.NOT_INSTALLED, "docker", False),
        (Trouble.NOT_RUNNING, "auto", True),
        (Trouble.FORBIDDEN, "auto", False),
        (Trouble.OTHER, "auto", False),
    ],
)
def test_is_local(trouble: Trouble, via: str, expected: bool, tmp_path: Path) -> None:
    settings = replace(SHOP, project=tmp_path, via=via)
    found = Container("db", "whatever it is called", trouble=trouble)
    assert server.is_local(LocalServer(settings, found)) is expected


def test_existing_cluster_comes_before_a_new_container(tmp_path: Path) -> None:
    folder = cluster.folder(tmp_path)
    folder.mkdir(parents=True)
    absent = Container("db", "absent", trouble=Trouble.ABSENT)
    (folder / "PG_VERSION").write_text("17\n")
    local = LocalServer(replace(SHOP, project=tmp_path), absent)
    assert not server.is_local(local), "a Compose mount"
    (folder / cluster.LOG).touch()
    assert server.is_local(local)
    assert local.version == "17"


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(replace(EMPTY, configured=True), id="SQLite on purpose"),
        pytest.param(
            replace(SHOP, address=replace(SHOP.address, host="db.example.com")),
            id="another machine",
        ),
    ],
)
def test_target_that_cannot_be_started(settings: Settings) -> None:
    with pytest.raises(SettingsError):
        server._check_target(settings, Container("db", "absent"))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(EMPTY, id="nothing configured"),
        *(
            pytest.param(
                replace(SHOP, address=Address(host, database="shop"), compose_service="db"),
                id=f"host {host}",
            )
            for host in (None, "localhost", "::1", "/run/postgresql", "db")
        ),
    ],
)
def test_target_that_can_be_started(settings: Settings) -> None:
    server._check_target(settings, Container("db", "absent"))


# User, database, password


def test_complete_makes_up_what_nobody_chose() -> None:
    made = credentials.complete(EMPTY)
    assert (made.backend, made.user, made.database) == ("postgresql", "repom", "repom_dev")
    assert len(made.password or "") >= 32
    assert credentials.complete(EMPTY).password != made.password
    assert credentials.complete(SHOP) == SHOP
    assert (
        credentials.complete(replace(SHOP, address=replace(SHOP.address, password=None))).user
        == "me"
    )


@pytest.mark.parametrize(
    ("settings", "env", "expected"),
    [
        pytest.param(EMPTY, {}, ("postgres", "postgres", None), id="the image's defaults"),
        pytest.param(
            EMPTY,
            {"POSTGRES_USER": "a", "POSTGRES_PASSWORD": "b"},
            ("a", "a", "b"),
            id="the database is the user's",
        ),
        pytest.param(
            SHOP,
            {"POSTGRES_USER": "a", "POSTGRES_PASSWORD": "b"},
            ("me", "shop", "pw"),
            id="settings win",
        ),
        pytest.param(
            replace(SHOP, address=replace(SHOP.address, password=None)),
            {"POSTGRES_PASSWORD": "b"},
            ("me", "shop", "b"),
            id="the password alone",
        ),
    ],
)
def test_adopt(settings: Settings, env: dict[str, str], expected: object) -> None:
    known = credentials.adopt(settings, env)
    assert (known.user, known.database, known.password) == expected


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        pytest.param(None, "NEW=1\n", id="new"),
        pytest.param("", "NEW=1\n", id="empty"),
        pytest.param("A=b\n", "A=b\nNEW=1\n", id="whole last line"),
        pytest.param("A=b", "A=b\nNEW=1\n", id="last line without its end"),
    ],
)
def test_append(tmp_path: Path, before: str | None, expected: str) -> None:
    path = tmp_path / ".env"
    if before is not None:
        path.write_text(before)
        path.chmod(0o640)
    credentials.append(path, {"NEW": "1"})
    assert path.read_text() == expected
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if before is None else 0o640)


@pytest.mark.parametrize("value", ["plain-1_~", "a b", "it's", 'a"b', "a\\b", "a#b", "$HOME", "é"])
def test_quoted_value_is_read_back(tmp_path: Path, value: str) -> None:
    credentials.append(tmp_path / ".env", {"NAME": value, "POSTGRES_PASSWORD": value})
    read = read_dotenv(tmp_path / ".env", {})
    assert read == {"NAME": value, "POSTGRES_PASSWORD": value}


def test_remember_keeps_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("POSTGRES_PASSWORD=old\nPOSTGRES_USER=\n")
    before = replace(EMPTY, project=tmp_path)
    credentials.remember(before, replace(SHOP, project=tmp_path), 5433)
    assert path.read_text() == (
        "POSTGRES_PASSWORD=old\nPOSTGRES_USER=\n"
        "POSTGRES_USER=me\nPOSTGRES_DB=shop\nPOSTGRES_PORT=5433\n"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(SHOP, SHOP, id="all was known"),
        pytest.param(replace(EMPTY, dry=True), SHOP, id="dry run"),
    ],
)
def test_remember_writes_nothing(tmp_path: Path, before: Settings, after: Settings) -> None:
    credentials.remember(replace(before, project=tmp_path), after)
    assert list(tmp_path.iterdir()) == []


# A local cluster


@pytest.mark.parametrize(
    ("platform", "locale"), [("linux", "C.UTF-8"), ("darwin", "en_US.UTF-8"), ("win32", "C")]
)
def test_initdb_arguments(platform: str, locale: str) -> None:
    assert cluster.initdb_arguments(Path("d"), "me", "FILE", platform) == [
        *("-D", "d", "-U", "me", "--pwfile=FILE", "--auth=scram-sha-256"),
        *("--encoding=UTF8", f"--locale={locale}", "--lc-messages=C"),
    ]


def test_start_arguments() -> None:
    data = cluster.folder(PROJECT)
    assert cluster.start_arguments(data, 5433) == [
        *("start", "-D", str(data), "-l", str(data / "repom.log"), "-w", "-t", "60", "-o"),
        "-c listen_addresses=127.0.0.1 -c port=5433 -c unix_socket_directories=",
    ]


@pytest.mark.parametrize(
    ("account", "platform", "expected"),
    [
        pytest.param(None, "linux", ["initdb", "-V"], id="oneself"),
        pytest.param(
            "nobody", "linux", ["runuser", "-u", "nobody", "--", "initdb", "-V"], id="Linux"
        ),
        pytest.param(
            "nobody", "darwin", ["sudo", "-n", "-u", "nobody", "--", "initdb", "-V"], id="macOS"
        ),
    ],
)
def test_as_account(account: str | None, platform: str, expected: list[str]) -> None:
    assert cluster.as_account(["initdb", "-V"], account, platform) == expected


def test_programs_for(tmp_path: Path) -> None:
    suffix = ".exe" if sys.platform == "win32" else ""
    found = [(15, "a"), (18, "client only"), (17, "b")]
    available = [(major, str(tmp_path / folder)) for major, folder in found]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"initdb{suffix}").touch(mode=0o755)
    assert cluster.programs_for("", available) == str(tmp_path / "b")
    assert cluster.programs_for("15", available) == str(tmp_path / "a")
    with pytest.raises(Unreachable, match="PostgreSQL 18's server programs"):
        cluster.programs_for("18", available)
    with pytest.raises(Unreachable, match="Install Docker, or"):
        cluster.programs_for("", [])


def test_neither_engine_nor_programs(tmp_path: Path) -> None:
    folder = cluster.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "PG_VERSION").write_text("9\n")
    (folder / cluster.LOG).touch()
    settings = replace(SHOP, project=tmp_path, docker="/nonexistent-docker")
    with pytest.raises(Unreachable) as caught:
        server.start(settings)
    assert str(caught.value) == (
        "/nonexistent-docker is not installed, and PostgreSQL 9's server programs (initdb,"
        " pg_ctl) are not on this host. Install Docker, or the PostgreSQL server package of"
        " this system"
    )


# What people see


def test_url_is_masked_and_quoted() -> None:
    address = Address(user="a@b", database="c/d", password="pw")
    shown = server.status(replace(SHOP, address=address, docker="/no/docker"))
    assert shown.url == "postgresql://a%40b:***@127.0.0.1:5432/c%2Fd"
    assert "pw" not in repr(shown)


def test_table_has_a_line_for_each_value() -> None:
    shown = server.status(replace(SHOP, docker="/no/docker"))
    assert table(shown, ("host", "image", "port")) == "host      127.0.0.1\nport      5432"


@pytest.mark.slow
def test_waiting_takes_two_answers() -> None:
    complaints = iter(["starting", "", "starting", "", ""])
    assert probe.wait(lambda: next(complaints), lambda: "running") == ""
    assert list(complaints) == []


def test_waiting_ends_when_the_server_does() -> None:
    assert probe.wait(lambda: "no", lambda: "exited") == "does not stay up (exited)"
