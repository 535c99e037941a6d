"""A PostgreSQL cluster of the project's own, made with this host's server programs.

For machines without a container engine: it lies in `data/postgres` of the project folder,
listens on 127.0.0.1 alone and asks everybody for a password.
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
from pathlib import Path

from invoke.runners import Result

from repom.errors import CommandFailed, Refused, Unreachable
from repom.runners import programs
from repom.runners.host import HostRunner
from repom.settings import Settings

log = logging.getLogger("repom")

#: Besides being the log it marks the cluster as repom's: a Compose file may well mount
#: the same folder, and another image's data must not be opened with the host's programs.
LOG = "repom.log"
#: Locales with UTF-8 and a stable sort order that the systems bring along.
LOCALES = {"linux": "C.UTF-8", "darwin": "en_US.UTF-8"}
INSTALL = "Install Docker, or the PostgreSQL server package of this system"


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
    if not exists(project) or not _control(project, "status", "-D", folder(project)).ok:
        return None
    try:
        lines = (folder(project) / "postmaster.pid").read_text(errors="replace").splitlines()
        pid, data, _started, port = lines[0], lines[1], *lines[2:4]
        return int(port) if _is_server(int(pid)) and _is_folder(data, project) else None
    except (OSError, ValueError, IndexError):  # it has ended meanwhile, or never ran here
        return None


def _is_server(pid: int) -> bool:
    """Whether the process is PostgreSQL's. `pg_ctl` only asks whether there is one, and
    would stop whatever has taken the number of a server that was killed."""
    name = Path(f"/proc/{pid}/comm")
    return not name.exists() or name.read_text().strip() in ("postgres", "postmaster")


def _is_folder(data: str, project: Path) -> bool:
    """Whether the server's folder is this one: one that was copied under a running server
    has the lock file of the original, which is another project's."""
    return Path(data).exists() and Path(data).samefile(folder(project))


def programs_for(major: str, available: Iterable[tuple[int, str]] | None = None) -> str:
    """The folder of the server programs of this major, or of the newest when it is empty.

    :raises Unreachable: this host has none that fit.
    """
    available = programs.installed() if available is None else available
    servers = [each for each in available if shutil.which("initdb", path=each[1])]
    fitting = [each for each in servers if major in ("", str(each[0]))]
    if not fitting:
        kind = f"PostgreSQL {major}'s" if major else "PostgreSQL's"
        raise Unreachable(f"{kind} server programs (initdb, pg_ctl) are not on this host", INSTALL)
    return max(fitting, key=lambda each: each[0])[1]


def launch(settings: Settings, port: int) -> None:
    """Make the cluster if there is none, and start its server.

    :param settings: user and password of the cluster's superuser, for a new one.
    :raises Unreachable: no fitting programs; a folder that the server's user cannot enter.
    :raises Refused: the folder holds something else; another start is at work.
    :raises CommandFailed: `initdb` or `pg_ctl` failed.
    """
    if not exists(settings.project):
        _create(settings)
    result = _control(settings.project, *start_arguments(settings.project, port), run=settings)
    if not result.ok and running_port(settings.project) is None:
        for line in log_lines(settings.project, 20):
            log.warning("  %s", line)
        raise CommandFailed(last_line(result, "pg_ctl failed"), "The last log lines are above")


def stop(settings: Settings) -> None:
    """Stop the cluster's server; its clients are disconnected.

    :raises CommandFailed: it did not stop.
    """
    arguments = ("stop", "-D", folder(settings.project), "-m", "fast", "-t", "60")
    result = _control(settings.project, *arguments, run=settings)
    if not result.ok and running_port(settings.project) is not None:
        raise CommandFailed(last_line(result, "pg_ctl failed"), "See: invoke postgres.logs")


def create_database(settings: Settings, env: dict[str, str]) -> None:
    """Create the target database; `env` says where and as whom."""
    createdb = str(Path(programs_for(version(settings.project)), "createdb"))
    runner = HostRunner(echo=settings.echo, dry=settings.dry)
    env = {**env, "PGDATABASE": "postgres"}
    result = runner.run([createdb, "-w", "--", settings.database], env=env, warn=True)
    if not result.ok and "already exists" not in result.stderr:
        raise CommandFailed(last_line(result, "createdb failed"))


def log_lines(project: Path, lines: int) -> list[str]:
    """The last lines of the server's log."""
    path = folder(project) / LOG
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=lines)]


def discard(project: Path) -> None:
    """Remove the cluster with all its data."""
    shutil.rmtree(folder(project))


def initdb_arguments(data: Path, user: str, pwfile: str, platform: str) -> list[str]:
    """UTF-8 whatever this process's locale, and a password for every connection."""
    locale = LOCALES.get(platform, "C")
    return [
        *("-D", str(data), "-U", user, f"--pwfile={pwfile}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", f"--locale={locale}", "--lc-messages=C"),
    ]


def start_arguments(project: Path, port: int) -> list[str]:
    """No socket: its path may be too long for the system (107 bytes), and TCP is enough."""
    data = folder(project)
    listen = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories="
    return ["start", "-D", str(data), "-l", str(data / LOG), "-w", "-t", "60", "-o", listen]


def as_account(argv: Sequence[str], account: str | None, platform: str) -> list[str]:
    """The command line that runs `argv` as another user; ``None`` is oneself."""
    if account is None:
        return list(argv)
    prefix = ("sudo", "-n", "-u") if platform == "darwin" else ("runuser", "-u")
    return [*prefix, account, "--", *argv]


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
        _publish(partial, data)
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


def _publish(partial: Path, data: Path) -> None:
    try:
        if data.is_dir():
            data.rmdir()  # an empty one; Windows does not rename over it
        partial.rename(data)
    except OSError:
        message = f"{data} was made by another postgres.start meanwhile"
        raise Refused(message, "Run it again") from None


@contextmanager
def _password_file(password: str, account: str | None) -> Iterator[str]:
    """A private file with the password; initdb takes it from nowhere else."""
    descriptor, name = tempfile.mkstemp(prefix="repom-")
    path = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{password}\n")
        _hand_over(path, account)
        yield name
    finally:
        path.unlink()


def _control(project: Path, *arguments: str | Path, run: Settings | None = None) -> Result:
    """Run `pg_ctl`: as a question when `run` is ``None``, else as `run` says."""
    pg_ctl = str(Path(programs_for(version(project)), "pg_ctl"))
    return _run([pg_ctl, *map(str, arguments)], _account(project), run)


def _run(argv: Sequence[str], account: str | None, settings: Settings | None) -> Result:
    runner = HostRunner(echo=settings.echo, dry=settings.dry) if settings else HostRunner()
    command = as_account(argv, account, sys.platform)
    if settings:
        return runner.run(command, warn=True)
    return runner.run(command, warn=True, dry=False, timeout=20)


def _account(project: Path) -> str | None:
    """The user to run the server as: PostgreSQL refuses to run as root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    if exists(project):
        number = folder(project).stat().st_uid
        try:
            return pwd.getpwuid(number).pw_name
        except KeyError:
            raise Unreachable(
                f"{folder(project)} belongs to user {number}, and this system has no such user",
                f"Give it to one that it has: chown -R postgres {folder(project)}",
            ) from None
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _hand_over(path: Path, account: str | None) -> None:
    if account is not None:
        shutil.chown(path, account)


def _check_way(target: Path, account: str | None) -> None:
    """That the server's user can enter every folder down to `target`. Opening somebody's
    home folder to other users is not for repom to do unasked."""
    if account is None:
        return
    for each in [*reversed(target.parents), target]:
        if not _run(["test", "-x", str(each)], account, None).ok:
            raise Unreachable(
                f"PostgreSQL does not run as root, and user {account} cannot enter {each}",
                f"Allow it with: chmod o+x {each} (or move the project, or run as another user)",
            )


def last_line(result: Result, otherwise: str) -> str:
    """The last line that a program said, for a message."""
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else otherwise
