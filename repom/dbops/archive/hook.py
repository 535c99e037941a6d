"""Scripts of the user's that run in a restored database before it takes over."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repom.errors import CommandFailed, Damaged, Refused, SettingsError

from . import script

UNCHANGED = "Nothing was replaced; mend the script, then try again"


@dataclass(frozen=True)
class Hook:
    """A script, read whole, so that what was checked is what runs."""

    name: str
    content: bytes = field(repr=False)

    def failed(self, line: int, words: str) -> CommandFailed:
        """:param words: the database's own."""
        line = min(line, self.content.rstrip().count(b"\n") + 1)  # COMMIT comes behind it
        return CommandFailed(f"{self.name} failed in line {line}: {words}", UNCHANGED)


def read_hooks(paths: Iterable[Path], backend: str) -> tuple[Hook, ...]:
    """The scripts, each checked as far as it can be without a database.

    :raises SettingsError: one cannot be read.
    :raises Refused: one holds what must not reach psql; see `guard`.
    """
    return tuple(_read(path, backend) for path in paths)


def _read(path: Path, backend: str) -> Hook:
    try:
        hook = Hook(path.name, path.read_bytes())
        hook.content.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = "Check --after-load or REPOM_AFTER_LOAD; relative paths start in the project folder"
        raise SettingsError(f"{path} cannot be read ({why})", hint) from None
    try:
        for _piece in script.for_psql([hook.content]) if backend == "postgresql" else ():
            pass
    except (Refused, Damaged) as error:
        raise Refused(f"{hook.name}: {error.message}", UNCHANGED) from None
    return hook
