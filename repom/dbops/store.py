"""The folder of backups: their names, publishing, listing, deleting, and the lock.

A backup appears by one rename, after its manifest. A manifest without its backup, which a
kill between the two leaves, is invisible and swept by the next run; deleting goes the
same way backwards. So at no time does a name stand for half a backup.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from filelock import FileLock, Timeout

from ..errors import CommandFailed, Damaged, NoSpace, NotFound, Refused, SettingsError, advice
from .files import create_private, make_private_folder, remove, sha256, sync, sync_folder

log = logging.getLogger("repom")

EXTENSIONS = {"custom": "dump", "plain": "sql.gz", "sqlite": "sqlite3.zst"}
TIME = "%Y%m%dT%H%M%SZ"
LABEL = re.compile(r"[A-Za-z0-9.-]{1,40}")
NAME = re.compile(
    r"(?P<database>[A-Za-z0-9%_-][A-Za-z0-9%._-]*)_(?P<time>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?"
    r"(?:_(?P<label>[A-Za-z0-9.-]{1,40}))?\.(?P<extension>dump|sql\.gz|sqlite3\.zst)"
)

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
)

#: Why prune leaves a backup of the same name.
FROM_ELSEWHERE = "of another server or project"

#: Bytes of an encoded database's name: with time, number, label and extension, and with
#: what temporary files add, a file's name stays below the 255 that file systems allow.
LONGEST = 150
NOTE = 4096  # bytes of a lock's note that are read
MANIFEST = 1 << 24  # bytes of a manifest that are read
SESSION = re.compile(r"repom-[0-9a-f]{8}")
DOING = re.compile(r"[a-z -]{1,20}")
ANOTHER = advice("Restore another backup; list them with: {}", "db.list")
LIST = advice("Run: {}", "db.list")
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class ReadOnlyStore(CommandFailed):
    """The folder of backups cannot be written to; reading goes on."""


#: A database's backend, its name, and its server when that is another machine. Two
#: backups are of the same database when these are the same.
Identity = tuple[str, str, str | None]


@dataclass(frozen=True)
class Backup:
    """A backup, as its manifest describes it.

    :param created_at: UTC.
    :param size: bytes of the file.
    :param sha256: of the file; empty when there is no manifest.
    :param verified: the checks that it passed, out of complete, sha256, archive, drill.
    :param duration_s: seconds that the backup took.
    :param host: of a server on another machine.
    :param facts: what the database said of itself then: see `repom.dbops.database.Facts`.
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
    server_version: str | None = None
    tool_version: str | None = None
    system_identifier: str | None = None
    pinned: bool = False
    verified: tuple[str, ...] = ()
    duration_s: float | None = None
    host: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def identity(self) -> Identity:
        return self.backend, self.database, self.host

    @property
    def counts(self) -> bool:
        """Whether it is proven enough for prune, ``--latest`` and the floor."""
        return {"complete", "sha256"} <= set(self.verified)

    @property
    def manifest(self) -> Path:
        return manifest_of(self.path)

    @property
    def has_its_size(self) -> bool:
        """Whether the file is as long as it was; the rest takes reading it."""
        with suppress(OSError):
            return self.path.stat().st_size == self.size
        return False

    def is_of_another(self, project: Path | None) -> bool:
        """Whether another project made it, one whose folder is on this machine. A folder
        that is not here was this one, before it moved, or is a colleague's of this name."""
        made = self.facts.get("project")
        return bool(project and made and made != str(project) and Path(made).is_dir())

    def is_like(self, other: Backup) -> bool:
        """Whether it is of the same database as another one of this name: from the same
        server (SQLite: the same project's id), whichever checkout made it. Where one of
        the two is not known, nothing known may speak against one project folder."""
        if not (self.system_identifier and other.system_identifier):
            return self._agrees(other, "project")
        if self.system_identifier != other.system_identifier:
            return False
        # A server on a copied volume has the identifier of the original.
        return self.backend == "sqlite" or any(self._agrees(other, k) for k in ("project", "where"))

    def _agrees(self, other: Backup, fact: str) -> bool:
        """Whether nothing known speaks against the same value of a fact."""
        mine, theirs = self.facts.get(fact), other.facts.get(fact)
        return mine is None or theirs is None or mine == theirs

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` shows: times as ISO 8601 in UTC, sizes in bytes."""
        shown = {name: getattr(self, name) for name in SHOWN}
        when = self.created_at.isoformat().replace("+00:00", "Z")
        return {**shown, "path": str(self.path), "created_at": when, "verified": [*self.verified]}


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def encoded(database: str) -> str:
    """A database's name as part of a file's name: percent-encoded outside
    ``[A-Za-z0-9._-]``, and never a hidden file. One that is too long for a file's name is
    cut and gets a checksum; the manifest has the whole name."""
    safe = quote(database, safe="").replace("~", "%7E")
    safe = f"%2E{safe[1:]}" if safe.startswith(".") else safe
    if len(safe) <= LONGEST:
        return safe
    return f"{safe[: LONGEST - 17]}-{hashlib.sha256(safe.encode()).hexdigest()[:16]}"


def check_label(label: object) -> None:
    """:raises SettingsError: it is given, and cannot be a part of a backup's name."""
    if label is not None and not (isinstance(label, str) and LABEL.fullmatch(label)):
        raise SettingsError(f"--label is {label!r}", "Allowed: 1 to 40 of A-Z a-z 0-9 . -")


def number_of(name: str) -> int:
    """Which one in its second: 1, or the 2 of ``…Z-2``."""
    named = NAME.fullmatch(name)
    return int(named["number"] or 1) if named else 0


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
                f"{self.folder} has {_size(free)} free, and a backup takes about {_size(needed)}",
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
        content = {**backup.as_json(), "host": backup.host, "facts": dict(backup.facts)}
        del content["path"]
        content["checksum"] = checksum(content)
        partial = backup.path.with_name(f".{backup.name}.json.partial")
        remove(partial)
        with create_private(partial) as file:
            file.write(spelled(content))
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
        not have named are not there; those without a good manifest are not `counts`."""
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
        proven = [b for b in every if b.counts]
        dated = [b for b in proven if not is_ahead(b)] or proven
        if not dated:
            raise NotFound(
                f"There is no verified backup of {identity[1]} in {self.folder}",
                advice("Make one with: {}", "db.backup"),
            )
        chosen = _nearest(dated, project, system)
        for newer in every[: every.index(chosen)]:
            log.warning("Left out: %s (%s)", newer.name, _why_left_out(newer))
        if chosen.is_of_another(project):
            log.warning("%s was made in %s", chosen.name, chosen.facts["project"])
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
        if not found.counts or found.has_its_size:
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


def contents(path: Path, most: int) -> bytes:
    """What is in a regular file, at most `most` bytes of it. Nothing else is waited for or
    followed: somebody may have put a pipe or a link in its place.

    :raises OSError: it is not one, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read(most)


def is_own_name(name: str) -> bool:
    """Whether repom could have written a file of this name into the store."""
    return bool(
        NAME.fullmatch(name.removesuffix(".json"))
        or re.fullmatch(r"\..*\.(lock|holder|partial)", name)
    )


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
    shared = bool(known) and any(b.is_of_another(project) for b in dated)
    mine = system() if shared or len(known) > 1 else None
    for fits in (
        lambda b: mine is not None and b.system_identifier == mine,
        lambda b: not b.is_of_another(project),
        lambda b: True,
    ):
        if chosen := next((b for b in dated if fits(b)), None):
            return chosen
    raise AssertionError("there is one")


def read(path: Path) -> Backup:
    """A backup with its manifest; a file without one is described by its name alone.

    :raises Damaged: there is a manifest, and it is not what was written.
    """
    try:
        raw = contents(manifest_of(path), MANIFEST)
        content = json.loads(raw)
        whole = spelled(content) == raw and content.pop("checksum") == checksum(content)
        if whole:
            return _described(path, content)
    except FileNotFoundError:
        return guess(path)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        pass
    raise Damaged(
        f"The manifest of {path.name} is damaged",
        "Restore another backup, or remove the manifest to restore it unverified",
    )


def _described(path: Path, content: Mapping[str, Any]) -> Backup:
    """:raises TypeError, KeyError, ValueError: the manifest is not one of a backup."""
    for name, fits in MANIFEST_FIELDS.items():
        if not fits(content[name]):
            raise TypeError(name)
    for name, fits in FACTS.items():
        if not fits(content["facts"].get(name)):
            raise TypeError(name)
    names = {f.name for f in fields(Backup)} - {"problem"}
    known = {key: value for key, value in content.items() if key in names}
    when = datetime.fromisoformat(content["created_at"].replace("Z", "+00:00"))
    known |= {"created_at": when.astimezone(UTC), "verified": tuple(content["verified"])}
    return Backup(**{**known, "name": path.name, "path": path})


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_text_mapping(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _may_be(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


#: What a manifest's fields must be: whoever writes one can also write its checksum.
MANIFEST_FIELDS: dict[str, Callable[[Any], bool]] = {
    "database": _is_text,
    "backend": lambda value: value in ("postgresql", "sqlite"),
    "format": lambda value: isinstance(value, str) and value in EXTENSIONS,
    "created_at": lambda value: bool(datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo),
    "size": _is_count,
    "label": _is_text_or_none,
    "sha256": lambda value: bool(re.fullmatch(r"[0-9a-f]{64}", value)),
    "via": _is_text_or_none,
    "server_version": _is_text_or_none,
    "tool_version": _is_text_or_none,
    "system_identifier": _is_text_or_none,
    "pinned": lambda value: isinstance(value, bool),
    "verified": _is_texts,
    "duration_s": lambda value: value is None or type(value) in (int, float),
    "host": _is_text_or_none,
    "facts": _is_mapping,
}
#: The same of what is known of the database; each may be missing.
FACTS: dict[str, Callable[[object], bool]] = {
    "size": _may_be(_is_count),
    "tables": _may_be(_is_count),
    "extensions": _may_be(_is_text_mapping),
    "roles": _may_be(_is_texts),
    "locale": _may_be(_is_text_mapping),
    "project": _is_text_or_none,
    "where": _is_text_or_none,
    "migration": _is_text_or_none,
    "commit": _is_text_or_none,
    "settings": _may_be(_is_mapping),
    "drill": _may_be(_is_mapping),
}


def guess(path: Path) -> Backup:
    """What a file's name and size say; it can be readable, never verified."""
    named = NAME.fullmatch(path.name)
    formats = {extension: format for format, extension in EXTENSIONS.items()}
    format = formats[named["extension"]] if named else ""
    stat = path.stat()
    when = datetime.fromtimestamp(stat.st_mtime, UTC)
    if named:
        with suppress(ValueError):
            when = datetime.strptime(named["time"], TIME).replace(tzinfo=UTC)
    return Backup(
        name=path.name,
        path=path,
        database=_decoded(named["database"]) if named else "",
        backend="sqlite" if format == "sqlite" else "postgresql" if format else "",
        format=format,
        created_at=when,
        size=stat.st_size,
        label=named["label"] if named else None,
    )


def _decoded(name: str) -> str:
    from urllib.parse import unquote

    return unquote(name)


def spelled(content: Mapping[str, Any]) -> bytes:
    """A manifest's bytes; there is no other spelling, so that every flipped bit shows."""
    return json.dumps(content, indent=2).encode()


def checksum(content: Mapping[str, Any]) -> str:
    """Of a manifest's other fields, in one spelling: a flipped bit in any of them shows."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check(backup: Backup) -> None:
    """Compare a backup's file with its manifest: size first, then every byte.

    :raises NotFound: the file is gone.
    :raises Damaged: they differ.
    """
    try:
        size = backup.path.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"{backup.path} is gone", LIST) from None
    if size != backup.size:
        raise Damaged(f"{backup.name} has {size} bytes instead of {backup.size}", ANOTHER)
    if not backup.sha256:
        return
    with backup.path.open("rb") as file:
        if sha256(file) != backup.sha256:
            raise Damaged(f"{backup.name} has been altered: its checksum differs", ANOTHER)


def is_whole(backup: Backup) -> bool:
    """Whether a backup is still what its manifest says; tells when it is not."""
    try:
        check(backup)
        return True
    except (Damaged, NotFound) as error:
        log.warning("%s", error.message)
        return False


@dataclass(frozen=True)
class Pruned:
    """Which backups of a database stay and which go, each with its reason."""

    kept: tuple[tuple[Backup, str], ...]
    deleted: tuple[tuple[Backup, str], ...]


def plan_prune(
    backups: Iterable[Backup],
    *,
    keep: int | None,
    days: int | None = None,
    like: Backup | None = None,
    more: Sequence[Backup] = (),
) -> Pruned:
    """Decide over one database's backups, given newest first.

    Only proven ones go; pinned ones stay on top of `keep`; at least one proven one stays.

    :param keep: how many stay; ``None`` when only age counts.
    :param days: how many days old one must be to go, counted from the newest backup and
        not from the clock, which may be wrong. With `keep`, both must agree.
    :param like: only backups that are `Backup.is_like` this one go.
    :param more: and those that are like one of these.
    """
    kept: list[tuple[Backup, str]] = []
    gone: list[tuple[Backup, str]] = []
    counted = [b for b in backups if b.counts]
    own = [b for b in counted if like is None or any(map(b.is_like, (like, *more)))]
    kept += [(b, FROM_ELSEWHERE) for b in counted if b not in own]
    kept += [(b, "pinned") for b in own if b.pinned]
    kept += [(b, "dated in the future") for b in own if is_ahead(b) and not b.pinned]
    dated = [b for b in own if not is_ahead(b)]
    least, rank = max(1, keep or 1), 0
    # One without a table pushes none out that has some: it may be what an accident left.
    filled = [b for b in dated if b.facts.get("tables") != 0] or dated
    for each in (b for b in dated if not b.pinned):
        rank += each in filled
        if rank <= least - (each not in filled):
            kept.append((each, f"among the newest {least}"))
        elif days is not None and dated[0].created_at - each.created_at < timedelta(days=days):
            kept.append((each, f"younger than {days} days"))
        else:
            gone.append((each, _why_gone(keep, days)))
    return Pruned(tuple(kept), tuple(gone))


def _why_gone(keep: int | None, days: int | None) -> str:
    why = [f"not among the newest {keep}"] if keep else []
    return " and ".join([*why, *([f"older than {days} days"] if days is not None else [])])


def prune(
    target: Store,
    which: Identity,
    *,
    keep: int | None,
    days: int | None = None,
    dry: bool = False,
    thorough: bool = False,
    like: Backup | None = None,
    more: Sequence[Backup] = (),
) -> Pruned:
    """Delete what `plan_prune` says. One that cannot be deleted does not stop the others;
    it is told in a warning, and is not among the deleted ones.

    :param thorough: read those that stay, since a damaged one must not push a good one
        out; needless right after a backup, whose own checks hold the floor.
    :param like: one that never goes, and only backups like it do. A clock that was ahead
        once makes the backup that was just made look old.
    """
    backups = target.backups(which)
    plan = plan_prune(backups, keep=keep, days=days, like=like, more=more)
    while thorough and plan.deleted:
        bad = {b.name for b, _reason in plan.kept if not is_whole(b)}
        if not bad:
            break
        backups = [b for b in backups if b.name not in bad]
        plan = plan_prune(backups, keep=keep, days=days, like=like, more=more)
    going = [d for d in plan.deleted if like is None or d[0].name != like.name]
    deleted = [d for d in going if dry or _deleted(target, d[0])]
    return Pruned(plan.kept, tuple(deleted))


def _why_left_out(backup: Backup) -> str:
    if not backup.counts:
        return backup.problem or "damaged, or its manifest is missing"
    if is_ahead(backup):
        return "dated in the future"
    made = backup.facts.get("project")
    return f"made in {made}" if made else "of another server"


def is_ahead(backup: Backup) -> bool:
    """Whether it is dated in the future, so that its time says nothing about its order."""
    return backup.created_at > datetime.now(UTC) + timedelta(minutes=1)


def _deleted(target: Store, backup: Backup) -> bool:
    try:
        target.delete(backup)
        return True
    except CommandFailed as error:
        log.warning("%s could not be deleted: %s", backup.name, error)
        return False


def is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def disk_error(error: OSError, folder: Path) -> CommandFailed:
    """An error of the file system in one line, with what to do."""
    hints = {
        errno.ENOSPC: "Free some space, or set REPOM_BACKUP_DIR to another disk",
        errno.EDQUOT: "Free some space, or set REPOM_BACKUP_DIR to another disk",
    }
    text = error.strerror or str(error)
    where = "Set REPOM_BACKUP_DIR to a folder that can be written to"
    if error.errno in READ_ONLY:
        return ReadOnlyStore(f"{folder}: {text}", where)
    kind = NoSpace if error.errno in hints else CommandFailed
    return kind(f"{folder}: {text}", hints.get(error.errno or 0, where))


def _size(count: int) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} bytes"
