"""Writes docs/messages.md, every text that a user can meet, and docs/troubleshooting.md, every
error with what to do about it. Both are read from the source of repom.

    python -m tests.messages

Texts are found by what they are passed to, wherever that is: errors, the log, the
functions of `repom.tasks.console`, the help of tasks. A literal that reads like a phrase and
is passed to none of these (a row of a table, a part of a question) is listed as a part, so
that no text is left out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from repom import errors

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "messages.md"
STATUSES = {
    1: "the tool ran and failed",
    2: "wrong settings or values",
    3: "no way to reach the database",
    4: "no such backup or SQLite file",
    5: "refused",
    6: "the backup is damaged",
}
HEAD = """# Messages

Every text that a user can meet, by exit status. Do not edit this page: `python -m tests.messages`
writes it from the source.

`{…}` is a value, `(a|b)` one of two texts, `[…]` a text that may be missing. An error is one line
on standard error: what happened, then what to do. A command begins with the program that the user
typed: `repom`, `invoke` or `inv`.
"""
LOGGED = {"log.info": "Information", "log.warning": "Warnings"}
#: Functions of `repom.tasks` → the heading that their text stands under.
SHOWN = {"say": "Information", "show": "Results", "confirm": "Questions", "ask": "Questions"}
INTERRUPTED = "129, 130, 143: interrupted"
#: Only questions have several sentences, and full stops.
HEADINGS = ["Questions", "Information", "Warnings", "Results", "Parts of messages"]
#: Tables of connection failures: part of the program's text, message, hint.
TABLES = {"CONNECTION": errors.Unreachable.exit_status}
#: At least two words.
_PHRASE = re.compile(r"[^\W_]\S* .*[^\W_]", re.DOTALL)
#: SQL, shell and command lines, which no user is meant to read as a text.
_CODE = re.compile(
    r"""
    [\\<>$@^*] | \s[=|]\s | =: | ^-c\s | :: | %\( | && | ;$ | \s-l$ | \n.*\n | ^[A-Z\s]+\s$
    | \b[A-Z_]{4,}\b.*\b[A-Z_]{3,}\b | \bPRAGMA\b
    | ^\s*(SELECT|FROM|ORDER|WHERE|AND|OR|SET|IF|RESET|find|docker|mkdir|unknown\sflag)\b
    """,
    re.DOTALL | re.VERBOSE,
)


@dataclass(frozen=True)
class Module:
    tree: ast.Module
    constants: dict[str, ast.expr]


@dataclass
class Page:
    """What was found.

    :param errors: exit statuses of classes of errors that take a message and a hint.
    :param inits: the same for calls in which a class words its message itself, by their ids.
    :param lines: headings with their lines.
    :param used: ids of the literals that these account for.
    :param pairs: exit status, message and hint of each error.
    """

    modules: dict[str, Module]
    errors: dict[str, int] = field(default_factory=dict)
    inits: dict[int, int] = field(default_factory=dict)
    lines: dict[str, set[str]] = field(default_factory=dict)
    used: set[int] = field(default_factory=set)
    pairs: set[tuple[int, str, str]] = field(default_factory=set)

    def add(self, heading: str, line: str) -> None:
        line = re.sub(r"\(\(([^()]*)\)\)", r"(\1)", " ".join(line.split()))
        if re.search(r"[^\W_]{2}", re.sub(r"\{[^}]*\}", "", line)):
            self.lines.setdefault(heading, set()).add(line)


def page() -> str:
    """The text of docs/messages.md."""
    return written(collected().lines)


@cache
def collected() -> Page:
    """Every text, from the source."""
    modules = read()
    found = Page(modules)
    add_errors(found)
    for name, module in modules.items():
        for scope, node in walked(module.tree, ()):
            Reader(found, name, scope).visit(node)
    for kind in (ast.JoinedStr, ast.Constant):  # a constant may be a part of a formatted string
        for name, module in modules.items():
            for scope, node in walked(module.tree, ()):
                if isinstance(node, kind):
                    Reader(found, name, scope).rest(node)
    return found


def read() -> dict[str, Module]:
    found = {}
    for path in sorted((ROOT / "repom").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = node.value
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                constants[node.target.id] = node.value or ast.Constant("")
        found[".".join(path.relative_to(ROOT).with_suffix("").parts)] = Module(tree, constants)
    return found


def add_errors(found: Page) -> None:
    """Learn the exit status of every class of error, also of those outside `repom.errors`."""
    for name, each in vars(errors).items():
        if isinstance(each, type) and issubclass(each, errors.RepomError):
            found.errors[name] = each.exit_status
    for module in found.modules.values():
        for node in ast.walk(module.tree):
            parents = [b.id for b in getattr(node, "bases", ()) if isinstance(b, ast.Name)]
            known = [found.errors[each] for each in parents if each in found.errors]
            if not isinstance(node, ast.ClassDef) or not known or node.name in found.errors:
                continue
            calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
            own = [each for each in calls if name_of(each.func) == "__init__"]
            found.inits |= {id(each): known[0] for each in own}
            if not own:
                found.errors[node.name] = known[0]


def walked(
    node: ast.AST, scope: tuple[ast.AST, ...]
) -> Iterator[tuple[tuple[ast.AST, ...], ast.AST]]:
    """Every node below with the functions around it, docstrings left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        yield scope, child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from walked(child, (*scope, child) if is_function else scope)


def name_of(node: ast.AST) -> str:
    """`log.info` of `log.info`, `say` of `console.say`; else empty."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = name_of(node.value)
        return f"log.{node.attr}" if owner == "log" else node.attr
    return ""


@dataclass
class Reader:
    """Reads one node of a module.

    :param scope: the functions around it, in which local names are looked up.
    """

    found: Page
    module: str
    scope: tuple[ast.AST, ...]

    # -- what is a message ----------------------------------------------------------------

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            self._call(node)
        elif isinstance(node, ast.Compare) or is_list_of_words(node):
            self._mark(node)  # what other programs say, or are told
        elif isinstance(node, ast.FunctionDef):
            self._task(node)
        elif isinstance(node, ast.Tuple):
            self._row(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            self._table(node)

    def _call(self, node: ast.Call) -> None:
        name = name_of(node.func)
        status = self.found.inits.get(id(node), self.found.errors.get(name))
        if status is not None and node.args:
            hints = [k.value for k in node.keywords if k.arg == "hint"]
            self._error(status, [*node.args[:2], *hints])
        elif name in LOGGED and node.args:
            values = [self.text(each) for each in spread(node.args[1:])]
            said = re.sub(
                r"%(?:\.\d)?[sd]",
                lambda _: values.pop(0) if values else "{…}",
                self.text(node.args[0]),
            )
            self.found.add(LOGGED[name], said)
        elif name in SHOWN and node.args and self.module.startswith("repom.tasks."):
            self.found.add(SHOWN[name], self.text(node.args[0]))
        elif name.endswith("failed") and node.args and isinstance(node.args[0], ast.Constant):
            self.found.add(INTERRUPTED, self.text(node.args[0]))
        elif name in ("compile", "sub", "search", "match", "fullmatch", "split"):
            self._mark(node)  # a regular expression, or a list of words
        elif any(name_of(each) in self.found.errors for each in node.args):
            self._row(node)

    def _error(self, status: int, said: list[ast.expr]) -> None:
        """An error's message and hint, as a user reads them."""
        texts = [self.text(each) for each in said]
        self.found.add(heading(status), ". ".join(each for each in texts if each))
        if any(texts):
            self.found.pairs.add((status, texts[0], ". ".join(each for each in texts[1:] if each)))

    def _row(self, node: ast.Tuple | ast.Call) -> None:
        """A row of a table of errors: what follows the class is its message and its hint."""
        cells = node.elts if isinstance(node, ast.Tuple) else node.args
        for place, cell in enumerate(cells):
            if name_of(cell) in self.found.errors and cells[place + 1 :]:
                self._mark(*cells[:place])
                self._error(self.found.errors[name_of(cell)], cells[place + 1 : place + 3])
                return

    def _table(self, node: ast.Assign | ast.AnnAssign) -> None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if name_of(target) not in TABLES or not isinstance(node.value, ast.Tuple):
            return
        for row in node.value.elts:
            if isinstance(row, ast.Tuple):
                self._mark(row.elts[0])
                self._error(TABLES[name_of(target)], row.elts[1:3])

    def _task(self, node: ast.FunctionDef) -> None:
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and name_of(call.func) == "command"):
                continue
            words = {k.arg: k.value for k in call.keywords}
            task = self.text(words["name"]) if "name" in words else node.name
            group = self.module.rpartition(".")[2]
            heading = f"`{task if task == group else f'{group}.{task}'}`"
            self.found.lines.setdefault(heading, set())
            self.found.add(heading, " ".join((ast.get_docstring(node) or "").split()))
            flags = words["help"]
            assert isinstance(flags, ast.Dict)
            for key, value in zip(flags.keys, flags.values, strict=True):
                assert key is not None
                self.found.add(heading, f"--{self.text(key)}: {self.text(value)}")

    def rest(self, node: ast.JoinedStr | ast.Constant) -> None:
        """A phrase that was not passed to anything known: a part of a message."""
        texts = [each for each in ast.walk(node) if isinstance(each, ast.Constant)]
        used = any(id(each) in self.found.used for each in texts)
        value = getattr(node, "value", "")
        if not used and isinstance(value, str) and "|" not in value:  # a regular expression
            said = self.text(node)
            if _PHRASE.search(said) and not _CODE.search(said):
                is_sentence = said.endswith((".", "?"))
                self.found.add("Questions" if is_sentence else "Parts of messages", said)

    def _mark(self, *nodes: ast.AST) -> None:
        self.found.used |= {id(each) for node in nodes for each in ast.walk(node)}

    # -- what an expression reads like ------------------------------------------------------

    def text(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> str:
        match node:
            case ast.Constant():
                self._mark(node)
                value = "" if node.value is None else node.value
                return f"{value:g}" if isinstance(value, float) else str(value)
            case ast.JoinedStr():
                return "".join(self.text(each, seen) for each in node.values)
            case ast.FormattedValue():
                return self.text(node.value, seen)
            case ast.BinOp(op=ast.Add(), right=ast.Constant(value=int())):
                return self.text(node.left, seen)
            case ast.BinOp(op=ast.Add()):
                return self.text(node.left, seen) + self.text(node.right, seen)
            case ast.GeneratorExp() | ast.ListComp():
                return self.text(node.elt, seen)
            case ast.IfExp():
                return either(self.text(node.body, seen), self.text(node.orelse, seen))
            case ast.BoolOp():
                return either(*(self.text(each, seen) for each in node.values))
            case ast.Call():
                return self._called(node, seen)
            case ast.Name() | ast.Attribute():
                return self._named(node, seen)
            case ast.Subscript(slice=ast.Constant(value=str(key))):
                return f"{{{key}}}"
            case ast.Subscript():
                return self.text(node.value, seen)
            case _:
                return "{…}"

    def _called(self, node: ast.Call, seen: frozenset[str]) -> str:
        name = name_of(node.func)
        if name in ("advice", "run", "Advice"):
            texts = [self.text(each, seen) for each in spread(node.args)]
            tasks = [f"repom {each}" for each in (texts if name == "run" else texts[1:])]
            template = "{}" if name == "run" else texts[0]
            return re.sub(r"\{\}", lambda _: tasks.pop(0) if tasks else "{…}", template)
        if isinstance(node.func, ast.Attribute) and name in ("format", "join", "strip", "lower"):
            if name == "format":
                return self.text(node.func.value, seen)
            if name == "join":
                self._mark(node.func.value)
                return self.text(node.args[0], seen) if node.args else "{…}"
            return self.text(node.func.value, seen)
        if name == "counted" and len(node.args) == 2:
            return f"{{{self.text(node.args[1], seen).strip('{}')}s}}"
        if name in ("str", "int", "len", "sorted", "repr") and node.args:
            return self.text(node.args[0], seen)
        return f"{{{name.strip('_') or '…'}}}"

    def _named(self, node: ast.Name | ast.Attribute, seen: frozenset[str]) -> str:
        """The text of a constant or of a local name; else the name as a placeholder."""
        name = node.id if isinstance(node, ast.Name) else node.attr
        if name in seen:
            return f"{{{name}}}"
        texts = [self.text(each, seen | {name}) for each in self._values(node, name)]
        texts = [each for each in texts if re.search(r"[^\W_]", re.sub(r"\{[^}]*\}", "", each))]
        return either(*texts) if texts else f"{{{name}}}"

    def _values(self, node: ast.Name | ast.Attribute, name: str) -> list[ast.expr]:
        if isinstance(node, ast.Name) and self.scope:
            return [
                each.value
                for each in ast.walk(self.scope[-1])
                if isinstance(each, ast.Assign)
                and any(isinstance(t, ast.Name) and t.id == name for t in each.targets)
            ] or self._constant(name)
        return self._constant(name)

    def _constant(self, name: str) -> list[ast.expr]:
        if not name.isupper():
            return []
        own = self.found.modules[self.module].constants.get(name)
        others = [m.constants[name] for m in self.found.modules.values() if name in m.constants]
        values = [own] if own is not None else others[:1]
        is_text = (ast.Constant, ast.JoinedStr, ast.Call, ast.BinOp)
        return [each for each in values if isinstance(each, is_text)]


def is_list_of_words(node: ast.AST) -> bool:
    """Whether a list, tuple or set holds plain lower-case strings and nothing else."""
    return isinstance(node, ast.List | ast.Tuple | ast.Set) and all(
        isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value[:1].islower()
        for each in node.elts
    )


def spread(nodes: Iterable[ast.expr]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.Starred) and isinstance(node.value, ast.Tuple):
            yield from node.value.elts
        else:
            yield node


def either(*texts: str) -> str:
    """Texts of which one is shown; `[…]` when it may be none."""
    some = list(dict.fromkeys(each for each in texts if each))
    joined = "|".join(some)
    if "" in texts:
        return f"[{joined}]"
    return f"({joined})" if len(some) > 1 else joined


def heading(status: int) -> str:
    return f"{status}: {STATUSES[status]}"


def written(lines: dict[str, set[str]]) -> str:
    """The page: errors by status, then what is said on the way, then the help."""
    failures = [*map(heading, STATUSES), INTERRUPTED]
    tasks = sorted(set(lines) - {*failures, *HEADINGS})
    parts = [HEAD, *(section("##", name, lines) for name in failures)]
    parts += ["## 0: done, and on the way\n", *(section("###", name, lines) for name in HEADINGS)]
    parts += ["## Help\n", *(section("###", name, lines) for name in tasks)]
    return "\n".join(parts)


def section(level: str, name: str, lines: dict[str, set[str]]) -> str:
    found = sorted(
        lines.get(name, ()), key=lambda each: (each.startswith("--"), each.lower(), each)
    )
    return "\n".join([f"{level} {name}", "", "```text", *found, "```", ""])


if __name__ == "__main__":
    import tests.troubleshooting  # which reads this module's findings

    PAGE.write_text(page(), encoding="utf-8")
    tests.troubleshooting.PAGE.write_text(tests.troubleshooting.page(), encoding="utf-8")
