"""PostgreSQL's client programs on this host: which are there, and which one fits."""

from __future__ import annotations

import platform
import re
import shutil
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from repom.errors import RepomError, Unreachable

from .host import HostRunner
from .runner import Runner

#: Where installers put the programs without putting them on PATH.
FOLDERS = {
    "linux": ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin"),
    "darwin": (
        "/opt/homebrew/opt/postgresql@*/bin",
        "/opt/homebrew/opt/libpq/bin",
        "/usr/local/opt/postgresql@*/bin",
        "/usr/local/opt/libpq/bin",
        "/Applications/Postgres.app/Contents/Versions/*/bin",
        "/Library/PostgreSQL/*/bin",
    ),
    "win32": ("C:/Program Files/PostgreSQL/*/bin",),
}


def folders(system: str = sys.platform) -> list[str]:
    """Folders on this host that hold a `pg_dump`: the usual ones, then PATH's."""
    patterns = FOLDERS.get(system, FOLDERS["linux"])
    usual = [str(f) for p in patterns for f in Path(Path(p).anchor).glob(p.split("/", 1)[1])]
    on_path = shutil.which("pg_dump")
    found = [f for f in usual if shutil.which("pg_dump", path=f)]
    # PATH's link is left alone: Debian's is a wrapper that chooses by its own name.
    return [*found, *([str(Path(on_path).parent)] if on_path else [])]


@lru_cache(maxsize=1)
def installed() -> tuple[tuple[int, str], ...]:
    """Major version and folder of every set of programs, own words of the programs."""
    versions = [(version_num("pg_dump", folder), folder) for folder in folders()]
    return tuple((number // 10_000, folder) for number, folder in versions if number)


@lru_cache
def version_num(program: str, folder: str) -> int:
    """The version of a program in this folder, as in VERSION_NUM (170006); 0 when it does
    not tell. Each folder has its own, so that of another one says nothing."""
    return version_of(program, HostRunner(folder))


def version_of(program: str, runner: Runner) -> int:
    """The same of a program that this runner runs."""
    try:
        result = runner.run([program, "--version"], warn=True, dry=False, timeout=20)
    except RepomError:  # one that cannot be run must not spoil the others
        return 0
    version = re.search(r"\) (\d+)(?:\.(\d+))?", result.stdout)
    return int(version[1]) * 10_000 + int(version[2] or 0) if result.ok and version else 0


def newest() -> str:
    """The folder of the newest programs, for asking a server of unknown version.

    :raises Unreachable: there are none on this host.
    """
    if not installed():
        raise Unreachable("pg_dump is not installed on this host", install_hint())
    return max(installed(), key=lambda each: each[0])[1]


def fitting(server: int, available: Iterable[tuple[int, str]] | None = None) -> str:
    """The folder of the programs for a server of this major: its own, else the nearest newer.

    :raises Unreachable: all are older than the server; names both versions.
    """
    available = installed() if available is None else tuple(available)
    newer = [each for each in available if each[0] >= server]
    if newer:
        return min(newer, key=lambda each: each[0])[1]
    majors = ", ".join(str(m) for m in sorted({m for m, _folder in available})) or "none"
    raise Unreachable(
        f"The server is PostgreSQL {server}, and the client programs on this host are {majors}",
        install_hint(server),
    )


def install_hint(major: int | None = None, system: str = sys.platform) -> str:
    """What to install, in the words of this system's package manager."""
    version = f"-{major}" if major else ""
    if system == "darwin":
        return f"Install it with: brew install {f'postgresql@{major}' if major else 'libpq'}"
    if system == "win32":
        return "Install the command line tools of PostgreSQL for Windows"
    family = _linux_family()
    if family & {"fedora", "rhel", "centos"}:
        return "Install it with: dnf install postgresql"
    if "arch" in family:
        return "Install it with: pacman -S postgresql"
    if "alpine" in family:
        return f"Install it with: apk add postgresql{major or ''}-client"
    return f"Install it with: apt install postgresql-client{version}"


def _linux_family() -> set[str]:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return set()
    return {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
