"""The folder of backups: their names, publishing, listing, deleting, and the lock.

A backup appears by one rename, after its manifest. A manifest without its backup, which a
kill between the two leaves, is invisible and swept by the next run; deleting goes the
same way backwards. So at no time does a name stand for half a backup.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from repom.dbops.files import create_private, make_private_folder, remove, sha256, sync, sync_folder
from repom.errors import CommandFailed, Damaged, NotFound, Refused, SettingsError, advice

from .backup import Backup, Identity, is_ahead, manifest_of
from .lock import DOING, NOTE, SESSION
from .manifest import LIST, contents, guess, read, serialized
from .names import EXTENSIONS, NAME, TIME, check_label, encoded, is_own_name, number_of
from .storage import disk_error, is_plain_file, shown_size

log = logging.getLogger("repom")


class Store:
    """The backups in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- writing ------------------------------------------------------------------------

    def next_name(self, database: str, format: str, label: str | None, now: datetime) -> str:
        """The name of a backup that is made now: ``<database>_<UTC time>[_label].<ext>``.

        :raises SettingsError: the label is not one.
        """
        check_label(label)
        start = f"{encoded(database)}_{now.strftime(TIME)}"
        number = 1 + max(map(number_of, self._started(start)), default=0)
        while True:
            time = f"{start}-{number}" if number > 1 else start
            name = f"{time}{f'_{label}' if label else ''}.{EXTENSIONS[format]}"
            path = self.folder / name
            # A link that leads nowhere has its name all the same.
            if not any(map(os.path.lexists, (path, manifest_of(path), self._partial(name)))):
                return name
            number += 1

    def _started(self, start: str) -> list[str]:
        """Names of the same database and second. A number that prune has freed is not
        given again while later ones are there, else the newest would not be the last."""
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        same = re.compile(re.escape(start) + r"[-_.]")
        return [n for n in names if same.match(n) and NAME.fullmatch(n)]

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A private file that becomes the backup `name` when it is published, and is
        removed when it is not.

        :raises CommandFailed: the folder cannot be written to, or the disk is full.
        """
        partial = self._partial(name)
        try:
            self._make_folder()
            with create_private(partial) as file:
                yield file
        except OSError as error:
            raise disk_error(error, self.folder) from None
        except CommandFailed as error:  # a program's word for it, which does not say where
            if "no space left" in error.stderr.lower() and self._is_full():
                raise disk_error(OSError(errno.ENOSPC, "No space left"), self.folder) from None
            raise
        finally:
            with suppress(OSError):
                remove(partial)

    def _is_full(self) -> bool:
        return shutil.disk_usage(self.folder).free < 1 << 20

    def check_space(self, needed: int) -> None:
        """:raises Refused: the disk has less room than a backup will take, in bytes."""
        self._make_folder()
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise Refused(
                f"{self.folder} has {shown_size(free)} free, and a backup takes about"
                f" {shown_size(needed)}",
                "Free some space, or set REPOM_BACKUP_DIR to another disk",
            )

    def publish(self, file: BinaryIO, backup: Backup) -> Backup:
        """Give the whole, checked file its name, with a manifest; both are on the disk
        when this returns.

        :param backup: all but `size` and `sha256`, which are taken from the file.
        """
        sync(file)
        size = os.fstat(file.fileno()).st_size
        verified = ("complete", "sha256")
        backup = replace(backup, size=size, sha256=sha256(file), verified=verified)
        if os.path.lexists(backup.path) or os.path.lexists(backup.manifest):
            raise CommandFailed(f"{backup.name} exists already", "Nothing was overwritten")
        self._write_manifest(backup)
        try:
            file.close()  # Windows renames no open file
            self._partial(backup.name).rename(backup.path)
        except BaseException:
            remove(backup.manifest)
            raise
        sync_folder(self.folder)
        return backup

    def update(self, backup: Backup) -> Backup:
        """Write the manifest of a backup anew: it was pinned or checked."""
        self._write_manifest(backup)
        sync_folder(backup.path.parent)
        return backup

    def _write_manifest(self, backup: Backup) -> None:
        partial = backup.path.with_name(f".{backup.name}.json.partial")
        remove(partial)
        with create_private(partial) as file:
            file.write(serialized(backup))
            sync(file)
        partial.replace(backup.manifest)

    def _partial(self, name: str) -> Path:
        return self.folder / f".{name}.partial"

    def _make_folder(self) -> None:
        """The folder, out of version control. One that has other files in it may be a
        part of the project, so nothing is hidden there."""
        make_private_folder(self.folder)
        ignore = self.folder / ".gitignore"
        if os.path.lexists(ignore) or not all(is_own_name(p.name) for p in self.folder.iterdir()):
            return
        with suppress(OSError), create_private(ignore) as file:
            file.write(b"*\n")

    # -- reading ------------------------------------------------------------------------

    def backups(self, identity: Identity | None = None) -> list[Backup]:
        """All backups, or those of one database, newest first. Files that repom could
        not have named are not there; those without a good manifest are not verified."""
        found = [self._read_or_guess(path) for path in self._paths()]
        wanted = [b for b in found if identity is None or b.identity == identity]
        return sorted(wanted, key=lambda b: (b.created_at, number_of(b.name)), reverse=True)

    def latest(
        self,
        identity: Identity,
        project: Path | None = None,
        system: Callable[[], str | None] = lambda: None,
    ) -> Backup:
        """The newest proven backup: of this server first, then of this project, then any,
        since a server that was made anew takes the old one's backups.

        :param project: whose backups come before those of other projects.
        :param system: identifies the server; called only when backups of several servers or
            projects are there.
        :raises NotFound: there is no proven backup of this database.
        """
        every = self.backups(identity)
        proven = [b for b in every if b.is_verified]
        dated = [b for b in proven if not is_ahead(b)] or proven
        if not dated:
            raise NotFound(
                f"There is no verified backup of {identity[1]} in {self.folder}",
                advice("Make one with: {}", "db.backup"),
            )
        chosen = _nearest(dated, project, system)
        for newer in every[: every.index(chosen)]:
            log.warning("Left out: %s (%s)", newer.name, _why_left_out(newer))
        if chosen.is_from_other_project(project):
            log.warning("%s was made in %s", chosen.name, chosen.origin.project)
        return chosen

    def find(self, name: str, which: Identity | None = None) -> Backup:
        """A backup by its name in the store, with or without its extension, by its label
        or by an unambiguous beginning; or any file by its path.

        :param which: the database whose backups come first.
        :raises SettingsError: it is empty, or several backups are meant.
        :raises NotFound: there is none.
        :raises Damaged: its manifest is not what was written.
        """
        if name == "":
            raise SettingsError("--backup is empty", "Name a backup, its label or a file")
        outside = _outside(name)
        if {"/", os.sep} & set(name) or "\0" in name:
            found: list[Path] = []
        else:
            found = self._named(name, which, beginnings=outside is None)
        if len(found) > 1 or (found and outside and found[0].name != name):
            raise _ambiguous(name, found, outside)
        if found or outside:
            return read(found[0] if found else Path(str(outside)))
        raise NotFound(f"There is no backup {name}", LIST)

    def _named(self, name: str, which: Identity | None, *, beginnings: bool) -> list[Path]:
        """Files of backups that `name` may mean, by the first of its meanings that fits."""
        every = {p.name: NAME.fullmatch(p.name) for p in self._paths()}
        named = {n: m for n, m in every.items() if m}
        for meant in (
            [n for n in named if n == name],
            [n for n, m in named.items() if n == f"{name}.{m['extension']}"],
            [n for n, m in named.items() if m["label"] == name],
            [n for n in named if beginnings and n.startswith(name)],
        ):
            paths = [self.folder / n for n in sorted(meant)]
            own = [p for p in paths if self._read_or_guess(p).identity == which]
            if paths:
                return own if len(own) == 1 else paths
        return []

    def _paths(self) -> list[Path]:
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return [p for p in entries if NAME.fullmatch(p.name) and is_plain_file(p)]

    def _read_or_guess(self, path: Path) -> Backup:
        """A backup that is not as long as it was does not count, either."""
        try:
            found = read(path)
        except Damaged as error:
            return replace(guess(path), problem=error.message)
        if not found.is_verified or found.has_its_size:
            return found
        return replace(found, verified=(), problem=f"{path.name} has not the size it had")

    # -- deleting -----------------------------------------------------------------------

    def delete(self, backup: Backup) -> None:
        """Remove a backup, its manifest first: what a crash leaves is no backup any more.

        :raises CommandFailed: the folder does not let it go.
        """
        try:
            remove(backup.manifest)
            self._remove_data(backup)
            sync_folder(self.folder)
        except OSError as error:
            raise disk_error(error, self.folder) from None

    def _remove_data(self, backup: Backup) -> None:
        try:
            remove(backup.path)
        except OSError:
            with suppress(OSError):
                self._write_manifest(backup)  # it is still there, and still a backup
            raise

    def sweep(self, database: str) -> None:
        """Remove what killed runs left of this database. Only while holding its lock."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            partial = re.fullmatch(
                r"\.(.+?)(\.json|\.copy)?\.partial(-wal|-shm|-journal)?", path.name
            )
            # A link that leads nowhere may lead to a disk that is not there today.
            alone = path.name.endswith(".json") and not os.path.lexists(path.with_suffix(""))
            stem = partial[1] if partial else path.name.removesuffix(".json") if alone else ""
            stem = stem.removesuffix(".partial")
            named = NAME.fullmatch(stem)
            if named and named["database"] == encoded(database):
                with suppress(OSError):  # such as for a folder
                    remove(path)

    # -- the lock -----------------------------------------------------------------------

    @contextmanager
    def lock(
        self, database: str, doing: str, session: str = "", *, wait: float = 0
    ) -> Iterator[str]:
        """Only one operation on a database at a time, across processes. The kernel holds
        the lock, so a killed holder blocks nobody.

        :param doing: what for, for whoever finds it locked.
        :param session: what the holder's sessions in the server are called; a holder
            without any leaves the note of a killed one to those who can end its sessions.
        :param wait: seconds to wait for another holder.
        :returns: the session of a holder that was killed; empty when there was none.
        :raises Refused: somebody else has it; says who.
        """
        lock = self._acquired(database, wait)
        killed = str(self._holder(database).get("session", ""))
        try:
            holder = {"pid": os.getpid(), "doing": doing, "session": session or killed}
            self._write_note(database, holder)
            yield killed
        finally:
            if session or not killed:
                with suppress(OSError):
                    remove(self._note(database))
            with suppress(OSError):
                lock.release()

    def _acquired(self, database: str, wait: float) -> FileLock:
        path = self.folder / f".{encoded(database)}.lock"
        try:
            self._make_folder()
            if os.path.lexists(path) and not is_plain_file(path):
                raise CommandFailed(f"{path} is not a regular file", "Remove it")
            lock = FileLock(path, timeout=wait, mode=0o600)
            lock.acquire()
            return lock
        except Timeout:
            holder = self._holder(database)
            who = f" (process {holder['pid']}, {holder['doing']})" if holder else ""
            raise Refused(
                f"{database} is in use by another repom{who}", "Try again when it has finished"
            ) from None
        except OSError as error:
            raise disk_error(error, self.folder) from None

    def _note(self, database: str) -> Path:
        """Who holds the lock: beside it, since Windows lets nobody read a locked file."""
        return self.folder / f".{encoded(database)}.holder"

    def _write_note(self, database: str, holder: Mapping[str, Any]) -> None:
        with suppress(OSError):
            remove(self._note(database))
            with create_private(self._note(database)) as file:
                file.write(json.dumps(holder).encode())

    def _holder(self, database: str) -> dict[str, Any]:
        """What the note says. Others may have written it, and the sessions that it names
        are ended, so it counts only if this code could have written it."""
        try:
            found = json.loads(contents(self._note(database), NOTE))
            pid, doing, session = (found[key] for key in ("pid", "doing", "session"))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        if type(pid) is not int or not (isinstance(doing, str) and DOING.fullmatch(doing)):
            return {}
        named = isinstance(session, str) and SESSION.fullmatch(session)
        return {"pid": pid, "doing": doing, "session": session if named else ""}


def _outside(name: str) -> Path | None:
    """The file, or the directory of `pg_dump -Fd`, that a user named."""
    try:
        path = Path(name).expanduser().resolve()
        there = path.is_file() or (path / "toc.dat").is_file()
    except (RuntimeError, OSError, ValueError):  # no such home, too long, a NUL in it
        return None
    return path if there else None


def _ambiguous(name: str, found: list[Path], outside: Path | None) -> SettingsError:
    names = [*(p.name for p in found[:3]), *(["…"] if found[3:] else [])]
    files = [f"the file {outside}"] if outside else []
    return SettingsError(
        f"--backup {name} may mean {', '.join([*names, *files])}",
        f"Name one of them{' (for the file: its path with a /)' if outside else ''}",
    )


def _nearest(dated: list[Backup], project: Path | None, system: Callable[[], str | None]) -> Backup:
    """The first one of this server, else of this project, else the first."""
    known = {b.system_identifier for b in dated if b.system_identifier}
    shared = bool(known) and any(b.is_from_other_project(project) for b in dated)
    mine = system() if shared or len(known) > 1 else None
    for fits in (
        lambda b: mine is not None and b.system_identifier == mine,
        lambda b: not b.is_from_other_project(project),
        lambda b: True,
    ):
        if chosen := next((b for b in dated if fits(b)), None):
            return chosen
    raise AssertionError("there is one")


def _why_left_out(backup: Backup) -> str:
    if not backup.is_verified:
        return backup.problem or "damaged, or its manifest is missing"
    if is_ahead(backup):
        return "dated in the future"
    made = backup.origin.project
    return f"made in {made}" if made else "of another server"
