"""Where settings come from: flags, environment, `.env`, Invoke's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from repom.errors import SettingsError

from .values import legible

P = ParamSpec("P")
T = TypeVar("T")
D = TypeVar("D")
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
    "after_load",
    "pull_url",
)
#: Flags that are not called as their key.
FLAGS = {"pull_url": "--source"}


class Sources:
    """Looks a setting up in the order of the contract, and says where it was found."""

    def __init__(
        self,
        flags: Mapping[str, str | int | None],
        environ: Mapping[str, str] | None = None,
        dotenv: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self._flags = flags
        self._variables = (("the environment", environ or {}), (".env", dotenv or {}))
        section = (config or {}).get("repom")
        if section is not None and not hasattr(section, "items"):
            raise SettingsError(
                "repom in Invoke's configuration is not a section",
                "Write names and values below it",
            )
        self._config: Mapping[str, Any] = {} if section is None else section

    def variable(self, name: str) -> tuple[str | None, str]:
        """The value of an environment variable, and its origin for messages.

        :raises SettingsError: it is empty: `REPOM_CONTAINER=$UNSET` must not mean the
            default. Only a password may be.
        """
        for source, values in self._variables:
            if name in values:
                value, origin = values[name], f"{name} (from {source})"
                may_be_empty = name == "POSTGRES_PASSWORD" and not value
                return value if may_be_empty else legible(origin, value), origin
        return None, name

    def setting(self, key: str) -> tuple[str | None, str]:
        """The value of one of `KEYS`, and its origin for messages.

        :raises SettingsError: it is empty, or not a text or a number.
        """
        if self._flags.get(key) is not None:
            origin = FLAGS.get(key, f"--{key.replace('_', '-')}")
            return legible(origin, self._flags[key]), origin
        value, origin = self.variable(f"REPOM_{key.upper()}")
        if value is None and self._config.get(key) is not None:
            origin = f"repom.{key} (from Invoke's configuration)"
            return legible(origin, self._config[key]), origin
        return value, origin

    def read(
        self,
        key: str,
        default: D,
        check: Callable[Concatenate[str, str, P], T],
        *limits: P.args,
        **named: P.kwargs,
    ) -> D | T:
        """The value of one of `KEYS`, checked, else the default."""
        value, origin = self.setting(key)
        return default if value is None else check(origin, str(value), *limits, **named)

    def unknown(self) -> Iterator[str]:
        """Names that look like settings and are not, with what was probably meant. They
        are not errors, since a newer version may know them."""
        variables = {f"{before}REPOM_{key.upper()}" for before in ("", "INVOKE_") for key in KEYS}
        known = variables | {f"repom.{key}" for key in KEYS}
        given = {f"repom.{key}" for key in self._config}
        for _source, values in self._variables:
            given |= {n for n in values if n.startswith(("REPOM_", "INVOKE_REPOM_"))}
        for name in sorted(given - known):
            from difflib import get_close_matches

            near = get_close_matches(name, sorted(known), 1, 0.8)
            yield f"{name} (did you mean {near[0]}?)" if near else name
