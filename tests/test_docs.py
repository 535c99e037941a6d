"""The documents name what exists: tasks, flags, settings, and where to find them in the code."""

from __future__ import annotations

import ast
import re
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
    "db.pull",
    "db.undo",
    "db.list",
    "db.diff",
    "db.verify",
    "db.prune",
    "db.pin",
    "db.shell",
    "demo",
    "doctor",
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


# -- the tables that say where something is -----------------------------------------------

#: Rows of tables; an answer names files, each followed by names that it defines.
ROWS = [
    row
    for page in ("docs/design.md", "CONTRIBUTING.md")
    for row in (ROOT / page).read_text(encoding="utf-8").splitlines()
    if row.startswith("|") and re.search(r"`(repom|tests)/", row)
]


def defined(path: Path) -> set[str]:
    """Names of the functions, classes and constants of a file, or of a folder's files."""
    files = [path] if path.is_file() else list(path.glob("*.py"))
    nodes = [n for f in files for n in ast.walk(ast.parse(f.read_text(encoding="utf-8")))]
    names = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return names | {n.id for n in nodes if isinstance(n, ast.Name)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.strip("| ").partition(" |")[0])
def test_what_the_tables_name_exists(row: str) -> None:
    cells = row.strip("| ").split(" | ")
    for cell in cells[1:]:
        here: Path | None = None
        for quoted in re.findall(r"`([^`]+)`", cell):
            if "/" in quoted:
                here = ROOT / quoted
                assert here.exists(), quoted
            elif here is not None and re.fullmatch(r"\w+(\.\w+)?", quoted):
                assert quoted.rpartition(".")[2] in defined(here), quoted


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "repom").rglob("__init__.py")))
def test_every_folder_answers_a_question(folder: Path) -> None:
    name = folder.relative_to(ROOT).as_posix()
    assert any(f"`{name}" in row for row in ROWS)


def test_the_tests_that_the_page_on_reliability_names_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:tests/live/)?(\w+\.py)`", page))
    assert len(named) > 10
    assert named <= {path.name for path in (ROOT / "tests").rglob("*.py")}
