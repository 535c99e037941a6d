"""SQLite files of a project folder that no setting names."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from repom.settings import Settings
from repom.settings.settings import MARKERS


def sqlite_files(settings: Settings) -> tuple[str, ...]:
    """SQLite files of the project folder and the folders in it, by their first bytes. A
    folder that is hidden, a virtual environment, a project or the store does not count."""
    top, others = settings.project, {*MARKERS, "pyvenv.cfg"}
    inside = [
        folder
        for folder in _entries(top)
        if folder.is_dir() and folder != settings.backup_dir and not folder.name.startswith(".")
        if not others & {path.name for path in _entries(folder)}
    ]
    paths = [path for folder in (top, *inside) for path in _entries(folder) if path.name[0] != "."]
    return tuple(sorted(p.relative_to(top).as_posix() for p in paths if _is_sqlite(p)))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # one that this user may not look into
        return []


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") if path.is_file() else nullcontext() as file:
            return file is not None and file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False
