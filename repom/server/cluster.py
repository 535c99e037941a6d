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
from repom.runners.discover import Container
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


@dataclass(frozen=True)
class LocalServer:
    """The cluster as the project's server.

    :param container: which it replaces: it does not run, or there is no engine.
    """

    settings: Settings
    container: Container

    def start(self) -> Server:
        """Start the cluster, making it if there is none, and wait for its server."""
        settings, project = self.settings, self.settings.project
        port, made = settings.port or PORT, exists(self.settings.project)
        psql = str(Path(self._programs(), "psql"))
        if settings.backend == "sqlite" and made:
            raise SettingsError(
                f"{folder(project)} exists, but no setting names its user and password",
                "Put POSTGRES_USER, POSTGRES_PASSWORD and POSTGRES_DB into .env",
            )
        known = settings if made else credentials.complete(settings)
        running = running_port(project)
        if running is None:
            probe.check_port(port)
            if not made:
                _create(known)
            self._launch(port)
            credentials.remember(settings, known)
        elif running != port:
            raise Refused(
                f"The local cluster runs on port {running}, and POSTGRES_PORT is {port}",
                advice("Run {}, then start it again", "postgres.stop"),
            )
        started = replace(self, settings=known)
        if not settings.dry:
            started._await_answer(psql, port)
        return started.describe()

    def stop(self) -> Server:
        project = self.settings.project
        if running_port(project) is not None:
            arguments = ("stop", "-D", folder(project), "-m", "fast", "-t", "60")
            result = _control(project, *arguments, change=self.settings)
            if not result.ok and running_port(project) is not None:
                hint = advice("See: {}", "postgres.logs")
                raise CommandFailed(last_line(result, "pg_ctl failed"), hint)
        return self.describe()

    def log_lines(self, lines: int) -> list[str]:
        path = folder(self.settings.project) / LOG
        if not path.is_file():
            return []
        with path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=lines)]

    def describe(self) -> Server:
        project, login = self.settings.project, credentials.adopt(self.settings, {})
        made, running = exists(project), running_port(project)
        port = running or self.settings.port or PORT
        return Server(
            kind="local",
            name=str(folder(project)),
            state="running" if running else "stopped" if made else "absent",
            image="",
            version=version(project),
            host=HOST,
            port=port,
            user=login.user,
            database=login.database,
            url=masked_url(login, port),
            data=str(folder(project)) if made else "",
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
        why = f"Container {found.name} does not run ({found.state})"
        if found.trouble not in (None, Trouble.ABSENT):
            why = found.state[0].upper() + found.state[1:]
        try:
            available = programs_for(version(self.settings.project))
        except Unreachable as error:
            raise Unreachable(f"{why}, and {error.message}", error.hint) from None
        log.info("%s, so the server is a local cluster", why)
        return available

    def _launch(self, port: int) -> None:
        project = self.settings.project
        result = _control(project, *start_arguments(project, port), change=self.settings)
        if not result.ok and running_port(project) is None:
            raise probe.given_up(
                CommandFailed, last_line(result, "pg_ctl failed"), self.log_lines(20)
            )

    def _await_answer(self, psql: str, port: int) -> None:
        settings, runner = self.settings, HostRunner(echo=self.settings.echo)
        login = credentials.login(settings, HOST, port)
        if f'database "{settings.database}" does not exist' in probe.answer(runner, psql, login):
            _create_database(settings, login)
        problem = probe.wait(
            lambda: probe.answer(runner, psql, login), lambda: self.describe().state
        )
        if problem:
            message = f"The local cluster {problem}"
            raise probe.given_up(Unreachable, message, self.log_lines(20), settings.password)


def folder(project: Path) -> Path:
    return project / "data" / "postgres"


def exists(project: Path) -> bool:
    """Whether the project has a cluster that repom made."""
    return all((folder(project) / name).is_file() for name in ("PG_VERSION", LOG))


def version(project: Path) -> str:
    """The cluster's major version; empty when there is none."""
    path = folder(project) / "PG_VERSION"
    return path.read_text(errors="replace").strip() if exists(project) else ""


def running_port(project: Path) -> int | None:
    """The port that the cluster's server listens on, or ``None`` when it does not run."""
    data = folder(project)
    if not exists(project) or not _control(project, "status", "-D", data).ok:
        return None
    try:
        lines = (data / "postmaster.pid").read_text(errors="replace").splitlines()
        pid, where, _started, port = lines[:4]
        # One that was copied under a running server has the lock file of the original.
        return int(port) if _is_server(int(pid)) and data.samefile(where) else None
    except (OSError, ValueError):  # it ended in the meantime, or never ran here
        return None


def _is_server(pid: int) -> bool:
    """Whether the process is PostgreSQL's. `pg_ctl` only checks that the process exists, and
    would stop another one that has taken the number of a server that was killed."""
    name = Path(f"/proc/{pid}/comm")
    return not name.exists() or name.read_text().strip() in ("postgres", "postmaster")


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


def start_arguments(project: Path, port: int) -> list[str]:
    """No socket: its path may be too long for the system (107 bytes), and TCP is enough."""
    data = folder(project)
    listen = f"-c listen_addresses={HOST} -c port={port} -c unix_socket_directories="
    return ["start", "-D", str(data), "-l", str(data / LOG), "-w", "-t", "60", "-o", listen]


def _create_database(settings: Settings, login: dict[str, str]) -> None:
    createdb = str(Path(programs_for(version(settings.project)), "createdb"))
    env = {**login, "PGDATABASE": "postgres"}
    argv = [createdb, "-w", "--", settings.database]
    result = HostRunner(echo=settings.echo).run(argv, env=env, warn=True)
    if not result.ok and "already exists" not in result.stderr:
        raise CommandFailed(last_line(result, "createdb failed"))


def _create(settings: Settings) -> None:
    data, account = folder(settings.project), _account(settings.project)
    if data.is_dir() and any(data.iterdir()):
        raise Refused(f"{data} exists, and repom did not make it", "Move it out of the way")
    initdb = str(Path(programs_for(""), "initdb"))
    if settings.dry:
        arguments = initdb_arguments(data, settings.user, "FILE", sys.platform)
        _run([initdb, *arguments], account, settings)
        return
    data.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until it is whole, since initdb may be killed half way.
    partial = data.with_name(f".postgres-{secrets.token_hex(4)}")
    partial.mkdir(mode=0o700)
    try:
        _fill(settings, initdb, partial, account)
        try:
            if data.is_dir():
                data.rmdir()  # an empty one; Windows does not rename over it
            partial.rename(data)
        except OSError:
            message = f"Another postgres.start made {data} in the meantime"
            raise Refused(message, "Run it again") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(settings: Settings, initdb: str, data: Path, account: str | None) -> None:
    _hand_over(data, account)
    _check_way(data.parent, account)
    with _password_file(settings.password or "", account) as pwfile:
        arguments = initdb_arguments(data, settings.user, pwfile, sys.platform)
        result = _run([initdb, *arguments], account, settings)
    if not result.ok:
        raise CommandFailed(last_line(result, "initdb failed"))
    (data / ".gitignore").write_text("*\n")
    (data / LOG).touch(mode=0o600)
    _hand_over(data / LOG, account)


def initdb_arguments(data: Path, user: str, pwfile: str, platform: str) -> list[str]:
    """UTF-8 whatever this process's locale, and a password for every connection."""
    locale = LOCALES.get(platform, "C")
    return [
        *("-D", str(data), "-U", user, f"--pwfile={pwfile}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", f"--locale={locale}", "--lc-messages=C"),
    ]


@contextmanager
def _password_file(password: str, account: str | None) -> Iterator[str]:
    """A private file with the password; initdb takes it from nowhere else."""
    descriptor, name = tempfile.mkstemp(prefix="repom-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{password}\n")
        _hand_over(Path(name), account)
        yield name
    finally:
        Path(name).unlink()


# -- the server's user: PostgreSQL refuses to run as root ---------------------------------


def _account(project: Path) -> str | None:
    """The user to run the server as; ``None`` for this process's own."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    if exists(project):
        number = folder(project).stat().st_uid
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            raise Unreachable(
                f"{folder(project)} belongs to user {number}, whom this system does not know",
                f"Give it to one that it has: chown -R postgres {folder(project)}",
            ) from None
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def as_account(argv: Sequence[str], account: str | None, platform: str) -> list[str]:
    """The command line that runs `argv` as another user."""
    if account is None:
        return list(argv)
    prefix = ("sudo", "-n", "-u") if platform == "darwin" else ("runuser", "-u")
    return [*prefix, account, "--", *argv]


def _hand_over(path: Path, account: str | None) -> None:
    if account is not None:
        shutil.chown(path, account)


def _check_way(target: Path, account: str | None) -> None:
    """Check that the server's user can enter every folder down to `target`. repom does not
    open a home folder to other users unasked."""
    if account is None:
        return
    for each in [*reversed(target.parents), target]:
        if not _run(["test", "-x", str(each)], account, None).ok:
            raise Unreachable(
                f"PostgreSQL does not run as root, and user {account} cannot enter {each}",
                f"Allow it with: chmod o+x {each} (or move the project, or run as another user)",
            )


def _control(project: Path, *arguments: str | Path, change: Settings | None = None) -> Result:
    """Run `pg_ctl`; see `_run`."""
    pg_ctl = str(Path(programs_for(version(project)), "pg_ctl"))
    return _run([pg_ctl, *map(str, arguments)], _account(project), change)


def _run(argv: Sequence[str], account: str | None, change: Settings | None) -> Result:
    """Run a program as `account`.

    :param change: the settings that a change respects (echo, dry); ``None`` is a question.
    """
    command = as_account(argv, account, sys.platform)
    if change is None:
        return HostRunner().run(command, warn=True, dry=False, timeout=20)
    return HostRunner(echo=change.echo, dry=change.dry).run(command, warn=True)
