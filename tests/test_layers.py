"""The house: which room may import which, and who may do what."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Room → the rooms that it may import, besides itself. Nothing imports upwards.
BASE = {"repom.errors"}
CONFIGURED = BASE | {"repom.progress"} | {"repom.settings"}
ROOMS = {
    "repom.errors": set(),
    "repom.progress": set(),
    "repom.settings": BASE,
    "repom.runners": CONFIGURED,
    "repom.dbops": CONFIGURED | {"repom.runners"},
    "repom.server": CONFIGURED | {"repom.runners"},
    "repom.__main__": {"repom.tasks"},
    "repom.tasks": CONFIGURED | {"repom.runners", "repom.dbops", "repom.server", "repom"},
}

#: The same within `repom.dbops`, where a file beside the rooms is a room of its own.
FILES = {"repom.dbops.files"}
ARCHIVE = FILES | {"repom.dbops.archive"}
DATABASE = ARCHIVE | {"repom.dbops.database"}
WORK = DATABASE | {f"repom.dbops.{room}" for room in ("store", "postgres", "sqlite")}
VERB = WORK | {"repom.dbops.work"}
INNER = {
    "repom.dbops.files": set(),
    "repom.dbops.archive": FILES,
    "repom.dbops.database": ARCHIVE,
    "repom.dbops.store": DATABASE,
    "repom.dbops.postgres": DATABASE,
    "repom.dbops.sqlite": DATABASE,
    "repom.dbops.work": WORK,
    **{f"repom.dbops.{v}": VERB for v in ("backup", "restore", "undo", "verify", "upkeep")},
    "repom.dbops.pull": VERB | {"repom.dbops.backup", "repom.dbops.restore"},
    "repom.dbops.doctor": VERB,
    "repom.dbops.diff": VERB | {"repom.dbops.verify"},  # which counts a backup's rows
    "repom.dbops": VERB
    | {f"repom.dbops.{v}" for v in ("backup", "restore", "undo", "verify")}
    | {"repom.dbops.upkeep"},
}


def modules() -> dict[str, Path]:
    paths = {p.relative_to(ROOT).with_suffix(""): p for p in (ROOT / "repom").rglob("*.py")}
    return {".".join(p.parts).removesuffix(".__init__"): path for p, path in paths.items()}


MODULES = modules()


def imported(module: str) -> set[str]:
    """Full names of repom's modules that a module imports, wherever in it it does."""
    found: set[str] = set()
    is_package = MODULES[module].name == "__init__.py"
    here = module.split(".")[: None if is_package else -1]
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or ({base} & MODULES.keys())
    return found


def room_of(module: str, rooms: Iterable[str]) -> str:
    """The innermost of the rooms that a module lies in; empty when it lies in none."""
    return max((r for r in rooms if f"{module}.".startswith(f"{r}.")), key=len, default="")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_lies_below_it(module: str) -> None:
    for table in (ROOMS, INNER):
        own = room_of(module, table.keys())
        if not own:
            assert module == "repom" or table is INNER, "a new room needs a row"
            continue
        known = {room_of(each, table.keys() | {"repom"}) for each in imported(module)}
        known &= table.keys() | {"repom"} if table is ROOMS else table.keys()
        assert known <= table[own] | {own}, f"{module} is in {own}"


@pytest.mark.parametrize("room", [*ROOMS, *INNER])
def test_every_row_is_there(room: str) -> None:
    assert room in MODULES


def names_used(path: Path) -> set[str]:
    """Names and dotted names that a file uses, such as ``print`` and ``os.environ``; not
    those of types."""
    used: set[str] = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for hint in ("annotation", "returns"):
            if hasattr(node, hint):
                setattr(node, hint, None)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used |= {node.module or "", *(alias.name for alias in node.names)}
    return used


PROCESSES = {"subprocess.Popen", "subprocess.run", "subprocess.call", "os.system", "os.popen"}
SENTENCES = {
    "only tasks/ prints and asks": (
        {"print", "input", "sys.stdout", "sys.stderr"},
        {"repom.tasks.console", "repom.tasks.line"},
    ),
    "only runners/process.py starts processes": (
        PROCESSES | {"os.fork", "os.execvp", "os.spawnv"},
        {"repom.runners.process"},
    ),
    "only settings/ reads configuration from the environment; a process passes it on": (
        {"os.environ", "os.getenv"},
        {"repom.settings.settings", "repom.runners.process"},
    ),
    "only store/ knows names and paths of backups": (
        {"EXTENSIONS", "repom.dbops.store.names", "manifest_of"},
        {f"repom.dbops.store.{m}" for m in ("names", "backup", "manifest", "lock")}
        | {"repom.dbops.store.storage", "repom.dbops.store.store"},
    ),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_who_may_do_what(sentence: str) -> None:
    forbidden, allowed = SENTENCES[sentence]
    used = {name: names_used(path) | imported(name) for name, path in MODULES.items()}
    assert {name for name, names in used.items() if forbidden & names} == allowed
