"""One PostgreSQL database: asking it, dumping it, loading a new one and swapping them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

from invoke.exceptions import UnexpectedExit

from ..errors import CommandFailed, Damaged, Refused, RepomError, Unreachable
from . import programs, queries, script
from .archive import Archive, major
from .commands import (
    ARCHIVE_FORMATS,
    Login,
    dump_argv,
    psql_argv,
    restore_argv,
    restricts,
    vacuum_argv,
)
from .database import Facts, Kept
from .failures import best_line, place, translated
from .runner import SESSION, HostRunner, Result

log = logging.getLogger("repom")


class Postgres:
    """One database of a PostgreSQL server, reached by a runner."""

    backend = "postgresql"

    def __init__(self, runner: HostRunner, login: Login, *, jobs: int = 1) -> None:
        self.runner, self.login, self.jobs = runner, login, jobs
        self.name = login.database
        self._ask_password = not runner.trusted
        self._psql_version = 0
        self._server_major = 0

    @property
    def via(self) -> str:
        return self.runner.via

    @property
    def where(self) -> str:
        return place(self.login, self.runner)

    @property
    def fallback(self) -> str:
        return self.runner.fallback

    # -- asking -------------------------------------------------------------------------

    def identify(self) -> Facts:
        """:raises Unreachable: no server, wrong login, unknown database, no programs."""
        return self._facts(self._question(queries.IDENTIFY, self.name))

    def existing(self) -> Facts | None:
        try:
            return self.identify()
        except Unreachable as error:
            if error.message.startswith("No database"):
                return None
            raise

    def _question(self, query: str, database: str, **variables: Any) -> dict[str, Any]:
        """Ask the first question, whose answer says which programs fit the server."""
        if not self.runner.bin and self.via == "host":
            self._find_programs()
        lines = self._psql(query, database, probe=True, **variables).splitlines()
        self._psql_version = int(lines[0])
        answer: dict[str, Any] = json.loads(lines[1])
        answer["system_identifier"] = lines[2] if len(lines) > 2 else None
        self._server_major = answer["server_version_num"] // 10_000
        if self.via == "host":
            self.runner.bin = programs.fitting(self._server_major)
        return answer

    def _find_programs(self) -> None:
        try:
            self.runner.bin = programs.newest()
        except Unreachable as error:
            if not self.runner.fallback:
                raise
            raise Unreachable(
                f"{self.runner.fallback}, and {error.message}",
                f"Start the container with: invoke postgres.start. Or: {error.hint}",
            ) from None

    def _facts(self, answer: Mapping[str, Any]) -> Facts:
        return Facts(
            server_version=answer["server_version"].split()[0],
            size=answer["size"],
            tables=answer["tables"],
            system_identifier=answer["system_identifier"],
            extensions=answer["extensions"],
            roles=tuple(answer["roles"]),
            locale=answer["locale"],
        )

    # -- dump ---------------------------------------------------------------------------

    def dump(self, file: BinaryIO, format: str) -> None:
        zstd = self._server_major >= 16
        conninfo = self._conninfo(self.name)
        try:
            self._client(dump_argv(conninfo, format, zstd=zstd), stdout=file)
        except CommandFailed as error:
            if not (zstd and "does not support compression" in error.stderr):
                raise
            file.seek(0)
            file.truncate()
            self._client(dump_argv(conninfo, format, zstd=False), stdout=file)

    # -- load ---------------------------------------------------------------------------

    def load(self, archive: Archive, facts: Mapping[str, Any] | None, *, owner: bool) -> str:
        obstacles = self._question(queries.OBSTACLES, self._maintenance, live=self.name)
        refuse(obstacles, archive, facts, owner=owner)
        self._check_format(archive)
        scratch = own_name("scratch")
        locale = json.dumps((facts or {}).get("locale") or {})
        comment = describe("scratch", self.name, self.runner.session)
        self._psql(
            queries.CREATE,
            self._maintenance,
            live=self.name,
            scratch=scratch,
            locale=locale,
            comment=comment,
        )
        try:
            self._fill(scratch, archive, trusted=facts is not None, owner=owner)
            self._check(scratch, facts)
            self._finish(scratch)
        except BaseException:
            self._abandon(scratch)
            raise
        return scratch

    def _check_format(self, archive: Archive) -> None:
        readable = ARCHIVE_FORMATS.get(self._server_major, (1, 16))
        if archive.format and archive.format > readable and self.via == "docker":
            raise Refused(
                f"The archive was written by pg_dump {archive.tool}, and the container's "
                f"pg_restore {self._server_major} cannot read it",
                f"Restore it into PostgreSQL {major(archive.tool)} or newer",
            )

    def _fill(self, scratch: str, archive: Archive, *, trusted: bool, owner: bool) -> None:
        conninfo = self._conninfo(scratch)
        if archive.kind == "custom":
            argv = restore_argv(conninfo, jobs=self.jobs, owner=owner)
            with translated(self.login, self.runner):
                self.runner.run_on_file(argv, archive.path, env=self._env())
            return
        self._run_script(archive, conninfo, trusted=trusted)

    def _run_script(self, archive: Archive, conninfo: str, *, trusted: bool) -> None:
        """The end of a stream is no success: psql takes it for the end of the data. What
        counts is the answer to the SELECT behind the COMMIT, which is sent last."""
        known = restricts(self._psql_version)
        nonce = secrets.token_hex(16)
        blocks = script.for_psql(archive.blocks(), trusted=trusted, restricts=known)
        argv = psql_argv(conninfo, {})
        try:
            said = self._client(argv, stdin=gated(blocks, nonce, known)).stdout
        except CommandFailed as error:
            if nonce not in error.stderr:
                raise
            said = ""  # a quote that was left open took our SELECT for its text
        if nonce not in said[-200:] and not self._dry:
            raise Damaged("The SQL script ends in the middle of a statement", "Nothing was changed")

    def _check(self, scratch: str, facts: Mapping[str, Any] | None) -> None:
        count = int(self._psql(queries.COUNT, scratch) or 0)
        expected = (facts or {}).get("tables")
        if expected is None and count == 0 and not self._dry:
            raise CommandFailed("The file was loaded and left no table", "Nothing was changed")
        if expected is not None and count != expected and not self._dry:
            raise CommandFailed(
                f"The backup holds {expected} tables, and {count} were restored",
                "Nothing was changed",
            )

    def _finish(self, scratch: str) -> None:
        """Statistics for the planner, and what belonged to the old database."""
        self._client(vacuum_argv(self._conninfo(scratch), jobs=self.jobs))
        said = self._script(
            queries.PROPERTIES, self._maintenance, live=self.name, scratch=scratch
        ).stderr
        for line in said.splitlines():
            if "ERROR:" in line:
                log.warning("Not carried over to the restored database: %s", best_line(line))

    # -- swap ---------------------------------------------------------------------------

    def swap(self, scratch: str) -> str | None:
        kept = own_name("undo")
        names = {"live": self.name, "kept": kept, "scratch": scratch}
        names["description"] = describe("undo", self.name, self.runner.session)
        evictor = threading.Thread(target=self._evict, args=(kept,), daemon=True)
        evictor.start()
        try:
            answer = self._psql(queries.SWAP, self._maintenance, probe=False, **names)
        except CommandFailed as error:
            if "being accessed by other users" in error.stderr:
                raise Refused(
                    f"Sessions on {self.name} could not be ended", "Close them and restore again"
                ) from None
            raise
        finally:
            self._stop(evictor)
        return kept if answer.strip() == "1" else None

    def _evict(self, kept: str) -> None:
        with suppress(RepomError):
            self._psql(queries.EVICT, self._maintenance, live=self.name, kept=kept)

    def _stop(self, evictor: threading.Thread) -> None:
        evictor.join(0.5)
        if evictor.is_alive():
            self.abort()
            evictor.join(5)

    def discard(self, scratch: str) -> None:
        with suppress(RepomError):
            self._psql(queries.DROP, self._maintenance, scratch=scratch)

    def _abandon(self, scratch: str) -> None:
        self.abort()
        self.discard(scratch)

    def kept(self) -> list[Kept]:
        found = [
            Kept(name, self.name, datetime.fromisoformat(note["created_at"]), size)
            for name, note, size, _busy in self._own("undo")
        ]
        return sorted(found, key=lambda each: each.created_at, reverse=True)

    def sweep(self) -> None:
        for name, note, _size, busy in self._own("scratch"):
            if not busy and is_dead(note):
                log.info("Removing %s, left behind by an earlier run", name)
                self.discard(name)

    def abort(self) -> None:
        with suppress(RepomError):
            self._psql(queries.ABORT, self._maintenance, session=self.runner.session)

    def _own(self, kind: str) -> Iterator[tuple[str, dict[str, Any], int, bool]]:
        """repom's own databases of this kind that belong to this database."""
        for line in self._psql(queries.OWN, self._maintenance, probe=True).splitlines():
            row = json.loads(line)
            with suppress(ValueError):
                note = json.loads(row["comment"])
                if note.get("kind") == kind and note.get("database") == self.name:
                    yield row["name"], note, row["size"] or 0, row["busy"]

    def shell(self) -> int:
        """psql on the terminal; returns its exit status."""
        if self.via == "host":
            self._find_programs()
        argv = ["psql", "-d", self._conninfo(self.name)]
        return self.runner.interactive(argv, {"PGPASSWORD": self.login.password or ""})

    # -- running programs ---------------------------------------------------------------

    @property
    def _maintenance(self) -> str:
        """A database to stand in while another one is created or renamed."""
        return "template1" if self.name == "postgres" else "postgres"

    @property
    def _dry(self) -> bool:
        return bool(self.runner.context.config.run.dry)

    def _conninfo(self, database: str) -> str:
        return self.login.conninfo(database, local=self.via == "docker")

    def _env(self) -> dict[str, str]:
        """Variables for libpq. A container that trusts its local connections gets no
        password; one that does not has said so by now."""
        password = self.login.password if self._ask_password else None
        return {"PGOPTIONS": SESSION, **({"PGPASSWORD": password} if password else {})}

    def _psql(self, query: str, database: str, *, probe: bool = False, **variables: Any) -> str:
        return str(self._script(query, database, probe=probe, **variables).stdout)

    def _script(
        self, query: str, database: str, *, probe: bool = False, **variables: Any
    ) -> Result:
        argv = psql_argv(self._conninfo(database), variables)
        return self._client(argv, stdin=[query.encode()], dry=False if probe else None)

    def _client(self, argv: list[str], **how: Any) -> Result:
        """Run a client program; a password is sent when the server turns out to want one."""
        with translated(self.login, self.runner):
            try:
                return self.runner.run(argv, env=self._env(), **how)
            except UnexpectedExit as error:
                wanted = "no password supplied" in error.result.stderr
                if not (wanted and self.login.password and not self._ask_password):
                    raise
                self._ask_password = True
                return self.runner.run(argv, env=self._env(), **how)


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


def describe(kind: str, database: str, session: str) -> str:
    """The comment on a database of repom's own: what it is and which process made it."""
    return json.dumps(
        {
            "kind": kind,
            "database": database,
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
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


def refuse(
    obstacles: Mapping[str, Any],
    archive: Archive,
    facts: Mapping[str, Any] | None,
    *,
    owner: bool,
) -> None:
    """Compare what the archive needs with what the server has, before anything is made.

    :raises Refused: names what is missing or in the way.
    """
    facts = facts or {}
    if obstacles["recovery"]:
        raise Refused(
            "The server is a standby, which cannot be written to", "Restore on its primary"
        )
    if not obstacles["may_create"]:
        raise Refused(
            "This user may not create a database, and a restore loads a new one first",
            "ALTER ROLE … CREATEDB as a superuser",
        )
    missing = sorted(set(facts.get("extensions") or {}) - set(obstacles["extensions"] or ()))
    if missing:
        raise Refused(
            f"The server lacks extensions of the backup: {', '.join(missing)}", "Install them first"
        )
    absent = sorted(set(facts.get("roles") or ()) - set(obstacles["roles"] or ()))
    if absent and owner and archive.kind == "custom":
        raise Refused(
            f"The server lacks roles of the backup: {', '.join(absent)}",
            "Create them, or add --no-owner",
        )
    for key, what in (
        ("sessions", "Sessions that this user may not end are open"),
        ("prepared", "Prepared transactions are open"),
        ("slots", "Replication slots are active"),
    ):
        if obstacles[key]:
            raise Refused(f"{what}: {', '.join(obstacles[key])}", "End them, then restore again")
