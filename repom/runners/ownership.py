"""Whose a container is: this project folder's, or that of another one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from repom.errors import Refused

from .compose import compose_folder
from .container import COMPOSE, PROJECT_LABEL, Container


def is_composed(found: Container, project: Path) -> bool:
    """Whether Compose made it for exactly this folder, and not as a one-off of `compose
    run`. A folder inside of it with a Compose file is another project."""
    oneoff = found.labels.get(f"{COMPOSE}oneoff", "False").lower() == "true"
    return not oneoff and is_same(found.compose_folder, compose_folder(project) or project)


def is_same(folder: str, project: Path) -> bool:
    """Whether a label names the project folder, also by another path that leads to it."""
    if not Path(folder).is_absolute():
        return False
    try:  # not Path.resolve, which fails for a link to itself before Python 3.13
        named, own = Path(os.path.realpath(folder)), Path(os.path.realpath(project))
        return named == own or named.samefile(own)
    except (OSError, ValueError):
        return False


def is_there(folder: str) -> bool:
    """Whether the folder that a label names exists. One in a neighbour's home, which this
    user may not look into, counts."""
    try:
        Path(folder).stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True


def shown_folder(folder: str) -> str:
    """A folder that a label names, without control characters: labels come from others."""
    return folder if folder.isprintable() else repr(folder)


def owner(labels: Mapping[str, str], project: Path) -> str:
    """The folder of the other project that the labels name; empty when they name none."""
    folder = labels.get(PROJECT_LABEL, "")
    return folder if folder and not is_same(folder, project) else ""


def is_labelled(labels: Mapping[str, str], project: Path) -> bool:
    """Whether `postgres.start` made it for this project folder."""
    return is_same(labels.get(PROJECT_LABEL, ""), project)


def is_ours(found: Container, project: Path) -> bool:
    """Whether `postgres.start` or Compose made it for this project folder."""
    return is_labelled(found.labels, project) or is_composed(found, project)


def check_ours(found: Container, project: Path) -> None:
    """Check that it may be stopped and removed from this project folder. A neighbour's
    container may be used, once a setting names it, but only the neighbour ends it.

    :raises Refused: the container was made for another project.
    """
    check_owner(found, project)
    folder = found.compose_folder
    if folder and not is_ours(found, project):
        raise Refused(
            f"Container {found.name} belongs to the Compose project in {shown_folder(folder)}",
            "Run the task in that folder, or use the container command yourself",
        )


def check_owner(found: Container, project: Path, *, moved: bool = False) -> None:
    """Check the label that says whose container it is: all projects share a default name.

    :param moved: take a project folder that is gone for this one, which was moved here.
    :raises Refused: the container was made for another project.
    """
    other = owner(found.labels, project)
    if other and (not moved or is_there(other)):
        raise Refused(
            f"Container {found.name} belongs to the project in {shown_folder(other)}",
            "Set REPOM_CONTAINER to another name (if that project was moved here, remove the"
            f" container with docker rm -f {found.name}; its volume keeps the data)",
        )
