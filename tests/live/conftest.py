"""Fixtures: one server of each kind for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from repom.settings import Settings
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


def settings_for(server: Server, project: Path, database: str = "shop", **more: str) -> Settings:
    environment = server.environment(database, **more)
    return Settings.load(environ=environment, cwd=project)
