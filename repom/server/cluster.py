"""A PostgreSQL cluster of the project's own, made with this host's server programs.

For machines without a container engine: it lies in `data/postgres` of the project folder,
listens on 127.0.0.1 alone and demands a password of every client.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from invoke.runners import Result

from repom.errors import CommandFailed, Refused, SettingsError, Unreachable, advice
from repom.runners import programs
from repom.runners.container import Container
from repom.runners.engine import Trouble
from repom.runners.host import HostRunner
from repom.settings import Settings
from repom.settings.address import PORT

from . import credentials, probe
from .facts import HOST, Server, masked_url
from .probe import last_line

log = logging.getLogger("repom")

#: Besides being the log it marks the cluster as repom's: a Compose file may well mount
#: the same folder, and another image's data must not be opened with the host's programs.
LOG = "repom.log"
#: Locales with UTF-8 and a stable sort order that the systems bring along.
LOCALES = {"linux": "C.UTF-8", "darwin": "en_US.UTF-8"}


def folder(project: Path) -> Path:
    return project / "data" / "postgres"


@dataclass(frozen=True)
class LocalServer:
    """The cluster as the project's server.

    :param container: what it stands in for: it does not run, or there is no engine.
    """

    settings: Settings
    container: Container

    @property
    def data(self) -> Path:
        return folder(self.settings.project)

    @property
    def exists(self) -> bool:
        """Whether the project has a cluster that repom made."""
        return all((self.data / name).is_file() for name in ("PG_VERSION", LOG))

    @property
    def version(self) -> str:
        """The cluster's major version; empty when there is none."""
        path = self.data / "PG_VERSION"
        return path.read_text(errors="replace").strip() if self.exists else ""

    def running_port(self) -> int | None:
        """The port that the cluster's server listens on, or ``None`` when it does not run."""
        if not self.exists or not self._ask([*self._pg_ctl(), "status", "-D", str(self.data)]).ok:
            return None
        try:
            lines = (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
            pid, where, _started, port = lines[:4]
            # `pg_ctl` would stop any process that has the number of a killed server.
            name = Path(f"/proc/{int(pid)}/comm")
            if name.exists() and name.read_text().strip() not in ("postgres", "postmaster"):
                return None
            # A folder that was copied under a running server has the original's lock file.
            return int(port) if self.data.samefile(where) else None
        except (OSError, ValueError):  # it ended in the meantime, or never ran here
            return None

    def start(self) -> Server:
        """Start the cluster, creating it if needed, and wait for its server."""
        settings, made, port = self.settings, self.exists, self.settings.port or PORT
        psql = str(Path(self._programs(), "psql"))
        if settings.backend == "sqlite" and made:
            raise SettingsError(
                f"{self.data} exists, but no setting names its user and password",
                "Put POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB into .env",
            )
        started = self if made else replace(self, settings=credentials.complete(settings))
        running = self.running_port()
        if running is None:
            probe.check_port(port)
            if not made:
                started._create()
            started._launch(port)
            credentials.remember(settings, started.settings)
        elif running != port:
            raise Refused(
                f"The local cluster runs on port {running}, and POSTGRES_PORT is {port}",
                advice("Run {}, then start it again", "postgres.stop"),
            )
        if not settings.dry:
            started._await_answer(psql, port)
        return started.describe()

    def stop(self) -> Server:
        if self.running_port() is not None:
            stop = ("stop", "-D", str(self.data), "-m", "fast", "-t", "60")
            result = self._change([*self._pg_ctl(), *stop])
            if not result.ok and self.running_port() is not None:
                hint = advice("See: {}", "postgres.logs")
                raise CommandFailed(last_line(result, "pg_ctl failed"), hint)
        return self.describe()

    def log_lines(self, lines: int) -> list[str]:
        path = self.data / LOG
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=lines)]

    def describe(self) -> Server:
        login, running = credentials.adopt(self.settings, {}), self.running_port()
        port = running or self.settings.port or PORT
        return Server(
            kind="local",
            name=str(self.data),
            state="running" if running else "stopped" if self.exists else "absent",
            image="",
            version=self.version,
            host=HOST,
            port=port,
            user=login.user,
            database=login.database,
            url=masked_url(login, port),
            data=str(self.data) if self.exists else "",
        )

    def removable(self, *, volume: bool) -> Server:
        """What `remove` would remove: with `volume` the whole cluster, else nothing."""
        return self.describe()

    def remove(self, data: str, *, volume: bool) -> None:
        self.stop()
        if volume and data and not self.settings.dry:
            shutil.rmtree(data)

    def _programs(self) -> str:
        found = self.container
        why = f"Container {found.name} is not running ({found.state})"
        if found.trouble not in (None, Trouble.ABSENT):
            why = found.state[0].upper() + found.state[1:]
        try:
            available = programs_for(self.version)
        except Unreachable as error:
            raise Unreachable(f"{why}, and {error.message}", error.hint) from None
        log.info("%s, so the server is a local cluster", why)
        return available

    def _create(self) -> None:
        data, initdb = self.data, str(Path(programs_for(""), "initdb"))
        if data.is_dir() and any(data.iterdir()):
            raise Refused(f"{data} exists, and repom did not create it", "Move it out of the way")
        if self.settings.dry:
            self._change([initdb, *initdb_arguments(data, self.settings.user, "FILE")])
            return
        data.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole, since initdb may be killed half way.
        partial = data.with_name(f".postgres-{secrets.token_hex(4)}")
        partial.mkdir(mode=0o700)
        try:
            self._fill(initdb, partial)
            try:
                if data.is_dir():
                    data.rmdir()  # an empty one; Windows does not rename over it
                partial.rename(data)
            except OSError:
                message = f"Another postgres.start created {data} in the meantime"
                raise Refused(message, "Run it again") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _fill(self, initdb: str, data: Path) -> None:
        self._hand_over(data)
        self._check_way(data.parent)
        with self._password_file() as file:
            result = self._change([initdb, *initdb_arguments(data, self.settings.user, file)])
        if not result.ok:
            raise CommandFailed(last_line(result, "initdb failed"))
        (data / ".gitignore").write_text("*\n")
        (data / LOG).touch(mode=0o600)
        self._hand_over(data / LOG)

    @contextmanager
    def _password_file(self) -> Iterator[str]:
        """A private file with the password; initdb takes it from nowhere else."""
        descriptor, name = tempfile.mkstemp(prefix="repom-")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(f"{self.settings.password or ''}\n")
            self._hand_over(Path(name))
            yield name
        finally:
            Path(name).unlink()

    def _launch(self, port: int) -> None:
        result = self._change([*self._pg_ctl(), *start_arguments(self.data, port)])
        if not result.ok and self.running_port() is None:
            probe.show_log(self.log_lines(20))
            raise CommandFailed(last_line(result, "pg_ctl failed"), "The last log lines are above")

    def _await_answer(self, psql: str, port: int) -> None:
        settings, runner = self.settings, HostRunner(echo=self.settings.echo)
        login = credentials.login(settings, HOST, port)
        if f'database "{settings.database}" does not exist' in probe.answer(runner, psql, login):
            argv = [str(Path(psql).with_name("createdb")), "-w", "--", settings.database]
            result = runner.run(argv, env={**login, "PGDATABASE": "postgres"}, warn=True)
            if not result.ok and "already exists" not in result.stderr:
                raise CommandFailed(last_line(result, "createdb failed"))
        probe.check_answers(
            "The local cluster",
            lambda: probe.answer(runner, psql, login),
            lambda: self.describe().state,
            self.log_lines,
            settings.password,
        )

    # The server's user: PostgreSQL refuses to run as root.

    def account(self) -> str | None:
        """The user to run the server as; ``None`` for this process's own."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return None
        import pwd

        if not self.exists:
            names = {user.pw_name for user in pwd.getpwall()}
            return "postgres" if "postgres" in names else "nobody"
        number = self.data.stat().st_uid
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            raise Unreachable(
                f"{self.data} belongs to user {number}, and this system has no such user",
                f"Give it to an existing user: chown -R postgres {self.data}",
            ) from None

    def _hand_over(self, path: Path) -> None:
        if account := self.account():
            shutil.chown(path, account)

    def _check_way(self, target: Path) -> None:
        """Check that the server's user can enter every folder down to `target`. repom does
        not open a home folder to other users unasked."""
        for each in [*reversed(target.parents), target] if self.account() else []:
            if not self._ask(["test", "-x", str(each)]).ok:
                raise Unreachable(
                    f"PostgreSQL does not run as root, and user {self.account()} cannot enter"
                    f" {each}",
                    f"Allow it with: chmod o+x {each} (or move the project, or run as another"
                    " user)",
                )

    def _pg_ctl(self) -> list[str]:
        return [str(Path(programs_for(self.version), "pg_ctl"))]

    def _ask(self, argv: Sequence[str]) -> Result:
        command = as_account(argv, self.account(), sys.platform)
        return HostRunner().run(command, warn=True, dry=False, timeout=20)

    def _change(self, argv: Sequence[str]) -> Result:
        command = as_account(argv, self.account(), sys.platform)
        return HostRunner(echo=self.settings.echo, dry=self.settings.dry).run(command, warn=True)


def programs_for(major: str, available: Iterable[tuple[int, str]] | None = None) -> str:
    """The folder of the server programs of this major, or of the newest when it is empty.

    :raises Unreachable: this host has none that fit.
    """
    available = programs.installed() if available is None else available
    servers = [each for each in available if shutil.which("initdb", path=each[1])]
    fitting = [each for each in servers if major in ("", str(each[0]))]
    if not fitting:
        kind = f"PostgreSQL {major}'s" if major else "PostgreSQL's"
        raise Unreachable(
            f"{kind} server programs (initdb, pg_ctl) are not on this host",
            "Install Docker, or the PostgreSQL server package of this system",
        )
    return max(fitting, key=lambda each: each[0])[1]


def initdb_arguments(data: Path, user: str, pwfile: str, platform: str = sys.platform) -> list[str]:
    """UTF-8 whatever this process's locale, and a password for every connection."""
    locale = LOCALES.get(platform, "C")
    return [
        *("-D", str(data), "-U", user, f"--pwfile={pwfile}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", f"--locale={locale}", "--lc-messages=C"),
    ]


def start_arguments(data: Path, port: int) -> list[str]:
    """No socket: its path may be too long for the system (107 bytes), and TCP is enough."""
    listen = f"-c listen_addresses={HOST} -c port={port} -c unix_socket_directories="
    return ["start", "-D", str(data), "-l", str(data / LOG), "-w", "-t", "60", "-o", listen]


def as_account(argv: Sequence[str], account: str | None, platform: str) -> list[str]:
    """The command line that runs `argv` as another user."""
    if account is None:
        return list(argv)
    prefix = ("sudo", "-n", "-u") if platform == "darwin" else ("runuser", "-u")
    return [*prefix, account, "--", *argv]
