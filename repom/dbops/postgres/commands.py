"""The command lines of PostgreSQL's programs, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: First releases of psql with ``\restrict``, by major (CVE-2025-8714).
RESTRICT_SINCE = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
#: Newest custom format that a pg_restore of this major reads (pg_backup_archiver.h).
ARCHIVE_FORMATS = {12: (1, 14), 13: (1, 14), 14: (1, 14), 15: (1, 14), 16: (1, 15)}
#: Settings of sessions that load a scratch database, which no other session reads yet. That their
#: commits do not wait for the disk costs no safety: the commit of the swap does, and what
#: is written before it is on the disk before it. More memory for indexes showed no gain,
#: and a container may have little.
LOAD = "-c synchronous_commit=off"
LOCK_WAIT = 30_000  # milliseconds that a dump waits for another session's lock


def dump_argv(conninfo: str, format: str, *, zstd: bool, statistics: bool = False) -> list[str]:
    """pg_dump's command line. Level 1: higher ones cost time and save little.

    :param statistics: take the planner's along, from 18 on; a plain file is for any server.
    """
    argv = ["pg_dump", "--no-password", f"--lock-wait-timeout={LOCK_WAIT}"]
    if format == "custom":
        argv += ["--format=custom", f"--compress={'zstd:1' if zstd else '1'}"]
        argv += ["--statistics"] if statistics else []
    else:
        argv += ["--format=plain", "--clean", "--if-exists", "--no-owner", "--no-acl"]
        argv += ["--compress=1"]
    return [*argv, "--dbname", conninfo]


def restore_argv(conninfo: str, *, jobs: int, owner: bool) -> list[str]:
    """pg_restore's command line; the archive comes last."""
    flags = [] if owner else ["--no-owner", "--no-acl"]
    return [
        "pg_restore",
        "--no-password",
        "--exit-on-error",
        f"--jobs={jobs}",
        *flags,
        "--dbname",
        conninfo,
    ]


def psql_argv(conninfo: str, variables: Mapping[str, str], before: Iterable[str] = ()) -> list[str]:
    """psql's command line: no psqlrc, stop at the first error, the script on its input.

    :param before: commands that come before the script, whose lines they do not count as.
    """
    given = [flag for name, value in variables.items() for flag in ("-v", f"{name}={value}")]
    base = ["psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", *given]
    first = [flag for each in before for flag in ("-c", each)]
    return [*base, "-d", conninfo, *first, "-f", "-"]


def restricts(version_num: int) -> bool:
    """Whether psql of this version (as in VERSION_NUM, 170006) knows ``\\restrict``."""
    number, minor = divmod(version_num, 10_000)
    return number > 17 or minor >= RESTRICT_SINCE.get(number, 10_000)


def script_argv(*, owner: bool, to: str = "-") -> list[str]:
    """pg_restore's command line that writes an archive as SQL; the archive comes last."""
    return ["pg_restore", f"--file={to}", *([] if owner else ["--no-owner", "--no-acl"])]
