"""Fixtures: one server of each kind for the whole run. Everything here is `live`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import requires
from tests.live import engine
from tests.live.servers import SERVERS, Server, container_server
from tests.shop import opened

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.live)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    """Each real server in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Server)
    return found


@pytest.fixture(scope="session")
def postgres_password() -> Iterator[Server]:
    """A container whose local connections want the password, too."""
    with container_server(17, password=True) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_logical() -> Iterator[Server]:
    """A server that has replication slots and prepared transactions."""
    options = ("-c", "wal_level=logical", "-c", "max_prepared_transactions=5")
    with container_server(18, options=options) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_fragile() -> Iterator[Server]:
    """A container that tests kill, stop and start again."""
    with container_server(17) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_cramped() -> Iterator[Server]:
    """A container whose folder of temporary files holds 64 kB."""
    with container_server(17, "--tmpfs", "/tmp:size=64k") as server:
        yield server


@pytest.fixture
def shop(postgres_17: Server) -> Iterator[Server]:
    """The shop on PostgreSQL 17, in a container."""
    with opened(postgres_17) as server:
        yield server


@pytest.fixture(params=["postgres_host", "postgres_18"])
def any_shop(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The shop on the host's server, and in a container."""
    with opened(request.getfixturevalue(request.param)) as server:
        yield server


@pytest.fixture
def name() -> Iterator[str]:
    """A container's name; what bears it or begins with it is gone after the test."""
    requires.engine()
    name = engine.unique()
    yield name
    engine.remove(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount a small disk on."""
    requires.need(os.name == "posix" and os.geteuid() == 0, "root, to mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True)
