"""Runs client programs that this host lacks in a container of their own: ``docker run --rm``."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from repom.errors import RepomError, Unreachable
from repom.settings.address import Address

from . import engine, process
from .exec import ExecRunner
from .host import HostRunner

#: Official images, as Docker and Podman list them, also of a minor version and of Alpine.
IMAGE = re.compile(r"^((?:docker\.io/library/|localhost/)?postgres:(\d+)(?:[.-]\S*)?)$", re.M)


@dataclass(frozen=True)
class OneShotRunner(ExecRunner):
    """Runs each program in a new container on this host's network, so that it reaches the
    server as a program on this host does; see `runner.Runner`. Not so with Docker Desktop,
    whose host is a virtual machine: a server on this machine's loopback stays out of reach.

    :param container: the image.
    :param files: what libpq reads, mounted where it lies on this host.
    """

    trusts_local: bool = False
    files: tuple[str, ...] = ()

    via: ClassVar[str] = "host"

    def end(self, session: str, seconds: float) -> None:
        ask = [self.engine, "ps", "-aq", "--filter", f"name={session}-"]
        with suppress(RepomError):  # it goes on by itself, and is removed at its end
            listed = HostRunner().run(ask, warn=True, dry=False, timeout=seconds).stdout.split()
            if listed:
                end = [self.engine, "rm", "-f", *listed]
                HostRunner().run(end, warn=True, dry=False, timeout=seconds)

    def _command(
        self, argv: Sequence[str], env: Mapping[str, str], *, interactive: bool
    ) -> list[str]:
        """The engine keeps no log of it: that would be a copy of every byte of a dump."""
        names = [*env, *process.inherited(), "HOME"]
        flags = [
            *(["-i"] if interactive else []),
            *("--pull=never", "--network=host", "--log-driver=none"),
            *("--name", f"{self.session}-{secrets.token_hex(4)}"),
            *(flag for path in self.files for flag in ("-v", f"{path}:{path}:ro")),
            *(flag for name in names for flag in ("-e", name)),
        ]
        return [self.engine, "run", "--rm", *flags, self.container, *argv]


def instead(
    host: HostRunner | OneShotRunner, login: Address, why: Unreachable, server: int = 0
) -> OneShotRunner:
    """A runner for a server that no program of this host fits.

    :param why: no program fits; raised again when no image that is here does, either.
    :param server: its major version; 0 as long as it is unknown: the newest image.
    """
    fitting = [each for each in _images(host.engine) if each[0] >= server]
    if not fitting:
        raise why
    image = (min if server else max)(fitting)[1]
    if server:  # once, when it is known which
        process.log.info("%s, using a one-shot container of %s", why.message, image)
    if isinstance(host, OneShotRunner) and image == host.container:
        return host
    how = (host.echo, host.dry, host.session)
    return OneShotRunner(host.engine, image, image, *how, files=_files(login))


def _images(program: str) -> list[tuple[int, str]]:
    """Major version and name of the images that the engine has. One on another machine does not
    stand in: its network and files are others."""
    if not program or engine.is_remote(engine.endpoint(program)):
        return []
    with suppress(engine.EngineSilent):
        said = engine.Engine(program).ask("images", "--format", "{{.Repository}}:{{.Tag}}")
        return [(int(major), name) for name, major in IMAGE.findall(said)]
    return []


def _files(login: Address) -> tuple[str, ...]:
    """What libpq reads on this host: its files in the home, those that options and variables
    name, and the folder of a socket."""
    named = [str(Path.home() / each) for each in (".pgpass", ".postgresql")]
    named += [login.host or "", *dict(login.options).values(), *process.inherited().values()]
    return tuple({path for path in named if path.startswith("/") and Path(path).exists()})
