"""The workflow of docs/automation.md, its steps run against a service container by its id."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests import requires
from tests.live.cli import environment
from tests.live.engine import run
from tests.test_automation import ROOT, examples

SQL = """CREATE TABLE item (n int);
INSERT INTO item VALUES (1), (2), (3);
"""
MIGRATE = """import os, subprocess
container = os.environ["REPOM_CONTAINER"]
sql = "INSERT INTO item VALUES (4); CREATE TABLE added (n int)"
subprocess.run(["docker", "exec", container, "psql", "-qU", "shop", "-c", sql], check=True)
"""


def test_the_workflow_for_github(name: str, tmp_path: Path) -> None:
    requires.image(17)
    (workflow,) = examples("yaml")
    env = dict(re.findall(r"^ {6}(POSTGRES_\w+): (.+)$", workflow, re.MULTILINE))
    service = dict(re.findall(r"^ {10}(POSTGRES_\w+): (.+)$", workflow, re.MULTILINE))
    assert service == env
    given = [flag for pair in service.items() for flag in ("-e", "=".join(pair))]
    (options,) = re.findall(r"^ +options: (.+)$", workflow, re.MULTILINE)
    flags = re.findall(r"(--health-\w+) (\S+)", options)
    health = [f"{flag}={value}" for flag, value in flags]
    id = run("docker", "run", "-d", "--name", name, *given, *health, "postgres:17")
    for _ in range(60):
        if run("docker", "inspect", "-f", "{{.State.Health.Status}}", id) == "healthy":
            break
        run("sleep", "0.5")

    bin = tmp_path / "bin"
    bin.mkdir()
    main = "from repom.tasks import main; main()"
    for program, argv in (("repom", f" -c '{main}'"), ("python", "")):
        (bin / program).write_text(f"#!/bin/sh\nexec '{sys.executable}'{argv} \"$@\"\n")
        (bin / program).chmod(0o755)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "shop.sql").write_text(SQL)
    (tmp_path / "migrate.py").write_text(MIGRATE)
    (tmp_path / ".git").mkdir()
    variables = tmp_path / "variables"
    variables.touch()
    env |= {"GITHUB_ENV": str(variables), "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}"}

    said = {}
    steps = re.findall(r"^ {6}- run: (.+)$", workflow, re.MULTILINE)
    for step in [each for each in steps if "pip install" not in each]:
        step = step.replace("${{ job.services.postgres.id }}", id)
        env |= dict(line.split("=", 1) for line in variables.read_text().splitlines())
        done = subprocess.run(
            ["bash", "-e", "-c", step],
            cwd=tmp_path,
            env=environment(**env, PYTHONPATH=str(ROOT)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (step, done.stderr)
        said[step.partition(" --")[0]] = done.stdout
    assert json.loads((tmp_path / "backup.json").read_text())["label"] == "before-migrations"
    assert "public.added" in said["repom db.diff"]
    assert re.search(r"public\.item +3 +4 +\+1", said["repom db.diff"])
