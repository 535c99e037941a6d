"""What bash completes, with the line of docs/shell-completion.md."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.cli import ROOT, environment

LINE = "source <(repom --print-completion-script bash)"
ASK = """
{line}
COMP_WORDS=({words}) COMP_LINE="{words}" COMP_CWORD={last}
set -- $(complete -p repom); while [ "$1" != -F ]; do shift; done
$2 repom "${{COMP_WORDS[-1]}}"
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"), [("repom db.ba", "db.backup"), ("repom db.backup --la", "--label")]
)
def test_bash_completes_tasks_and_flags(tmp_path: Path, words: str, expected: str) -> None:
    assert LINE in (ROOT / "docs" / "shell-completion.md").read_text()
    program = tmp_path / "repom"
    program.write_text(f"#!{sys.executable}\nfrom repom.tasks import main\nmain()\n")
    program.chmod(0o755)
    script = ASK.format(line=LINE, words=words, last=len(words.split()) - 1)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.split() == [expected], done.stderr
