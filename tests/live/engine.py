"""Names for what tests make outside their folders. All of it is removed when the test run
ends, also when it is killed."""

from __future__ import annotations

import atexit
import secrets
import subprocess
from functools import cache

#: Runs when its input ends: containers, volumes, networks and images, by their names.
REMOVE = """docker ps -aq --filter name=$0 | xargs -r docker rm -fv
docker volume ls -q --filter name=$0 | xargs -r docker volume rm
docker network ls -q --filter name=$0 | xargs -r docker network rm
docker images -q --filter "reference=$0*" | xargs -r docker rmi -f
"""


@cache
def _reaper() -> tuple[subprocess.Popen[str], str]:
    """A process that outlives this one, and the prefix of all names of this run. The kernel
    closes its input when this process ends."""
    prefix = f"repom-test-{secrets.token_hex(4)}"
    reaper = subprocess.Popen(
        ["sh", "-c", 'script=$(cat); eval "$script"', prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    atexit.register(reaper.communicate)
    return reaper, prefix


def run(*argv: str, check: bool = True) -> str:
    """What a program says, without the end of the line."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout.strip()


def at_exit(script: str) -> None:
    """Have a shell run this line when the test run has ended."""
    reaper, _prefix = _reaper()
    assert reaper.stdin
    print(script, file=reaper.stdin, flush=True)


@cache
def prefix() -> str:
    at_exit(REMOVE)
    return _reaper()[1]


def unique() -> str:
    """A name for a container, an image or a Compose project; what bears it or begins with
    it (`NAME_data`, `NAME-db-1`) is removed with it."""
    return f"{prefix()}-{secrets.token_hex(3)}"


def remove(name: str) -> None:
    """Remove everything whose name begins so, now."""
    subprocess.run(["sh", "-c", REMOVE, name], capture_output=True, timeout=60)
