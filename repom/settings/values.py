"""What values settings may have. Each check takes where a value is from, and its text."""

from __future__ import annotations

import os
import re
from pathlib import Path

from repom.errors import SettingsError


def legible(origin: str, value: object) -> str:
    """The value as text.

    :raises SettingsError: it is empty, of another type, or has characters that no program
        and no file takes.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise SettingsError(f"{origin} must be text or a number", "Put it between quotes")
    text = value if isinstance(value, str) else str(value)  # a hidden one stays hidden
    if not text.strip():
        raise SettingsError(f"{origin} is empty", "Give it a value, or leave it out")
    if not is_text(text):
        raise SettingsError(f"{origin} is not valid UTF-8 text", "Set it to a value in UTF-8")
    return text


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8 and has no NUL. Python keeps other bytes of the
    environment as half characters."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def at_least(origin: str, value: str, least: int, most: int = 999_999_999) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", value) or not least <= int(value) <= most:
        allowed = f"{least} or more" if most == 999_999_999 else f"{least} to {most}"
        raise _rejected(origin, value, f"a whole number, {allowed}")
    return int(value)


def whole_number(origin: str, value: str | int | None, least: int = 0) -> int | None:
    """A whole number that may be left out.

    :raises SettingsError: it is not one, or less than `least`.
    """
    return None if value is None else at_least(origin, str(value), least)


def one_of(origin: str, value: str, *allowed: str) -> str:
    if value not in allowed:
        raise _rejected(origin, value, " or ".join(allowed))
    return value


def spelled(origin: str, value: str, signs: str) -> str:
    """A name that programs get as an argument; it cannot look like an option."""
    if not re.fullmatch(rf"[a-zA-Z0-9][a-zA-Z0-9{re.escape(signs)}]*", value):
        allowed = f"letters, digits and {' '.join(signs)}, beginning with a letter or digit"
        raise _rejected(origin, value, allowed)
    return value


def expanded(origin: str, path: str) -> Path:
    """The path, with ``~`` for a home folder.

    :raises SettingsError: this machine has no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = path.partition("/")[0]
        raise SettingsError(
            f"{origin} begins with {user}, and this machine has no such user",
            "Use an absolute path",
        ) from None


def listed(origin: str, value: str | None) -> tuple[str, ...]:
    """The entries of a list that is separated by commas, and that may be left out.

    :raises SettingsError: one of them is empty.
    """
    entries = () if value is None else tuple(each.strip() for each in value.split(","))
    if not all(entries):
        raise SettingsError(f"{origin} has an empty entry", "Separate the entries with one comma")
    return entries


def files(origin: str, value: str, folder: Path) -> tuple[Path, ...]:
    return tuple(folder / expanded(origin, each) for each in listed(origin, value))


def _rejected(origin: str, value: str, allowed: str) -> SettingsError:
    # A URL with a password may have been put into the wrong variable.
    shown = "not allowed" if "://" in value else repr(str(value))
    return SettingsError(f"{origin} is {shown}", f"Allowed: {allowed}")
