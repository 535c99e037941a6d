"""Bad input against real parts: one clear line, the contract's exit status, nothing lost."""

from __future__ import annotations

import gzip
import os
import sqlite3
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import Unreachable
from repom.runners import oneshot, programs
from tests import requires
from tests.live.cli import Ended, invoke
from tests.live.servers import PASSWORD, Server, free_port, settings_for
from tests.shop import opened


@pytest.fixture
def shop(shop: Server) -> Iterator[Server]:
    """The shop, looked at again afterwards."""
    before = shop.dump()
    yield shop
    assert shop.dump() == before, "the database was changed"
    assert shop.leftovers() == []


def stored(project: Path) -> list[str]:
    """Everything in the store but locks: after a failure there must be nothing."""
    folder = project / "backups"
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in files if not p.name.endswith((".lock", ".gitignore")))


def failed(ended: Ended, status: int, *parts: str) -> None:
    assert ended.status == status, ended.err
    for part in parts:
        assert part in ended.last
    assert ended.out == ""
    assert PASSWORD not in ended.err


def wrapper(project: Path, script: str) -> str:
    """A stand-in for the docker program that does something to the real one."""
    path = project / "docker-wrapper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_forced_container_is_absent(shop: Server, project: Path) -> None:
    env = shop.environment(REPOM_CONTAINER="repom_nobody", REPOM_VIA="docker")
    ended = invoke(project, "db.backup", env=env)
    failed(ended, 3, "repom_nobody", "absent", "invoke postgres.start")
    assert stored(project) == []


def test_a_container_whose_name_merely_contains_the_configured_one(
    shop: Server, project: Path
) -> None:
    env = shop.environment(REPOM_CONTAINER=shop.container[:-1], REPOM_VIA="docker")
    failed(invoke(project, "db.backup", env=env), 3, "absent")


@pytest.mark.parametrize(
    ("docker", "env", "reason"),
    [
        pytest.param("/nowhere/docker", {}, "is not installed", id="not installed"),
        pytest.param(
            "docker",
            {"DOCKER_HOST": "unix:///nowhere.sock"},
            "daemon is not running",
            id="no daemon",
        ),
    ],
)
def test_no_engine(
    shop: Server, project: Path, docker: str, env: dict[str, str], reason: str
) -> None:
    env = shop.environment(REPOM_DOCKER=docker, REPOM_VIA="docker", **env)
    failed(invoke(project, "db.backup", env=env), 3, reason)


def test_no_permission_on_the_socket(shop: Server, project: Path) -> None:
    requires.need(os.name == "posix" and os.geteuid() == 0, "root, to become somebody else")
    docker = wrapper(project, 'exec runuser -u nobody -- docker "$@"')
    env = shop.environment(REPOM_DOCKER=docker, REPOM_VIA="docker")
    failed(invoke(project, "db.backup", env=env), 3, "no permission")


def test_a_paused_container(shop: Server, project: Path) -> None:
    subprocess.run(["docker", "pause", shop.container], check=True, capture_output=True)
    try:
        env = shop.environment(REPOM_VIA="docker")
        failed(invoke(project, "db.backup", env=env), 3, shop.container, "paused")
    finally:
        subprocess.run(["docker", "unpause", shop.container], check=True, capture_output=True)


def test_no_container_and_no_program_names_both(
    shop: Server, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "installed", lambda: ())
    monkeypatch.setattr(oneshot, "_images", lambda program: [])
    where = {"REPOM_CONTAINER": "repom_nobody", "POSTGRES_PORT": str(free_port())}
    settings = settings_for(shop, project, **where)
    with pytest.raises(Unreachable, match=r"repom_nobody.*absent.*not installed") as caught:
        dbops.backup(settings)
    assert "repom postgres.start" in caught.value.hint
    assert "nstall" in caught.value.hint


def test_host_programs_older_than_the_server(shop: Server, project: Path) -> None:
    requires.host_binaries()
    newest = max(major for major, _folder in programs.installed())
    requires.need(newest < shop.major, "host programs older than the server")
    no_image = {"REPOM_VIA": "host", "REPOM_DOCKER": "no-such-docker"}
    env = shop.environment(POSTGRES_PORT=str(shop.port), **no_image)
    failed(invoke(project, "db.backup", env=env), 3, "17", str(newest), "nstall")
    assert stored(project) == []


@pytest.fixture
def without_pg_dump(shop: Server) -> Iterator[Server]:
    """The container with its pg_dump (and Debian's wrapper of it) moved away."""
    each = (
        'for d in $(echo "$PATH" | tr : " "); do if [ -e $d/{0} ]; then mv $d/{0} $d/{1}; fi; done'
    )
    shop.run("sh", "-c", each.format("pg_dump", "pg_dump.away"))
    yield shop
    shop.run("sh", "-c", each.format("pg_dump.away", "pg_dump"))


def test_pg_dump_is_missing_in_the_container(without_pg_dump: Server, project: Path) -> None:
    ended = invoke(project, "db.backup", env=without_pg_dump.environment())
    failed(ended, 3, "missing in container", "pg_dump")
    assert stored(project) == []


def test_pg_dump_fails_half_way(postgres_17: Server, project: Path) -> None:
    server = postgres_17
    rows = "SELECT md5(n::text) FROM generate_series(1, 1000000) n"
    server.create("big", f"CREATE TABLE t AS {rows}")
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'big'"
        " AND application_name ~ '^repom-' AND query ~ '^COPY'"
    )

    def end_it() -> None:
        for _ in range(100):
            if server.sql(kill, "postgres"):
                return
            time.sleep(0.02)

    killer = threading.Thread(target=end_it)
    killer.start()
    ended = invoke(project, "db.backup", env=server.environment("big"))
    killer.join()
    failed(ended, 1, "FATAL" if "FATAL" in ended.last else "rror")
    assert stored(project) == []
    assert server.leftovers() == []
    server.sql("DROP DATABASE big", "postgres")


def test_a_stream_that_is_cut_short_and_exits_0(shop: Server, project: Path) -> None:
    cut = 'case "$*" in *pg_dump*) docker "$@" | head -c 2000;; *) exec docker "$@";; esac'
    env = shop.environment(REPOM_DOCKER=wrapper(project, cut))
    ended = invoke(project, "db.backup", env=env)
    failed(ended, 1, "stream from the container ended")
    assert stored(project) == []


def test_an_error_text_of_the_engine_on_standard_output_is_no_dump(
    shop: Server, project: Path
) -> None:
    text = "OCI runtime exec failed: exec failed: no such file or directory: unknown"
    script = f'case "$*" in *pg_dump*) echo "{text}"; exit 126;; *) exec docker "$@";; esac'
    env = shop.environment(REPOM_DOCKER=wrapper(project, script))
    failed(invoke(project, "db.backup", env=env), 3, "missing in container")
    assert stored(project) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"POSTGRES_PASSWORD": "wrong"}, "does not accept the password of user postgres"),
        ({"POSTGRES_USER": "nobody"}, "user nobody"),
        ({"POSTGRES_DB": "nothing"}, "nothing"),
        ({"POSTGRES_PORT": "1"}, "No PostgreSQL server answers on 127.0.0.1:1"),
        ({"POSTGRES_HOST": "no.such.host.invalid"}, "host of no.such.host.invalid"),
    ],
    ids=["password", "user", "database", "port", "host"],
)
def test_a_wrong_login_on_the_host(
    postgres_host: Server, project: Path, change: dict[str, str], part: str
) -> None:
    env = {**postgres_host.environment("postgres"), **change}
    ended = invoke(project, "db.backup", env=env)
    failed(ended, 3, part)
    assert "wrong" not in ended.last
    assert stored(project) == []


@pytest.mark.parametrize(
    ("change", "part"),
    [({"POSTGRES_USER": "nobody"}, "nobody"), ({"POSTGRES_DB": "nothing"}, "nothing")],
    ids=["user", "database"],
)
def test_a_wrong_login_in_the_container(
    shop: Server, project: Path, change: dict[str, str], part: str
) -> None:
    env = {**shop.environment(), **change}
    failed(invoke(project, "db.backup", env=env), 3, part, shop.container)


def test_docker_is_forced_together_with_another_host(shop: Server, project: Path) -> None:
    env = shop.environment(REPOM_VIA="docker", POSTGRES_HOST="db.example.invalid")
    failed(invoke(project, "db.backup", env=env), 2, "db.example.invalid", "REPOM_VIA")


def test_docker_is_forced_with_a_port_that_the_container_does_not_publish(
    shop: Server, project: Path
) -> None:
    env = shop.environment(REPOM_VIA="docker", POSTGRES_HOST="localhost", POSTGRES_PORT="1")
    failed(invoke(project, "db.backup", env=env), 2, shop.container, "1")


def test_a_backup_that_does_not_exist(shop: Server, project: Path) -> None:
    env = shop.environment()
    failed(invoke(project, "db.restore", "--backup", "x.dump", "--yes", env=env), 4, "x.dump")
    failed(invoke(project, "db.restore", "--latest", "--yes", env=env), 4, "shop")


def test_the_backup_of_another_backend(shop: Server, project: Path) -> None:
    env = shop.environment()
    dump = invoke(project, "db.backup", env=env).out.strip()
    with closing(sqlite3.connect(project / "x.sqlite3")) as database, database:
        database.execute("CREATE TABLE t (a)")
    before = (project / "x.sqlite3").read_bytes()
    lite = {"DATABASE_URL": "sqlite:///x.sqlite3"}

    ended = invoke(project, "db.restore", "--backup", dump, "--yes", env=lite)
    failed(ended, 5, "is a backup of PostgreSQL")
    assert (project / "x.sqlite3").read_bytes() == before

    copy = invoke(project, "db.backup", env=lite).out.strip()
    failed(invoke(project, "db.restore", "--backup", copy, "--yes", env=env), 5, "SQLite")


BAD_FILES = {
    "empty": (b"", 6, "empty"),
    "nothing compressed": (gzip.compress(b""), 6, "empty"),
    "no backup": (bytes(range(256)) * 10, 6, "unrecognized"),
    "cut gzip": (gzip.compress(os.urandom(100000))[:5000], 6, "cut short"),
    "cut dump": (b"PGDMP\x01\x0e\x00\x04\x08\x01", 6, "cut short"),
    "no SQL": (b"this is not SQL at all\n", 1, "syntax error"),
    "no table": (b"SELECT 1;\n", 1, "created no tables"),
    "cut script": (
        b"-- PostgreSQL database dump\n\nSET x.y = 1;\nCREATE TABLE t (a int);\n",
        6,
        "end",
    ),
    "open quote": (b"CREATE TABLE t (a int);\nINSERT INTO t VALUES ('", 6, "middle"),
    "cut COPY": (b"CREATE TABLE t (a text);\nCOPY t FROM stdin;\nrow\n", 6, "middle"),
    "carriage returns": (b"--\r\n-- PostgreSQL database dump\r\n--\r\n", 6, "carriage"),
    "pg_dumpall": (b"--\n-- PostgreSQL database cluster dump\n--\n", 5, "pg_dumpall"),
    "connect": (b"CREATE TABLE t (a int);\n\\connect postgres\n", 5, "Line 2"),
    "create database": (b"CREATE DATABASE other;\n", 5, "Line 1"),
    "its own database": (
        b"DROP DATABASE IF EXISTS x;\nCREATE DATABASE x;\n\\c x;\n",
        5,
        "database",
    ),
    "commit, drop": (b"COMMIT; CREATE TABLE t (a int);\nDROP DATABASE shop;\n", 5, "Line 1"),
    "hidden drop": (b"CREATE TABLE t (a int); DROP DATABASE shop;\n", 5, "Line 1"),
    "shell": (b"CREATE TABLE t (a int);\n\\! touch /tmp/pwned\n", 5, "a command of psql"),
    "role": (b"CREATE TABLE t (a int);\nALTER TABLE t OWNER TO stranger;\n", 5, "stranger"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_restored(shop: Server, project: Path, name: str) -> None:
    content, status, part = BAD_FILES[name]
    (project / "file").write_bytes(content)
    args = ("db.restore", "--backup", "./file", "--yes")
    failed(invoke(project, *args, env=shop.environment()), status, part)


@pytest.mark.parametrize("kind", ["postgres_host", "postgres_17"])
def test_a_database_with_an_odd_name(
    request: pytest.FixtureRequest, project: Path, kind: str
) -> None:
    name = "a b'c\"=x"
    server: Server = request.getfixturevalue(kind)
    server.create(name, "CREATE TABLE t AS SELECT 1 AS a")
    settings = settings_for(server, project, name)
    before = server.dump(name)
    for format in ("custom", "plain"):
        made = dbops.backup(settings, format=format)
        server.sql("DROP TABLE t; CREATE TABLE u (b int)", name)
        dbops.restore(made, settings)
        assert server.dump(name) == before
    dbops.undo(settings)
    assert "CREATE TABLE public.u" in server.dump(name)
    assert made.database == name


def test_the_backup_folder_cannot_be_written_to(shop: Server, project: Path) -> None:
    (project / "file").write_text("in the way")
    env = shop.environment(REPOM_BACKUP_DIR="file")
    failed(invoke(project, "db.backup", env=env), 1, "file", "REPOM_BACKUP_DIR")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:canary-pw@a:1,b:2/db",
        "postgresql://u:canary-pw@h:port/db",
        "postgresql:/u:canary-pw@h",
        "mysql://u:canary-pw@h/db",
        "canary-pw",
    ],
)
def test_a_bad_url_is_told_without_its_password(project: Path, url: str) -> None:
    ended = invoke(project, "db.backup", env={"DATABASE_URL": url})
    failed(ended, 2, "DATABASE_URL")
    assert "canary-pw" not in ended.err


@pytest.mark.parametrize("variable", ["REPOM_KEEP", "INVOKE_REPOM_KEEP"])
@pytest.mark.parametrize("value", ["0", "abc", "-1", "1.5"])
def test_a_bad_number_of_backups(project: Path, variable: str, value: str) -> None:
    ended = invoke(project, "db.backup", env={variable: value})
    failed(ended, 2, repr(value), "keep" if "INVOKE" in variable else "REPOM_KEEP", "1 or more")


def test_a_line_of_dotenv_that_cannot_be_parsed(project: Path) -> None:
    (project / ".env").write_text("REPOM_KEEP=3\nPOSTGRES_PASSWORD='canary-pw\n")
    ended = invoke(project, "db.backup")
    failed(ended, 2, ".env line 2")
    assert "canary-pw" not in ended.err


def test_a_restore_with_nobody_to_ask_is_refused(shop: Server, project: Path) -> None:
    env = shop.environment()
    invoke(project, "db.backup", env=env)
    failed(invoke(project, "db.restore", "--latest", env=env), 5, "--yes")
    failed(invoke(project, "db.restore", env=env), 2, "--latest")


def test_a_container_that_wants_a_password(postgres_password: Server, project: Path) -> None:
    """Its local connections do not trust: the password goes in by name alone."""
    with opened(postgres_password) as server:
        before = server.dump()
        env = server.environment()
        ended = invoke(project, "--echo", "db.backup", env=env)
        assert ended.status == 0, ended.err
        assert "-e PGPASSWORD" in ended.err
        assert PASSWORD not in ended.err
        server.sql("DROP TABLE item")
        assert invoke(project, "db.restore", "--latest", "--yes", env=env).status == 0
        assert server.dump() == before
        failed(invoke(project, "db.backup", env={**env, "POSTGRES_PASSWORD": "no"}), 3, "password")
        without = {k: v for k, v in env.items() if k != "POSTGRES_PASSWORD"}
        failed(invoke(project, "db.backup", env=without), 3, "wants a password")


def test_a_backup_is_private_in_a_folder_that_is_not(project: Path) -> None:
    folder = project / "backups"
    folder.mkdir(mode=0o755)
    with closing(sqlite3.connect(project / "x.sqlite3")) as database, database:
        database.execute("CREATE TABLE t (a)")
    invoke(project, "db.backup", env={"DATABASE_URL": "sqlite:///x.sqlite3"})
    made = [p for p in folder.iterdir() if p.suffix == ".zst"]
    assert [stat.S_IMODE(p.stat().st_mode) for p in made] == [0o600]
