"""The documents name what exists: tasks, flags, settings, and where to find them in the code.
Their commands run: those that need no server here, the others in `tests/live/test_docs_live.py`."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from invoke import Program, Task
from invoke.parser import Parser

from repom import __version__, dbops
from repom.settings.sources import KEYS
from repom.tasks import ns
from tests import pages

ROOT = Path(__file__).parents[1]
TASKS_PAGE = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
SETTINGS_PAGE = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
TASKS: dict[str, Task] = {name: ns[name] for name in ns.task_names}  # type: ignore[type-arg]
#: Invoke hands the help of a task's flags out once.
ARGUMENTS = {name: task.get_arguments() for name, task in TASKS.items()}
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
def test_a_task_and_its_flags_are_on_the_page_of_tasks(name: str) -> None:
    assert f"`{name}`" in TASKS_PAGE
    group = "postgres.start" if name.startswith("postgres.") else name
    _, found, section = TASKS_PAGE.partition(f"\n## {group}\n")
    assert found
    section = section.partition("\n## ")[0]
    flags = [f"--{a.names[0].replace('_', '-')}" for a in ARGUMENTS[name]]
    assert [flag for flag in flags if f"`{flag}" not in section and f" {flag}" not in section] == []


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_what_it_does_and_every_flag_too(name: str) -> None:
    found = TASKS[name]
    assert (found.__doc__ or "").strip().endswith(".")
    arguments = ARGUMENTS[name]
    assert [a.name for a in arguments if not a.help] == []
    assert [a for a in arguments if a.positional] == []
    assert [a for a in arguments if any(len(n) == 1 for n in a.names)] == []


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_setting_is_on_its_page_and_in_the_example(variable: str) -> None:
    assert f"`{variable}`" in SETTINGS_PAGE
    assert f"# {variable}=" in EXAMPLE


def test_no_page_names_a_setting_that_is_not_there() -> None:
    texts = [*pages.pages().values(), EXAMPLE]
    named = {name for text in texts for name in re.findall(r"\bREPOM_[A-Z_]+[A-Z]\b", text)}
    assert named - set(VARIABLES) == {"REPOM_TEST_ALL", "REPOM_FAULTS", "REPOM_FAULT_SEED"}


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


# -- what a reader follows ------------------------------------------------------------------

#: Commands on the pages that no test runs; each says why above its block.
NOT_RUN = {
    "README.md": ["python -m pip install ../repom     # with uv: uv add --dev ../repom"],
    "CONTRIBUTING.md": [
        "python -m venv .venv && . .venv/bin/activate",
        'python -m pip install -e ".[dev]"',
        ".ci/engine",
        'docker run --rm -v "$PWD":/src:ro repom-base:18 sh -c \'apt-get update && …',
        "python -m pip wheel --no-deps -w dist . && python -m venv /tmp/empty && …",
        "cd /tmp && /tmp/empty/bin/repom --list && /tmp/empty/bin/repom demo",
    ],
    "docs/performance.md": [
        'python -m pip install ".[bench]"   # django-dbbackup, one of the rivals',
        "python -m benchmarks.run           # writes benchmarks/results.json; --only c e …",
        "python -m benchmarks.chart         # draws docs/performance.svg, prints the table",
    ],
    "docs/reliability.md": [
        "python -m tests.live.regression --major 18 --record regression.json",
        "python -m tests.live.faults --kills 1000 --record kills.json",
    ],
}
#: A command between backticks, without placeholders that are no values.
INLINE = re.compile(r"`((?:(?:repom|inv|invoke) |(?=(?:db|postgres)\.\w+ -))[^`\[\]{}…|<>]+)`")


def test_the_commands_that_are_not_run_are_these() -> None:
    found = {
        page: [c for b in pages.blocks(page) if b.not_run for c, _ in exempt(b)]
        for page in pages.pages()
    }
    known = {page: [c.partition("…")[0] for c in each] for page, each in NOT_RUN.items()}
    cut = {
        page: [c[: len(k)] if k else c for c, k in zip(each, known.get(page, each), strict=False)]
        for page, each in found.items()
        if each
    }
    assert cut == known
    assert {p: len(each) for p, each in found.items() if each} == {
        p: len(each) for p, each in known.items()
    }


def exempt(block: pages.Block) -> list[tuple[str, str]]:
    """The commands of a block that is not run; a script counts as one, by its first line."""
    if block.language == "console":
        return block.commands()
    return [(block.text.partition("\n")[0], "")]


@pytest.mark.parametrize("page", pages.pages())
def test_every_block_of_a_page_is_of_a_kind_that_tests_know(page: str) -> None:
    known = {"console", *pages.OUTPUT, *pages.ILLUSTRATIONS}
    known |= {"bash"} if page == "README.md" else set()
    unknown = [b.where for b in pages.blocks(page) if b.language not in known]
    assert unknown == [], "commands stand in blocks of console: see tests/pages.py"
    stray = [
        b.where
        for b in pages.blocks(page)
        if b.language not in {"console", "bash"} and re.search(r"^\$ ", b.text, re.M)
    ]
    assert stray == []
    assert pages.kind(page) in pages.PROJECTS


@pytest.mark.parametrize("page", [p for p in pages.pages() if pages.run_by(p)])
def test_the_test_of_a_page_knows_it(page: str) -> None:
    assert Path(page).name in (ROOT / pages.run_by(page)).read_text(encoding="utf-8")


def test_the_picture_shows_no_path_of_the_machine_that_took_it() -> None:
    picture = (ROOT / "docs" / "terminal.svg").read_text(encoding="utf-8")
    assert "db.undo" in picture
    assert re.findall(r"/(?:tmp|root|home|work|Users)/", picture) == []


def test_ci_runs_the_commands_of_the_readme() -> None:
    runs = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "sed -n '/^```bash$/,/^```$/p' README.md" in runs


@pytest.mark.parametrize("page", pages.pages())
def test_the_tasks_and_flags_in_commands_exist(page: str) -> None:
    shown = [c for b in pages.blocks(page) if b.language == "console" for c, _ in b.commands()]
    text = re.sub(r"^ *```.*?^ *```", "", pages.pages()[page], flags=re.M | re.S)
    wrong = []
    for command in [*map(own_part, shown), *INLINE.findall(text)]:
        words = shlex.split(command, comments=True)
        if words and words[0] in ("repom", "inv", "invoke"):
            words = words[1:]
        if words and not understood(words):
            wrong.append(command)
    assert wrong == []


def own_part(command: str) -> str:
    """Of a command line, the one that starts a task; empty for none."""
    found = re.search(r"(?:^|[;&|] *|\w=\S+ )((?:repom|inv|invoke) [^|&;<>$`]*)", command)
    return found[1] if found else ""


def understood(words: list[str]) -> bool:
    """Whether Invoke finds the tasks and the flags; tasks of a page's own are its own."""
    program = Program(namespace=ns)
    program.create_config()
    first = Parser(initial=program.initial_context, ignore_unknown=True).parse_argv(words)
    tasks = Parser(initial=program.initial_context, contexts=ns.to_contexts())
    try:
        unknown = tasks.parse_argv(first.unparsed).unparsed
    except Exception:
        own = [w for w in words if not w.startswith("-")][:1]
        return own in (["migrate"], ["release"])
    return not unknown


@pytest.mark.parametrize("page", pages.pages())
def test_what_a_page_links_to_is_there(page: str) -> None:
    here = (ROOT / page).parent
    links = re.findall(
        r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", pages.pages()[page], flags=re.S)
    )
    local = [link.partition("#") for link in links if not link.startswith("http")]
    assert [path for path, _, _ in local if path and not (here / path).exists()] == []
    for path, _, anchor in local:
        target = (here / path).resolve() if path else ROOT / page
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{path}#{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_the_index_lists_every_page() -> None:
    index = pages.pages()["docs/README.md"]
    names = [p.removeprefix("docs/") for p in pages.pages() if p.startswith("docs/")]
    assert [n for n in names if n != "README.md" and f"]({n})" not in index] == []


@pytest.mark.parametrize(
    "page", [p for p in pages.pages() if pages.runs(p) and pages.kind(p) not in pages.LIVE]
)
def test_what_a_page_says_to_type_works(page: str, tmp_path: Path) -> None:
    with pages.PROJECTS[pages.kind(page)](tmp_path) as project:
        pages.check(page, project)
