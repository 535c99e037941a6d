"""The examples of docs/automation.md, run as they are written there."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from repom import dbops
from tests import requires

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "automation.md").read_text(encoding="utf-8")
PLACE = "/srv/shop"


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project with repom in its `.venv`."""
    bin = tmp_path / ".venv" / "bin"
    bin.mkdir(parents=True)
    main = "from repom.tasks import main; main()"
    (bin / "repom").write_text(
        f"#!/bin/sh\nPYTHONPATH='{ROOT}' exec '{sys.executable}' -c '{main}' \"$@\"\n"
    )
    (bin / "repom").chmod(0o755)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as database:
        database.executescript("CREATE TABLE item (n); INSERT INTO item VALUES (1), (2);")
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///shop.db\n")
    return tmp_path


def names() -> list[str]:
    return [backup.name for backup in dbops.list_backups()]


def labels() -> list[str | None]:
    return [backup.label for backup in dbops.list_backups()]


def cron(line: str, shop: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a crontab as cron does: a bare environment, no terminal, no input."""
    *_times, command = line.strip().split(" ", 5)
    assert "%" not in command, "cron takes it for the end of the line"
    return subprocess.run(
        [
            "env",
            "-i",
            f"HOME={shop}",
            "PATH=/usr/bin:/bin",
            "sh",
            "-c",
            command.replace(PLACE, str(shop)),
        ],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )


def test_the_line_for_cron(shop: Path) -> None:
    line, _hourly = examples("cron")
    done = cron(line, shop)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [json.loads((shop / "backup.json").read_text())["name"]] == names()
    (shop / "shop.db").unlink()
    assert "There is no SQLite file shop.db" in cron(line, shop).stdout


def test_the_hourly_line_for_cron_backs_up_once_a_day(shop: Path) -> None:
    _line, hourly = examples("cron")
    for _ in range(2):
        done = cron(hourly, shop)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert [json.loads((shop / "backup.json").read_text())["name"]] == names()


def test_the_units_of_systemd(shop: Path, tmp_path: Path) -> None:
    paths = []
    for kind, unit in zip(("service", "timer"), examples("ini"), strict=True):
        paths.append(tmp_path / f"shop-backup.{kind}")
        paths[-1].write_text(unit.replace(PLACE, str(shop)))
    if shutil.which("systemd-analyze"):
        argv = ["systemd-analyze", "verify", *map(str, paths)]
        done = subprocess.run(argv, capture_output=True, text=True)
        own = [line for line in done.stderr.splitlines() if "shop-backup" in line]
        assert own == []
    service = configparser.ConfigParser(interpolation=None)
    service.optionxform = str  # type: ignore[assignment, method-assign]
    service.read(paths[0])
    run, bare = service["Service"], {"HOME": str(shop), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        done = subprocess.run(
            run["ExecStart"].split(),
            cwd=run["WorkingDirectory"],
            env=bare,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert [json.loads(done.stdout)["name"]] == names()


def test_the_hook_for_git(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hook,) = examples("sh")
    monkeypatch.setenv("PATH", f"{shop / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def git(*argv: str) -> None:
        who = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *who, *argv], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".env")
    git("commit", "-qm", "one")
    path = shop / ".git" / "hooks" / "post-checkout"
    path.write_text(hook)
    path.chmod(0o755)
    git("checkout", "-q", "--", ".env")
    assert names() == []
    git("checkout", "-q", "-b", "feature")
    git("checkout", "-q", "-b", "another")
    assert len(names()) == 1


ENV_PY = """
from sqlalchemy import create_engine

connectable = create_engine(context.config.get_main_option("sqlalchemy.url"))
back_up_first(connectable)
with connectable.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""
REVISION = """
revision, down_revision = {now!r}, {before!r}
from alembic import op
def upgrade(): op.execute("CREATE TABLE t{now} (n)")
def downgrade(): op.execute("DROP TABLE t{now}")
"""


@pytest.mark.slow
def test_the_hook_for_alembic(shop: Path) -> None:
    requires.need(importlib.util.find_spec("alembic"), "Alembic")
    hook, _django = examples("python")
    (shop / "versions").mkdir()
    (shop / "env.py").write_text(hook + ENV_PY)
    (shop / "script.py.mako").write_text("")
    url = f"sqlite:///{shop / 'new.db'}"
    (shop / "alembic.ini").write_text(f"[alembic]\nscript_location = .\nsqlalchemy.url = {url}\n")

    def alembic(*argv: str) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-m", "alembic", *argv], check=True, env=env)

    for number, before in (("1", None), ("2", "1")):
        text = REVISION.format(now=number, before=before)
        (shop / "versions" / f"{number}.py").write_text(text)
    alembic("upgrade", "1")
    alembic("current")
    assert labels() == []
    alembic("upgrade", "head")
    assert labels() == ["before-migration"]
    assert dbops.list_backups()[0].facts.migration == "1"
    alembic("upgrade", "head")
    assert labels() == ["before-migration"]
    alembic("downgrade", "1")
    assert labels() == ["before-migration"] * 2
    assert dbops.list_backups()[0].facts.migration == "2"


#: What the hook uses of Django.
DJANGO = {
    "core/management/commands/migrate.py": """
class Command:
    def handle(self, *args, **options):
        print("migrated", options["database"])
""",
    "db/__init__.py": "connections = {'default': 'the connection'}",
    "db/migrations/executor.py": """
import os
class MigrationExecutor:
    def __init__(self, connection):
        assert connection == "the connection"
        self.loader = self.graph = self
        self.applied_migrations = "applied" in os.environ["STATE"]
    def leaf_nodes(self):
        return "leaves"
    def migration_plan(self, targets):
        assert targets == "leaves"
        return "pending" in os.environ["STATE"]
""",
}


@pytest.mark.parametrize(
    ("state", "made"), [("pending", 0), ("applied", 0), ("applied pending", 1)]
)
def test_the_hook_for_django(shop: Path, state: str, made: int) -> None:
    _alembic, hook = examples("python")
    for name, text in DJANGO.items():
        path = shop / "django" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (shop / "hook.py").write_text(f"{hook}\nCommand().handle(database='default')\n")
    env = {**os.environ, "PYTHONPATH": f"{shop}{os.pathsep}{ROOT}", "STATE": state}
    argv = [sys.executable, "hook.py"]
    done = subprocess.run(argv, env=env, check=True, capture_output=True, text=True)
    assert done.stdout == "migrated default\n"
    assert labels() == ["before-migrate"] * made
