"""Fixtures: one server of each kind for the whole run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom.settings import Settings
from tests import requires
from tests.live.servers import Server, container_server, host_server


@pytest.fixture(scope="session")
def postgres_15() -> Iterator[Server]:
    with container_server(15) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_17() -> Iterator[Server]:
    with container_server(17) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_18() -> Iterator[Server]:
    with container_server(18) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_host() -> Iterator[Server]:
    with host_server() as server:
        yield server


SERVERS = ["postgres_host", "postgres_15", "postgres_17", "postgres_18"]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each real server in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount a small disk on."""
    requires.need(os.name == "posix" and os.geteuid() == 0, "root, to mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True)


def settings_for(server: Server, project: Path, database: str = "shop", **more: str) -> Settings:
    environment = server.environment(database, **more)
    return Settings.load(environ=environment, cwd=project)
