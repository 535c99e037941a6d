"""The password, looked for where an engine, an error or a traceback would show it."""

from __future__ import annotations

import http.client
import json
import pickle
import socket
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.archive.archive import Archive
from repom.errors import RepomError
from repom.settings import Settings
from tests.live.cli import invoke
from tests.live.servers import PASSWORD, Server, settings_for
from tests.shop import opened

ENGINE = "/var/run/docker.sock"


@pytest.fixture
def strict(postgres_password: Server) -> Iterator[Server]:
    """A container whose local connections want the password, so that it goes in."""
    with opened(postgres_password) as server:
        yield server


class Socket(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(ENGINE)


def inspected(session: str) -> str:
    """What the engine knows of one `docker exec`, as long as it runs or shortly after."""
    with closing(Socket("localhost")) as connection:
        connection.request("GET", f"/exec/{session}/json")
        return connection.getresponse().read().decode()


def watch(events: subprocess.Popen[str], seen: list[str]) -> None:
    assert events.stdout
    for line in events.stdout:
        seen.append(line)
        attributes = json.loads(line)["Actor"]["Attributes"]
        if "execID" in attributes and Path(ENGINE).exists():
            seen.append(inspected(attributes["execID"]))


def test_the_engine_is_not_told_the_password(strict: Server, project: Path) -> None:
    """Its events carry the command line of every `docker exec`, and so does its inspection."""
    argv = ["docker", "events", "--format", "{{json .}}"]
    argv += ["--filter", f"container={strict.container}"]
    events = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    seen: list[str] = []
    watcher = threading.Thread(target=watch, args=(events, seen))
    watcher.start()
    try:
        env = strict.environment()
        tasks = (["db.backup", "--format", "plain"], ["db.backup"], ["db.verify", "--drill"])
        for task in (*tasks, ["db.restore", "--latest", "--yes"], ["db.undo", "--yes"]):
            ended = invoke(project, "--echo", *task, env=env)
            assert ended.status == 0, ended.err
            assert PASSWORD not in ended.out + ended.err
    finally:
        events.terminate()
        events.wait(10)
        watcher.join()
        assert events.stdout
        events.stdout.close()
    known = "".join(seen)
    for program in ("pg_dump", "pg_restore", "psql"):
        assert program in known, "the engine was not listened to"
    assert PASSWORD not in known
    assert json.dumps(PASSWORD)[1:-1] not in known


# -- errors -----------------------------------------------------------------------------

Attempt = Callable[[Settings, Path], object]


def not_loaded(settings: Settings, project: Path) -> None:
    made = dbops.backup(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Archive, "tables", 7)
        dbops.restore(made, settings)


def script(text: str) -> Attempt:
    def attempt(settings: Settings, project: Path) -> None:
        (project / "x.sql").write_text(text)
        dbops.restore(str(project / "x.sql"), settings)

    return attempt


def without_programs(settings: Settings, project: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repom.runners.programs.newest", lambda: "/nowhere")
        dbops.backup(settings)


def stalled(settings: Settings, project: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repom.runners.process.STALL", -1.0)
        patch.setattr("repom.runners.process.LOOK", 0.001)
        patch.setattr(
            "repom.dbops.postgres.postgres.Postgres._diagnosis", lambda *_, **__: "it is stuck"
        )
        dbops.backup(settings)


ATTEMPTS: dict[str, Attempt] = {
    "a wrong setting": lambda _s, p: Settings.load(
        environ={"POSTGRES_PASSWORD": PASSWORD, "REPOM_KEEP": "0"}, cwd=p
    ),
    "no such database": lambda s, _p: dbops.backup(s.with_database("nope")),
    "no such server": lambda s, _p: dbops.backup(replace(s, address=replace(s.address, port=1))),
    "wrong password": lambda s, _p: dbops.backup(
        replace(s, address=replace(s.address, password=f"{PASSWORD} "))
    ),
    "no programs": without_programs,
    "stalled": stalled,
    "fewer tables": not_loaded,
    "an error in a script": script("CREATE TABLE a (a int);\nSELECT 1 / 0;\n"),
    "a command in a script": script("CREATE TABLE a (a int);\n\\! true\n"),
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_error_shows_the_password(postgres_host: Server, project: Path, name: str) -> None:
    """Not with the variables of every frame, nor by what it was raised from."""
    postgres_host.create("shop", "CREATE TABLE item AS SELECT 1 AS a")
    settings = settings_for(postgres_host, project, REPOM_VIA="host")
    assert PASSWORD not in repr(settings)
    with pytest.raises(RepomError) as raised:
        ATTEMPTS[name](settings, project)
    for error in chain_of(raised.value):
        error.__suppress_context__ = False  # so that all of it is formatted below
        assert PASSWORD not in repr(error) + repr(vars(error)) + str(error)
        result = getattr(error, "result", None)
        assert PASSWORD not in repr(getattr(result, "__dict__", result))
    whole = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    text = "".join(whole.format())
    assert "settings = Settings(" in text, "the variables are not in it"
    assert PASSWORD not in text
    assert PASSWORD.encode() not in pickle.dumps(raised.value)


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__
