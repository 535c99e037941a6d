"""PostgreSQL's client programs, run as one user of one server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from invoke.exceptions import UnexpectedExit

from ..errors import Hidden, Unreachable
from . import programs
from .commands import Login, psql_argv
from .failures import place, translated
from .runner import SESSION, HostRunner, Result


class Client:
    """What `Postgres` says to the server, through a runner.

    Which programs of the host fit is known after the first question; so is whether the
    container wants a password from local connections.
    """

    def __init__(self, runner: HostRunner, login: Login) -> None:
        self.runner, self.login = runner, login
        self.psql_version = 0  # as in VERSION_NUM: 170006
        self.server_major = 0
        self._with_password = not runner.trusted

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

        :param query: answers psql's version, a JSON object with ``server_version_num``,
            the system identifier where this user may know it, each in a line, and what
            `df` says of the disk of the data where that can be asked.
        """
        if not self.in_container:
            self._find_programs()
        lines = self.query(query, database, probe=True, **variables).splitlines()
        answer: dict[str, Any] = json.loads(lines[1])
        answer["system_identifier"] = (lines[2] if len(lines) > 2 else "") or None
        answer["free"] = free_bytes(lines[-1])
        self.psql_version = int(lines[0])
        self.server_major = answer["server_version_num"] // 10_000
        if not self.in_container:
            self.runner.bin = programs.fitting(self.server_major)
        return answer

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

    def script(
        self,
        query: str,
        database: str,
        *,
        probe: bool = False,
        timeout: float | None = None,
        **variables: Any,
    ) -> Result:
        """:param probe: a question that a dry run must ask too.
        :param timeout: seconds to wait for the answer.
        :param variables: of psql.
        """
        argv = psql_argv(self.conninfo(database), variables)
        dry = False if probe else None
        return self.run(argv, stdin=[query.encode()], dry=dry, timeout=timeout)

    def run(self, argv: list[str], *, options: str = "", **how: Any) -> Result:
        """Run a program; a password goes with it when the server turns out to want one.

        :param options: settings of its sessions, as in PGOPTIONS.
        :raises RepomError: see `repom.dbops.failures`.
        """
        with translated(self.login, self.runner):
            try:
                return self.runner.run(argv, env=self.environment(options), **how)
            except UnexpectedExit as error:
                if not self._wants_password(error.result):
                    raise
                self._with_password = True
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

    def _wants_password(self, failed: Result) -> bool:
        wanted = "no password supplied" in failed.stderr
        return bool(wanted and self.login.password and not self._with_password)

    def environment(self, options: str = "") -> dict[str, str]:
        """Variables for libpq. The password is among them on the host, and in a container
        only when its local connections do not trust."""
        password = self.login.password if self._with_password else None
        session = f"{self.login.session} {SESSION} {options}".strip()
        settings = {"PGOPTIONS": session, "PGCONNECT_TIMEOUT": "15"}
        return {**settings, **({"PGPASSWORD": Hidden(password)} if password else {})}


def free_bytes(line: str) -> int | None:
    """Bytes that are free, from the last line of ``df -Pk``; nothing from another line."""
    found = re.fullmatch(r".*\s\d+\s+\d+\s+(\d+)\s+\d+%\s+/.*", line)
    return int(found[1]) * 1024 if found else None
