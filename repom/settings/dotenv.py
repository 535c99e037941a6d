"""`.env` as Compose reads it, or an error that names the line.

One file serves Compose and repom, so both have to see the same values in it. What Compose
reads in an unexpected way (a comment becomes the value, one line holds two variables) is an
error. No error quotes the file, since it holds secrets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from repom.errors import SettingsError

#: Taken literally: a password may hold a `$` that means nothing.
LITERAL = "POSTGRES_PASSWORD"
#: Names whose values choose a database or a folder. The variables in them must be set,
#: since without that part they would choose another one; elsewhere they may be empty.
STRICT = ("DATABASE_URL", "POSTGRES_", "REPOM_")
_BLANK = re.compile(r"(?:\s*#[^\n]*(?:\n|$))*\s*")
_LINE = re.compile(
    r"""(?:export[^\S\n]+)?(?P<name>[\w.\-\[\]]+)[^\S\n]*
    (?P<sign>[=:](?P<space>[^\S\n]*+)
        (?:(?P<quote>['"])(?P<quoted>(?:\\[\s\S]|(?!(?P=quote))[^\\])*+)(?P=quote)
            [^\S\n]*(?:\#[^\n]*)?
        |(?P<bare>(?!['"])[^\n]*)))?
    (?:\n|$)""",
    re.VERBOSE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]|\r(?!\n)")
_ESCAPES = dict(zip('abfnrtv\\"', '\a\b\f\n\r\t\v\\"', strict=True))
#: A dollar with what belongs to it; others, as in `$1` and `$(`, stay as they are.
_DOLLAR = re.compile(r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<brace>\{))")
_BRACED = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<sign>:?[-+?])(?P<rest>.*))?")


class _Unclear(ValueError):
    """Compose refuses it, or reads it differently than people do."""


def read_dotenv(path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Parse a `.env` file as Compose does, without touching the environment.

    Variables are expanded from `environ` and from the lines above, but not between single
    quotes and never in POSTGRES_PASSWORD.

    :raises SettingsError: for a line that cannot be parsed; names its number only.
    """
    text, position = _text(path), 0
    values: dict[str, str] = {}
    while True:
        blank = _BLANK.match(text, position)
        position = blank.end() if blank else position
        if position == len(text):
            return values
        line = _LINE.match(text, position)
        if not line:
            raise _unparsable(path, text, position)
        try:
            if line["sign"]:  # a name alone says nothing
                values[line["name"]] = _value(line, {**values, **environ})
        except _Unclear as unclear:
            raise _unparsable(path, text, position, str(unclear)) from None
        except RecursionError:
            raise _unparsable(path, text, position, "its ${…} are nested too deeply") from None
        position = line.end()


def _text(path: Path) -> str:
    """The file's text; empty without a file. A folder of this name is a virtual
    environment; a pipe or a broken link would lose settings in silence."""
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


def _unparsable(path: Path, text: str, position: int, reason: str = "") -> SettingsError:
    line = text.count("\n", 0, position) + 1
    return SettingsError(
        f"{path.name} line {line} cannot be parsed{f': {reason}' if reason else ''}",
        "Write NAME=value, and put a value with spaces, quotes, # or $ between single quotes",
    )


def _value(line: re.Match[str], known: Mapping[str, str]) -> str:
    """What a line's value means. In an unquoted one, Compose takes only a space and ``#``
    for a comment, and not where the value begins; other programs differ."""
    name, quote = line["name"], line["quote"]
    if quote == "'":
        return line["quoted"].replace("\\'", "'")
    if quote:
        value = _unescaped(line["quoted"], "$" if name == LITERAL else "$$")
    else:
        value = line["bare"].partition(" #")[0].strip()
        if re.search(r"\s#", value) or (line["space"] and value.startswith("#")):
            raise _Unclear("# may begin a comment here, or belong to the value")
    return value if name == LITERAL else expand(value, known, strict=name.startswith(STRICT))


def _unescaped(raw: str, dollar: str) -> str:
    """The text between double quotes, with `dollar` for ``\\$``."""
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
            done += _variable(found["name"], known, strict)
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


def _variable(name: str, known: Mapping[str, str], strict: bool) -> str:
    if strict and name not in known:
        # Not named: it may be a part of a password with a dollar sign in it.
        raise _Unclear("it expands a variable that is not set; write $$ for a dollar sign")
    return known.get(name, "")


def _braced(inside: str, known: Mapping[str, str], strict: bool) -> str:
    form = _BRACED.fullmatch(inside)
    if not form:
        raise _Unclear("it has a ${…} of a form that Compose does not know")
    name, sign, rest = form["name"], form["sign"] or "", form["rest"] or ""
    if not sign:
        return _variable(name, known, strict)
    rest = expand(rest, known)
    value = known.get(name)
    given = bool(value) if sign.startswith(":") else value is not None
    if sign.endswith("?") and not given:
        raise _Unclear(f"{name} must be set")
    if sign.endswith("+"):
        return rest if given else ""
    return (value or "") if given else rest
