"""The documents name what there is: every task, every flag's help, every setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Task

from repom import __version__, dbops
from repom.settings.sources import KEYS
from repom.tasks import ns

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
TASKS: dict[str, Task] = {name: ns[name] for name in ns.task_names}  # type: ignore[type-arg]
VARIABLES = [f"REPOM_{key.upper()}" for key in KEYS] + ["DATABASE_URL"]
VARIABLES += [f"POSTGRES_{name}" for name in ("USER", "PASSWORD", "DB", "HOST", "PORT")]
CONTRACT = [
    "db.backup",
    "db.restore",
    "db.undo",
    "db.list",
    "db.verify",
    "db.prune",
    "db.pin",
    "db.shell",
    "demo",
    "postgres.start",
    "postgres.stop",
    "postgres.status",
    "postgres.logs",
    "postgres.remove",
]


def test_the_tasks_are_those_of_the_contract() -> None:
    assert sorted(CONTRACT) == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_in_the_readme(name: str) -> None:
    assert f"`{name}" in README


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_does_and_every_flag_too(name: str) -> None:
    found = TASKS[name]
    assert (found.__doc__ or "").strip().endswith(".")
    arguments = found.get_arguments()
    assert [a.name for a in arguments if not a.help] == []
    assert [a for a in arguments if a.positional] == []
    assert [a for a in arguments if any(len(n) == 1 for n in a.names)] == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_setting_is_in_the_readme_and_in_the_example(variable: str) -> None:
    assert f"`{variable}`" in README
    assert f"# {variable}=" in EXAMPLE


def test_the_changelog_has_this_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_library_exports_what_it_says() -> None:
    assert sorted(dbops.__all__) == list(dbops.__all__)
    assert all(hasattr(dbops, name) for name in dbops.__all__)
