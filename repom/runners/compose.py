"""The Compose project of a folder, as its files describe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .container import COMPOSE, Container
from .engine import Engine, Trouble, compose_argv, part, text


@dataclass(frozen=True)
class Compose:
    """A project as Compose reads its file.

    :param services: of each a container that is ``absent``.
    """

    name: str
    services: Mapping[str, Container]


#: Files that Compose reads without being told.
DEFAULT_FILES = {f"{n}.{e}" for n in ("compose", "docker-compose") for e in ("yaml", "yml")}


def compose_files(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.glob("*compose*.y*ml") if p.is_file())
    except OSError:  # a folder that this user may not look into
        return []


def compose_folder(project: Path) -> Path | None:
    """The folder of the Compose file that belongs to the project folder: the nearest one up
    to the top of its repository, else that of a development container."""
    above = [project, *project.parents]
    top = next((n for n, folder in enumerate(above) if (folder / ".git").exists()), 0)
    inside = [folder / ".devcontainer" for folder in above[: top + 1]]
    return next((f for f in [*above[: top + 1], *inside] if compose_files(f)), None)


def in_compose(project: Path, *arguments: str, made: Container | None = None) -> list[str]:
    """The arguments of a Compose command for the project folder. Where several files could
    be meant, none is named, since Compose's own settings may say which.

    :param made: a container whose labels say with which files and project name it was made.
    """
    folder = compose_folder(project) or project
    files, name = compose_files(folder), made.compose_project if made else ""
    if made and name and (told := made.labels.get(f"{COMPOSE}project.config_files")):
        files = told.split(",")
    elif len(files) != 1 or DEFAULT_FILES & set(files):
        files, name = [], ""
    flags = [flag for each in files for flag in ("--file", str(folder / each))]
    return compose_argv(folder, *(["--project-name", name] if name else []), *flags, *arguments)


def read_compose(engine: Engine, project: Path, *flags: str) -> Compose:
    """What Compose says of a project folder.

    :raises EngineSilent: there is no Compose, or no file that it can read.
    """

    def parse(said: Any) -> Compose:
        services = part(part(said).get("services")).items()
        return Compose(text(said["name"]), {n: service(n, part(each)) for n, each in services})

    def service(name: str, said: Mapping[str, Any]) -> Container:
        values, networks = part(said.get("environment")).items(), part(said.get("networks"))
        aliases = [str(a) for net in networks.values() for a in part(net).get("aliases") or ()]
        return Container(
            f"of the Compose service {name}",
            "absent",
            labels={
                f"{COMPOSE}service": name,
                f"{COMPOSE}project.working_dir": str(compose_folder(project) or project),
            },
            trouble=Trouble.ABSENT,
            image=str(said.get("image") or ""),
            hostname=str(said.get("hostname") or ""),
            environment={key: "" if value is None else str(value) for key, value in values},
            aliases=(str(said.get("container_name") or ""), *aliases),
        )

    return engine.read(parse, *in_compose(project, *flags, "config", "--format", "json"))
