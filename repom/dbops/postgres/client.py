"""PostgreSQL's client programs, run as one user of one server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.errors import Hidden, Unreachable, advice
from repom.runners import oneshot, programs
from repom.runners.host import HostRunner
from repom.runners.oneshot import OneShotRunner
from repom.runners.runner import Runner, Stdin, Watch
from repom.settings.address import Address

from . import queries
from .commands import psql_argv
from .failures import place, translated
from .session import PID, Answer, Session

T = TypeVar("T")
#: Variables of psql, for a script.
Variables = Mapping[str, str] | None

ANSWER = 60.0  # seconds that a question may take in all; the server gives up before
#: A role or a database may carry settings that end a dump or a load half way.
SESSION = (
    "-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
    " -c default_transaction_read_only=off -c standard_conforming_strings=on"
)

READ_ONLY = "-c default_transaction_read_only=on"  # the last of two counts


@dataclass(frozen=True)
class Versions:
    """As in VERSION_NUM, 170006: of the psql that loads, and of the server."""

    psql: int
    server: int

    @property
    def major(self) -> int:
        return self.server // 10_000


class Client:
    """What `Postgres` says to the server, through a runner. Scripts go through one psql per
    database, which is started at the first and stays open until `close`.

    :param fallback: why the container is not used although the settings ask for it.
    """

    #: Seconds to wait for the answer to a question.
    patience = ANSWER

    def __init__(self, runner: Runner, login: Address, fallback: str = "") -> None:
        self.runner, self.login, self.fallback = runner, login, fallback
        self._versions: Versions | None = None
        self._sessions: dict[str, Session] = {}
        #: What to do when the session of a database is opened anew: to take a lock again.
        self.on_open: dict[str, Callable[[], None]] = {}
        #: Whether its sessions may only read.
        self.is_read_only = False
        #: Whether this run was ended in the server, and nothing was begun since.
        self.is_aborted = False
        self._with_password = not runner.trusts_local
        self._with_options = True

    @property
    def where(self) -> str:
        return place(self.login, self.runner)

    @property
    def maintenance(self) -> str:
        """A database to connect to while another one is created or renamed."""
        return "template1" if self.login.database == "postgres" else "postgres"

    @property
    def versions(self) -> Versions:
        """Asked for once. On the host the programs are chosen by them."""
        if self._versions is None:
            self.first(queries.VERSION, self.maintenance)
        assert self._versions
        return self._versions

    def conninfo(self, database: str) -> str:
        return self.login.conninfo(database, local=self.runner.trusts_local)

    # -- scripts ------------------------------------------------------------------------

    def first(self, query: str, database: str, variables: Variables = None) -> dict[str, Any]:
        """Ask what a server is; a dry run asks it, too.

        :param query: begins with `queries.VERSION`.
        :returns: what it answers, with ``free``, bytes of the disk of the data, and
            ``migration`` where there is one.
        """
        said = self.script(query, database, variables, probe=True).stdout
        answer = answers(said.split("\n"))
        if self._versions is None:
            self._fit(int(answer["psql"]), int(answer["server_version_num"]))
        return answer

    def query(
        self,
        query: str,
        database: str,
        variables: Variables = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """Ask a question; returns the rows, unaligned."""
        return self.script(query, database, variables, timeout=timeout).stdout

    def change(
        self,
        query: str,
        database: str,
        variables: Variables = None,
        *,
        timeout: float | None = None,
    ) -> str:
        """Run a script that creates, drops or analyzes, which takes the time it takes."""
        return self.script(query, database, variables, changes=True, timeout=timeout).stdout

    def script(
        self,
        query: str,
        database: str,
        variables: Variables = None,
        *,
        changes: bool = False,
        probe: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """Run a script of SQL and psql commands in the open psql of a database.

        :param changes: it changes something; see `queries.opening`.
        :param probe: a question that a dry run asks, too.
        :param timeout: seconds to wait for the answer.
        :param variables: of psql.
        """
        # While a session in template1 is open, the server creates no database.
        if database == "template1" or (self.runner.dry and not probe):
            how = {"changes": changes, "probe": probe}
            return self.apart(query, database, variables, timeout=timeout, **how)
        session = self.session(database)
        try:
            with translated(self.login, self.runner):
                text = queries.opening(changes=changes) + query
                limit = timeout if changes else timeout or self.patience
                return session.ask(text, variables, limit)
        except BaseException:
            self.close(database)  # it has ended, or its answer is still to come
            raise

    def apart(
        self,
        query: str,
        database: str,
        variables: Variables = None,
        *,
        changes: bool = False,
        probe: bool = False,
        timeout: float | None = None,
    ) -> Answer:
        """The same in a psql of its own, for a thread or beside one that is busy."""
        argv = psql_argv(self.conninfo(database), variables or {})
        text = (queries.opening(changes=changes) + query).encode()
        limit = timeout if changes else timeout or self.patience
        dry = False if probe else None
        done = self.run(argv, stdin=lambda: [text], timeout=limit, dry=dry)
        return Answer(done.stdout, done.stderr)

    def session(self, database: str) -> Session:
        """The open psql of a database; a new one when the server has ended the old one."""
        if database in self._sessions and not self._sessions[database].is_alive():
            self.close(database)
        if database not in self._sessions:
            argv = psql_argv(self.conninfo(database), {})
            self._sessions[database] = self._retried(lambda env: self._opened(argv, env))
            self.on_open.get(database, lambda: None)()
        return self._sessions[database]

    def _opened(self, argv: list[str], env: Mapping[str, str]) -> Session:
        session = Session(self.runner.open(argv, env))
        try:
            session.pid = int(session.ask(PID, timeout=self.patience).stdout)
        except BaseException:
            session.close()
            raise
        return session

    def pid(self, database: str) -> int:
        """The server process of an open session; 0 when there is none."""
        return self._sessions[database].pid if database in self._sessions else 0

    def close(self, *databases: str) -> None:
        """Close the sessions of these databases; or all, and a container that was made for them."""
        for each in databases or list(self._sessions):
            if session := self._sessions.pop(each, None):
                with suppress(Exception):
                    session.close()
        if not databases and isinstance(self.runner, OneShotRunner):
            self.runner, self._versions = self.runner.close(), None  # looked for once more

    # -- programs -----------------------------------------------------------------------

    def run(
        self,
        argv: list[str],
        *,
        options: str = "",
        stdin: Callable[[], Stdin] = lambda: None,
        stdout: BinaryIO | None = None,
        timeout: float | None = None,
        dry: bool | None = None,
        watch: Watch | None = None,
    ) -> Result:
        """Run a program; a password goes with it when the server turns out to want one.

        :param stdin: makes the input, once more for a second attempt.
        :param options: settings of its sessions beside the usual ones, as in PGOPTIONS.
        :raises RepomError: see `failures`.
        """
        return self._retried(
            lambda env: self.runner.run(
                argv, env=env, stdin=stdin(), stdout=stdout, timeout=timeout, dry=dry, watch=watch
            ),
            options,
        )

    def run_on_file(
        self,
        argv: list[str],
        path: Path,
        *,
        options: str = "",
        stdout: BinaryIO | None = None,
        watch: Watch | None = None,
        listing: bytes = b"",
    ) -> Result:
        """Run a program on a file that lies here, wherever the program runs."""
        return self._retried(
            lambda env: self.runner.run_on_file(
                argv, path, env=env, stdout=stdout, watch=watch, listing=listing
            ),
            options,
        )

    def run_offline(
        self, argv: list[str], path: Path, stdout: BinaryIO | None = None, listing: bytes = b""
    ) -> None:
        """Run a program that reads a file alone: it has no session that could be ended."""
        try:
            self.run_on_file(argv, path, stdout=stdout, listing=listing)
        except BaseException:
            self.runner.end(self.runner.session, 1.0)
            raise

    def shell(self) -> int:
        self._find_programs()
        if not self.runner.dry:
            _ = self.versions  # whether the server answers is said in words of ours
        argv = ["psql", "-d", self.conninfo(self.login.database)]
        env = {"PGPASSWORD": self.login.password or "", "PGOPTIONS": self.login.session}
        return self.runner.interactive(argv, env)

    def _find_programs(self) -> None:
        """On the host, the newest: which fit is known when the server has answered."""
        if not isinstance(self.runner, HostRunner) or self.runner.folder:
            return
        try:
            self.runner = self._with_programs(self.runner)
        except Unreachable as error:
            if not self.fallback:
                raise
            raise Unreachable(
                f"{self.fallback}, and {error.message}",
                advice(f"Start the container with: {{}}. Or: {error.hint}", "postgres.start"),
            ) from None

    def _fit(self, psql: int, server: int) -> None:
        asked = self.runner
        if isinstance(asked, HostRunner | OneShotRunner):
            self.runner = self._with_programs(asked, server // 10_000)
            psql = psql if self.runner == asked else programs.version_of("psql", self.runner)
        self._versions = Versions(psql, server)

    def _with_programs(self, host: HostRunner | OneShotRunner, server: int = 0) -> Runner:
        """Programs of this host for a server of this major, else a client container."""
        try:
            folder = programs.fitting(server) if server else programs.newest()
        except Unreachable as lacking:
            return oneshot.instead(host, self.login, lacking, server)
        return replace(host, folder=folder) if isinstance(host, HostRunner) else host

    def _retried(self, attempt: Callable[[Mapping[str, str]], T], options: str = "") -> T:
        self._find_programs()
        with translated(self.login, self.runner):
            try:
                return attempt(self.environment(options))
            except UnexpectedExit as error:
                if not self._learns(error.result):
                    raise
                return attempt(self.environment(options))

    def _learns(self, failed: Result) -> bool:
        """Whether another way of connecting is worth a try: nothing was done so far."""
        if "no password supplied" in failed.stderr and not self._with_password:
            self._with_password = bool(self.login.password)
            return self._with_password
        # What is set in a session of a pooler would stay for other programs of the source.
        may_learn = self._with_options and not self.is_read_only
        if "unsupported startup parameter" in failed.stderr and may_learn:
            self._with_options = False  # a pooler; what it lacks is only more robust
            return True
        return False

    def environment(self, options: str = "") -> dict[str, str]:
        """Variables for libpq. The password is among them on the host, and in a container
        only when its local connections do not trust."""
        env = {"PGCONNECT_TIMEOUT": str(min(15, int(self.patience) - 1))}
        options = f"{options} {READ_ONLY}" if self.is_read_only else options
        own = f"{SESSION} {options}" if self._with_options else ""
        if given := f"{self.login.session} {own}".strip():
            env["PGOPTIONS"] = given
        if self._with_password and self.login.password:
            env["PGPASSWORD"] = Hidden(self.login.password)
        return env


def answers(lines: Iterable[str]) -> dict[str, Any]:
    """What a first question answers: JSON objects of facts, psql's version, what `df` says
    and the values of Alembic's table."""
    found: dict[str, Any] = {"free": None}
    values: list[str] | None = None
    for line in lines:
        if values is not None:
            values += [line] if line else []
        elif line.startswith("{"):
            found |= json.loads(line)
        elif line == "migration":
            values = []
        elif line.isdigit():
            found.setdefault("psql", line)
        else:
            free = free_bytes(line)
            found["free"] = found["free"] if free is None else free
    return {**found, "migration": ",".join(values or ())[:200] or None}


def free_bytes(line: str) -> int | None:
    """Bytes that are free, from the last line of ``df -Pk``; nothing from another line."""
    found = re.fullmatch(r".*\s\d+\s+\d+\s+(\d+)\s+\d+%\s+/.*", line)
    return int(found[1]) * 1024 if found else None
