"""PostgreSQL's client programs, run as one user of one server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.errors import Hidden, Unreachable
from repom.runners import programs
from repom.runners.host import HostRunner
from repom.runners.process import SESSION
from repom.settings.address import Address

from . import queries
from .commands import psql_argv
from .failures import place, translated
from .session import Session

ANSWER = 60.0  # seconds that a question may take in all; the server gives up before


class Client:
    """What `Postgres` says to the server, through a runner.

    Which programs of the host fit is known after the first question; so is whether the
    container wants a password from local connections.
    """

    def __init__(self, runner: HostRunner, login: Address) -> None:
        self.runner, self.login = runner, login
        self.psql_version = 0  # as in VERSION_NUM: 170006
        self.server_major = 0
        self._with_password = not runner.trusted
        self._with_options = True

    @property
    def in_container(self) -> bool:
        return self.runner.via == "docker"

    @property
    def where(self) -> str:
        return place(self.login, self.runner)

    @property
    def dry(self) -> bool:
        return bool(self.runner.context.config.run.dry)

    def conninfo(self, database: str) -> str:
        return self.login.conninfo(database, local=self.in_container)

    def first(self, query: str, database: str, **variables: Any) -> dict[str, Any]:
        """Ask the first question; a dry run asks it too.

        :param query: see `repom.dbops.queries.IDENTIFY`.
        :returns: what it answers, with ``free``, bytes of the disk of the data, and
            ``migration`` where there is one.
        """
        if not self.in_container:
            self._find_programs()
        answer = answers(self.query(query, database, probe=True, **variables).split("\n"))
        self.psql_version = int(answer["psql"])
        self.server_major = int(answer["server_version_num"]) // 10_000
        if not self.in_container:
            self._choose_programs()
        return answer

    def _choose_programs(self) -> None:
        asked = self.runner.bin
        self.runner.bin = programs.fitting(self.server_major)
        if self.runner.bin != asked:
            self.psql_version = programs.version_num("psql", self.runner.bin)

    def _find_programs(self) -> None:
        if self.runner.bin:
            return
        try:
            self.runner.bin = programs.newest()
        except Unreachable as error:
            if not self.runner.fallback:
                raise
            raise Unreachable(
                f"{self.runner.fallback}, and {error.message}",
                f"Start the container with: invoke postgres.start. Or: {error.hint}",
            ) from None

    def query(self, query: str, database: str, **how: Any) -> str:
        """Run a script of SQL and psql commands; returns its rows, unaligned."""
        return str(self.script(query, database, **how).stdout)

    def change(self, query: str, database: str, **how: Any) -> str:
        """Run a script that creates, drops or analyzes, which takes the time it takes."""
        return str(self.script(query, database, changes=True, **how).stdout)

    def script(
        self,
        query: str,
        database: str,
        *,
        changes: bool = False,
        probe: bool = False,
        timeout: float | None = None,
        **variables: Any,
    ) -> Result:
        """:param changes: it is no mere question, so nothing bounds its time.
        :param probe: a question that a dry run must ask too.
        :param timeout: seconds to wait for the answer.
        :param variables: of psql.
        """
        argv = psql_argv(self.conninfo(database), variables)
        text = queries.opening(changes=changes) + query
        how: dict[str, Any] = {"dry": False if probe else None}
        how["timeout"] = timeout if changes else timeout or ANSWER
        return self.run(argv, stdin=[text.encode()], options=None, **how)

    @contextmanager
    def session(self, database: str) -> Iterator[Session]:
        """A psql that stays open, with the settings of a script that changes something."""
        argv = psql_argv(self.conninfo(database), {})
        session = Session(self.runner.open(argv, self.environment(None)))
        try:
            with translated(self.login, self.runner):
                opening = queries.opening(changes=True) + "SELECT pg_backend_pid();"
                session.pid = int(session.ask(opening, timeout=ANSWER)[-1])
            yield session
        finally:
            session.close()

    def run(self, argv: list[str], *, options: str | None = "", **how: Any) -> Result:
        """Run a program; a password goes with it when the server turns out to want one.

        :param options: settings of its sessions beside the usual ones, as in PGOPTIONS;
            ``None`` for a script of ours, which begins with them.
        :raises RepomError: see `repom.dbops.failures`.
        """
        with translated(self.login, self.runner):
            try:
                return self.runner.run(argv, env=self.environment(options), **how)
            except UnexpectedExit as error:
                if not self._learns(error.result):
                    raise
                return self.runner.run(argv, env=self.environment(options), **how)

    def run_on_file(self, argv: list[str], path: Path, *, options: str = "", **how: Any) -> Result:
        """Run a program on a file that lies here, wherever the program runs."""
        with translated(self.login, self.runner):
            return self.runner.run_on_file(argv, path, env=self.environment(options), **how)

    def shell(self) -> int:
        if not self.in_container:
            self._find_programs()
        argv = ["psql", "-d", self.conninfo(self.login.database)]
        env = {"PGPASSWORD": self.login.password or "", "PGOPTIONS": self.login.session}
        return self.runner.interactive(argv, env)

    def _learns(self, failed: Result) -> bool:
        """Whether another way of connecting is worth a try: nothing was done so far."""
        if "no password supplied" in failed.stderr and not self._with_password:
            self._with_password = bool(self.login.password)
            return self._with_password
        if "unsupported startup parameter" in failed.stderr and self._with_options:
            self._with_options = False  # a pooler; what it lacks is only more robust
            return True
        return False

    def environment(self, options: str | None = "") -> dict[str, str]:
        """Variables for libpq. The password is among them on the host, and in a container
        only when its local connections do not trust."""
        env = {"PGCONNECT_TIMEOUT": "15"}
        own = "" if options is None or not self._with_options else f"{SESSION} {options}"
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
