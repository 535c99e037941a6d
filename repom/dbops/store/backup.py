"""A backup, as its manifest describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from repom.dbops.database import Facts

#: What people and scripts see of a backup, in the order of the contract.
SHOWN = (
    "name",
    "path",
    "database",
    "backend",
    "format",
    "label",
    "created_at",
    "size",
    "sha256",
    "via",
    "server_version",
    "tool_version",
    "system_identifier",
    "pinned",
    "verified",
    "duration_s",
    "partial",
    "pulled",
)
#: A database's backend, its name, and its server when that is another machine. Two
#: backups are of the same database when these are the same.
Identity = tuple[str, str, str | None]


@dataclass(frozen=True)
class Origin:
    """Where a backup comes from. What is not known is ``None``.

    :param commit: the git commit that the project folder was at.
    :param branch: its git branch; none when no branch was checked out.
    :param where: for people: the container, the host and port, or the folder.
    :param project: the project folder.
    :param settings: those that the backup was made with; no secrets.
    """

    commit: str | None = None
    where: str | None = None
    project: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    branch: str | None = None


@dataclass(frozen=True)
class Drill:
    """A restore of the backup into a scratch database: rows per table, and seconds."""

    rows: Mapping[str, int]
    duration_s: float


@dataclass(frozen=True)
class Backup:
    """A backup, as its manifest describes it.

    :param created_at: UTC.
    :param size: bytes of the file.
    :param sha256: of the file; empty when there is no manifest.
    :param verified: the checks that it passed, out of complete, sha256, archive, drill.
    :param duration_s: seconds that the backup took.
    :param host: of a server on another machine.
    :param facts: what the database said of itself when it was backed up.
    :param drill: the last one that it passed.
    :param partial: patterns of tables whose rows were left out; it is not a whole backup.
    :param pulled: `db.pull` copied it from another database, unscrubbed.
    :param problem: why nothing in the manifest counts; empty when it does.
    """

    name: str
    path: Path
    database: str
    backend: str
    format: str
    created_at: datetime
    size: int
    label: str | None = None
    sha256: str = ""
    via: str | None = None
    tool_version: str | None = None
    pinned: bool = False
    verified: tuple[str, ...] = ()
    duration_s: float | None = None
    host: str | None = None
    facts: Facts = field(default_factory=Facts)
    origin: Origin = field(default_factory=Origin)
    drill: Drill | None = None
    partial: tuple[str, ...] = ()
    pulled: bool = False
    problem: str = ""

    @property
    def server_version(self) -> str | None:
        return self.facts.server_version

    @property
    def system_identifier(self) -> str | None:
        return self.facts.system_identifier

    @property
    def identity(self) -> Identity:
        return self.backend, self.database, self.host

    @property
    def is_verified(self) -> bool:
        """Whether it counts for prune and ``--latest``: whole, and with a checksum."""
        return {"complete", "sha256"} <= set(self.verified)

    @property
    def is_guest(self) -> bool:
        """Whether it is of another database, although it may have the identity of the own."""
        return self.pulled and self.host is None

    @property
    def manifest(self) -> Path:
        return manifest_of(self.path)

    def is_from_other_project(self, project: Path | None) -> bool:
        """Whether another project made it, one whose folder is on this machine. A project
        folder that is missing may be this one before it moved, or a colleague's."""
        made = self.origin.project
        return bool(project and made and made != str(project) and Path(made).is_dir())

    def is_same_database_as(self, other: Backup) -> bool:
        """Whether both are of the same database, given that its name is the same: from the
        same server (SQLite: with the same id), whichever checkout made them. Without both
        identifiers, the project folders must not differ."""
        if self.is_guest != other.is_guest:  # a copied server has the identifier of its original
            return False
        if not (self.system_identifier and other.system_identifier):
            return _may_agree(self.origin.project, other.origin.project)
        if self.system_identifier != other.system_identifier:
            return False
        # A server on a copied volume has the identifier of the original.
        return (
            self.backend == "sqlite"
            or _may_agree(self.origin.project, other.origin.project)
            or _may_agree(self.origin.where, other.origin.where)
        )

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` shows: times as ISO 8601 in UTC, sizes in bytes."""
        made = {"where": self.origin.where, "commit": self.origin.commit}
        made |= {"branch": self.origin.branch, "migration": self.facts.migration}
        made |= {"problem": self.problem or None}
        return self.recorded() | made

    def recorded(self) -> dict[str, Any]:
        """What stands at the top of a manifest, and at the beginning of ``--json``."""
        shown = {name: getattr(self, name) for name in SHOWN}
        when = self.created_at.isoformat().replace("+00:00", "Z")
        return {**shown, "path": str(self.path), "created_at": when} | {
            name: [*shown[name]] for name in ("verified", "partial")
        }


def _may_agree(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def is_ahead(backup: Backup) -> bool:
    """Whether it is dated in the future, so that its time says nothing about its order."""
    return backup.created_at > datetime.now(UTC) + timedelta(minutes=1)
