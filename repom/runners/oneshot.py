"""Runs client programs that this host lacks in a container of their own."""

from __future__ import annotations

import re
import secrets
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from repom.errors import Unreachable
from repom.settings.address import Address

from . import engine, process
from .container import CLIENT_LABEL
from .exec import ExecRunner
from .host import HostRunner

#: Official images, as Docker and Podman list them, also of a minor version and of Alpine.
IMAGE = re.compile(r"^((?:docker\.io/library/|localhost/)?postgres:(\d+)(?:[.-]\S*)?)$", re.M)


@dataclass(frozen=True)
class OneShotRunner(ExecRunner):
    """Runs programs in a container on this host's network, so that they reach the server as
    programs on this host do; see `runner.Runner`. Not so with Docker Desktop, whose host is
    a virtual machine: a server on this machine's loopback stays out of reach.

    :param name: the image.
    :param idle: runs the container, which ends with its input: at `close`, or when the
        kernel ends this process.
    """

    trusts_local: bool = False
    idle: subprocess.Popen[bytes] = field(kw_only=True)

    via: ClassVar[str] = "host"

    def close(self) -> HostRunner:
        """Remove the container, with all that runs in it.

        :returns: the runner that it stood in for.
        """
        for stream in (self.idle.stdin, self.idle.stdout, self.idle.stderr):
            assert stream
            stream.close()
        with suppress(subprocess.TimeoutExpired):  # the engine goes on by itself
            self.idle.wait(5)
        return HostRunner("", self.echo, self.dry, self.session, self.engine)


def start(
    host: HostRunner | OneShotRunner, image: str, files: tuple[str, ...] = ()
) -> OneShotRunner:
    """A runner in a new container. Secrets come with each program: the engine shows everyone
    the variables that a container was made with, and keeps a log of what it prints.

    :param files: what libpq reads, mounted where it lies on this host.
    :raises Unreachable: the container does not start.
    """
    name = f"{host.session}-{secrets.token_hex(4)}"
    flags = [
        *("-i", "--rm", "--pull=never", "--network=host", "--log-driver=none", "--name", name),
        *("--label", CLIENT_LABEL),
        *(flag for path in files for flag in ("-v", f"{path}:{path}:ro")),
        *(flag for each in ("HOME", *process.inherited()) for flag in ("-e", each)),
    ]
    command = [host.engine, "run", *flags, image, "sh", "-c", "echo && exec cat"]
    if host.echo:
        process.log.info("$ %s", process.display(command))
    how = (host.engine, name, image, host.echo, host.dry, host.session)
    runner = OneShotRunner(*how, idle=process.start(command, {}, subprocess.PIPE))
    assert runner.idle.stdout and runner.idle.stderr
    try:
        if runner.idle.stdout.readline():  # it runs
            return runner
        said = runner.idle.stderr.read().decode(errors="replace").strip()
        raise Unreachable(f"A container of {image} did not start: {' '.join(said.split())}")
    except BaseException:
        runner.close()
        raise


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
    if isinstance(host, OneShotRunner):
        if image == host.name:
            return host
        host.close()
    return start(host, image, _files(login))


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
