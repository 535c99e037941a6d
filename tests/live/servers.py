"""Real PostgreSQL servers for the tests: containers, and a cluster of the host's own."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import requires

PASSWORD = "s3cret canary 'pw'"
FIDELITY = Path(__file__).with_name("fidelity.sql")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running server, and how a project would be configured for it.

    :param container: its name; empty on the host.
    """

    kind: str
    major: int
    port: int
    container: str = ""
    bin: Path | None = None

    def environment(self, database: str = "shop", **more: str) -> dict[str, str]:
        """The variables that a project of this server's would have in its `.env`."""
        common = {
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": PASSWORD,
            "POSTGRES_DB": database,
            "REPOM_CONTAINER": self.container or "repom_no_such_container",
        }
        host = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(self.port)}
        return {**common, **({} if self.container else host), **more}

    def run(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a client program as the superuser, without repom."""
        env = {**os.environ, "PGPASSWORD": PASSWORD, "PGUSER": "postgres", "PGOPTIONS": ""}
        if self.container:
            flags = ["-i", "-e", "PGUSER=postgres", "-e", "PGPASSWORD"]
            command = ["docker", "exec", *flags, self.container, *argv]
        else:
            assert self.bin
            env |= {"PGHOST": "127.0.0.1", "PGPORT": str(self.port)}
            command = [str(self.bin / argv[0]), *argv[1:]]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, script: str, database: str = "shop", check: bool = True) -> str:
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", f"dbname='{quoted(database)}'"]
        return self.run(*argv, "-f", "-", stdin=script, check=check).strip()

    def create(self, database: str = "shop") -> None:
        self.sql(f"DROP DATABASE IF EXISTS {ident(database)} WITH (FORCE)", "postgres")
        self.sql(f"CREATE DATABASE {ident(database)}", "postgres")

    def dump(self, database: str = "shop", *flags: str) -> str:
        """All of a database as text, without what differs from one run to the next."""
        text = self.run("pg_dump", *flags, "-d", f"dbname='{quoted(database)}'")
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.M)

    def databases(self) -> set[str]:
        return set(self.sql("SELECT datname FROM pg_database", "postgres").splitlines())

    def leftovers(self) -> list[str]:
        """What repom left in the server or the container that it should have removed. The
        drop of a database that is no longer kept goes on after a restore, for a moment."""
        for _ in range(20):
            found = self._leftovers()
            if not found:
                break
            time.sleep(0.25)
        return found

    def _leftovers(self) -> list[str]:
        found = [d for d in self.databases() if d.startswith("repom_scratch")]
        query = "SELECT application_name FROM pg_stat_activity WHERE application_name ~ '^repom-'"
        found += self.sql(query, "postgres").splitlines()
        if self.container:
            found += self.run("sh", "-c", "ls /tmp | grep repom- || true").split()
        return found


def quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def ident(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def wait_until_ready(server: Server, seconds: float = 60) -> None:
    """Over TCP, since the entry point's first server listens on its socket alone."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                probing = ["pg_isready", "-h", "127.0.0.1"]
                if not server.container or "accepting" in server.run(*probing, check=False):
                    return
        time.sleep(0.1)
    raise AssertionError(f"{server} did not start")


@contextmanager
def container_server(major: int, *flags: str, password: bool = False) -> Iterator[Server]:
    """:param flags: more of `docker run`.
    :param password: local connections want it too, instead of being trusted."""
    requires.image(major)
    docker_flags = ["-e", "POSTGRES_INITDB_ARGS=--auth=scram-sha-256"] if password else []
    docker_flags += flags
    port, name = free_port(), f"repom_test_{major}_{secrets.token_hex(3)}"
    publish = ["-p", f"127.0.0.1:{port}:5432", "--shm-size", "256m"]
    secret = ["-e", f"POSTGRES_PASSWORD={PASSWORD}"]
    command = ["docker", "run", "-d", "--name", name, *publish, *secret, *docker_flags]
    subprocess.run([*command, f"postgres:{major}"], check=True, capture_output=True)
    try:
        server = Server("container", major, port, name)
        wait_until_ready(server)
        prepare(server)
        yield server
    finally:
        subprocess.run(["docker", "rm", "-fv", name], check=True, capture_output=True)


@contextmanager
def host_server() -> Iterator[Server]:
    """A cluster of the host's programs; as root it runs as the user postgres."""
    bin = requires.host_binaries()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="repom-test-", dir="/tmp"))
    if as_user:
        shutil.chown(folder, "postgres")
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    data, port = folder / "data", free_port()
    initdb = [str(bin / "initdb"), "-D", str(data), "-U", "postgres", f"--pwfile={secret}"]
    subprocess.run([*as_user, *initdb, "-A", "scram-sha-256"], check=True, capture_output=True)
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    pg_ctl = [*as_user, str(bin / "pg_ctl"), "-D", str(data)]
    log = folder / "log"
    start = [*pg_ctl, "-w", "-l", str(log), "-o", options, "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        major = int((data / "PG_VERSION").read_text())
        server = Server("host", major, port, bin=bin)
        prepare(server)
        yield server
    finally:
        subprocess.run([*pg_ctl, "-m", "immediate", "stop"], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def prepare(server: Server) -> None:
    server.sql("CREATE ROLE repom_reader", "postgres")
