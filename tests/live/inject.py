"""Makes one system call of a task fail, with strace.

A first run without a fault lists the calls on the database's and the store's own files;
then each fault is one of these: the n-th `fsync` of its process fails with EIO, say.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from itertools import cycle, islice
from pathlib import Path

from tests.live.cli import Ended, environment

#: What fails when a disk is full or broken, and what only when it is broken.
FULL = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "openat")
BROKEN = ("close", "read", "pread64", "unlink")
LINE = re.compile(r"(\d+) +(\w+)\((.*)")


def traced(
    project: Path, env: dict[str, str], task: list[str], fault: str = ""
) -> tuple[Ended, list[str]]:
    """Run a task under strace; returns its calls, too."""
    log = project / "calls"
    argv = ["strace", "-f", "-qq", "-y", "--seccomp-bpf", "-e", "signal=none", "-o", str(log)]
    argv += ["-e", f"trace={','.join((*FULL, *BROKEN))}"]
    argv += ["-e", f"inject={fault}"] if fault else []
    done = subprocess.run(
        [*argv, sys.executable, "-m", "invoke", *task],
        cwd=project,
        env=environment(**env, PYTHONDONTWRITEBYTECODE="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = log.read_text(errors="replace").splitlines()
    return Ended(done.returncode, done.stdout, done.stderr), lines


def is_ours(project: Path, call: str) -> bool:
    """Whether a call is about the store or the database, and not about Python or a pipe."""
    ours = f"{project}/backups", f"{project}/faults.db", f"{project}/.repom"
    return "<pipe:" not in call and any(path in call for path in ours)


def faults(
    project: Path, env: dict[str, str], task: list[str], count: int, dice: random.Random
) -> list[str]:
    """So many faults, of every kind of call in turn, as strace wants them:
    `fsync:error=EIO:when=3`. The last of each is drawn as often as all others."""
    ended, lines = traced(project, env, task)
    assert ended.status == 0, ended.err
    counted: Counter[tuple[str, str]] = Counter()
    numbers: dict[str, set[int]] = {}
    for line in lines:
        if made := LINE.match(line):
            process, name, rest = made.groups()
            counted[process, name] += 1
            if is_ours(project, rest):
                numbers.setdefault(name, set()).add(counted[process, name])
    chosen = []
    for name in islice(cycle(sorted(numbers)), count):
        known = sorted(numbers[name])
        number = dice.choice([dice.choice(known), known[-1]])
        code = dice.choice(["EIO", "ENOSPC"]) if name in FULL else "EIO"
        chosen.append(f"{name}:error={code}:when={number}")
    return list(dict.fromkeys(chosen))


def hits(lines: list[str]) -> list[str]:
    """The calls of the task's own process that were made to fail."""
    return [x for x in lines if "(INJECTED)" in x and x.split()[0] == lines[0].split()[0]]
