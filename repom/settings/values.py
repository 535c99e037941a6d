"""What values settings may have."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from repom.errors import SettingsError


def legible(origin: str, value: Any) -> Any:
    """The value, if it is one that programs and files can take.

    :raises SettingsError: it is empty, or has characters that nothing takes.
    """
    text = str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise SettingsError(f"{origin} must be text or a number", "Put it between quotes")
    if not text.strip():
        raise SettingsError(f"{origin} is empty", "Give it a value, or leave it out")
    if not _is_utf8(text) or "\0" in text:
        raise SettingsError(f"{origin} is not valid UTF-8 text", "Set it again")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # other bytes of the environment, as Python keeps them
        return False
    return True


def at_least(least: int, most: int = 999_999_999) -> Callable[[str, Any], int]:
    allowed = f"{least} or more" if most == 999_999_999 else f"{least} to {most}"

    def check(origin: str, value: Any) -> int:
        text = str(value).strip()
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            _reject(origin, value, f"a whole number, {allowed}")
        return int(text)

    return check


def whole_number(origin: str, value: Any, least: int = 0) -> int | None:
    """A whole number that may be left out.

    :raises SettingsError: it is none, or less than `least`.
    """
    return None if value is None else at_least(least)(origin, value)


def one_of(allowed: tuple[str, ...]) -> Callable[[str, Any], str]:
    def check(origin: str, value: Any) -> str:
        if value not in allowed:
            _reject(origin, value, " or ".join(allowed))
        return str(value)

    return check


def matching(pattern: re.Pattern[str]) -> Callable[[str, Any], str]:
    def check(origin: str, value: Any) -> str:
        if not pattern.fullmatch(str(value)):
            _reject(origin, value, "letters, digits and . _ -, starting with one of the former")
        return str(value)

    return check


def path(origin: str, value: Any) -> Path:
    return expanded(origin, str(value))


def expanded(origin: str, path: str) -> Path:
    """The path, with ``~`` for a home folder.

    :raises SettingsError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = path.partition("/")[0]
        raise SettingsError(
            f"{origin} begins with {user}, and this machine has no such user",
            "Use an absolute path",
        ) from None


def _reject(origin: str, value: Any, allowed: str) -> NoReturn:
    text = str(value)
    # Who takes one variable for another may have put a URL with a password into it.
    shown = "not allowed" if "://" in text else repr(text)
    raise SettingsError(f"{origin} is {shown}", f"Allowed: {allowed}")


def text(_origin: str, value: Any) -> str:
    return str(value)
