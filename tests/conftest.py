"""Every test starts in a folder of its own and sees nothing of the developer's machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import FakeDocker
from tests.live.servers import Server, container_server, host_server

CONFIGURATION = ("DATABASE_URL", "POSTGRES_", "REPOM_", "PG", "INVOKE_", "COMPOSE_")
ENGINE = ("DOCKER_HOST", "DOCKER_CONTEXT")
NOBODY = 65534


@pytest.fixture(autouse=True)
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration in the environment, no files of Invoke's or libpq's in the home, and
    an empty working directory. Tests against a real engine keep the way to it: the home,
    where Docker has its contexts and plugins, and the variables that choose an engine."""
    tmp_path: Path = request.getfixturevalue("tmp_path")
    live = request.node.get_closest_marker("live")
    for name in os.environ:
        configures = name.startswith(CONFIGURATION) or (name in ENGINE and not live)
        if configures:
            monkeypatch.delenv(name)
    if not live:
        home = tmp_path.with_name(f"{tmp_path.name}-home")
        home.mkdir()
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def docker(tmp_path: Path) -> FakeDocker:
    return FakeDocker(tmp_path.with_name(f"{tmp_path.name}-docker"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text("from repom.tasks import ns\n")
    return tmp_path


@pytest.fixture(scope="session")
def postgres_host() -> Iterator[Server]:
    with host_server() as server:
        yield server


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


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of an ordinary user, with this process acting as that user: root may write
    everywhere."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        if root:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(folder).resolve()
        finally:
            if root:
                os.seteuid(0)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Where everything is required, a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("REPOM_TEST_ALL") and reporter and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
