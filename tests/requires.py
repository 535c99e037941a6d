"""What a test needs of the machine. Missing: the test skips and says what; with
REPOM_TEST_ALL=1, as in CI, it fails, so that a skipped test never counts as a passed one."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

ENGINE_WORK = os.environ.get("ENGINE_WORK", "/var/tmp/repom-engine")
#: Read here, since the tests themselves run without any configuration.
ALL = bool(os.environ.get("REPOM_TEST_ALL"))
REGRESSION = os.environ.get("REPOM_REGRESS_SOURCE")  # an unpacked src/test/regress


def need(there: object, what: str) -> None:
    if there:
        return
    if ALL:
        pytest.fail(f"missing on this machine: {what}")
    pytest.skip(f"missing on this machine: {what}")


@lru_cache
def succeeds(*argv: str) -> bool:
    if shutil.which(argv[0]) is None:
        return False
    return subprocess.run(argv, capture_output=True, timeout=60).returncode == 0


def engine() -> None:
    need(succeeds("docker", "info"), "a running Docker engine")


def image(major: int) -> None:
    engine()
    need(succeeds("docker", "image", "inspect", f"postgres:{major}"), f"the image postgres:{major}")


def compose() -> None:
    engine()
    need(succeeds("docker", "compose", "version"), "the Compose plugin")


def strace() -> None:
    need(succeeds("strace", "-qq", "-o", "/dev/null", "true"), "strace, and leave to trace")


def host_binaries() -> Path:
    """The folder of the host's PostgreSQL server programs."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb")
    need(candidates or found, "PostgreSQL's server programs (initdb)")
    return candidates[-1].parent if candidates else Path(str(found)).parent


@lru_cache
def host_psql() -> str:
    """The host's psql, without Debian's wrapper in Perl; empty when there is none."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/psql"))
    return str(candidates[-1]) if candidates else shutil.which("psql") or ""


def regression_source(major: int) -> Path:
    """The folder of PostgreSQL's own regression tests, which `.ci/regression` fetches."""
    folder = Path(REGRESSION or f"{ENGINE_WORK}/regression-{major}")
    script = Path(__file__).parents[1] / ".ci" / "regression"
    if not (folder / "parallel_schedule").is_file() and shutil.which("apt-get"):
        subprocess.run([str(script), str(major), str(folder)], capture_output=True)
    there = (folder / "parallel_schedule").is_file()
    need(there, f"the regression tests of PostgreSQL {major} (.ci/regression)")
    return folder
