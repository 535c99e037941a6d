"""One PostgreSQL database: asking it, dumping it, loading a new one and swapping them."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, BinaryIO

from repom.dbops.archive import script, toc
from repom.dbops.archive.archive import Archive, major
from repom.dbops.database import Facts, Kept, Survey
from repom.dbops.files import BLOCK
from repom.errors import CommandFailed, Damaged, NoSpace, Refused, RepomError
from repom.runners import process
from repom.runners.host import HostRunner
from repom.runners.process import Stalled

from . import owned, queries
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
)
from .failures import best_line, translated
from .owned import Owned
from .session import Session
from .survey import (
    check_count,
    missing_roles,
    refuse_holders,
    refuse_needs,
    refuse_server,
    refuse_space,
)

log = logging.getLogger("repom")

#: SQLSTATE of a database that is in use, and of a lock that was not to be had.
IN_USE = ("55006", "55P03")
#: Seconds that a swap waits for the drop of what is no longer kept, and bytes of a database
#: beyond which it does not: the drop goes on without anybody.
TIDYING, SLOW_TO_DROP = 0.25, 100_000_000
LARGE = 10_000_000  # bytes of an archive above which statistics are made in parallel
ABORTING = 1.0  # seconds that ending what still runs in the server may take
HURRIED = 0.6  # seconds that an interrupted run waits for the drop of its scratch database
DROPPING = 30.0  # seconds until the drop of a scratch database is left to the next run
COUNTER = 'find /c /v ""' if sys.platform == "win32" else "wc -l"


class Postgres:
    """One database of a PostgreSQL server, reached by a runner."""

    backend = "postgresql"

    def __init__(self, runner: HostRunner, login: Login, *, jobs: int = 1) -> None:
        self.client = Client(runner, login)
        self.runner, self.name, self.jobs = runner, login.database, jobs
        self._answer: dict[str, Any] = {}
        self._held: Session | None = None
        self._aborted = False

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

    @property
    def _found(self) -> dict[str, Any]:
        if not self._answer:
            self.survey()
        return self._answer

    # -- asking -------------------------------------------------------------------------

    def identify(self) -> Facts:
        """:raises Unreachable: no server, wrong login, unknown database, no programs."""
        answer = self.client.first(queries.IDENTIFY, self.name)
        return Facts(
            server_version=answer["server_version"].split()[0],
            size=answer.get("size") or 0,
            tables=answer.get("tables"),
            system_identifier=answer.get("system_identifier"),
            extensions=answer.get("extensions") or {},
            roles=tuple(answer.get("roles") or ()),
            locale=answer.get("locale") or {},
            migration=answer["migration"],
        )

    def survey(self) -> Survey:
        inside = "1" if self.client.in_container else "0"
        variables = {"live": self.name, "inside": inside}
        self._answer = self.client.first(queries.SURVEY, self._maintenance, **variables)
        return Survey(
            exists=self._answer["exists"],
            size=self._answer.get("size") or 0,
            system_identifier=self._answer.get("system_identifier"),
            kept=tuple(Kept(o.name, self.name, o.created_at, o.size) for o in self._kept()),
            sessions=tuple(self._answer.get("sessions") or ()),
        )

    def _own(self) -> Iterator[Owned]:
        """repom's own databases that belong to this database, newest first."""
        sizes = self._found.get("own_sizes") or {}
        found = owned.find(self._found["own"] or (), sizes)
        yield from (each for each in found if each.database == self.name)

    def _kept(self) -> list[Owned]:
        return [each for each in self._own() if each.kind == "undo" and each.valid]

    # -- dump ---------------------------------------------------------------------------

    def dump(self, file: BinaryIO, format: str) -> None:
        zstd, statistics = self.client.server_major >= 16, self.client.server_major >= 18
        conninfo = self.client.conninfo(self.name)
        how: dict[str, Any] = {"stdout": file, "watch": lambda: self._diagnosis(dumping=True)}
        argv = dump_argv(conninfo, format, zstd=zstd, statistics=statistics)
        try:
            self.client.run(argv, **how)
        except CommandFailed as error:
            if "LOCK TABLE" in error.stderr or "lock timeout" in error.stderr:
                raise self._blocked(error) from None
            if not (zstd and "does not support compression" in error.stderr):
                raise
            file.seek(0)
            file.truncate()
            argv = dump_argv(conninfo, format, zstd=False, statistics=statistics)
            self.client.run(argv, **how)

    def _diagnosis(self, *, dumping: bool = False) -> str:
        """Why a program has been silent, as far as the server can be asked; nothing when
        it may go on: while the server works for it, or a load is busy with its file."""
        silent = f"no byte for {process.STALL:g} s, and "
        how: dict[str, Any] = {"timeout": 10, "session": self.session}
        try:
            found = json.loads(self.client.query(queries.WORKING, self._maintenance, **how))
        except RepomError as error:
            full = "too many clients" in str(error) or "connection slots" in str(error)
            return "" if full else f"{silent}the server on {self.where} does not answer"
        if found["blockers"]:
            return f"{silent}it waits for {', '.join(found['blockers'])}"
        idle = dumping and not found["working"]
        return f"{silent}the server is idle" if idle else ""

    def _blocked(self, error: CommandFailed) -> RepomError:
        """Who keeps the dump out, unless it failed to lock a table for another reason."""
        holders = self.client.query(queries.LOCKERS, self.name).strip("\n").split("\n")
        who = ", ".join(filter(None, holders))
        if not who and "timeout" not in error.stderr:
            return error
        by = who or "a session that has ended meanwhile"
        return Refused(f"A table of {self.name} is locked by {by}", "End it, then try again")

    def read(self, archive: Archive) -> None:
        """Read an archive to its end without restoring it.

        :raises Damaged: it cannot be read.
        :raises RepomError: there is no program to read it with.
        """
        if archive.is_archive:
            self.survey()
            self._run_offline(script_argv(owner=True, to="/dev/null"), archive)
        else:
            for _piece in script.for_psql(archive.blocks()):
                pass

    def _run_offline(self, argv: list[str], archive: Archive, **how: Any) -> None:
        """Run a program that reads the file alone: it has no session that could be ended."""
        try:
            self.client.run_on_file(argv, archive.path, **how)
        except BaseException:
            self.runner.end(self.session, ABORTING)
            raise

    # -- load ---------------------------------------------------------------------------

    def load(
        self,
        archive: Archive,
        facts: Facts | None,
        *,
        owner: bool = True,
        replacing: bool = True,
    ) -> str:
        facts = facts or Facts()
        owner = owner or (not replacing and self._has_roles(archive, facts))
        self._refuse(archive, facts, owner=owner, replacing=replacing)
        with self._attended():
            try:
                return self._loaded(archive, facts, owner, replacing, self.jobs)
            except CommandFailed as error:
                if not self._may_be_order(archive, error):
                    raise
                log.warning("The parallel load failed; loading again with one worker (%s)", error)
            return self._loaded(archive, facts, owner, replacing, 1)

    def _has_roles(self, archive: Archive, facts: Facts) -> bool:
        """Whether a drill can keep owners: the functions in the indexes of a table run as
        its owner, which should not be this user."""
        return archive.is_archive and not missing_roles(self._found, archive, facts)

    def _may_be_order(self, archive: Archive, error: CommandFailed) -> bool:
        """Whether a load failed at a statement that one worker may get through: parallel
        ones can add a constraint to a partition before its parent has it as not valid."""
        if self.jobs == 1 or not archive.is_archive or isinstance(error, Stalled | NoSpace):
            return False
        lost = ("No space left", "terminating connection", "closed the connection")
        return "ERROR:" in error.stderr and not any(part in error.stderr for part in lost)

    def _loaded(
        self,
        archive: Archive,
        facts: Facts,
        owner: bool,
        replacing: bool,
        jobs: int,
    ) -> str:
        scratch, self._aborted = owned.new_name("scratch"), False
        try:
            self._create(scratch, facts)
            self._fill(scratch, archive, owner=owner, jobs=jobs)
            self._finish(scratch, archive, replacing=replacing)
            if replacing and (archive.kind == "plain" or not owner):
                self._warn_of_definers(scratch, facts)
            archive.check_unchanged()
        except BaseException as error:
            self.abort()
            self._remove(scratch, HURRIED if isinstance(error, KeyboardInterrupt) else DROPPING)
            raise
        return scratch

    def _create(self, scratch: str, facts: Facts) -> None:
        self.client.change(
            queries.CREATE,
            self._maintenance,
            live=self.name,
            scratch=scratch,
            locale=json.dumps(dict(facts.locale)),
            comment=owned.describe("scratch", self.name, self.runner.session),
        )

    def _refuse(self, archive: Archive, facts: Facts, *, owner: bool, replacing: bool) -> None:
        """:raises Refused: names what the archive needs and the server lacks."""
        refuse_server(self._found)
        refuse_needs(self._found, archive, facts, owner=owner)
        refuse_space(self._found, facts.size)
        if replacing:
            refuse_holders(self._found)
            self._warn_of_lost_owners(archive)
        self._check_format(archive)

    def _warn_of_lost_owners(self, archive: Archive) -> None:
        user = self.client.login.user
        if archive.kind == "plain" and self._found["owner"] not in (None, user):
            log.warning(
                "A plain dump holds no owners or grants: all of %s will belong to %s",
                *(self.name, user),
            )

    def _check_format(self, archive: Archive) -> None:
        readable = ARCHIVE_FORMATS.get(self.client.server_major, (1, 16))
        if archive.format and archive.format > readable:
            raise Refused(
                f"The archive was written by pg_dump {archive.tool}, which the server's "
                f"version {self.client.server_major} cannot read",
                f"Restore it into PostgreSQL {major(archive.tool)} or newer",
            )

    def _fill(self, scratch: str, archive: Archive, *, owner: bool, jobs: int) -> None:
        conninfo = self.client.conninfo(scratch)
        if archive.is_archive:
            jobs = jobs if archive.is_parallel else 1
            argv = restore_argv(conninfo, jobs=jobs, owner=owner)
            listing = self._listing(archive)
            self.client.run_on_file(
                argv, archive.path, options=LOAD, watch=self._diagnosis, listing=listing
            )
        else:
            text = script.for_psql(archive.blocks(), owner=owner, in_transaction=False)
            self._run_gated(scratch, text)

    def _listing(self, archive: Archive) -> bytes:
        """What pg_restore may take, for a server that cannot take all of it."""
        if self.client.server_major >= 18 or archive.kind != "custom":
            return b""
        return toc.without_statistics(toc.entries(archive.path))

    def _run_gated(
        self, database: str, blocks: Iterable[bytes], before: Iterable[str] = (), after: str = ""
    ) -> None:
        """Run a script. The end of a stream is no success: psql takes it for the end of
        the data. What counts is the answer to a SELECT that is sent last.

        :param before: statements that come before the script.
        :param after: statements that come behind it.
        """
        nonce, key = secrets.token_hex(16), secrets.token_hex(16)
        known = restricts(self.client.psql_version)
        argv = gated_argv(self.client.conninfo(database), before, key if known else "")
        end = gate(key if known else "", after, nonce)
        how: dict[str, Any] = {"options": LOAD, "watch": self._diagnosis}
        try:
            said = self.client.run(argv, stdin=chain(blocks, [end]), **how).stdout
        except CommandFailed as error:
            if nonce not in error.stderr:
                raise
            said = ""  # a quote that was left open took our SELECT for its text
        if nonce not in said[-200:] and not self.client.dry:
            raise Damaged("The SQL script ends in the middle of a statement", "Nothing was changed")

    def _finish(self, scratch: str, archive: Archive, *, replacing: bool) -> None:
        """The check, statistics for the planner, and what belonged to the old database."""
        count = self.client.query(queries.COUNT, scratch)
        if not self.client.dry:
            check_count(int(count), archive.tables)
        self._analyze(scratch, large=archive.path.stat().st_size > LARGE)
        if replacing:
            how: dict[str, Any] = {"live": self.name, "scratch": scratch}
            done = self.client.script(queries.PROPERTIES, scratch, changes=True, **how)
            warn("Not carried over to the restored database", done.stderr)

    def _warn_of_definers(self, scratch: str, facts: Facts) -> None:
        """Without owners, another role's SECURITY DEFINER functions become this user's."""
        if set(facts.roles or "?") <= {self.client.login.user}:
            return
        names = json.loads(self.client.query(queries.DEFINERS, scratch).strip() or "null") or []
        if names:
            log.warning(
                "SECURITY DEFINER functions now run as superuser %s, whoever calls them: %s",
                *(self.client.login.user, ", ".join(names[:10])),
            )

    def _analyze(self, database: str, *, large: bool) -> None:
        """Make the statistics that did not come along; in several sessions if it pays."""
        parts = self.jobs if large else 1
        others = [
            threading.Thread(target=self._analyze_part, args=(database, part, parts), daemon=True)
            for part in range(1, parts)
        ]
        for each in others:
            each.start()
        self._analyze_part(database, 0, parts)
        for each in others:
            each.join()

    def _analyze_part(self, database: str, part: int, parts: int) -> None:
        how: dict[str, Any] = {"part": str(part), "parts": str(parts)}
        try:
            done = self.client.script(queries.ANALYZE, database, changes=True, **how)
        except RepomError as error:  # the data are there
            log.warning("Restored, but without the planner's statistics: %s", error.message)
            return
        warn("No statistics for a table", done.stderr)

    def rows(self, scratch: str) -> dict[str, int]:
        """Rows of each table of a scratch database."""
        tables = json.loads(self.client.query(queries.NAMES, scratch).strip() or "null") or []
        counting = queries.rows((quoted for _name, quoted in tables), COUNTER)
        lines = self.client.change(counting, scratch).split()
        pairs = zip(tables, lines[::2], lines[1::2], strict=False)
        return {name: int(count) for (name, _), count, failed in pairs if failed == "false"}

    def load_in_place(self, archive: Archive, facts: Facts | None, *, owner: bool = True) -> None:
        """Replace the contents in one transaction, for a user who may not create a
        database. Others wait for its locks meanwhile, and nothing is kept for an undo.

        :raises Refused: not all of the contents could be replaced in one transaction.
        """
        if facts is None and archive.kind == "plain":
            raise Refused(
                "A script of unknown origin could end the transaction that protects the data",
                "Restore it with --into, or as a user who may create a database",
            )
        self._check_format(archive)
        expected = archive.tables
        self._refuse_in_place(expected or 0)
        with self._as_script(archive, owner) as blocks:
            text = script.for_psql(blocks, owner=owner)
            end = queries.EXPECT.format(tables=-1 if expected is None else expected)
            self._run_gated(
                self.name,
                chain(text, unchanged(archive)),
                before=["BEGIN", queries.EMPTY, "RESET search_path"],
                after=f"{end}COMMIT;\n",
            )
        self._analyze(self.name, large=False)

    def _refuse_in_place(self, tables: int) -> None:
        found = json.loads(self.client.query(queries.IN_PLACE, self.name))
        if found["others"]:
            raise Refused(
                f"--in-place cannot remove {', '.join(found['others'][:5])}",
                "Remove it yourself, or restore as a user who may create a database",
            )
        # Dropping takes a lock for each table, index, sequence and large object; making
        # takes about four for a table.
        needed, capacity = found["locks"] + 4 * tables, found["capacity"]
        if needed > capacity:
            raise Refused(
                f"--in-place needs about {needed} locks at once, and the server has {capacity}",
                "Raise max_locks_per_transaction, or restore as a user who may create a database",
            )

    @contextmanager
    def _as_script(self, archive: Archive, owner: bool) -> Iterator[Iterable[bytes]]:
        """The archive as plain SQL: in a file without a name while it is needed, so that
        a killed run leaves nothing."""
        if archive.kind == "plain":
            yield archive.blocks()
            return
        with tempfile.TemporaryFile(prefix="repom-") as file:
            how: dict[str, Any] = {"stdout": file, "listing": self._listing(archive)}
            self._run_offline(script_argv(owner=owner), archive, **how)
            file.seek(0)
            yield iter(lambda: file.read(BLOCK), b"")

    # -- swap ---------------------------------------------------------------------------

    def swap(self, scratch: str, *, keep: int) -> str | None:
        refuse_holders(self._found)
        kept = owned.new_name("undo")
        names = {"live": self.name, "kept": kept, "scratch": scratch}
        older = [each.name for each in self._kept() if each.name != scratch]
        gone = [kept, *older][keep:]
        evictor = threading.Thread(target=self._evict, args=(names, gone), daemon=True)
        if self._found["exists"]:
            evictor.start()
        try:
            key = str(lock_key(self.name))
            said = self._swap({**names, "description": self._note(), "key": key})
        except BaseException as error:
            self._stop(evictor)
            raise swap_error(error, self.name) from None
        if evictor.ident and (self._found.get("size") or 0) < SLOW_TO_DROP:
            evictor.join(TIDYING)
        return kept if said[-1:] == ["1"] and keep else None

    def _swap(self, variables: Mapping[str, str]) -> list[str]:
        """In the session that holds the lock, if there is one."""
        query = f"\\set VERBOSITY verbose\n{queries.SWAP}"
        if self._held is None:
            return self.client.change(query, self._maintenance, **variables).split()
        with translated(self.client.login, self.runner):
            return self._held.ask(query, variables)

    def _note(self) -> str:
        """Describes what is replaced, now, or after all that is kept: a clock that was
        ahead must not change which one was replaced last."""
        newest = max((k.created_at for k in self._kept()), default=datetime.min.replace(tzinfo=UTC))
        when = max(datetime.now(UTC), newest + timedelta(microseconds=1))
        return owned.describe("undo", self.name, self.runner.session, when)

    def _evict(self, names: Mapping[str, str], gone: Iterable[str]) -> None:
        drop = queries.drop(gone, self._maintenance)
        query = f"{queries.EVICT}\\if :repom_swapped\n{drop}\\endif\n"
        with suppress(RepomError):
            self.client.change(query, self._maintenance, **names)

    def _stop(self, evictor: threading.Thread) -> None:
        if evictor.is_alive():
            self.abort()
            evictor.join(ABORTING)

    # -- holding ------------------------------------------------------------------------

    @contextmanager
    def exclusive(self, doing: str) -> Iterator[None]:
        with self._attended() as held:
            if held:
                self._lock(held)
            yield

    def _lock(self, held: Session) -> None:
        with translated(self.client.login, self.runner):
            said = held.ask(queries.HOLD, {"key": str(lock_key(self.name))}, DROPPING)
        if said != ["held"]:
            raise in_use(self.name, said[0] if said else "")

    @contextmanager
    def _attended(self) -> Iterator[Session | None]:
        """With a session in the server, by which others see that this run is alive. One in
        template1 would keep everybody from creating a database."""
        if self._held or self._maintenance == "template1" or self.client.dry:
            yield self._held
            return
        with self.client.session(self._maintenance) as held:
            self._held = held
            try:
                yield held
            finally:
                self._held = None

    # -- cleaning up --------------------------------------------------------------------

    def discard(self, scratch: str) -> None:
        self._remove(scratch, DROPPING)

    def _remove(self, scratch: str, seconds: float) -> None:
        """Remove a database of repom's own, or say that it stays."""
        drop = queries.drop([scratch], self._maintenance)
        try:
            left = self.client.change(drop, self._maintenance, timeout=seconds).strip()
        except RepomError:
            left = scratch
        if left:
            log.warning("Could not remove database %s; the next restore will try again", scratch)

    def sweep(self) -> None:
        present = self._found["present"] or ()
        for each in list(self._own()):
            if not each.valid or (each.kind == "scratch" and each.is_abandoned(present)):
                log.info("Removing %s, left behind by an earlier run", each.name)
                self.discard(each.name)

    def abort(self, session: str | None = None) -> None:
        if session is None and self._aborted:
            return  # and nothing was begun since
        self._aborted = self._aborted or session is None
        session = session or self.runner.session
        with suppress(RepomError):
            spared = str(self._held.pid if self._held else 0)
            how: dict[str, Any] = {"session": session, "spared": spared, "timeout": ABORTING}
            self.client.query(queries.ABORT, self._maintenance, **how)

    @property
    def session(self) -> str:
        return self.runner.session

    def shell(self) -> int:
        return self.client.shell()


def gated_argv(conninfo: str, before: Iterable[str], key: str) -> list[str]:
    """psql's command line for a script that others wrote, under ``\\restrict`` where psql has
    it. What comes before it are commands of their own, so that its lines keep their numbers."""
    return psql_argv(conninfo, {}, [*before, *([f"\\restrict {key}"] if key else [])])


def gate(key: str, after: str, nonce: str) -> bytes:
    """What comes behind such a script; its last answer proves that all of it was run."""
    freed = f"\\unrestrict {key}\n" if key else ""
    return f"\n{freed}{after}SELECT '{nonce}';\n".encode()


def unchanged(archive: Archive) -> Iterator[bytes]:
    """Nothing, at the end of a stream, if the file is still what was checked."""
    archive.check_unchanged()
    yield b""


def lock_key(database: str) -> int:
    """The key of the advisory lock of a database's name, 64 bits with a sign."""
    digest = hashlib.sha256(f"repom {database}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def in_use(database: str, who: str) -> Refused:
    holder = f" (server process {who})" if who else ""
    return Refused(
        f"Another repom process{holder} is replacing {database}",
        "Try again when it has finished",
    )


def swap_error(error: BaseException, database: str) -> BaseException:
    """What the failure of a swap means."""
    said = error.stderr if isinstance(error, CommandFailed) else ""
    if queries.BUSY in said:
        return in_use(database, "")
    if any(code in said for code in IN_USE):
        message = f"Sessions on {database} could not be ended"
        return Refused(message, "Close them and restore again")
    return error


def warn(what: str, said: str) -> None:
    """Tell of statements that failed, a line each."""
    for line in said.split("\n"):
        if "ERROR:" in line:
            log.warning("%s: %s", what, best_line(line))
