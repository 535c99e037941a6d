"""The backups in a storage: publishing, listing, finding and deleting them.

The manifest is put before the data and deleted after it. What a kill between the two
leaves is a manifest alone, which is invisible until the next run sweeps it. So at no time
does a name stand for half a backup.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from repom.dbops.files import sha256, sync
from repom.errors import CommandFailed, Damaged, NotFound, SettingsError, advice

from .backup import Backup, Identity, is_ahead
from .manifest import guess, load, read, serialized
from .names import NAME, check_label, encoded, next_name, number_of
from .storage import Entry, Folder, Storage

log = logging.getLogger("repom")


class Store:
    """The backups in a folder, or in a storage that stands for it.

    :param folder: where the backups lie for people.
    """

    def __init__(self, folder: Path, storage: Storage | None = None) -> None:
        self.folder = folder
        self.storage = storage or Folder(folder)

    # -- writing ------------------------------------------------------------------------

    @staticmethod
    def check_label(label: str | None) -> None:
        """:raises SettingsError: the label is not allowed in a name."""
        check_label(label)

    def next_name(self, database: str, format: str, label: str | None, now: datetime) -> str:
        """The name of a backup that is made now.

        :raises SettingsError: the label is not allowed.
        """
        return next_name(self.storage.entries(), database, format, label, now)

    def writing(self, name: str, needed: int = 0) -> AbstractContextManager[BinaryIO]:
        """A private file, which `publish` turns into the backup `name`; without, nothing
        is left of it.

        :param needed: bytes that it will take about.
        :raises Refused: fewer are free.
        :raises CommandFailed: the folder cannot be written to, or the disk is full.
        """
        return self.storage.draft(name, needed)

    def publish(self, file: BinaryIO, backup: Backup) -> Backup:
        """Give the whole, checked file its name, with a manifest; both survive a power cut
        when this returns. When it raises, neither is there.

        :param backup: all but `size` and `sha256`, which are taken from the file.
        :raises CommandFailed: the name is taken.
        """
        sync(file)
        size, verified = os.fstat(file.fileno()).st_size, ("complete", "sha256")
        backup = replace(backup, size=size, sha256=sha256(file), verified=verified)
        if self.storage.entries().get(backup.name):
            raise CommandFailed(f"{backup.name} exists already", "Nothing was overwritten")
        self._put_manifest(backup)
        try:
            self.storage.put(backup.name, file)
        except BaseException:
            with suppress(CommandFailed):
                self.storage.delete(backup.manifest.name)
            raise
        return backup

    def update(self, backup: Backup) -> Backup:
        """Write the manifest of a backup anew: it was pinned or checked."""
        self._put_manifest(backup, replace=True)
        return backup

    def _put_manifest(self, backup: Backup, *, replace: bool = False) -> None:
        name = backup.manifest.name
        self.storage.sweep(lambda left: left == name)
        with self.storage.draft(name) as file:
            file.write(serialized(backup))
            self.storage.put(name, file, replace=replace)

    # -- reading ------------------------------------------------------------------------

    def backups(self, identity: Identity | None = None) -> list[Backup]:
        """All backups, or those of one database, newest first. Files that repom could
        not have named are not there; those without a good manifest are not verified."""
        found = [self._described(name, entry) for name, entry in self._entries().items()]
        wanted = [b for b in found if identity is None or b.identity == identity]
        return sorted(wanted, key=lambda b: (b.created_at, number_of(b.name)), reverse=True)

    def latest(
        self,
        identity: Identity,
        project: Path | None = None,
        system: Callable[[], str | None] = lambda: None,
    ) -> Backup:
        """The newest verified, whole backup: of this server first, then of this project,
        then any, since a server that was made anew takes the old one's backups.

        :param project: whose backups come before those of other projects.
        :param system: identifies the server; called only when backups of several servers or
            projects are there.
        :raises NotFound: there is no verified backup of this database.
        """
        every = [b for b in self.backups() if b.identity[:2] == identity[:2]]
        chosen = latest_of(every, identity, project, system)
        if not chosen:
            left = next((f"; {b.name} is {_why_left_out(b)}" for b in every if b.is_verified), "")
            raise NotFound(
                f"There is no verified backup of {identity[1]} in {self.folder}{left}",
                advice("Make one with: {}", "db.backup"),
            )
        for newer in every[: every.index(chosen)]:
            log.warning("Left out: %s (%s)", newer.name, _why_left_out(newer))
        if chosen.is_from_other_project(project):
            log.warning("%s is a backup of the project in %s", chosen.name, chosen.origin.project)
        return chosen

    def find(self, name: str, identity: Identity | None = None) -> Backup:
        """A backup by its name in the store, with or without its extension, by its label,
        or by an unambiguous beginning of either; or any file by its path.

        :param identity: the database whose backups come first.
        :raises SettingsError: it is empty, or may mean several.
        :raises NotFound: there is none.
        :raises Damaged: its manifest is not what was written.
        """
        if name == "":
            raise SettingsError("--backup is empty", "Name a backup, its label or a file")
        outside = _outside(name)
        is_path = {"/", os.sep} & set(name) or "\0" in name
        found = [] if is_path else self._named(name, identity, beginnings=outside is None)
        if len(found) > 1 or (found and outside and found != [name]):
            raise _ambiguous(name, found, outside)
        if found:
            return load(self.storage, self.folder / found[0])
        if outside:
            return read(outside)
        raise NotFound(f"There is no backup {name}", advice("Run: {}", "db.list"))

    def _named(self, name: str, identity: Identity | None, *, beginnings: bool) -> list[str]:
        """Backups that `name` may mean, by the first of its meanings that fits."""
        entries = self._entries()
        named = {n: m for n in sorted(entries) if (m := NAME.fullmatch(n))}
        for found in (
            [n for n in named if n == name],
            [n for n, m in named.items() if n == f"{name}.{m['extension']}"],
            [n for n, m in named.items() if m["label"] == name],
            [n for n in named if beginnings and n.startswith(name)],
            [n for n, m in named.items() if beginnings and (m["label"] or "").startswith(name)],
        ):
            if found:
                own = [n for n in found if self._described(n, entries[n]).identity == identity]
                return own if len(own) == 1 else found
        return []

    def _entries(self) -> dict[str, Entry]:
        entries = self.storage.entries().items()
        return {name: entry for name, entry in entries if entry and NAME.fullmatch(name)}

    def _described(self, name: str, entry: Entry) -> Backup:
        """A backup; one with a damaged manifest or of another size is not verified."""
        path = self.folder / name
        try:
            found = load(self.storage, path, entry)
        except Damaged as error:
            return replace(guess(path, entry), problem=error.message)
        if not found.is_verified or found.size == entry.size:
            return found
        return replace(found, verified=(), problem=f"The size of {name} differs from its manifest")

    def is_whole(self, backup: Backup) -> bool:
        """Whether a backup is still what its manifest says; warns when it is not."""
        try:
            with self.storage.open(backup.name) as file:
                size = file.seek(0, os.SEEK_END)
                whole = size == backup.size and sha256(file) == backup.sha256
        except OSError:
            whole = False
        if not whole:
            log.warning("%s is damaged and does not count as a backup to keep", backup.name)
        return whole

    # -- deleting -----------------------------------------------------------------------

    def delete(self, backup: Backup) -> None:
        """Remove a backup.

        :raises CommandFailed: it could not be removed. While its file is there, it is
            still a backup.
        """
        self.storage.delete(backup.name)
        self.storage.delete(backup.manifest.name)

    def sweep(self, database: str) -> None:
        """Remove what killed runs left of this database. Only while holding its lock."""

        def is_left(name: str) -> bool:
            named = NAME.fullmatch(name.removesuffix(".json"))
            return bool(named and named["database"] == encoded(database))

        self.storage.sweep(is_left)
        taken = self.storage.entries()
        for name in filter(is_left, taken):
            # Data that is a link may lie on a disk that is not there today.
            if name.endswith(".json") and name.removesuffix(".json") not in taken:
                with suppress(CommandFailed):  # such as for a folder
                    self.storage.delete(name)


def _outside(name: str) -> Path | None:
    """The file, or the directory of `pg_dump -Fd`, that a user named."""
    try:
        path = Path(name).expanduser().resolve()
        there = path.is_file() or (path / "toc.dat").is_file()
    except (RuntimeError, OSError, ValueError):  # no such home, too long, a NUL in it
        return None
    return path if there else None


def _ambiguous(name: str, found: Sequence[str], outside: Path | None) -> SettingsError:
    names = [*found[:3], *(["…"] if found[3:] else [])]
    files = [f"the file {outside}"] if outside else []
    return SettingsError(
        f"--backup {name} is ambiguous: {', '.join([*names, *files])}",
        f"Pass one of them{' (for the file, a path with a /)' if outside else ''}",
    )


def latest_of(
    backups: Sequence[Backup],
    identity: Identity,
    project: Path | None,
    system: Callable[[], str | None],
) -> Backup | None:
    """What `Store.latest` takes of these, the newest first: the first one of this server, else
    of this project and host, else the first."""
    named = [b for b in backups if b.identity[:2] == identity[:2]]
    copied = [b for b in named if not b.pulled or (b.host and b.identity == identity)]
    verified = [b for b in copied if b.is_verified and not b.partial]
    dated = [b for b in verified if not is_ahead(b)] or verified
    known = {b.system_identifier for b in dated if b.system_identifier}
    own = [b for b in dated if b.identity == identity and not b.is_from_other_project(project)]
    shared = bool(known) and len(own) < len(dated)
    mine = system() if shared or len(known) > 1 else None
    same_server = [b for b in dated if mine and b.system_identifier == mine]
    return next(iter([*same_server, *own, *dated]), None)


def beginning(name: str, names: Sequence[str], most: int) -> str:
    """What is enough of one of these names for `Store.find`: no extension, and as much of its
    label as fits into `most` characters, as long as no other begins like that."""
    found = NAME.fullmatch(name)
    assert found, "the store lists no other names"
    whole = found.start("extension")  # with the dot, which tells it from …Z-2 and …Z_label
    least = found.start("label") + 1 if found["label"] else whole
    ends = range(max(min(most, whole - 1), least), whole + 1)
    enough = (name[:n] for n in ends if sum(o.startswith(name[:n]) for o in names) == 1)
    return next(enough, name).removesuffix(".")


def _why_left_out(backup: Backup) -> str:
    if not backup.is_verified:
        return backup.problem or "damaged, or its manifest is missing"
    if is_ahead(backup):
        return "dated in the future"
    if backup.pulled:
        return f"pulled from {backup.origin.where or 'another server'}"
    if backup.partial:
        return f"without the rows of {', '.join(backup.partial)}"
    made = backup.origin.project
    return f"made in {made}" if made else "of another server"
