"""Where settings come from: flags, environment, `.env`, configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from repom.errors import SettingsError

from .values import at_least, legible, matching, one_of, path, text

FORMATS = ("custom", "plain")
VIAS = ("auto", "docker", "host")
#: Keys of the `repom:` section of Invoke's configuration, each the lower-case rest of a
#: `REPOM_*` variable. Mountable collections declare them all with `None`, because Invoke
#: only reads `INVOKE_REPOM_*` for keys that are declared, and casts by the old value.
KEYS = (
    "database_url",
    "container",
    "compose_service",
    "image",
    "via",
    "docker",
    "backup_dir",
    "keep",
    "undo_keep",
    "format",
    "jobs",
)
VARIABLES = frozenset(f"REPOM_{key.upper()}" for key in KEYS)
#: More workers than any server of a developer has processors for.
MOST_JOBS = 64
_DOCKER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_IMAGE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.:/@-]*")


class Sources:
    """Looks a setting up in order, and remembers where it was found."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        environ: Mapping[str, str],
        dotenv: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> None:
        self._flags = flags
        self._named = (("the environment", environ), (".env", dotenv))
        section = config.get("repom")
        if section is not None and not hasattr(section, "items"):
            raise SettingsError(
                "repom in Invoke's configuration is not a section", "Write names and values"
            )
        self._config: Mapping[str, Any] = {} if section is None else section

    def variable(self, name: str) -> tuple[str | None, str]:
        """The value of an environment variable and where it came from.

        An empty one is an error: `REPOM_CONTAINER=$UNSET` must not mean the default. Only
        a password may be empty.
        """
        for origin, values in self._named:
            if name in values:
                origin = f"{name} (from {origin})"
                may_be_empty = name == "POSTGRES_PASSWORD" and not values[name]
                return values[name] if may_be_empty else legible(origin, values[name]), origin
        return None, name

    def setting(self, key: str) -> tuple[Any, str]:
        """The value of a repom setting in the order of the contract, and its origin."""
        if self._flags.get(key) is not None:
            origin = f"--{key.replace('_', '-')}"
            return legible(origin, self._flags[key]), origin
        value, origin = self.variable(f"REPOM_{key.upper()}")
        if value is None and self._config.get(key) is not None:
            origin = f"repom.{key} (from Invoke's configuration)"
            return legible(origin, self._config[key]), origin
        return value, origin

    def unknown(self) -> Iterable[str]:
        """What is spelled like a setting and is none, with what was probably meant. No
        error: it may be one of a newer version."""
        given = [name for _origin, values in self._named for name in values]
        for prefix in ("", "INVOKE_"):
            names = [n for n in given if n.startswith(f"{prefix}REPOM_")]
            yield from _misspelt(names, {f"{prefix}{each}" for each in VARIABLES})
        yield from _misspelt([f"repom.{n}" for n in self._config], {f"repom.{n}" for n in KEYS})

    def read(self, key: str, default: Any, check: Callable[[str, Any], Any]) -> Any:
        value, origin = self.setting(key)
        return default if value is None else check(origin, value)


def _misspelt(names: Iterable[str], known: Iterable[str]) -> Iterable[str]:
    for name in sorted(set(names) - set(known)):
        from difflib import get_close_matches

        near = get_close_matches(name, sorted(known), 1, 0.8)
        yield f"Unknown setting {name}{f' (did you mean {near[0]}?)' if near else ''}"


#: Setting → default and check. The default of `jobs` is this machine's.
OPTIONS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "container": ("repom_postgres", matching(_DOCKER_NAME)),
    "compose_service": (None, matching(_DOCKER_NAME)),
    "image": ("postgres:18", matching(_IMAGE_NAME)),
    "via": ("auto", one_of(VIAS)),
    "docker": ("docker", text),
    "backup_dir": (Path("backups"), path),
    "keep": (7, at_least(1)),
    "undo_keep": (1, at_least(0)),
    "format": ("custom", one_of(FORMATS)),
    "jobs": (min(os.cpu_count() or 1, 8), at_least(1, MOST_JOBS)),
}
