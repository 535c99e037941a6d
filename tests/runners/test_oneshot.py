"""The command line of a client container, and which image it is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from repom.errors import Unreachable
from repom.runners.host import HostRunner
from repom.runners.oneshot import OneShotRunner, instead
from repom.settings.address import Address
from tests.fakes import FakeDocker

LOGIN = Address("db.example.com", None, "shop", "shop")
LACKING = Unreachable("No program fits", "Install one")
IMAGES = r"postgres:15\ndocker.io/library/postgres:16-alpine\npostgres:18.1\nmy/postgres:17\n"


def chosen(docker: FakeDocker, server: int, images: str = IMAGES) -> str:
    docker.runs("images", f"printf '{images}'")
    return instead(HostRunner(engine=docker.program), LOGIN, LACKING, server).container


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


def test_secrets_go_by_name_and_files_are_mounted(tmp_path: Path) -> None:
    root = tmp_path / "root.crt"
    runner = OneShotRunner("docker", "postgres:18", "postgres:18", files=(str(root),))
    command = runner._command(["psql"], {"PGPASSWORD": "s3cret"}, interactive=True)

    assert command[:4] == ["docker", "run", "--rm", "-i"]
    assert command[-2:] == ["postgres:18", "psql"]
    assert f"{root}:{root}:ro" in command
    assert "PGPASSWORD" in command and "s3cret" not in str(command)
