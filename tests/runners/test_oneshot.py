"""The command line of a client container, and which image it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from repom.dbops.postgres.client import Client
from repom.errors import Unreachable
from repom.runners.host import HostRunner
from repom.runners.oneshot import instead, start
from repom.settings.address import Address
from tests.fakes import FakeDocker

LOGIN = Address("db.example.com", None, "shop", "shop")
LACKING = Unreachable("No program fits", "Install one")
IMAGES = r"postgres:15\ndocker.io/library/postgres:16-alpine\npostgres:18.1\nmy/postgres:17\n"


def chosen(docker: FakeDocker, server: int, images: str = IMAGES) -> str:
    docker.runs("images", f"printf '{images}'")
    docker.runs("run", "echo; cat")
    runner = instead(HostRunner(engine=docker.program), LOGIN, LACKING, server)
    runner.close()
    return runner.name


@pytest.mark.parametrize(
    ("server", "image"),
    [
        (0, "postgres:18.1"),
        (14, "postgres:15"),
        (16, "docker.io/library/postgres:16-alpine"),
        (17, "postgres:18.1"),
    ],
)
def test_the_image_is_of_the_servers_major_or_the_nearest_newer(
    docker: FakeDocker, server: int, image: str
) -> None:
    assert chosen(docker, server) == image


def test_without_a_fitting_image_the_error_is_that_of_the_programs(docker: FakeDocker) -> None:
    with pytest.raises(Unreachable) as caught:
        chosen(docker, 19)

    assert caught.value is LACKING


def test_an_engine_on_another_machine_has_other_files_and_networks(docker: FakeDocker) -> None:
    docker.runs("context inspect", "echo ssh://me@elsewhere")
    with pytest.raises(Unreachable):
        chosen(docker, 18)


def test_secrets_go_to_a_program_and_files_to_the_container(
    docker: FakeDocker, tmp_path: Path
) -> None:
    root = tmp_path / "root.crt"
    docker.runs("run", "echo; cat")
    docker.runs("exec", 'printf %s "$PGPASSWORD"')
    runner = start(HostRunner(engine=docker.program), "postgres:18", (str(root),))
    said = runner.run(["psql"], env={"PGPASSWORD": "s3cret"}).stdout
    runner.close()

    made, ran = docker.calls
    assert f"{root}:{root}:ro" in made and "PGPASSWORD" not in made
    assert said == "s3cret" and "-e PGPASSWORD" in ran and "s3cret" not in ran


def test_a_container_that_does_not_start(docker: FakeDocker) -> None:
    docker.answers("run", stderr="no such image", status=125)
    with pytest.raises(Unreachable, match="postgres:18 did not start: no such image"):
        start(HostRunner(engine=docker.program), "postgres:18")


def test_after_its_container_was_closed_the_next_question_looks_for_programs_again(
    docker: FakeDocker,
) -> None:
    docker.runs("run", "echo; cat")
    host = HostRunner(engine=docker.program)
    client = Client(start(host, "postgres:18"), LOGIN)

    client.close()

    assert client.runner == host
