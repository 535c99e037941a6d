"""`.env` as Compose reads it, or an error that names the line.

One file serves Compose and repom, so both have to see the same values in it. What Compose
reads in a way that hardly anybody means (a comment that becomes the value, two variables
in one line) is refused instead of guessed at. No error quotes the file: it holds secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from repom.errors import SettingsError

#: A password is taken as it stands: it may well hold a `$` that means nothing.
LITERAL = "POSTGRES_PASSWORD"
#: Names whose values choose a database or a folder: a part that is missing would choose
#: another one, so what they expand must be set. Elsewhere it is empty, as for Compose.
STRICT = ("DATABASE_URL", "POSTGRES_", "REPOM_")
_BLANK = re.compile(r"(?:\s*#[^\n]*(?:\n|$))*\s*")
_NAME = re.compile(r"(?:export[^\S\n]+)?([\w.\-\[\]]+)[^\S\n]*(?:([=:])[^\S\n]*|\n|$)")
_QUOTED = re.compile(r"""(['"])((?:\\[\s\S]|(?!\1)[^\\])*)\1[^\S\n]*(?:#[^\n]*)?(?:\n|$)""")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]|\r(?!\n)")
_ESCAPES = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
#: A dollar with what belongs to it. Others, as in `$1` and `$(`, mean nothing.
_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<brace>\{))")
_BRACED = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<sign>:?[-+?])(?P<rest>.*))?")


class _Unclear(ValueError):
    """Compose would not take it, or takes it for something else than people do."""


def read_dotenv(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Parse a `.env` file as Compose does, without touching the environment.

    Variables are expanded from `environ` and from the lines above, but not between single
    quotes and never in POSTGRES_PASSWORD.

    :raises SettingsError: for a line that cannot be parsed; names its number only.
    """
    text, values = _text(path), dict[str, str]()
    position = _begin(text, 0)
    while position < len(text):
        try:
            name, quote, raw, end = _statement(text, position)
            if raw is not None:
                values[name] = _meaning(name, quote, raw, {**values, **environ})
        except _Unclear as unclear:
            raise _unparsable(path, text, position, str(unclear)) from None
        except RecursionError:
            raise _unparsable(path, text, position, "its ${…} are nested too deeply") from None
        position = _begin(text, end)
    return values


def _text(path: Path) -> str:
    """The file's text; empty when there is none. A folder of this name is somebody's
    virtual environment; a pipe or a broken link would lose settings in silence."""
    if not os.path.lexists(path) or path.is_dir():
        return ""
    if not path.is_file():
        raise SettingsError(
            f"{path} is not a regular file", "Replace it with a regular file, or remove it"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read ({type(error).__name__})") from None
    if control := _CONTROL.search(text):
        raise _unparsable(path, text, control.start(), "it holds a control character")
    return text.replace("\r\n", "\n")


def _unparsable(path: Path, text: str, position: int, reason: str) -> SettingsError:
    line = text.count("\n", 0, position) + 1
    return SettingsError(
        f"{path.name} line {line} cannot be parsed{f': {reason}' if reason else ''}",
        "Write NAME=value, and put a value with spaces, quotes, # or $ between single quotes",
    )


def _begin(text: str, position: int) -> int:
    """Where the next line begins that is neither blank nor a comment."""
    blank = _BLANK.match(text, position)
    return blank.end() if blank else position


def _statement(text: str, position: int) -> tuple[str, str, str | None, int]:
    """Name, kind of quotes, value as it is written (``None``: a name alone), and its end."""
    start = _NAME.match(text, position)
    if not start:
        raise _Unclear
    name, position = start[1], start.end()
    if not start[2]:
        return name, "", None, position
    if text[position : position + 1] in ("'", '"'):
        quoted = _QUOTED.match(text, position)
        if not quoted:
            raise _Unclear
        return name, quoted[1], quoted[2], quoted.end()
    line = text[position:].partition("\n")[0]
    return name, "", _bare(line, spaced=text[position - 1].isspace()), position + len(line)


def _bare(line: str, *, spaced: bool) -> str:
    """An unquoted value. Compose takes only a space and ``#`` for a comment, and not where
    the value begins; others take any white space, and there, too."""
    value = line.partition(" #")[0].strip()
    if re.search(r"\s#", value) or (spaced and value.startswith("#")):
        raise _Unclear("# may begin a comment here, or belong to the value")
    return value


def _meaning(name: str, quote: str, raw: str, known: Mapping[str, str]) -> str:
    if quote == "'":
        return raw.replace("\\'", "'")
    if name == LITERAL:
        return _unescaped(raw, "$") if quote else raw
    text = _unescaped(raw, "$$") if quote else raw
    return expand(text, known, strict=name.startswith(STRICT))


def _unescaped(raw: str, dollar: str) -> str:
    """The text of double quotes.

    :param dollar: what becomes of ``\\$``.
    """
    if re.search(r"(?<!\\)(?:\\\\)*\\0", raw):
        raise _Unclear("it has an octal escape")
    known = {**_ESCAPES, "$": dollar}
    return re.sub(r"\\([\s\S])", lambda found: known.get(found[1], found[0]), raw)


def expand(text: str, known: Mapping[str, str], *, strict: bool = False) -> str:
    """The text with its variables replaced, in the forms that Compose knows.

    :param strict: a variable without a default must be set.
    :raises ValueError: another form, or a variable that must be set and is not.
    """
    done, position = "", 0
    while found := _DOLLAR.search(text, position):
        done += text[position : found.start()]
        position = found.end()
        if found["dollar"]:
            done += "$"
        elif found["name"]:
            done += _value(found["name"], known, strict)
        else:
            end = _closing(text, position)
            done += _braced(text[position:end], known, strict)
            position = end + 1
    return done + text[position:]


def _closing(text: str, position: int) -> int:
    """Where the brace ends that was opened before `position`."""
    depth = 1
    for found in re.finditer(r"[{}]", text[position:]):
        depth += 1 if found[0] == "{" else -1
        if not depth:
            return position + found.start()
    raise _Unclear("it has a ${ without an end")


def _value(name: str, known: Mapping[str, str], strict: bool) -> str:
    if strict and name not in known:
        # Without the name, which may be a part of a password with a dollar sign in it.
        raise _Unclear("it expands a variable that is not set; write $$ for a dollar sign")
    return known.get(name, "")


def _braced(inside: str, known: Mapping[str, str], strict: bool) -> str:
    form = _BRACED.fullmatch(inside)
    if not form:
        raise _Unclear("it has a ${…} of a form that Compose does not know")
    name, sign, rest = form["name"], form["sign"] or "", form["rest"] or ""
    if not sign:
        return _value(name, known, strict)
    rest = expand(rest, known)
    value = known.get(name)
    given = bool(value) if sign.startswith(":") else value is not None
    if sign.endswith("?") and not given:
        raise _Unclear(f"{name} must be set")
    if sign.endswith("+"):
        return rest if given else ""
    return (value or "") if given else rest
