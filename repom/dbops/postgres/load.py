"""Loading an archive: into a scratch database, or in place in one transaction."""

from __future__ import annotations

import json
import logging
import re
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from repom import progress
from repom.dbops.archive import script, toc
from repom.dbops.archive.archive import Archive, major
from repom.dbops.archive.hook import Hook
from repom.dbops.database import Facts
from repom.dbops.files import BLOCK
from repom.errors import CommandFailed, Damaged, NoSpace, Refused, RepomError
from repom.runners.process import Stalled
from repom.runners.runner import Watch

from . import owned, queries
from .client import Client
from .commands import ARCHIVE_FORMATS, LOAD, psql_argv, restore_argv, restricts, script_argv
from .failures import best_line
from .survey import check_count

log = logging.getLogger("repom")

LARGE = 10_000_000  # bytes of an archive above which statistics are made in parallel


@dataclass(frozen=True)
class Load:
    """One archive on its way into a server.

    :param facts: what a good manifest says of the database that was backed up.
    :param owner: restore owners and grants.
    :param replacing: the result is to take the place of the client's database.
    :param watch: asked why a program is silent.
    """

    client: Client
    archive: Archive
    facts: Facts | None
    owner: bool
    replacing: bool
    watch: Watch
    hooks: Sequence[Hook] = ()

    # -- into a scratch database --------------------------------------------------------

    def into(self, scratch: str, jobs: int) -> None:
        """Create `scratch`, load it, check it, and give it what belonged to the old one."""
        self._create(scratch)
        self._fill(scratch, jobs)
        if not self.client.runner.dry:
            check_count(int(self.client.query(queries.COUNT, scratch)), self.archive.tables)
        self._analyze(scratch, jobs if self.archive.size > LARGE else 1)
        if self.replacing:
            names = {"live": self.client.login.database, "scratch": scratch}
            done = self.client.script(queries.PROPERTIES, scratch, names, changes=True)
            warn("Not carried over to the restored database", done.stderr)
            self._warn_of_definers(scratch)
        self.archive.check_unchanged()
        for hook in self.hooks:
            self._run_hook(scratch, hook)

    def _create(self, scratch: str) -> None:
        live, session = self.client.login.database, self.client.runner.session
        variables = {
            "live": live,
            "scratch": scratch,
            "locale": json.dumps(dict(self.facts.locale) if self.facts else {}),
            "comment": owned.describe("scratch", live, session),
        }
        self.client.change(queries.CREATE, self.client.maintenance, variables)

    def _fill(self, scratch: str, jobs: int) -> None:
        if not self.archive.is_archive:
            self._run_gated(scratch, self._script)
            return
        jobs = jobs if self.archive.is_parallel else 1
        argv = restore_argv(self.client.conninfo(scratch), jobs=jobs, owner=self.owner)
        self.client.run_on_file(
            argv, self.archive.path, options=LOAD, watch=self.watch, listing=self._listing()
        )

    def _script(self) -> Iterable[bytes]:
        return script.for_psql(self.archive.blocks(), owner=self.owner, in_transaction=False)

    def may_be_order(self, error: CommandFailed, jobs: int) -> bool:
        """Whether a load failed at a statement that one worker may get through: parallel
        ones can add a constraint to a partition before its parent has it as not valid."""
        if jobs == 1 or not self.archive.is_archive or isinstance(error, Stalled | NoSpace):
            return False
        lost = ("No space left", "terminating connection", "closed the connection")
        return "ERROR:" in error.stderr and not any(part in error.stderr for part in lost)

    def check_format(self) -> None:
        """:raises Refused: the server's pg_restore cannot read the archive."""
        server = self.client.versions.major
        format, tool = self.archive.format, self.archive.tool
        if format and format > ARCHIVE_FORMATS.get(server, (1, 16)):
            raise Refused(
                f"PostgreSQL {server} cannot read this archive, which pg_dump {tool} wrote",
                f"Restore it into PostgreSQL {major(tool)} or newer",
            )

    def _listing(self) -> bytes:
        """What pg_restore may take, for a server that cannot take all of it."""
        if self.client.versions.major >= 18 or self.archive.kind != "custom":
            return b""
        return toc.without_statistics(toc.entries(self.archive.path))

    def _run_gated(
        self,
        database: str,
        blocks: Callable[[], Iterable[bytes]],
        before: Iterable[str] = (),
        after: str = "",
    ) -> None:
        """Run a script. psql takes the end of a stream for the end of the data, so what
        counts is the answer to a SELECT that is sent last.

        :param blocks: makes the script.
        :param before: statements that come before it.
        :param after: statements that come behind it.
        """
        nonce = secrets.token_hex(16)
        key = secrets.token_hex(16) if restricts(self.client.versions.psql) else ""
        argv = gated_argv(self.client.conninfo(database), before, key)
        end = gate(key, after, nonce)
        try:
            said = self.client.run(
                argv, stdin=lambda: chain(blocks(), [end]), options=LOAD, watch=self.watch
            ).stdout
        except CommandFailed as error:
            if nonce not in error.stderr:
                raise
            said = ""  # a quote that was left open took our SELECT for its text
        if nonce not in said[-200:] and not self.client.runner.dry:
            raise Damaged("The SQL script ends in the middle of a statement", "Nothing was changed")

    def _run_hook(self, scratch: str, hook: Hook) -> None:
        """Run a script of the user's in one transaction: with the database's own search_path,
        and as its owner, unless that is a superuser or the objects belong to this user.

        :raises CommandFailed: a statement failed; names its file and its line.
        """
        log.info("%s %s", "Would run" if self.client.runner.dry else "Running", hook.name)
        progress.rename(f"Running {hook.name}")
        before = ["SET client_encoding TO 'UTF8'", "BEGIN"]
        if self.owner and self.archive.is_archive:
            names = {"live": self.client.login.database, "scratch": scratch}
            before += self.client.change(queries.OWNED, scratch, names).splitlines()
        try:
            blocks = lambda: script.for_psql([hook.content])  # noqa: E731
            self._run_gated(scratch, blocks, before, "COMMIT;\n")
        except RepomError as error:
            said = error.stderr if isinstance(error, CommandFailed) else error.message
            found = re.search(r"psql:<stdin>:(\d+): (?:ERROR|error): +([^\n]*?)\)?$", said, re.M)
            if not found:
                raise
            raise hook.failed(int(found[1]), found[2]) from None

    def _warn_of_definers(self, scratch: str) -> None:
        """Without owners, another role's SECURITY DEFINER functions become this user's."""
        user = self.client.login.user
        if self.owner and self.archive.kind != "plain":
            return
        if self.facts and self.facts.roles and set(self.facts.roles) <= {user}:
            return
        if names := _json(self.client.query(queries.DEFINERS, scratch)):
            log.warning(
                "These SECURITY DEFINER functions now run as superuser %s for every caller: %s",
                *(user, ", ".join(names[:10])),
            )

    # -- statistics ---------------------------------------------------------------------

    def _analyze(self, database: str, parts: int) -> None:
        """Make the statistics that did not come along; in several sessions if it pays."""
        progress.rename(f"Making statistics of {self.client.login.database}")
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
        run = self.client.apart if part else self.client.script
        shares = {"part": str(part), "parts": str(parts)}
        try:
            done = run(queries.ANALYZE, database, shares, changes=True)
        except RepomError as error:  # the data are there
            if self.client.is_aborted:
                return
            log.warning("Restored, but without the planner's statistics: %s", error.message)
            return
        warn("No statistics for a table", done.stderr)

    # -- in place -----------------------------------------------------------------------

    def in_place(self, *, trusted: bool) -> None:
        """Replace the contents in one transaction, for a user who may not create a
        database. Others wait for its locks meanwhile, and no undo copy is kept.

        :param trusted: the file is one of the store's own backups.
        :raises Refused: not all of the contents could be replaced in one transaction.
        """
        if not trusted and self.archive.kind == "plain":
            raise Refused(
                "With --in-place, a script of unknown origin could end the transaction",
                "Restore it with --into, or as a user who may create a database",
            )
        self.check_format()
        live, expected = self.client.login.database, self.archive.tables
        self._refuse_in_place(expected or 0)
        with self._as_script() as blocks:
            end = queries.EXPECT.format(tables=-1 if expected is None else expected)
            self._run_gated(
                live,
                lambda: chain(script.for_psql(blocks(), owner=self.owner), unchanged(self.archive)),
                before=["BEGIN", queries.EMPTY, "RESET search_path"],
                after=f"{end}COMMIT;\n",
            )
        self._analyze(live, 1)

    def _refuse_in_place(self, tables: int) -> None:
        live = self.client.login.database
        found = json.loads(self.client.script(queries.IN_PLACE, live, probe=True).stdout)
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
    def _as_script(self) -> Iterator[Callable[[], Iterable[bytes]]]:
        """What reads the archive as plain SQL: from a file without a name, so that a killed
        run leaves nothing."""
        if self.archive.kind == "plain":
            yield self.archive.blocks
            return
        with tempfile.TemporaryFile(prefix="repom-") as file:
            argv = script_argv(owner=self.owner)
            self.client.run_offline(argv, self.archive.path, stdout=file, listing=self._listing())

            def blocks() -> Iterable[bytes]:
                file.seek(0)
                return iter(lambda: file.read(BLOCK), b"")

            yield blocks


def rows(client: Client, database: str) -> dict[str, int | None]:
    """Rows of each table of a database; ``None`` for one that cannot be read."""
    tables = _json(client.query(queries.NAMES, database))
    counter = 'find /c /v ""' if client.runner.platform == "win32" else "wc -l"
    counting = queries.rows((quoted for _name, quoted in tables), counter)
    lines = client.change(counting, database).split()
    pairs = zip(tables, lines[::2], lines[1::2], strict=True)
    return {name: int(n) if failed == "false" else None for (name, _), n, failed in pairs}


def _json(said: str) -> list[Any]:
    return json.loads(said.strip() or "null") or []


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


def warn(what: str, said: str) -> None:
    """Warn of statements that failed, a line each."""
    for line in said.split("\n"):
        if "ERROR:" in line:
            log.warning("%s: %s", what, best_line(line))
