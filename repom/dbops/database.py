"""The few verbs that PostgreSQL and SQLite both have, and what they say of a database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import BinaryIO, Protocol

from repom.dbops.archive.archive import Archive
from repom.dbops.archive.hook import Hook


@dataclass(frozen=True)
class Facts:
    """What a database says of itself.

    :param size: bytes it takes in the server, or the size of the SQLite file; 0 when it is
        not known, such as for a dump file without a manifest.
    :param tables: tables, partitions and materialized views, without those of extensions;
        ``None`` when they could not be counted.
    :param locale: what a new database needs to be made alike: encoding, collate, ctype …
    :param roles: roles that own something in it or were granted something.
    :param migration: Alembic's revision, when the database has one.
    """

    server_version: str | None = None
    size: int = 0
    tables: int | None = None
    system_identifier: str | None = None
    extensions: Mapping[str, str] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    locale: Mapping[str, str] = field(default_factory=dict)
    migration: str | None = None


@dataclass(frozen=True)
class Kept:
    """A database that a restore replaced.

    :param name: where it is: a database's name, or a file.
    :param created_at: when it was replaced, UTC.
    :param size: bytes.
    """

    name: str
    database: str
    created_at: datetime
    size: int


@dataclass(frozen=True)
class Survey:
    """What a restore finds, before it touches anything.

    :param exists: whether there is anything to replace.
    :param size: bytes of it.
    :param kept: what earlier restores replaced, newest first.
    :param sessions: who else is connected, and would be disconnected; for people.
    :param notes: what else replacing it would change; whole sentences, for people.
    """

    exists: bool
    size: int
    system_identifier: str | None = None
    kept: tuple[Kept, ...] = ()
    sessions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Database(Protocol):
    """A database that can be backed up and replaced. `name` is what people call it."""

    backend: str
    name: str

    @property
    def via(self) -> str:
        """``docker``, ``host`` or ``file``."""

    @property
    def where(self) -> str:
        """For people: the container, host and port, or the folder that it is in."""

    @property
    def fallback(self) -> str:
        """Why the container is not used although the settings ask for it; else empty."""

    def identify(self) -> Facts:
        """Ask the database for its facts; raises `Unreachable` or `NotFound`."""

    def survey(self) -> Survey:
        """What a restore would find. `load`, `swap` and `sweep` take what was found under
        the lock."""

    def dump(self, file: BinaryIO, format: str, excluded: Sequence[str] = ()) -> None:
        """Write all of it to `file`, which holds a whole backup when this returns.

        :param excluded: patterns of tables whose rows are left out.
        """

    def read(self, archive: Archive) -> None:
        """Read an archive to its end without restoring it; raises `Damaged`."""

    def load(
        self,
        found: Survey,
        archive: Archive,
        facts: Facts | None,
        *,
        owner: bool = True,
        replacing: bool = True,
        hooks: Sequence[Hook] = (),
    ) -> str:
        """Load the archive into a new scratch database, check it, and return its name.

        :param facts: of the manifest, when there is one.
        :param owner: restore owners and grants.
        :param replacing: the scratch database is to take the database's place.
        :param hooks: run in it at the end, each in one transaction.
        """

    def rows(self, scratch: str) -> dict[str, int]:
        """Rows of each table of a scratch database."""

    def swap(self, found: Survey, scratch: str, *, keep: int) -> str | None:
        """Give `scratch` the database's name at once.

        :param keep: how many replaced databases stay, this one included.
        :returns: where the replaced one is kept; nothing when none is.
        """

    def discard(self, scratch: str) -> None:
        """Remove a scratch database or a kept one. Never raises for one that is gone."""

    def sweep(self, found: Survey) -> None:
        """Remove what killed runs left behind."""

    @property
    def session(self) -> str:
        """What this run's sessions in the server are called; empty without a server."""

    def exclusive(self, doing: str) -> AbstractContextManager[None]:
        """Hold the lock that keeps others from replacing this database meanwhile, also
        from another checkout with another store.

        :param doing: the verb, for the message to another process that finds it locked.
        :raises Refused: at once, when another process holds it; says who.
        """

    def abort(self, session: str | None = None) -> None:
        """End what this run, or the one of `session`, still has going on in the server."""

    def close(self) -> None:
        """End what is kept open for questions; the next question opens it again."""

    def shell(self) -> int:
        """A shell on this terminal; returns its exit status."""
