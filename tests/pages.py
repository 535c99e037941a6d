"""The pages of the documentation as tests run them.

What a page may hold in fences, and what becomes of it:

- ``console``: lines that begin with ``$ `` are commands; one goes on in the next line after
  ``\\``, ``&&`` or ``|`` at its end. They run in the order of the page, in a project of its
  own, and must succeed. What stands below a command must be in its output, in this order;
  numbers, times, sizes and folders may differ, and a line ``…`` leaves something out. A
  question that shows its answer (``[y/N] y``) is asked on a pseudo-terminal.
- ``python`` without a file's name: runs in the same order.
- any language, below a line that ends with a file's name and a colon: written into the
  project. In other places it is an illustration.
- ``bash``: in README only, and run by ``.ci/run``.
- ``text``, ``json``, ``mermaid``: never a command.

``<!-- not run: REASON -->`` above a fence exempts it; `tests/test_docs.py` lists each of
these. ``<!-- project: KIND -->`` chooses the project of a page, one of `PROJECTS`. A page with
``<!-- run by: FILE -->`` has a test of its own there, because it needs more than a project.
"""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests import terminal
from tests.live import engine
from tests.live.cli import ROOT, environment

ILLUSTRATIONS = {"ini", "yaml", "toml", "sql", "python", "cron", "sh"}
OUTPUT = {"text", "json", "mermaid"}
#: Of a `tasks.py`; on its own it does nothing.
FIRST_LINE = "from repom.tasks import ns"
#: Folder of the project on the pages.
HOME = "/home/me/app"

COMPOSE = """services:
  db:
    image: postgres:17
    environment:
      POSTGRES_USER: app
      POSTGRES_PASSWORD: choose-one
      POSTGRES_DB: app
    volumes: ["data:/var/lib/postgresql/data"]
volumes:
  data:
"""
ORDERS = """CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, email TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer, cents INT);
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
INSERT INTO customer SELECT i, 'Customer ' || i, 'c' || i || '@example.com' FROM n;
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO orders SELECT i, i % 500 + 1, i * 7 % 9000 FROM n;
"""


@dataclass(frozen=True)
class Block:
    """What is between two fences.

    :param file: the name of a file to write; empty for none.
    :param not_run: why its commands are not run; empty when they are.
    """

    page: str
    line: int
    language: str
    text: str
    file: str
    not_run: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[tuple[str, str]]:
        """Each command with the output that is shown below it."""
        found: list[tuple[str, str]] = []
        for line in self.text.splitlines():
            goes_on = found and re.search(r"(\\|&&|\|)$", found[-1][0]) and not found[-1][1]
            if line.startswith("$ "):
                found.append((line[2:], ""))
            elif goes_on:
                found[-1] = (f"{found[-1][0]}\n{line}", "")
            else:
                assert found, f"{self.where}: output without a command"
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        return found


@dataclass
class Project:
    """A folder for the commands of one page.

    :param name: of the folder, and so of the Compose project.
    """

    folder: Path
    name: str
    env: Mapping[str, str]

    def run(self, command: str, shown: str = "") -> tuple[int, str]:
        run = terminal.on_terminal if "[y/N] y" in shown else terminal.piped
        return run(command, self.folder, self.env)

    def real(self, text: str) -> str:
        """What the pages call the folder, by its own name."""
        return text.replace(HOME, str(self.folder))

    def normal(self, text: str) -> str:
        """Text without what differs from one run to the next."""
        text = terminal.COLOUR.sub("", text)
        text = text.replace(str(self.folder), HOME).replace(self.name, "app")
        for pattern, word in VARYING:
            text = re.sub(pattern, word, text)
        return " ".join(text.split())


VARYING = (
    (r"\b\d{8}T\d{6}Z(-\d+)?", "TIME"),
    (r"\b\d{4}-\d\d-\d\dT[\d:.]+Z?", "TIME"),
    (r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b", "HEX"),
    (r"\d+(\.\d+)? (bytes?|[kMG]B)\b", "SIZE"),
    (r"just now|(\d+|an?) (second|minute|hour|day)s?( ago)?", "AGE"),
    (r"\d+(\.\d+)*", "N"),
    (r"[─━═]+", "─"),
    (r"[▁▂▃▄▅▆▇█]+", "█"),
)


@cache
def pages() -> dict[str, str]:
    """Names of the pages, from the project's top, and their texts."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in found}


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    lines, start, before = pages()[page].splitlines(), 0, ""
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("```"):
            before = line if line.strip() and not start else before
        elif not start:
            start, indent = number, len(line) - len(line.lstrip())
            not_run = re.fullmatch(r"\s*<!-- not run: (.+) -->", lines[number - 2])
            file = re.search(r"`(?![/~])([^`\s()]+)`:$", before)
        else:
            text = "".join(f"{each[indent:]}\n" for each in lines[start : number - 1])
            language = lines[start - 1].strip("` ")
            found.append(
                Block(
                    page,
                    start,
                    language,
                    text,
                    file[1] if file and language not in {"console", "bash", *OUTPUT} else "",
                    not_run[1] if not_run else "",
                )
            )
            start, before = 0, ""
    assert not start, f"{page}:{start}: the fence is not closed"
    return tuple(found)


def kind(page: str) -> str:
    """The kind of project that the commands of a page run in."""
    found = re.search(r"^<!-- project: (\w+) -->$", pages()[page], re.M)
    return found[1] if found else "compose"


def run_by(page: str) -> str:
    """The test that follows a page by itself; empty for none."""
    found = re.search(r"^<!-- run by: (\S+) -->$", pages()[page], re.M)
    return found[1] if found else ""


def runs(page: str) -> bool:
    """Whether a page has commands that are run here."""
    ours = [b for b in blocks(page) if b.language == "console" and not b.not_run]
    return bool(ours) and not run_by(page)


def check(page: str, project: Project) -> None:
    """Follow a page: write its files, run its commands, compare what they say."""
    for block in blocks(page):
        if block.not_run:
            continue
        if block.file:
            path = project.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(project.real(block.text), encoding="utf-8")
            path.chmod(0o700 if block.language == "sh" else 0o600)
        elif block.language == "python" and block.text.strip() != FIRST_LINE:
            follow(block, f"python -c {shlex.quote(block.text)}", "", project)
        elif block.language == "console":
            for command, shown in block.commands():
                follow(block, command, shown, project)


def follow(block: Block, command: str, shown: str, project: Project) -> None:
    status, said = project.run(project.real(command), shown)
    told = f"{block.where}: $ {command}\n{said}"
    assert status == 0, told
    rest = project.normal(said)
    for part in re.split(r"^\s*…$", shown, flags=re.M):
        expected = project.normal(part)
        _, found, after = rest.partition(expected) if expected else ("", "", rest)
        assert found == expected, f"{told}\nNot there: {part}"
        rest = after


# -- projects -------------------------------------------------------------------------------


def programs(folder: Path) -> Path:
    """A folder for PATH: the programs as an installation has them, on this very source."""
    folder.mkdir()
    starts = {
        "python": "",
        "invoke": " -m invoke",
        "inv": " -m invoke",
        "repom": " -c 'from repom.tasks import main; main()'",
    }
    for name, start in starts.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{start} "$@"\n')
        program.chmod(0o755)
    return folder


def _project(parent: Path, name: str) -> Project:
    folder = parent / name
    folder.mkdir()
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    path = f"{programs(parent / 'programs')}:{environment()['PATH']}"
    author = {"GIT_AUTHOR_NAME": "Me", "GIT_AUTHOR_EMAIL": "me@example.com"}
    commits = {"GIT_COMMITTER_NAME": "Me", "GIT_COMMITTER_EMAIL": "me@example.com"}
    return Project(folder, name, environment(PATH=path, **author, **commits))


@contextmanager
def empty(parent: Path) -> Iterator[Project]:
    yield _project(parent, "app")


@contextmanager
def sqlite(parent: Path) -> Iterator[Project]:
    """A Django project's file, `db.sqlite3`."""
    project = _project(parent, "app")
    with closing(sqlite3.connect(project.folder / "db.sqlite3")) as database:
        database.executescript(ORDERS)
    yield project


@contextmanager
def compose(parent: Path, name: str = "") -> Iterator[Project]:
    """A project with a Compose file, its service `db` running, and a database with orders."""
    project = _project(parent, name or engine.unique())
    (project.folder / "compose.yaml").write_text(COMPOSE)
    run = ("docker", "compose", "--project-directory", str(project.folder))
    try:
        engine.run(*run, "up", "-d")
        started(run)
        subprocess.run([*run, *PSQL], input=ORDERS, text=True, check=True, capture_output=True)
        yield project
    finally:
        engine.run(*run, "down", "-v", "--timeout", "1", "--remove-orphans", check=False)


PSQL = ("exec", "-T", "db", "psql", "-XqU", "app", "-v", "ON_ERROR_STOP=1", "app")
#: Over TCP, since the entry point's first server listens on its socket alone.
READY = ("exec", "-T", "db", "pg_isready", "-qh", "127.0.0.1")


def started(run: tuple[str, ...]) -> None:
    end = time.monotonic() + 60
    while subprocess.run([*run, *READY], capture_output=True).returncode:
        assert time.monotonic() < end, "the service db did not start"
        time.sleep(0.2)


#: Kinds of projects that need a container engine.
LIVE = {"compose"}
PROJECTS: dict[str, Callable[[Path], AbstractContextManager[Project]]] = {
    "compose": compose,
    "sqlite": sqlite,
    "empty": empty,
}
