"""The shape of the code: who may import whom, and who may do what."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "repom"

#: Module → the modules of repom that it may import. Nothing imports upwards.
PURE = {"errors"}
TOOLS = {"errors", "files", "archive", "commands", "queries", "database", "runner"}
LAYERS = {
    "errors": set(),
    "address": set(),
    "dotenv": PURE,
    "url": PURE | {"address"},
    "settings": PURE | {"address", "dotenv", "url"},
    "dbops.files": PURE,
    "dbops.queries": set(),
    "dbops.runner": PURE,
    "dbops.archive": PURE | {"files", "toc"},
    "dbops.commands": PURE,
    "dbops.database": PURE | {"archive"},
    "dbops.lexer": PURE | {"archive"},
    "dbops.guard": {"lexer"},
    "dbops.script": PURE | {"archive", "guard", "lexer"},
    "dbops.failures": PURE | {"commands", "runner"},
    "dbops.programs": PURE | {"runner"},
    "dbops.container": PURE | {"address", "runner"},
    "dbops.store": PURE | {"files"},
    "dbops.owned": set(),
    "dbops.session": PURE,
    "dbops.toc": PURE,
    "dbops.client": PURE | {"commands", "failures", "programs", "queries", "runner", "session"},
    "dbops.postgres": TOOLS | {"client", "failures", "owned", "script", "session", "toc"},
    "dbops.home": PURE | {"files"},
    "dbops.copying": PURE | {"archive", "files"},
    "dbops.temporary": set(),
    "dbops.sqlite": TOOLS | {"copying", "home", "temporary"},
    "dbops.work": TOOLS | {"settings", "container", "postgres", "sqlite", "store"},
    "dbops.operations": TOOLS | {"settings", "postgres", "store", "work"},
    "dbops.upkeep": TOOLS | {"settings", "operations", "store", "work"},
    "credentials": PURE | {"dotenv", "settings", "runner"},
    "docker": PURE | {"settings", "credentials", "runner", "container", "programs"},
    "cluster": PURE | {"settings", "credentials", "runner", "container", "programs"},
    "server": PURE
    | {"settings", "cluster", "credentials", "docker", "runner", "container", "programs"},
}
#: The tasks, and what only gathers names.
TOP = {"__init__", "dbops.__init__", "tasks"}


def modules() -> dict[str, Path]:
    return {
        ".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in PACKAGE.rglob("*.py")
    }


def imported(path: Path) -> set[str]:
    """Last parts of the names of repom's modules that a file imports, wherever it does."""
    known = {name.split(".")[-1] for name in modules()}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "") == "repom"):
            named = (node.module or "").split(".")[-1]
            found |= {named} if named in known else {a.name for a in node.names} & known
    return found


@pytest.mark.parametrize("module", [m for m in modules() if m.split(".")[0] not in TOP])
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    if module in TOP:
        return
    assert module in LAYERS, "a new module needs a row"
    assert imported(modules()[module]) <= LAYERS[module]


def test_every_row_is_a_module() -> None:
    assert LAYERS.keys() <= modules().keys()


def test_only_tasks_import_tasks() -> None:
    for name, path in modules().items():
        if not name.startswith("tasks"):
            assert not {"console", "tables", "demo", "db"} & imported(path), name


def names_used(path: Path) -> set[str]:
    """Names and dotted names that a file uses, such as ``print`` and ``os.environ``."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(node.module or "")
    return used


SENTENCES = {
    "only tasks print and ask": (
        {"print", "input", "sys.stdout", "sys.stderr"},
        {"tasks.console"},
    ),
    "only the runner starts processes": (
        {"subprocess", "os.system", "os.popen", "os.fork", "os.execvp", "os.spawnv"},
        {"dbops.runner", "dbops.session"},  # the latter talks to one that was started
    ),
    "only settings read configuration; the runner passes the environment on": (
        {"os.environ", "os.getenv"},
        {"settings", "dbops.runner"},
    ),
    "only the store publishes backups": ({"EXTENSIONS", "NAME"}, {"dbops.store"}),
    "only what keeps files of its own locks them": (
        {"FileLock"},
        {"dbops.store", "dbops.home", "dbops.temporary"},
    ),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_who_may_do_what(sentence: str) -> None:
    forbidden, allowed = SENTENCES[sentence]
    for name, path in modules().items():
        if name not in allowed:
            assert not forbidden & names_used(path), name
    for name in allowed:
        assert forbidden & names_used(modules()[name]), f"{name} no longer needs to be allowed"
