"""`.env` as a real Compose reads it: what repom accepts, it reads alike."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repom.errors import SettingsError
from repom.server.credentials import append
from repom.settings.dotenv import read_dotenv
from tests import requires
from tests.settings.test_dotenv import DOTENV, ENVIRON, REFUSED

#: What Compose takes and repom does not, since people mean something else.
STRICTER = {
    *("two in one line", "text behind quotes", "a comment or a value", "no name"),
    *("a comment behind a tab", "an octal escape", "an escape character", "a NUL"),
    *("a lonely carriage return", "too deep"),
}


def compose(content: bytes, *names: str) -> list[str] | None:
    """The values of these names as Compose sees them; nothing when it refuses the file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".env").write_bytes(content)
        wanted = "".join(f'      {n}: "${{{n}-}}"\n' for n in names)
        service = f"services:\n  s:\n    image: i\n    environment:\n{wanted}"
        Path(folder, "compose.yaml").write_text(service)
        argv = ["docker", "compose", "--project-directory", folder, "config", "--format", "json"]
        env = {k: os.environ[k] for k in ("PATH", "HOME") if k in os.environ}
        done = subprocess.run(argv, env={**env, **ENVIRON}, capture_output=True, timeout=30)
        if done.returncode:
            return None
        values = json.loads(done.stdout)["services"]["s"]["environment"]
        return [values[n].replace("$$", "$") for n in names]


def repom(content: bytes, *names: str) -> list[str] | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ".env")
        path.write_bytes(content)
        try:
            values = read_dotenv(path, ENVIRON)
        except SettingsError:
            return None
        return [values.get(n, "") for n in names]


@pytest.fixture(autouse=True)
def _compose() -> None:
    requires.compose()


@pytest.mark.parametrize(("text", "value"), DOTENV.values(), ids=list(DOTENV))
def test_the_table_is_composes(text: str, value: str) -> None:
    assert [value] == compose(text.encode(), "A")


@pytest.mark.parametrize("case", sorted(REFUSED.keys() - STRICTER))
def test_what_is_refused_is_refused_by_compose(case: str) -> None:
    assert compose(REFUSED[case][0].encode(), "A") is None


PIECES = st.sampled_from(
    [
        *("$FROM_ENV", "${FROM_ENV}", "${NONE:-d}", "${EMPTY-d}", "${EMPTY:+d}", "$$", "$", "$1"),
        *("${NONE-${FROM_ENV}}", "${NONE:?no}", "${NONE", "}", "{", "\\", "\\$", '\\"', "\\n"),
        *("'", '"', " ", "#", " #", "=", ":", "-", "é", "a", "B", "\t", "${NONE:-'x'}", "%41"),
    ]
)
QUOTES = st.sampled_from(["", '"', "'"])


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(QUOTES, st.lists(PIECES, max_size=6)), min_size=8, max_size=8))
def test_what_repom_accepts_compose_reads_alike(lines: list[tuple[str, list[str]]]) -> None:
    """Each line that repom accepts alone goes into one file, which Compose reads once."""
    accepted = []
    for number, (quote, pieces) in enumerate(lines):
        line = f"V{number}={quote}{''.join(pieces)}{quote}\n"
        if repom(line.encode(), f"V{number}") is not None:
            accepted.append((f"V{number}", line))
    names, content = [n for n, _ in accepted], "".join(line for _, line in accepted).encode()
    if names:
        assert repom(content, *names) == compose(content, *names)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.text(st.sampled_from("aB$ '\"\\#\n{}=é"), min_size=1), min_size=1, max_size=6))
def test_what_repom_writes_compose_reads_alike(values: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, ".env")
        append(path, {f"V{n}": value for n, value in enumerate(values)})
        names = [f"V{n}" for n in range(len(values))]
        assert values == repom(path.read_bytes(), *names) == compose(path.read_bytes(), *names)
