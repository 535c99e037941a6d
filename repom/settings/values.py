"""What values settings may have: each check takes where a value is from, and its text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

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
        raise SettingsError(f"{origin} is not valid UTF-8 text", "Set it again")
    return text


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8 and has no NUL. Python keeps other bytes of the
    environment as half characters."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def at_least(least: int, most: int = 999_999_999) -> Callable[[str, str], int]:
    allowed = f"{least} or more" if most == 999_999_999 else f"{least} to {most}"

    def check(origin: str, value: str) -> int:
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", value) or not least <= int(value) <= most:
            _reject(origin, value, f"a whole number, {allowed}")
        return int(value)

    return check


def whole_number(origin: str, value: str | int | None, least: int = 0) -> int | None:
    """A whole number that may be left out.

    :raises SettingsError: it is not one, or less than `least`.
    """
    return None if value is None else at_least(least)(origin, str(value))


def one_of(allowed: tuple[str, ...]) -> Callable[[str, str], str]:
    def check(origin: str, value: str) -> str:
        if value not in allowed:
            _reject(origin, value, " or ".join(allowed))
        return value

    return check


def name(origin: str, value: str) -> str:
    """A container's or a service's name."""
    return _matching(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", origin, value, ". _ -")


def image(origin: str, value: str) -> str:
    return _matching(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]*", origin, value, ". _ : / @ -")


def _matching(pattern: str, origin: str, value: str, signs: str) -> str:
    if not re.fullmatch(pattern, value):
        _reject(origin, value, f"letters, digits and {signs}, beginning with a letter or digit")
    return value


def text(_origin: str, value: str) -> str:
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


def _reject(origin: str, value: str, allowed: str) -> NoReturn:
    # A URL with a password may have been put into the wrong variable.
    shown = "not allowed" if "://" in value else repr(str(value))
    raise SettingsError(f"{origin} is {shown}", f"Allowed: {allowed}")
