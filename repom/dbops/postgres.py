"""One PostgreSQL database: asking it, dumping it, loading a new one and swapping them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import CommandFailed, Damaged, Refused, RepomError
from . import queries, script
from . import runner as running
from .archive import Archive, major
from .client import Client
from .commands import (
    ARCHIVE_FORMATS,
    LOAD,
    Login,
    dump_argv,
    psql_argv,
    restore_argv,
    restricts,
    script_argv,
    vacuum_argv,
)
from .database import Facts, Kept, Survey
from .failures import best_line
from .runner import HostRunner

log = logging.getLogger("repom")

IN_USE = ("being accessed by other users", "due to lock timeout")
#: Seconds that a swap waits for the drop of what is no longer kept, and bytes of a database
#: beyond which it does not: the drop goes on without anybody.
TIDYING, SLOW_TO_DROP = 0.25, 100_000_000
LARGE = 10_000_000  # bytes of an archive above which statistics are made in parallel


class Postgres:
    """One database of a PostgreSQL server, reached by a runner."""

    backend = "postgresql"

    def __init__(self, runner: HostRunner, login: Login, *, jobs: int = 1) -> None:
        self.client = Client(runner, login)
        self.runner, self.name, self.jobs = runner, login.database, jobs
        self._found: dict[str, Any] = {}

    @property
    def via(self) -> str:
        return self.runner.via

    @property
    def where(self) -> str:
        return self.client.where

    @property
    def fallback(self) -> str:
        return self.runner.fallback

    @property
    def _maintenance(self) -> str:
        """A database to stand in while another one is created or renamed."""
        return "template1" if self.name == "postgres" else "postgres"

    # -- asking -------------------------------------------------------------------------

    def identify(self) -> Facts:
        """:raises Unreachable: no server, wrong login, unknown database, no programs."""
        answer = self.client.first(queries.IDENTIFY, self.name)
        return Facts(
            server_version=answer["server_version"].split()[0],
            size=answer["size"],
            tables=answer["tables"],
            system_identifier=answer["system_identifier"],
            extensions=answer["extensions"],
            roles=tuple(answer["roles"]),
            locale=answer["locale"],
            migration=answer["migration"],
        )

    def survey(self) -> Survey:
        inside = "1" if self.client.in_container else "0"
        variables = {"live": self.name, "inside": inside}
        self._found = self.client.first(queries.SURVEY, self._maintenance, **variables)
        return Survey(
            exists=self._found["exists"],
            size=self._found["size"] or 0,
            system_identifier=self._found["system_identifier"],
            kept=tuple(sorted(self._kept(), key=lambda k: k.created_at, reverse=True)),
        )

    def _kept(self) -> Iterator[Kept]:
        for row, note in self._own("undo"):
            when = datetime.fromisoformat(note["created_at"])
            yield Kept(row["name"], self.name, when, row["size"] or 0)

    def _own(self, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """repom's own databases of this kind that belong to this database."""
        for row in self._found["own"] or ():
            with suppress(ValueError):
                note = json.loads(row["comment"])
                if note.get("kind") == kind and note.get("database") == self.name:
                    yield row, note

    # -- dump ---------------------------------------------------------------------------

    def dump(self, file: BinaryIO, format: str) -> None:
        zstd = self.client.server_major >= 16
        conninfo = self.client.conninfo(self.name)
        how: dict[str, Any] = {"stdout": file, "watch": lambda: self._diagnosis(dumping=True)}
        try:
            self.client.run(dump_argv(conninfo, format, zstd=zstd), **how)
        except CommandFailed as error:
            if "lock timeout" in error.stderr or "LOCK TABLE" in error.stderr:
                raise self._blocked() from None
            if not (zstd and "does not support compression" in error.stderr):
                raise
            file.seek(0)
            file.truncate()
            self.client.run(dump_argv(conninfo, format, zstd=False), **how)

    def _diagnosis(self, *, dumping: bool = False) -> str:
        """Why a program has been silent, as far as the server can be asked; nothing when
        it may go on: while the server works for it, or a load is busy with its file."""
        silent = f"no byte for {running.STALL:g} s, and "
        how: dict[str, Any] = {"timeout": 10, "session": self.session}
        try:
            found = json.loads(self.client.query(queries.WORKING, self._maintenance, **how))
        except RepomError as error:
            full = "too many clients" in str(error) or "connection slots" in str(error)
            return "" if full else f"{silent}the server on {self.where} does not answer"
        if found["blockers"]:
            return f"{silent}it waits for {', '.join(found['blockers'])}"
        idle = dumping and not found["working"]
        return f"{silent}the server is not at work for it" if idle else ""

    def _blocked(self) -> Refused:
        holders = self.client.query(queries.LOCKERS, self.name).splitlines()
        who = ", ".join(holders) or "a session that has ended meanwhile"
        return Refused(f"A table of {self.name} is locked by {who}", "End it, then try again")

    def read(self, archive: Archive) -> None:
        """Read an archive to its end without restoring it.

        :raises Damaged: it cannot be read.
        :raises RepomError: there is no program to read it with.
        """
        if archive.is_archive:
            self.survey()
            self.client.run_on_file(script_argv(owner=True, to="/dev/null"), archive.path)
        else:
            for _piece in script.for_psql(archive.blocks(), restricts=True):
                pass

    # -- load ---------------------------------------------------------------------------

    def load(
        self,
        archive: Archive,
        facts: Mapping[str, Any] | None,
        *,
        owner: bool = True,
        replacing: bool = True,
    ) -> str:
        self._refuse(archive, facts, owner=owner, replacing=replacing)
        scratch = own_name("scratch")
        self.client.query(
            queries.CREATE,
            self._maintenance,
            live=self.name,
            scratch=scratch,
            locale=json.dumps((facts or {}).get("locale") or {}),
            comment=describe("scratch", self.name, self.runner.session),
        )
        try:
            self._fill(scratch, archive, owner=owner)
            self._finish(scratch, archive, facts)
        except BaseException:
            self.abort()
            self.discard(scratch)
            raise
        return scratch

    def _refuse(
        self, archive: Archive, facts: Mapping[str, Any] | None, *, owner: bool, replacing: bool
    ) -> None:
        """:raises Refused: names what the archive needs and the server lacks."""
        refuse_server(self._found)
        refuse_needs(self._found, archive, facts or {}, owner=owner)
        refuse_space(self._found, int((facts or {}).get("size") or 0))
        if replacing:
            refuse_holders(self._found)
        self._check_format(archive)

    def _check_format(self, archive: Archive) -> None:
        readable = ARCHIVE_FORMATS.get(self.client.server_major, (1, 16))
        if archive.format and archive.format > readable:
            raise Refused(
                f"The archive was written by pg_dump {archive.tool}, which the server's "
                f"version {self.client.server_major} cannot read",
                f"Restore it into PostgreSQL {major(archive.tool)} or newer",
            )

    def _fill(self, scratch: str, archive: Archive, *, owner: bool) -> None:
        conninfo = self.client.conninfo(scratch)
        if archive.is_archive:
            jobs = self.jobs if archive.is_parallel else 1
            argv = restore_argv(conninfo, jobs=jobs, owner=owner)
            self.client.run_on_file(argv, archive.path, options=LOAD, watch=self._diagnosis)
        else:
            known = restricts(self.client.psql_version)
            blocks = script.for_psql(archive.blocks(), restricts=known, owner=owner)
            self._run_gated(scratch, blocks)

    def _run_gated(self, database: str, blocks: Iterable[bytes]) -> None:
        """The end of a stream is no success: psql takes it for the end of the data. What
        counts is the answer to the SELECT behind the COMMIT, which is sent last."""
        nonce = secrets.token_hex(16)
        argv = psql_argv(self.client.conninfo(database), {})
        known = restricts(self.client.psql_version)
        try:
            blocks = gated(blocks, nonce, known)
            said = self.client.run(argv, stdin=blocks, watch=self._diagnosis).stdout
        except CommandFailed as error:
            if nonce not in error.stderr:
                raise
            said = ""  # a quote that was left open took our SELECT for its text
        if nonce not in said[-200:] and not self.client.dry:
            raise Damaged("The SQL script ends in the middle of a statement", "Nothing was changed")

    def _finish(self, scratch: str, archive: Archive, facts: Mapping[str, Any] | None) -> None:
        """Statistics for the planner, what belonged to the old database, and the check."""
        large = archive.path.stat().st_size > LARGE
        if large:
            conninfo, major = self.client.conninfo(scratch), self.client.server_major
            self.client.run(vacuum_argv(conninfo, jobs=self.jobs, major=major))
        analyze = "" if large else "ANALYZE;\n"
        query = queries.COUNT + analyze + queries.PROPERTIES
        done = self.client.script(query, scratch, live=self.name, scratch=scratch)
        for line in done.stderr.splitlines():
            if "ERROR:" in line:
                log.warning("Not carried over to the restored database: %s", best_line(line))
        if not self.client.dry:
            check_count(int(done.stdout.split()[0]), facts)

    def rows(self, scratch: str) -> dict[str, int]:
        """Rows of each table of a scratch database."""
        lines = self.client.query(queries.ROWS, scratch).split("\n")
        return dict(json.loads(line) for line in lines if line.strip())

    def load_in_place(
        self, archive: Archive, facts: Mapping[str, Any] | None, *, owner: bool = True
    ) -> None:
        """Replace the contents in one transaction, for a user who may not create a
        database. Others wait for its locks meanwhile, and nothing is kept for an undo."""
        if facts is None and archive.kind == "plain":
            raise Refused(
                "A script of unknown origin could end the transaction that protects the data",
                "Restore it with --into, or as a user who may create a database",
            )
        self._check_format(archive)
        with self._as_script(archive, owner) as text:
            known = restricts(self.client.psql_version)
            blocks = script.for_psql(text.blocks(), restricts=known, owner=owner)
            expected = (facts or {}).get("tables")
            end = queries.EXPECT.format(tables=-1 if expected is None else int(expected))
            self._run_gated(self.name, chain([queries.EMPTY.encode()], blocks, [end.encode()]))
        try:
            self.client.query("ANALYZE;\n", self.name)
        except RepomError as error:  # the data are there
            log.warning("Restored, but without the planner's statistics: %s", error.message)

    @contextmanager
    def _as_script(self, archive: Archive, owner: bool) -> Iterator[Archive]:
        """The archive as plain SQL: a private file on this host while it is needed."""
        if archive.kind == "plain":
            yield archive
            return
        with tempfile.NamedTemporaryFile(prefix="repom-", suffix=".sql") as file:
            self.client.run_on_file(script_argv(owner=owner), archive.path, stdout=file)
            yield Archive(Path(file.name), "plain")

    # -- swap ---------------------------------------------------------------------------

    def swap(self, scratch: str, *, keep: int) -> str | None:
        note = describe("undo", self.name, self.runner.session, self._after_kept())
        names = {"live": self.name, "kept": own_name("undo")}
        like = note.partition(' "created_at"')[0]
        evicted = {**names, "scratch": scratch, "described": like, "keep": str(keep)}
        evictor = threading.Thread(target=self._evict, args=(evicted,), daemon=True)
        if self._found["exists"]:
            evictor.start()
        try:
            said = self._say(queries.SWAP, **names, scratch=scratch, description=note)
        except BaseException as error:
            self._stop(evictor)
            if isinstance(error, CommandFailed) and any(t in error.stderr for t in IN_USE):
                raise Refused(
                    f"Sessions on {self.name} could not be ended", "Close them and restore again"
                ) from None
            raise
        if evictor.ident and (self._found["size"] or 0) < SLOW_TO_DROP:
            evictor.join(TIDYING)
        replaced = said.split()[:1] == ["1"]
        return names["kept"] if replaced and keep else None

    def _after_kept(self) -> datetime:
        """Now, or after all that is kept: a clock that was ahead must not change which
        one was replaced last."""
        newest = max((k.created_at for k in self._kept()), default=datetime.min.replace(tzinfo=UTC))
        return max(datetime.now(UTC), newest + timedelta(microseconds=1))

    def _say(self, query: str, **variables: Any) -> str:
        return self.client.query(query, self._maintenance, **variables)

    def _evict(self, variables: Mapping[str, str]) -> None:
        with suppress(RepomError):
            self._say(queries.EVICT, **variables)

    def _stop(self, evictor: threading.Thread) -> None:
        if evictor.is_alive():
            self.abort()
            evictor.join(5)

    # -- cleaning up --------------------------------------------------------------------

    def discard(self, scratch: str) -> None:
        with suppress(RepomError):
            self.client.query(queries.DROP, self._maintenance, scratch=scratch)

    def sweep(self) -> None:
        for row, note in self._own("scratch"):
            if is_dead(note):
                log.info("Removing %s, left behind by an earlier run", row["name"])
                self.discard(row["name"])

    def abort(self, session: str | None = None) -> None:
        session = session or self.runner.session
        with suppress(RepomError):
            self.client.query(queries.ABORT, self._maintenance, session=session)

    def exclusive(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def session(self) -> str:
        return self.runner.session

    def shell(self) -> int:
        return self.client.shell()


def gated(blocks: Iterable[bytes], nonce: str, known: bool) -> Iterator[bytes]:
    """The script in one transaction, under ``\\restrict`` where psql has it, with an
    answer behind the COMMIT."""
    key = secrets.token_hex(16)
    yield b"BEGIN;\n" + (f"\\restrict {key}\n".encode() if known else b"")
    yield from blocks
    yield (f"\n\\unrestrict {key}\n" if known else "\n").encode()
    yield f"COMMIT;\nSELECT '{nonce}';\n".encode()


def own_name(kind: str) -> str:
    return f"repom_{kind}_{secrets.token_hex(4)}"


def describe(kind: str, database: str, session: str, when: datetime | None = None) -> str:
    """The comment on a database of repom's own: what it is and which process made it."""
    return json.dumps(
        {
            "kind": kind,
            "database": database,
            "created_at": (when or datetime.now(UTC)).isoformat(timespec="microseconds"),
            "session": session,
            "machine": socket.gethostname(),
            "pid": os.getpid(),
        }
    )


def is_dead(note: Mapping[str, Any]) -> bool:
    """Whether the process that wrote this comment ran on this machine and has ended."""
    if note.get("machine") != socket.gethostname() or not hasattr(os, "getpgid"):
        return False
    try:
        os.getpgid(int(note["pid"]))
    except ProcessLookupError:
        return True
    except (KeyError, ValueError, OSError):
        return False
    return False


def check_count(count: int, facts: Mapping[str, Any] | None) -> None:
    """:raises CommandFailed: other tables were loaded than were backed up, or none."""
    expected = (facts or {}).get("tables")
    if expected is None and count == 0:
        raise CommandFailed("The file was loaded and left no table", "Nothing was changed")
    if expected is not None and count != expected:
        raise CommandFailed(
            f"The backup holds {expected} tables, and {count} were restored", "Nothing was changed"
        )


def refuse_server(found: Mapping[str, Any]) -> None:
    """:raises Refused: nothing can be created on this server, or not by this user."""
    if found["recovery"]:
        raise Refused("The server is a standby, which takes no writes", "Restore on its primary")
    if not found["may_create"]:
        raise Refused(
            "This user may not create a database, and a restore loads a new one first",
            "Let a superuser run ALTER ROLE … CREATEDB, or add --in-place",
        )
    if found["is_owner"] is False:
        raise Refused(
            "The database belongs to another user, so this one may not replace it",
            "Restore as its owner, or with --into a new name",
        )


def refuse_needs(
    found: Mapping[str, Any], archive: Archive, facts: Mapping[str, Any], *, owner: bool
) -> None:
    """:raises Refused: the server lacks extensions or roles of the backup."""
    missing = sorted(set(facts.get("extensions") or {}) - set(found["available"] or ()))
    if missing:
        raise Refused(
            f"The server lacks extensions of the backup: {', '.join(missing)}", "Install them first"
        )
    absent = sorted(set(facts.get("roles") or ()) - set(found["roles"] or ()))
    if absent and owner and archive.is_archive:
        raise Refused(
            f"The server lacks roles of the backup: {', '.join(absent)}",
            "Create them, or add --no-owner",
        )


def refuse_space(found: Mapping[str, Any], size: int) -> None:
    """:raises Refused: the disk of the data has less room than the database had in bytes
    when it was backed up. A server that cannot write its log stops for everybody."""
    free = found.get("free")
    if free is not None and free < size:
        raise Refused(
            f"The server's disk has {free} bytes free, and the database takes about {size}",
            "Free some space there, or restore elsewhere",
        )


def refuse_holders(found: Mapping[str, Any]) -> None:
    """:raises Refused: something would hold the old database's name; lists it."""
    for key, what in (
        ("sessions", "Sessions that this user may not end are open"),
        ("prepared", "Prepared transactions are open"),
        ("slots", "Replication slots are active"),
        ("subscriptions", "Subscriptions are enabled"),
    ):
        if found[key]:
            raise Refused(f"{what}: {', '.join(found[key])}", "End them, then restore again")
