from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repom.dbops.work import locate
from repom.errors import SettingsError, Unreachable
from repom.runners.container import Container
from repom.runners.discover import find
from repom.runners.engine import Engine, EngineSilent, Trouble, endpoint, is_remote, meaning
from repom.runners.exec import ExecRunner
from repom.runners.runner import Runner
from repom.settings import Settings
from repom.settings.address import Address
from tests.fakes import FakeDocker, inspected

ABSENT = "Error response from daemon: No such container: repom_postgres"
DOWN = (
    "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. "
    "Is the docker daemon running?"
)
DENIED = (
    "permission denied while trying to connect to the Docker daemon socket at "
    "unix:///var/run/docker.sock: Get ...: dial unix /var/run/docker.sock: connect: "
    "permission denied"
)
INSPECT = "container inspect "


@dataclass
class Chosen:
    runner: Runner
    fallback: str


def choosing(docker: FakeDocker | str, **given: Any) -> Chosen:
    """What is chosen where a setting names the container, told what is given."""
    program = docker if isinstance(docker, str) else docker.program
    names = {"name": "container", "service": "compose_service"}
    known = {names.get(key, key): value for key, value in given.items()}
    project = known.pop("project", Path.cwd())
    address = Address(known.pop("host", None), known.pop("port", None), "ann", "shop")
    located = locate(
        Settings(project, address, docker=program, **{"is_named": True, **known}), "pg_dump"
    )
    return Chosen(located.choice.runner(located), located.choice.fallback)


def shows(docker: FakeDocker, *items: Mapping[str, Any]) -> None:
    docker.answers(INSPECT, json.dumps(items))


@pytest.fixture(autouse=True)
def talk(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="repom")
    return caplog


# -- which server -------------------------------------------------------------------------


MEANT = {
    "nothing": (None, None),
    "a port alone": (None, 9999),
    "a socket": ("/var/run/postgresql", None),
    "a socket and a port": ("/var/run/postgresql", 9999),
    "an abstract socket": ("@postgresql", None),
    "localhost": ("localhost", None),
    "localhost and its port": ("localhost", 5432),
    "LOCALHOST": ("LOCALHOST", 5432),
    "IPv4 loopback": ("127.0.0.1", 5432),
    "another IPv4 loopback": ("127.1.2.3", None),
    "IPv6 loopback": ("::1", None),
    "its name": ("repom_postgres", None),
    "its name and the inner port": ("repom_postgres", 5432),
    "its name and any port": ("repom_postgres", 9999),
}
ELSEWHERE = ("db.example.com", "10.0.0.5", "localhost.example.com", "postgres", "repom")


@pytest.mark.parametrize(("host", "port"), MEANT.values(), ids=list(MEANT))
@pytest.mark.parametrize("via", ["auto", "docker"])
def test_the_running_container_is_used_when_it_is_the_configured_server(
    docker: FakeDocker, via: str, host: str | None, port: int | None
) -> None:
    shows(docker, inspected())

    choice = choosing(docker, via=via, host=host, port=port)

    assert isinstance(choice.runner, ExecRunner)
    assert (
        choice.runner.container,
        choice.runner.where,
    ) == ("id-of-repom_postgres", "container repom_postgres")


@pytest.mark.parametrize("host", ELSEWHERE)
@pytest.mark.parametrize("port", [None, 5432])
def test_a_server_elsewhere_is_reached_from_the_host_and_docker_is_not_asked(
    docker: FakeDocker, host: str, port: int | None
) -> None:
    choice = choosing(docker, host=host, port=port, is_named=False)

    assert (choice.runner.via, choice.fallback) == ("host", "")
    assert docker.calls == []


@pytest.mark.parametrize("host", ELSEWHERE)
def test_docker_together_with_another_host_is_an_error(docker: FakeDocker, host: str) -> None:
    with pytest.raises(SettingsError, match=rf"REPOM_VIA is docker.*{host}") as caught:
        choosing(docker, via="docker", host=host)

    assert caught.value.exit_status == 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("ports", [(5433,), (5433, 8080)])
def test_a_loopback_port_that_the_container_does_not_publish_is_another_server(
    docker: FakeDocker, talk: pytest.LogCaptureFixture, host: str, ports: tuple[int, ...]
) -> None:
    shows(docker, inspected(ports=ports))

    choice = choosing(docker, host=host, port=5432)

    assert (choice.runner.via, choice.fallback) == ("host", "")
    assert warned(talk) == [PORTS]
    with pytest.raises(SettingsError, match="does not publish port 5432"):
        choosing(docker, via="docker", host=host, port=5432)


@pytest.mark.parametrize("ports", [(5432,), (15432, 5432)])
def test_a_published_port_is_the_container(docker: FakeDocker, ports: tuple[int, ...]) -> None:
    shows(docker, inspected(ports=ports))

    assert choosing(docker, host="localhost", port=5432).runner.via == "docker"


@pytest.mark.parametrize(
    ("environment", "port", "via"),
    [([], 5432, "docker"), ([], 6543, "host"), (["PGPORT=6543"], 6543, "docker")],
)
def test_a_container_on_the_hosts_network_has_its_servers_port(
    docker: FakeDocker, environment: list[str], port: int, via: str
) -> None:
    shown = inspected(ports=(), network="host")
    shown["Config"]["Env"] = environment
    shows(docker, shown)

    assert via == choosing(docker, host="localhost", port=port).runner.via


@pytest.mark.parametrize("host", [None, "localhost", "db.example.com"])
def test_host_forces_the_host_and_docker_is_not_asked(
    docker: FakeDocker, talk: pytest.LogCaptureFixture, host: str | None
) -> None:
    assert choosing(docker, via="host", host=host).runner.via == "host"
    assert (docker.calls, talk.text) == ([], "")


def test_the_container_in_use_is_named(docker: FakeDocker, talk: pytest.LogCaptureFixture) -> None:
    shows(docker, inspected())
    choosing(docker)

    assert talk.messages == ["Using Docker container: repom_postgres"]


def test_the_container_is_asked_about_once(docker: FakeDocker) -> None:
    shows(docker, inspected())
    choosing(docker)

    assert docker.calls == ["container inspect repom_postgres"]


def test_echo_and_dry_reach_the_runner_and_the_question_is_asked_all_the_same(
    docker: FakeDocker,
) -> None:
    shows(docker, inspected())
    choice = choosing(docker, echo=True, dry=True)

    assert isinstance(choice.runner, ExecRunner)
    assert choice.runner.echo
    assert choice.runner.dry
    assert len(docker.calls) == 1


def test_a_container_that_publishes_nothing_is_meant_whatever_the_port(
    docker: FakeDocker,
) -> None:
    shows(docker, inspected(ports=()))

    assert choosing(docker, host="localhost", port=5432).runner.via == "docker"


def warned(talk: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in talk.records if r.levelno == logging.WARNING]


PORTS = (
    "Container repom_postgres publishes port 5433, but the settings say port 5432;"
    " to use the container, set POSTGRES_PORT to 5433"
)


# -- the container does not run -----------------------------------------------------------


STATES = ("exited", "paused", "restarting", "created", "dead")
TROUBLES = {
    "absent": (ABSENT, "absent"),
    "absent, in the words of an old engine": ("Error: No such object: repom_postgres", "absent"),
    "absent, in podman's words": (
        'Error: inspecting object: no such container "repom_postgres"',
        "absent",
    ),
    "no daemon": (DOWN, "the Docker daemon is not running"),
    "no daemon over TCP": (
        "error during connect: Get ...: dial tcp 127.0.0.1:2375: connect: connection refused",
        "the Docker daemon is not running",
    ),
    "no permission": (DENIED, "no permission to use the Docker socket"),
    "anything else": ("first\nsomething new", "something new"),
    "silence": ("", "exited 1"),
}


def falls_back(choice: Chosen, talk: pytest.LogCaptureFixture, state: str) -> None:
    message = f"Container repom_postgres is not running ({state})"
    assert choice.runner.via == "host"
    assert message == choice.fallback
    assert [f"{message}, using host pg_dump"] == talk.messages
    assert [record.levelno for record in talk.records] == [logging.WARNING]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("host", "port"), [(None, None), ("localhost", 5432)])
def test_a_container_that_does_not_run_is_named_with_its_state(
    docker: FakeDocker,
    talk: pytest.LogCaptureFixture,
    state: str,
    host: str | None,
    port: int | None,
) -> None:
    shown = inspected(state=state, ports=())
    shown["HostConfig"]["PortBindings"] = {"5432/tcp": [{"HostIp": "", "HostPort": "5432"}]}
    shows(docker, shown)

    falls_back(choosing(docker, host=host, port=port), talk, state)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        (None, 5432, True),
        (None, 5433, False),
        ("/run/postgresql", None, False),
    ],
)
@pytest.mark.parametrize("state", ["exited", "paused"])
def test_a_fallback_tells_of_the_containers_other_port(
    docker: FakeDocker,
    talk: pytest.LogCaptureFixture,
    state: str,
    host: str | None,
    port: int | None,
    expected: bool,
) -> None:
    shown = inspected(state=state, ports=(5433,) if state == "paused" else ())
    shown["HostConfig"]["PortBindings"] = {"5432/tcp": [{"HostIp": "", "HostPort": "5433"}]}
    shows(docker, shown)

    choosing(docker, host=host, port=port)

    assert ([PORTS] if expected else []) == talk.messages[1:]


@pytest.mark.parametrize(("said", "state"), TROUBLES.values(), ids=list(TROUBLES))
def test_an_engine_that_does_not_answer_is_a_state(
    docker: FakeDocker, talk: pytest.LogCaptureFixture, said: str, state: str
) -> None:
    docker.answers(INSPECT, "[]\n", said, status=1)
    if state.startswith("exited"):
        state = f"{docker.program} exited 1"

    falls_back(choosing(docker, port=5432), talk, state)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Error: No such volume: shop_data", Trouble.ABSENT),
        (DENIED, Trouble.FORBIDDEN),
        (DOWN, Trouble.NOT_RUNNING),
        ("Bind for 0.0.0.0:5432 failed: port is already allocated", Trouble.PORT_TAKEN),
        ("docker: 'compose' is not a docker command.", Trouble.NO_COMPOSE),
        ("error: required variable POSTGRES_USER is missing a value", Trouble.VALUE_MISSING),
        ("env file /shop/.env not found", Trouble.VALUE_MISSING),
        ('exec: "psql": executable file not found in $PATH', Trouble.PROGRAM_MISSING),
        ("Docker Compose wants a newer buildx", Trouble.OTHER),
        ("", Trouble.OTHER),
    ],
)
def test_what_a_complaint_means(said: str, expected: Trouble) -> None:
    assert expected == meaning(said)


@pytest.mark.parametrize("program", ["no-such-docker", "./no/such/docker"])
def test_without_docker_the_host_is_used(talk: pytest.LogCaptureFixture, program: str) -> None:
    falls_back(choosing(program), talk, f"{program} is not installed")


def test_a_program_that_may_not_be_run_is_not_installed(
    tmp_path: Path, talk: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\n")

    falls_back(choosing(f"{tmp_path}/docker"), talk, f"{tmp_path}/docker is not installed")


@pytest.mark.parametrize("state", ["exited", "paused"])
def test_docker_forced_and_not_running_says_what_to_do(docker: FakeDocker, state: str) -> None:
    shows(docker, inspected(state=state))

    with pytest.raises(Unreachable) as caught:
        choosing(docker, via="docker")

    assert caught.value.exit_status == 3
    assert f"Container repom_postgres is not running ({state})" == caught.value.message
    assert "postgres.start" in caught.value.hint


@pytest.mark.parametrize(("said", "state"), [(ABSENT, "absent"), (DENIED, "no permission")])
def test_docker_forced_and_not_there_says_why(docker: FakeDocker, said: str, state: str) -> None:
    docker.answers(INSPECT, stderr=said, status=1)

    with pytest.raises(Unreachable, match=state):
        choosing(docker, via="docker")


@pytest.mark.parametrize("answer", ["", "not json", "{}", "null"])
def test_a_program_that_is_no_engine_is_a_state_and_no_traceback(
    docker: FakeDocker, answer: str
) -> None:
    docker.answers(INSPECT, answer)

    assert choosing(docker).fallback.startswith("Container repom_postgres is not running (")


# -- finding ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["repom_postgres_old", "my_repom_postgres", "repom_postgre"])
def test_a_name_that_merely_contains_the_configured_one_is_another_container(
    docker: FakeDocker, name: str
) -> None:
    shows(docker, inspected(name))

    assert Container("repom_postgres", "absent") == find(
        docker.program, "repom_postgres", None, Path.cwd()
    )


def test_a_container_is_described_as_the_engine_sees_it(docker: FakeDocker) -> None:
    shows(docker, inspected(ports=(5432, 5433), labels={"a": "b"}))

    found = find(docker.program, "repom_postgres", None, Path.cwd())

    expected = Container(
        "repom_postgres",
        "running",
        "id-of-repom_postgres",
        (("127.0.0.1", 5432), ("127.0.0.1", 5433)),
        {"a": "b"},
    )
    assert expected == found


def test_what_an_engine_leaves_out_is_nothing(docker: FakeDocker) -> None:
    item = inspected()
    item["Config"]["Labels"] = None
    item["NetworkSettings"] = None
    item["Name"] = "repom_postgres"  # podman's has no slash
    shows(docker, item)

    found = find(docker.program, "repom_postgres", None, Path.cwd())

    assert (found.bindings, found.labels, found.running) == ((), {}, True)


def item(ports: Any = None, bindings: Any = None, mode: str = "default") -> dict[str, Any]:
    return {
        **inspected(),
        "HostConfig": {"NetworkMode": mode, "PortBindings": bindings},
        "NetworkSettings": {"Ports": ports},
    }


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param(item({"5432/tcp": [{"HostPort": "5433"}]}), 5433, id="running"),
        pytest.param(item({}, {"5432/tcp": [{"HostPort": "5433"}]}), 5433, id="stopped"),
        pytest.param(
            item({"5432/tcp": [{"HostPort": "49153"}]}, {"5432/tcp": [{"HostPort": ""}]}),
            49153,
            id="any free port",
        ),
        pytest.param(item({"5432/tcp": [{"HostPort": ""}]}), None, id="an empty one"),
        pytest.param(item({"5432/tcp": None}), None, id="exposed only"),
        pytest.param(item({"5432/udp": [{"HostPort": "5432"}]}), None, id="another protocol"),
        pytest.param(
            item({"80/tcp": [{"HostPort": "80"}], "5432/tcp": [{"HostPort": "1"}]}), 1, id="several"
        ),
        pytest.param(item(mode="host"), 5432, id="the host's network"),
        pytest.param(item({}, {"5432/tcp": [{"HostPort": "0"}]}), None, id="any, and stopped"),
        pytest.param(item(), None, id="none"),
    ],
)
def test_the_port_that_leads_to_postgresql(
    docker: FakeDocker, shown: Mapping[str, Any], expected: int | None
) -> None:
    shows(docker, shown)

    assert expected == find(docker.program, "repom_postgres", None, Path.cwd()).port


WRONG: dict[str, Any] = {
    "Name": [None, 5, ["x"]],
    "Id": [None, 5],
    "State": [None, "running", {"Status": 5}, []],
    "Config": [[], "x", {"Labels": {"a": 1}}, {"Labels": ["a"]}, {"Env": [1]}, {"Env": 5}],
    "HostConfig": [[], "x", {"PortBindings": {"5432/tcp": "x"}}],
    "NetworkSettings": [[], 5, {"Ports": []}, {"Ports": {"5432/tcp": [["127.0.0.1"]]}}],
    "Mounts": ["x", [1], [{"Destination": 1}]],
}
ANSWERS = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(("name", "value"), ANSWERS, ids=str)
def test_an_answer_of_another_shape_is_no_traceback_and_no_container(
    docker: FakeDocker, name: str, value: Any
) -> None:
    shown = inspected(state="exited")
    shown["HostConfig"]["PortBindings"] = {}
    if name in ("NetworkSettings", "HostConfig"):
        shown["NetworkSettings"] = {}
    shows(docker, {**shown, name: value})

    found = choosing(docker, host="localhost", port=5432)

    assert "unexpected output" in found.fallback


@pytest.mark.parametrize("answer", ["[" * 100_000, "[5]", '["x"]', "[[]]", "[null]", '{"a": {}}'])
def test_json_of_another_shape_is_no_traceback(docker: FakeDocker, answer: str) -> None:
    docker.answers(INSPECT, answer)

    assert "unexpected output" in choosing(docker).fallback


PUBLISHED = {
    "the same address": ("127.0.0.1", "127.0.0.1", "docker"),
    "another loopback address": ("127.0.0.1", "127.0.0.2", "host"),
    "the other one": ("127.0.0.2", "127.0.0.2", "docker"),
    "all of IPv4": ("127.0.0.1", "0.0.0.0", "docker"),
    "all, in an old engine's words": ("127.0.0.1", "", "docker"),
    "the network's address": ("127.0.0.1", "192.168.0.7", "host"),
    "IPv6 and only IPv4": ("::1", "127.0.0.1", "host"),
    "IPv6": ("[::1]", "::1", "docker"),
    "all of IPv6": ("::1", "::", "docker"),
    "by name": ("localhost", "127.0.0.1", "docker"),
    "by name, another loopback address": ("localhost", "127.0.0.2", "host"),
}


@pytest.mark.parametrize(("host", "ip", "via"), PUBLISHED.values(), ids=list(PUBLISHED))
def test_the_same_port_of_another_address_is_another_server(
    docker: FakeDocker, host: str, ip: str, via: str
) -> None:
    shown = inspected()
    bound = {"5432/tcp": [{"HostIp": ip, "HostPort": "5432"}]}
    shown["NetworkSettings"]["Ports"] = bound
    shows(docker, shown)

    assert via == choosing(docker, host=host, port=5432).runner.via


def test_the_port_of_another_service_in_the_container_is_another_server(
    docker: FakeDocker,
) -> None:
    shown = inspected()
    shown["NetworkSettings"]["Ports"]["8080/tcp"] = [{"HostIp": "0.0.0.0", "HostPort": "8432"}]
    shows(docker, shown)

    assert choosing(docker, host="localhost", port=8432).runner.via == "host"


# -- the Compose service ------------------------------------------------------------------


def service(name: str, state: str = "running", **labels: str) -> dict[str, Any]:
    """A container that Compose made for this folder."""
    known = {
        "com.docker.compose.service": "db",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project.working_dir": str(Path.cwd()),
    }
    return inspected(
        name, state, labels={**known, **{f"com.docker.compose.{k}": v for k, v in labels.items()}}
    )


def compose(docker: FakeDocker, *items: dict[str, Any]) -> None:
    listed = "ps -aq --no-trunc --filter label=com.docker.compose.service=db"
    docker.answers(listed, "".join(f"{item['Id']}\n" for item in items))
    if items:
        ids = " ".join(item["Id"] for item in items)
        docker.answers(f"{INSPECT}{ids}", json.dumps(items))


def of_service(docker: FakeDocker, project: Path | None = None) -> Container:
    return find(docker.program, "repom_postgres", "db", project or Path.cwd())


@pytest.mark.parametrize("host", [None, "db", "localhost"])
def test_a_compose_service_is_found_by_its_labels(docker: FakeDocker, host: str | None) -> None:
    compose(docker, service("shop-db-1"))

    choice = choosing(docker, service="db", host=host)

    assert choice.runner.where == "container shop-db-1"


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({}, "running"),
        ({"oneoff": "True"}, "absent"),
        ({"project.working_dir": "/somewhere/else"}, "absent"),
        ({"project.working_dir": ""}, "absent"),
    ],
    ids=["its own", "a one-off", "another project", "no folder"],
)
def test_only_the_services_own_container_of_this_project_counts(
    docker: FakeDocker, labels: dict[str, str], found: str
) -> None:
    compose(docker, service("shop-db-1", **labels))

    assert found == of_service(docker).state


@pytest.mark.parametrize("folder", ["deploy", "..", "../x"])
@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_folder_above_or_below_is_another_project_and_told_of(
    docker: FakeDocker, folder: str, state: str, talk: pytest.LogCaptureFixture
) -> None:
    (Path.cwd() / "deploy").mkdir()
    there = (Path.cwd() / folder).resolve()
    compose(docker, service("x", state, **{"project.working_dir": str(there)}))

    choice = choosing(docker, service="db", port=5432)

    assert choice.fallback == "Container of the Compose service db is not running (absent)"
    assert (
        f"Container x is the service db of the Compose project in {there};"
        " to use it, set REPOM_CONTAINER to x"
    ) in talk.messages


@pytest.mark.parametrize("label", ["", ".", "shop", "~", "/\0"])
def test_a_label_that_is_no_path_names_no_folder(docker: FakeDocker, label: str) -> None:
    compose(docker, service("x", **{"project.working_dir": label}))

    assert of_service(docker).state == "absent"


CONFIG = "compose --project-directory {} --profile * config --format json"


def says(docker: FakeDocker, name: str, *services: str) -> None:
    shown = {"name": name, "services": {each: {} for each in services}}
    docker.answers(CONFIG.format(Path.cwd()), json.dumps(shown))


@pytest.mark.parametrize("state", ["running", "exited"])
def test_of_two_compose_projects_of_this_folder_composes_own_one_counts(
    docker: FakeDocker, state: str
) -> None:
    compose(docker, service("shop-db-1", state, project="shop"), service("ci-db-1", project="ci"))
    says(docker, "shop", "db")

    assert ("shop-db-1", state) == (of_service(docker).name, of_service(docker).state)


def test_another_compose_project_of_this_folder_alone_is_not_it(
    docker: FakeDocker, talk: pytest.LogCaptureFixture
) -> None:
    compose(docker, service("ci-db-1", project="ci"))
    says(docker, "shop", "db")

    assert choosing(docker, service="db", port=5432).runner.via == "host"
    assert "set REPOM_CONTAINER to ci-db-1" in talk.text


def test_two_compose_projects_of_this_folder_are_an_error_when_compose_is_silent(
    docker: FakeDocker,
) -> None:
    compose(
        docker, service("shop-db-1", "exited", project="shop"), service("ci-db-1", project="ci")
    )

    with pytest.raises(SettingsError, match="ci-db-1, shop-db-1"):
        of_service(docker)


@pytest.mark.parametrize("answer", ["", "[]", "x", '{"name": 5}', '{"services": {}}', "null"])
def test_an_odd_answer_of_compose_is_silence(docker: FakeDocker, answer: str) -> None:
    compose(docker, service("shop-db-1", project="shop"))
    docker.answers("compose", answer)

    assert of_service(docker).name == "shop-db-1"


def test_what_compose_quotes_of_a_dotenv_file_is_not_passed_on(docker: FakeDocker) -> None:
    said = "failed to read .env: line 1: unterminated quoted value 's3cret"
    docker.answers("compose", stderr=said, status=1)

    with pytest.raises(EngineSilent) as caught:
        Engine(docker.program).ask("compose")

    assert "unterminated quoted value" in caught.value.reason
    assert "s3cret" not in str(caught.value)


def test_a_project_folder_that_begins_alike_is_another(docker: FakeDocker) -> None:
    compose(docker, service("x", **{"project.working_dir": f"{Path.cwd()}-two"}))

    assert of_service(docker).state == "absent"


def test_a_compose_project_reached_through_a_link_is_the_same(
    docker: FakeDocker, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    compose(docker, service("x", **{"project.working_dir": str(tmp_path / "link")}))

    assert of_service(docker, tmp_path / "real").name == "x"


def test_no_container_of_the_service_is_named_as_such(
    docker: FakeDocker, talk: pytest.LogCaptureFixture
) -> None:
    compose(docker)
    choice = choosing(docker, service="db", port=5432)

    assert choice.fallback == "Container of the Compose service db is not running (absent)"


@pytest.mark.parametrize("via", ["auto", "docker"])
def test_a_service_that_the_compose_file_lacks_is_an_error(docker: FakeDocker, via: str) -> None:
    compose(docker)
    says(docker, "shop", "web", "database")

    with pytest.raises(SettingsError, match="REPOM_COMPOSE_SERVICE is 'db'") as caught:
        choosing(docker, service="db", via=via)

    assert (caught.value.exit_status, caught.value.hint) == (2, "Set it to one of: database, web")


@pytest.mark.parametrize(
    ("known", "said", "status"),
    [
        ('{"name": "shop", "services": {"db": {}, "web": {}}}', "", 0),
        ("", "no configuration file provided: not found", 14),
        ("", "yaml: line 3: mapping values are not allowed in this context", 15),
        ("", "unknown flag: --project-directory", 125),
        ("", "", 0),
    ],
    ids=["it has the service", "no file", "no YAML", "no Compose", "nothing"],
)
def test_a_service_without_a_container_is_absent(
    docker: FakeDocker, known: str, said: str, status: int
) -> None:
    compose(docker)
    docker.answers("compose", known, said, status)

    assert Container("of the Compose service db", "absent") == of_service(docker)


def test_the_running_one_of_several_is_the_service(docker: FakeDocker) -> None:
    compose(docker, service("shop-db-1", "exited"), service("shop-db-2"))

    assert of_service(docker).name == "shop-db-2"


@pytest.mark.parametrize("state", ["running", "exited"])
def test_several_containers_of_the_service_are_an_error(docker: FakeDocker, state: str) -> None:
    compose(docker, service("shop-db-2", state), service("shop-db-1", state))

    with pytest.raises(SettingsError, match="shop-db-1, shop-db-2") as caught:
        choosing(docker, service="db")

    assert "REPOM_CONTAINER" in caught.value.hint


def test_an_engine_that_does_not_answer_is_a_state_of_the_service(docker: FakeDocker) -> None:
    docker.answers("ps ", stderr=DOWN, status=1)

    assert Container("of the Compose service db", "the Docker daemon is not running") == of_service(
        docker
    )


# -- hosts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "remote"),
    [
        ("unix:///var/run/docker.sock", False),
        ("npipe:////./pipe/docker_engine", False),
        ("tcp://127.0.0.1:2375", False),
        ("tcp://[::1]:2375", False),
        ("tcp://localhost:2375", False),
        ("", False),
        ("tcp://build.example.com:2376", True),
        ("tcp://localhost", False),
        ("tcp://[::1]", False),
        ("tcp://build.example.com", True),
        ("ssh://ann@build.example.com", True),
        ("ssh://ann@build.example.com:22", True),
    ],
)
def test_an_engine_on_another_machine_is_remote(
    docker: FakeDocker, address: str, remote: bool
) -> None:
    docker.answers("context inspect", f"{address}\n")

    assert address == endpoint(docker.program)
    assert remote == is_remote(address)


def test_an_engine_without_contexts_is_local(docker: FakeDocker) -> None:
    docker.answers("context inspect", stderr="unknown command", status=125)

    assert endpoint(docker.program) == ""
    assert not is_remote("")


def test_the_users_own_configuration_of_docker_reaches_it(
    docker: FakeDocker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.runs("show", 'printf %s "$DOCKER_CONFIG"')
    monkeypatch.setenv("DOCKER_CONFIG", "/mine")

    assert Engine(docker.program).ask("show") == "/mine"
