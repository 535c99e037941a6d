"""Real PostgreSQL servers for the tests: containers, and a cluster of the host's own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repom.settings import Settings
from tests import requires
from tests.live import engine

PASSWORD = "s3cret canary 'pw'"
FIDELITY = Path(__file__).with_name("fidelity.sql")
#: The fixtures of all kinds of servers.
SERVERS = ["postgres_host", "postgres_15", "postgres_17", "postgres_18"]


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

    @property
    def login(self) -> dict[str, str]:
        """libpq's variables for a client program on this host."""
        login = {"PGPASSWORD": PASSWORD, "PGUSER": "postgres", "PGOPTIONS": ""}
        return {**os.environ, **login, "PGHOST": "127.0.0.1", "PGPORT": str(self.port)}

    def command(self, *argv: str) -> list[str]:
        """The command line of a client program of the server's own version."""
        if self.bin:
            return [str(self.bin / argv[0]), *argv[1:]]
        flags = ["-i", "-e", "PGUSER", "-e", "PGPASSWORD"]
        return ["docker", "exec", *flags, self.container, *argv]

    def run(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """Run a client program as the superuser, without repom."""
        return self._run(self.command(*argv), stdin, check)

    def _run(self, command: list[str], stdin: str | None, check: bool) -> str:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.login)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def sql(self, script: str, database: str = "shop", check: bool = True) -> str:
        """By the host's psql where there is one: `docker exec` takes six times as long."""
        argv = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", f"dbname='{quoted(database)}'"]
        psql = requires.host_psql()
        command = [psql, *argv[1:]] if psql else self.command(*argv)
        return self._run([*command, "-f", "-"], script, check).strip()

    def create(self, database: str = "shop", script: str = "") -> None:
        """A new database, in place of one of this name, filled by a script."""
        name = ident(database)
        again = f"DROP DATABASE IF EXISTS {name} WITH (FORCE); CREATE DATABASE {name};"
        self.sql(again, "postgres")
        if script:
            self.sql(script, database)

    def dump(self, database: str = "shop", *flags: str) -> str:
        """All of a database as text, without what differs from one run to the next."""
        text = self.run("pg_dump", *flags, "-d", f"dbname='{quoted(database)}'")
        return re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.M)

    def databases(self) -> set[str]:
        return set(self.sql("SELECT datname FROM pg_database", "postgres").splitlines())

    def copies(self) -> set[str]:
        """The databases that repom made."""
        return {name for name in self.databases() if name.startswith("repom_")}

    def clean(self) -> None:
        """Drop the databases that repom made."""
        self.sql(CLEAN, "postgres", check=False)

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
        found = self.sql(LEFTOVERS, "postgres").splitlines()
        if self.container:
            found += self.run("sh", "-c", "ls /tmp | grep repom- || true").split()
        return found


CLEAN = r"""\set ON_ERROR_STOP 0
SET client_min_messages = error;
SELECT format('ALTER DATABASE %I IS_TEMPLATE false', datname),
       format('DROP DATABASE IF EXISTS %I WITH (FORCE)', datname)
  FROM pg_database WHERE datname ~ '^repom_' \gexec
"""
LEFTOVERS = """SELECT datname FROM pg_database WHERE datname ~ '^repom_scratch'
UNION ALL SELECT application_name FROM pg_stat_activity WHERE application_name ~ '^repom-'"""


def settings_for(server: Server, project: Path, database: str = "shop", **more: str) -> Settings:
    environment = server.environment(database, **more)
    return Settings.load(environ=environment, cwd=project)


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
                if server.bin or "accepting" in server.run(*probing, check=False):
                    return
        time.sleep(0.1)
    raise AssertionError(f"{server} did not start")


@contextmanager
def container_server(
    major: int, *flags: str, options: tuple[str, ...] = (), password: bool = False
) -> Iterator[Server]:
    """:param flags: more of `docker run`.
    :param options: of the server.
    :param password: local connections want it too, instead of being trusted."""
    requires.image(major)
    docker_flags = ["-e", "POSTGRES_INITDB_ARGS=--auth=scram-sha-256"] if password else []
    port, name = free_port(), engine.unique()
    publish = ["-p", f"127.0.0.1:{port}:5432", "--shm-size", "256m"]
    secret = ["-e", f"POSTGRES_PASSWORD={PASSWORD}"]
    command = ["docker", "run", "-d", "--name", name, *publish, *secret, *docker_flags, *flags]
    subprocess.run([*command, f"postgres:{major}", *options], check=True, capture_output=True)
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
    initdb = [str(bin / "initdb"), "-N", "-D", str(data), "-U", "postgres", f"--pwfile={secret}"]
    subprocess.run([*as_user, *initdb, "-A", "scram-sha-256"], check=True, capture_output=True)
    options = f"-c port={port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    pg_ctl = [*as_user, str(bin / "pg_ctl"), "-D", str(data)]
    log = folder / "log"
    start = [*pg_ctl, "-w", "-l", str(log), "-o", options, "start"]
    stop = [*pg_ctl, "-m", "immediate", "stop"]
    engine.at_exit(f"[ -d {data} ] && {{ {shlex.join(stop)}; rm -rf {folder}; }}")
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        major = int((data / "PG_VERSION").read_text())
        server = Server("host", major, port, bin=bin)
        prepare(server)
        yield server
    finally:
        subprocess.run(stop, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def prepare(server: Server) -> None:
    server.sql("CREATE ROLE repom_reader", "postgres")
