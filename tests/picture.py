"""Writes docs/terminal.svg, the picture in README: real commands on a pseudo-terminal, in a real
Compose project that is made and removed here.

    python -m tests.picture

Only the folder's path is replaced, and the time between two commands is not shown. It needs an
engine with the image postgres:17, and no Compose project `app`.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests import pages, terminal
from tests.live import engine

PICTURE = pages.ROOT / "docs" / "terminal.svg"
NAME = "app"
PROMPT = "[bold green]~/app $[/] "
COMMANDS = (
    "repom db.backup",
    'docker compose exec -T db psql -U app -c "DROP TABLE orders"',
    "repom db.restore --latest",
    "repom db.list",
    "repom db.undo",
)


def main() -> None:
    taken = engine.run("docker", "ps", "-aq", "--filter", f"name=^{NAME}-db-")
    assert not taken, f"the Compose project {NAME} exists: remove it first"
    with (
        tempfile.TemporaryDirectory() as folder,
        Path("/dev/null").open("w") as nowhere,
        pages.compose(Path(folder), NAME) as project,
    ):
        console = Console(
            record=True, width=terminal.COLUMNS, file=nowhere, force_terminal=True, highlight=False
        )
        for command in COMMANDS:
            console.print(f"{PROMPT}{command}".replace("[y", r"\[y"))
            status, said = terminal.on_terminal(command, project.folder, project.env)
            assert status == 0, said
            said = said.replace(str(project.folder), "~/app").rstrip("\n")
            console.print(Text.from_ansi(said), soft_wrap=False)
    PICTURE.write_text(without_font(console.export_svg(title="repom")), encoding="utf-8")


def without_font(picture: str) -> str:
    """Without the addresses of fonts, which no browser loads for a picture in a page."""
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.S)
    return picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


if __name__ == "__main__":
    main()
