"""The project's server in a container: one that repom makes, or a Compose service."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repom.errors import CommandFailed, Refused, Unreachable, advice
from repom.runners import choose, discover, engine, ownership
from repom.runners.compose import in_compose, read_compose
from repom.runners.container import DATA, PROJECT_LABEL, Container, data_mount
from repom.runners.engine import Engine, EngineSilent, Trouble
from repom.runners.exec import ExecRunner
from repom.settings import Settings
from repom.settings.address import PORT

from . import credentials, probe, volumes
from .facts import HOST, Server, masked_url

log = logging.getLogger("repom")

PASSWORD_FILE = "POSTGRES_PASSWORD_FILE"  # noqa: S105 - the variable's name
#: Workers of a parallel index build share memory through /dev/shm. Docker gives 64 MB,
#: no more than the default maintenance_work_mem, so that a restore would run out of it.
SHM = "256m"
RECREATE = advice(
    "To recreate it and keep the data: {}, then {}", "postgres.remove", "postgres.start"
)


def found(settings: Settings) -> tuple[Settings, Container]:
    """The project's container, whether it exists or not, with settings that name it.

    :raises RepomError: it is not clear which one it is.
    """
    if settings.is_named or (settings.configured and settings.backend == "sqlite"):
        return settings, find(settings)
    auto = replace(settings, via="auto")
    there = discover.look(auto, always=True)
    choice = choose.choose(auto, there)
    if choice.rule == 5 and choice.problem and not choice.container:
        raise choice.problem
    meant = choice.container
    if meant is None or (choice.rule == 4 and not ownership.is_ours(meant, settings.project)):
        if silent := there.silent:
            return settings, Container(settings.container, silent.reason, trouble=silent.trouble)
        return settings, find(settings)
    if meant.service:
        return replace(settings, compose_service=meant.service), meant
    return replace(settings, container=meant.name), meant


def find(settings: Settings) -> Container:
    """The container that the settings name, whether it exists or not."""
    name, service = settings.container, settings.compose_service
    return discover.find(settings.docker, name, service, settings.project)


@dataclass(frozen=True)
class ContainerServer:
    """The server in the container that the settings name.

    :param found: what the engine says of it; a missing one is a state.
    """

    settings: Settings
    found: Container

    @property
    def engine(self) -> Engine:
        return Engine(self.settings.docker, echo=self.settings.echo, dry=self.settings.dry)

    def start(self) -> Server:
        """Start the container, creating it if needed, and wait for its server."""
        self._check_engine()
        if self.settings.compose_service:
            self._up()
        elif self.found.id:
            self._wake()
        else:
            try:
                self.create()
            except (Refused, CommandFailed):
                other = self._looked_up()
                if not other.found.id:
                    raise
                log.info("Another start created container %s in the meantime", other.found.name)
                other._wake()
        started = self._looked_up()
        return started.describe() if self.settings.dry else started._await_answer()

    def stop(self) -> Server:
        self._check_engine()
        self._halt()
        return self._looked_up().describe()

    def log_lines(self, lines: int) -> list[str]:
        self._check_engine()
        if not self.found.id:
            raise Unreachable(
                f"There is no container {self.found.name}", advice("Run: {}", "postgres.start")
            )
        return self.engine.log_lines(self.found.id, lines)

    def describe(self) -> Server:
        settings, found = self.settings, self.found
        composed, env = bool(settings.compose_service), found.environment
        login = credentials.adopt(choose.completed(settings, found), env)
        port = found.port if found.id else settings.port or PORT
        other = ownership.shown_folder(ownership.owner(found.labels, settings.project))
        return Server(
            kind="compose" if composed else "container",
            name=found.name,
            state=found.state + (f", of the project in {other}" if other else ""),
            image=found.image or ("" if composed else settings.image),
            version=env.get("PG_VERSION") or env.get("PG_MAJOR") or "",
            host=HOST,
            port=port,
            user=login.user,
            database=login.database,
            url=masked_url(login, port),
            data=found.data if found.id else self._kept_volume(),
        )

    def removable(self, *, volume: bool) -> Server:
        """What `remove` would remove; refused as there."""
        self._check_engine()
        server = self.describe()
        ownership.check_ours(self.found, self.settings.project)
        if volume:
            self._check_volume(server.data)
        elif self.found.id and not server.data:
            raise Refused(
                f"The data of container {server.name} is in the container itself and would be"
                " deleted with it",
                advice("To delete it, run {}, then {}", "db.backup", "postgres.remove --volume"),
            )
        return server

    def remove(self, data: str, *, volume: bool) -> None:
        """Stop and remove the container, and with `volume` the data that were found."""
        if self.found.id:
            self._halt()
            # The nameless volumes go with the data: nothing would name them afterwards.
            ours = ownership.is_ours(self.found, self.settings.project)
            self.engine.do("rm", *(["--volumes"] if volume and ours else []), self.found.id)
        if volume and data and self._has_volume(data):
            self.engine.do("volume", "rm", data)

    def create(self) -> None:
        """Create and start the container; after a failure neither it nor a new volume stays.

        :raises Refused: the port is taken, or the volume does not fit.
        :raises Unreachable: the image is missing, or the engine is.
        """
        settings, docker = self.settings, self.engine
        volume, port = f"{settings.container}_data", settings.port or PORT
        mount = self._image_mount()
        new = not volumes.is_usable(docker, volume, settings.project, settings.image)
        # Podman has no such filter; it finds out itself when the container starts.
        with suppress(EngineSilent):
            if names := volumes.users(docker, f"publish={port}"):
                raise engine.port_taken(port, f" by container {names[0]}")
        probe.check_port(port)
        argv = create_argv(settings.container, settings.project, settings.image, mount, port)
        undo: list[tuple[str, ...]] = []
        try:
            if new:
                undo.append(("volume", "rm", volume))
                label = f"{PROJECT_LABEL}={settings.project}"
                docker.do("volume", "create", "--label", label, volume)
            id = docker.do(*argv, env=credentials.variables(credentials.complete(settings)))
            undo.append(("rm", id))
            docker.do("start", id or settings.container)
        except BaseException:
            for arguments in reversed(undo):
                with suppress(EngineSilent):
                    docker.ask(*arguments)
            raise

    def _looked_up(self) -> ContainerServer:
        """The same, as it is now."""
        return replace(self, found=find(self.settings))

    def _check_engine(self) -> None:
        if not self.found.id and self.found.trouble is not Trouble.ABSENT:
            reason = f"cannot be reached ({self.found.state})"
            raise Unreachable(f"Container {self.found.name} {reason}", engine.WAKE)

    def _up(self) -> None:
        """Start the Compose service. What its file leaves open is made up first, since
        Compose takes it from `.env`."""
        ownership.check_owner(self.found, self.settings.project)
        env = None if self.found.id else self._service_environment()
        if env is not None:
            left_open = {k: v for k, v in credentials.MADE_UP.items() if env.get(k) == ""}
            known = credentials.adopt(self.settings, {**env, **left_open})
            if env.get("POSTGRES_HOST_AUTH_METHOD") != "trust" and not env.get(PASSWORD_FILE):
                known = credentials.complete(known)
            # Of a file that cannot be read for want of values, all of them may be wanted.
            wanted = {k for k, v in env.items() if not v} if env else credentials.VARIABLES
            credentials.remember(self.settings, known, wanted=wanted)
        if self.found.state == "paused":
            self.engine.do("unpause", self.found.id)
        service = str(self.settings.compose_service)
        self.engine.do(*in_compose(self.settings.project, "up", "-d", service, made=self.found))

    def _service_environment(self) -> Mapping[str, str] | None:
        """The environment that the Compose file gives the service; ``None`` for one of a
        profile that is not active, and when the file is wrong, as `up` will say."""
        try:
            services = read_compose(self.engine, self.settings.project).services
        except EngineSilent as silent:
            return {} if silent.trouble is Trouble.VALUE_MISSING else None
        service = services.get(str(self.settings.compose_service))
        return service.environment if service else None

    def _wake(self) -> None:
        """Start the existing container, in whatever state it is."""
        found = self.found
        ownership.check_owner(found, self.settings.project)
        if found.running:
            log.info("Container %s is already running", found.name)
        elif found.state in ("paused", "created", "exited"):
            self.engine.do("unpause" if found.state == "paused" else "start", found.id)
        else:
            raise Unreachable(
                f"Container {found.name} is {found.state}",
                RECREATE,
            )

    def _halt(self) -> None:
        """Stop the container, if it exists and runs."""
        ownership.check_ours(self.found, self.settings.project)
        if self.found.state == "paused":
            self.engine.do("unpause", self.found.id)
        if self.found.state in ("running", "paused", "restarting"):
            # Docker's ten seconds may not do for the last checkpoint of a large database.
            self.engine.do("stop", "-t", "60", self.found.id)

    def _await_answer(self) -> Server:
        settings, found = self.settings, self.found
        if not found.id:
            raise Unreachable(f"Container {found.name} exited at once and no longer exists")
        known = choose.completed(settings, found)
        # The password of a container that repom did not make is not looked up when the
        # settings manage without one.
        if not settings.configured or PROJECT_LABEL in found.labels:
            known = credentials.adopt(known, found.environment)
        if not settings.compose_service:
            credentials.remember(settings, known, found.port)
        self._warn_of_differences()
        runner = ExecRunner(settings.docker, found.id, found.name, echo=settings.echo)
        login = credentials.login(known, HOST)
        probe.check_answers(
            f"Container {found.name}",
            lambda: probe.answer(runner, "psql", login),
            lambda: find(settings).state,
            self.log_lines,
            known.password,
        )
        # The server asks for the password only where it is not called by 127.0.0.1.
        login = credentials.login(known, found.hostname or HOST)
        if probe.WRONG_PASSWORD in probe.answer(runner, "psql", login):
            raise Unreachable(
                f"The server in container {found.name} rejects the password of '{known.user}';"
                " it was set when the volume was initialized",
                f"Set POSTGRES_PASSWORD to that password, or change it: {settings.docker} exec -it"
                rf' {found.name} psql -U {known.user} -d postgres -c "\password"',
            )
        return replace(self, settings=known).describe()

    def _warn_of_differences(self) -> None:
        """A container keeps the port and the image that it was made with."""
        settings, found = self.settings, self.found
        image = settings.image if PROJECT_LABEL in found.labels else None
        for what, is_now, wanted in (
            ("POSTGRES_PORT", found.port, settings.port),
            ("REPOM_IMAGE", found.image, image),
        ):
            if wanted and wanted != is_now:
                log.warning(
                    "Container %s was created with %s=%s; the setting is now %s. %s",
                    *(found.name, what, is_now or "none", wanted, RECREATE),
                )

    def _check_volume(self, data: str) -> None:
        """Check that the data may be deleted: a volume on this machine, made for this
        project alone."""
        if engine.is_remote(address := engine.endpoint(self.settings.docker)):
            raise Refused(
                f"The container engine is on another machine ({address})",
                "Leave --volume out, or run the task on that machine",
            )
        if Path(data).is_absolute():
            raise Refused(
                f"The data is in the folder {data}, which repom did not create",
                "Leave --volume out, and remove the folder yourself",
            )
        if self.settings.compose_service and not self.found.id:
            down = "or delete the volumes of all services: docker compose down --volumes"
            raise Refused(
                f"There is no container {self.found.name}, so its volume is unknown",
                advice(f"Run {{}} first, {down}", "postgres.start"),
            )
        if data:
            volumes.check_disposable(self.engine, data, self.settings.project, self.found)

    def _kept_volume(self) -> str:
        """The volume that a container left behind. An engine that does not answer is not
        asked again, and Compose's own names of volumes are not known."""
        volume = f"{self.settings.container}_data"
        may_exist = self.found.trouble is Trouble.ABSENT and not self.settings.compose_service
        return volume if may_exist and self._has_volume(volume) else ""

    def _has_volume(self, volume: str) -> bool:
        return volumes.labels_of(self.engine, volume) is not None

    def _image_mount(self) -> str:
        """The folder that the image declares as the volume of its data. It differs between
        versions: from 18 on it is the parent of what it was. Pulls a missing image."""
        image = self.settings.image
        if not (mounts := self.engine.inspect("image", [image], _declared_mount)):
            log.info("Pulling %s", image)
            try:
                self.engine.do("pull", image)
            except CommandFailed as error:
                raise Unreachable(
                    f"Image {image} is not here and cannot be pulled ({error.message})",
                    "Check that REPOM_IMAGE names an image, and that its registry can be reached",
                ) from None
            mounts = self.engine.inspect("image", [image], _declared_mount)
        return next(filter(None, mounts), DATA)


def _declared_mount(item: Mapping[str, Any]) -> str:
    config = engine.part(item.get("Config"))
    declared = engine.part(config.get("Volumes"))
    return data_mount(engine.variables(config), declared)


def create_argv(name: str, project: Path, image: str, mount: str, port: int) -> list[str]:
    """The arguments that make the project's container. Secrets go by name, through the
    environment. No restart policy: a developer's server runs when it is asked to."""
    return [
        *("create", "--name", name, "--label", f"{PROJECT_LABEL}={project}"),
        *("--shm-size", SHM, "--volume", f"{name}_data:{mount}"),
        *("--publish", f"{HOST}:{port}:{PORT}"),
        *("--env", "POSTGRES_USER", "--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_DB"),
        image,
    ]
