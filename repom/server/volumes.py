"""The volume with the data: whether it may be used for a new server, or be deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from repom.errors import Refused, advice
from repom.runners import ownership
from repom.runners.container import COMPOSE, PROJECT_LABEL, Container
from repom.runners.engine import Engine, EngineSilent, texts

#: Prints the image's major version, then that of each cluster in the volume, in both layouts.
LOOK = "postgres --version; cat /repom/PG_VERSION /repom/*/docker/PG_VERSION 2>/dev/null; true"


def labels_of(engine: Engine, volume: str) -> dict[str, str] | None:
    """The volume's labels; nothing when there is no such volume.

    :raises EngineSilent: the engine gave no answer.
    """

    known = engine.inspect("volume", [volume], lambda item: texts(item.get("Labels")))
    return known[0] if known else None


def users(engine: Engine, condition: str, *flags: str) -> list[str]:
    """The names of the running containers that fulfil it, such as ``volume=NAME``."""
    return engine.ask("ps", *flags, "--filter", condition, "--format", "{{.Names}}").split()


def is_usable(engine: Engine, volume: str, project: Path, image: str) -> bool:
    """Whether there is such a volume, for a server of this image.

    :raises Refused: it is another project's, or in use, or of another PostgreSQL major.
    """
    labels = labels_of(engine, volume)
    if labels is None:
        return False
    other = ownership.owner(labels, project)
    # Labels of a volume cannot be changed, so a project that moved must get past this.
    if other and ownership.is_there(other):
        raise Refused(
            f"Volume {volume} belongs to the project in {ownership.shown_folder(other)}",
            "Set REPOM_CONTAINER to another name, which names the volume, too",
        )
    if names := users(engine, f"volume={volume}"):
        raise Refused(
            f"Volume {volume} is in use by container {names[0]}, and a second server would"
            " destroy its data",
            f"Set REPOM_CONTAINER to {names[0]}, or to a new name",
        )
    _check_major(engine, volume, image)
    return True


def _check_major(engine: Engine, volume: str, image: str) -> None:
    look = ("--entrypoint", "sh", "--volume", f"{volume}:/repom:ro", image, "-c", LOOK)
    try:
        looked = engine.ask("run", "--rm", "--network", "none", "--user", "root", *look)
    except EngineSilent:
        return  # an image without a shell: its server has to see for itself
    major, held = versions(looked)
    if major and held and major not in held:
        old = max(held, key=int)
        raise Refused(
            f"Volume {volume} holds the data of PostgreSQL {old}, and the image is PostgreSQL"
            f" {major}",
            advice(
                f"Set REPOM_IMAGE=postgres:{old}. To move to {major}: start {old}, run {{}} and"
                " {}, then start and restore",
                "db.backup",
                "postgres.remove --volume",
            ),
        )


def versions(looked: str) -> tuple[str, frozenset[str]]:
    """The image's major version and those in the volume, from what `LOOK` printed."""
    image = re.match(r"postgres \(PostgreSQL\) (\d+)", looked)
    held = frozenset(line for line in looked.splitlines()[1:] if line.isdigit())
    return (image[1] if image else ""), held


def check_disposable(engine: Engine, volume: str, project: Path, found: Container) -> None:
    """Check that a volume may be deleted.

    :raises Refused: it was not made for this project, or other containers use it, too.
    """
    labels = labels_of(engine, volume) or {}
    by_hand = f"Leave --volume out, then delete it by hand: {engine.program} volume rm {volume}"
    if other := ownership.owner(labels, project):
        whose = f"belongs to the project in {ownership.shown_folder(other)}"
        raise Refused(f"Volume {volume} {whose}", by_hand)
    if not made_for(project, volume, labels, found):
        raise Refused(f"Volume {volume} was not made for this project by repom or Compose", by_hand)
    if others := {*users(engine, f"volume={volume}", "--all")} - {found.name}:
        raise Refused(f"Volume {volume} is in use by container {min(others)}, too", by_hand)


def made_for(project: Path, volume: str, labels: Mapping[str, str], found: Container) -> bool:
    """Whether a volume was made for this project, as far as labels show it.

    Compose labels a volume with the name of its project, which other folders may share, so
    a container of this folder has to prove it. A volume without labels, and without the
    name that repom gives, was there before, or is an external one.
    """
    if PROJECT_LABEL in labels:
        return ownership.is_labelled(labels, project)
    if name := labels.get(f"{COMPOSE}project"):
        return name == found.compose_project and ownership.is_composed(found, project)
    if re.fullmatch("[0-9a-f]{64}", volume):  # nameless: its container's alone
        return ownership.is_ours(found, project)
    return volume == f"{found.name}_data" and ownership.is_labelled(found.labels, project)
