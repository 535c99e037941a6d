"""One PostgreSQL database: asked, dumped, loaded and swapped."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from repom.dbops.archive import script
from repom.dbops.archive.archive import Archive
from repom.dbops.archive.hook import Hook
from repom.dbops.database import Facts, Survey
from repom.errors import CommandFailed, Refused, RepomError
from repom.runners import process
from repom.runners.runner import Runner
from repom.settings.address import Address

from . import load, owned, queries, survey, swap
from .client import Client
from .commands import dump_argv, script_argv
from .load import Load
from .survey import ServerSurvey

log = logging.getLogger("repom")

HURRIED = 0.6  # seconds that an interrupted run waits for the drop of its scratch database


class Postgres:
    """One database of a PostgreSQL server, reached by a runner; see `database.Database`.

    :param fallback: why the container is not used although the settings ask for it.
    """

    backend = "postgresql"

    def __init__(
        self, runner: Runner, login: Address, *, jobs: int = 1, fallback: str = ""
    ) -> None:
        self.client = Client(runner, login, fallback)
        self.name, self.jobs, self.fallback = login.database, jobs, fallback

    @property
    def via(self) -> str:
        return self.client.runner.via

    @property
    def where(self) -> str:
        return self.client.where

    @property
    def session(self) -> str:
        return self.client.runner.session

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

    def survey(self) -> ServerSurvey:
        inside = "1" if self.client.runner.trusts_local else "0"
        variables = {"live": self.name, "inside": inside, "session": self.session}
        answer = self.client.first(queries.SURVEY, self.client.maintenance, variables)
        return survey.parsed(answer, self.name)

    def is_same_as(self, other: Postgres) -> bool:
        """Whether both are one database, whatever their addresses say: a lock that is taken
        here shows there. (A standby has the system identifier of its primary.)"""
        key = {"key": str(secrets.randbits(62))}
        try:
            self.client.script(queries.SHOW, self.name, key, probe=True)
            return other.client.script(queries.SEEN, other.name, key, probe=True).stdout == "1\n"
        finally:
            self.client.close(self.name)

    # -- dump ---------------------------------------------------------------------------

    def dump(self, file: BinaryIO, format: str, excluded: Sequence[str] = ()) -> None:
        server = self.client.versions.major
        try:
            self._dump(file, format, excluded, zstd=server >= 16)
        except CommandFailed as error:
            if "timeout" in error.stderr and "lock" in error.stderr.lower():
                raise self._blocked(error) from None
            if server < 16 or "does not support compression" not in error.stderr:
                raise
            file.seek(0)
            file.truncate()
            self._dump(file, format, excluded, zstd=False)

    def _dump(self, file: BinaryIO, format: str, excluded: Sequence[str], *, zstd: bool) -> None:
        statistics = self.client.versions.major >= 18
        self.client.close(self.name)  # the database may allow a single connection
        argv = dump_argv(self.client.conninfo(self.name), format, zstd=zstd, statistics=statistics)
        argv += [f"--exclude-table-data={pattern}" for pattern in excluded]
        self.client.run(argv, stdout=file, watch=lambda: self._diagnosis(dumping=True))

    def _diagnosis(self, *, dumping: bool = False) -> str:
        """Why a program has been silent, as far as the server can be asked. Nothing when it
        may go on: while the server works for it, or a load is busy with its file."""
        silent = f"no byte for {process.STALL:g} s, and "
        try:
            variables = {"session": self.session}
            said = self.client.apart(
                queries.WORKING, self.client.maintenance, variables, timeout=10
            ).stdout
        except RepomError as error:
            full = "too many clients" in str(error) or "connection slots" in str(error)
            return "" if full else f"{silent}the server on {self.where} does not answer"
        found = json.loads(said)
        if found["blockers"]:
            return f"{silent}it waits for {', '.join(found['blockers'])}"
        return f"{silent}the server is idle" if dumping and not found["working"] else ""

    def _blocked(self, error: CommandFailed) -> RepomError:
        """Names the sessions that keep the dump out of a table."""
        try:
            holders = self.client.apart(queries.LOCKERS, self.name).stdout.strip("\n").split("\n")
        except RepomError:
            return error
        who = ", ".join(filter(None, holders))
        by = who or "a session that has ended since"
        return Refused(
            f"A table of {self.name} is locked by {by}", "End that session, then try again"
        )

    def read(self, archive: Archive) -> None:
        """Read an archive to its end without restoring it.

        :raises Damaged: it cannot be read.
        :raises RepomError: there is no program to read it with.
        """
        if archive.is_archive:
            _ = self.client.versions  # on the host, the programs that fit them
            nowhere = "NUL" if self.client.runner.platform == "win32" else "/dev/null"
            argv = script_argv(owner=True, to=nowhere)
            self.client.run_offline(argv, archive.path)
        else:
            for _piece in script.for_psql(archive.blocks()):
                pass

    # -- load and swap ------------------------------------------------------------------

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
        assert isinstance(found, ServerSurvey)
        # A drill keeps owners if it can: the functions in the indexes of a table run as its
        # owner, which should not be this user.
        absent = survey.missing_roles(found.roles, archive, facts)
        owner = owner or (not replacing and archive.is_archive and not absent)
        task = Load(self.client, archive, facts, owner, replacing, self._diagnosis, hooks)
        self._refuse(found, task)
        try:
            return self._loaded(task, self.jobs)
        except CommandFailed as error:
            if not task.may_be_order(error, self.jobs):
                raise
            log.warning("The parallel load failed; loading again with one worker (%s)", error)
        return self._loaded(task, 1)

    def _refuse(self, found: ServerSurvey, task: Load) -> None:
        """:raises Refused: names what the archive needs and the server lacks."""
        survey.refuse_server(found)
        survey.refuse_needs(found, task.archive, task.facts, owner=task.owner)
        survey.refuse_space(found, task.facts.size if task.facts else 0)
        if task.replacing:
            survey.refuse_holders(found)
            user = self.client.login.user
            if task.archive.kind == "plain" and found.owner not in (None, user):
                log.warning(
                    "A plain dump has no owners or grants: everything in %s will belong to %s",
                    *(self.name, user),
                )
        task.check_format()

    def _loaded(self, task: Load, jobs: int) -> str:
        scratch, self.client.is_aborted = owned.new_name("scratch"), False
        try:
            task.into(scratch, jobs)
        except BaseException as error:
            self.abort()
            hurried = isinstance(error, KeyboardInterrupt)
            owned.remove(self.client, scratch, HURRIED if hurried else owned.DROPPING)
            raise
        return scratch

    def load_in_place(
        self, archive: Archive, facts: Facts | None, *, owner: bool = True, trusted: bool = False
    ) -> None:
        """See `Load.in_place`."""
        Load(self.client, archive, facts, owner, False, self._diagnosis).in_place(trusted=trusted)

    def rows(self, scratch: str) -> dict[str, int]:
        return load.rows(self.client, scratch)

    def swap(self, found: Survey, scratch: str, *, keep: int) -> str | None:
        assert isinstance(found, ServerSurvey)
        return swap.swap(self.client, found, scratch, keep)

    # -- holding and cleaning up --------------------------------------------------------

    @contextmanager
    def exclusive(self, doing: str) -> Iterator[None]:
        """An advisory lock in the open psql of the maintenance database."""
        place = self.client.maintenance
        if place != "template1" and not self.client.runner.dry:
            self.client.on_open[place] = self._lock
            self._lock()
        yield

    def _lock(self) -> None:
        variables = {"key": str(swap.lock_key(self.name))}
        said = self.client.change(
            queries.HOLD, self.client.maintenance, variables, timeout=owned.DROPPING
        )
        if said.strip() != "held":
            raise swap.in_use(self.name, said.split("\n")[0])

    def discard(self, scratch: str) -> None:
        owned.remove(self.client, scratch)

    def sweep(self, found: Survey) -> None:
        assert isinstance(found, ServerSurvey)
        owned.sweep(self.client, found.own, found.present)

    def abort(self, session: str | None = None) -> None:
        swap.abort(self.client, session or self.session)

    def close(self) -> None:
        self.client.on_open.clear()
        self.client.close()

    def shell(self) -> int:
        return self.client.shell()
