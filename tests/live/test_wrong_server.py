"""Every verb against every wrong server: what is not the project's own is neither changed
nor deleted, and what is allowed there says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops import upkeep
from tests.live.cli import Ended, invoke
from tests.live.engine import run
from tests.live.servers import Server, container_server, settings_for, wait_until_ready

VERBS = {
    "list": ["db.list"],
    "verify": ["db.verify"],
    "pin": ["db.pin", "--backup", "kept"],
    "backup": ["db.backup", "--keep", "1"],
    "restore": ["db.restore", "--backup", "kept", "--yes"],
    "into": ["db.restore", "--backup", "kept", "--yes", "--into", "new"],
    "in place": ["db.restore", "--backup", "kept", "--yes", "--in-place"],
    "undo": ["db.undo", "--yes"],
    "drill": ["db.verify", "--backup", "kept", "--drill"],
    "prune": ["db.prune", "--keep", "1"],
}
READING = {"list": 0, "verify": 0, "pin": 0, "backup": 0}
CHANGING = ("restore", "into", "in place", "undo", "drill", "prune")


@dataclass
class Wrong:
    """A project whose settings lead to a server that is not its own.

    :param server: the one that answers.
    :param expected: the exit status of each verb; 5 where it is not named.
    :param says: a part of each refusal.
    """

    project: Path
    env: dict[str, str]
    server: Server
    expected: dict[str, int]
    says: str = ""
    names: set[str] = field(default_factory=set)

    def run(self, verb: str) -> Ended:
        return self.task(*VERBS[verb])

    def task(self, *task: str) -> Ended:
        return invoke(self.project, *task, env=self.env)

    def state(self) -> tuple[str, list[str]]:
        """What the wrong server holds; scratch databases go by and by."""
        assert self.server.leftovers() == []
        return self.server.dump(), sorted(self.server.databases())

    def stored(self) -> set[str]:
        return {p.name for p in (self.project / "backups").glob("*.dump")}


def fill(server: Server, what: str) -> None:
    server.create("shop", f"CREATE TABLE who AS SELECT '{what}'::text AS name")


def backed_up(server: Server, project: Path) -> None:
    for label in ("kept", "second", None):
        dbops.backup(settings_for(server, project), label=label)


def with_undo_copy(server: Server, folder: Path) -> None:
    """The other server's own user has restored something there."""
    folder.mkdir()
    settings = settings_for(server, folder)
    dbops.restore(dbops.backup(settings), settings)


def cleared(server: Server) -> None:
    server.clean()
    server.sql("DROP DATABASE IF EXISTS new", "postgres")


@contextmanager
def stopped(request: pytest.FixtureRequest, project: Path) -> Iterator[Wrong]:
    """The container is stopped, and the port leads to another server."""
    other: Server = request.getfixturevalue("postgres_host")
    fill(other, "other")
    cleared(other)
    with_undo_copy(other, project / "theirs")
    own: Server = request.getfixturevalue("postgres_fragile")
    fill(own, "own")
    backed_up(own, project)
    run("docker", "stop", "-t", "5", own.container)
    try:
        env = own.environment(POSTGRES_PORT=str(other.port))
        yield Wrong(project, env, other, READING, "not the one of the last backup")
    finally:
        run("docker", "start", own.container)
        wait_until_ready(own)
    cleared(other)


@contextmanager
def remade(request: pytest.FixtureRequest, project: Path) -> Iterator[Wrong]:
    """The container was made anew under its old name: what it held is in backups alone, so
    they may be restored, and none of them goes by itself."""
    own = ""
    with container_server(17) as server:
        own = server.container
        fill(server, "own")
        backed_up(server, project)
    with container_server(17) as server:
        run("docker", "rename", server.container, own)
        server.container, name = own, server.container
        fill(server, "anew")
        try:
            expected = {**READING, "undo": 4, "drill": 0, "prune": 0, "into": 0}
            yield Wrong(project, server.environment(), server, expected)
        finally:
            run("docker", "rename", own, name)


@contextmanager
def anothers(request: pytest.FixtureRequest, project: Path) -> Iterator[Wrong]:
    """The container of that name was made for another project."""
    theirs = project / "theirs"
    theirs.mkdir()
    own: Server = request.getfixturevalue("postgres_17")
    fill(own, "own")
    backed_up(own, project)
    with container_server(17, "--label", f"repom.project={theirs}") as server:
        fill(server, "other")
        expected = {"list": 0, "verify": 0, "pin": 0}
        yield Wrong(project, server.environment(), server, expected, "belongs to the project")


@contextmanager
def remote(request: pytest.FixtureRequest, project: Path) -> Iterator[Wrong]:
    """The server is on another machine, and --remote was not given."""
    server: Server = request.getfixturevalue("postgres_15")
    fill(server, "other")
    show = "{{.NetworkSettings.IPAddress}}"
    found = run("docker", "inspect", "--format", show, server.container)
    where = {"POSTGRES_HOST": found, "POSTGRES_PORT": "5432"}
    for label in ("kept", "second", None):
        dbops.backup(settings_for(server, project, **where), label=label)
    expected = {**READING, "drill": 0, "prune": 0}
    yield Wrong(project, server.environment(**where), server, expected, "on another machine")


PLACES = {"stopped": stopped, "made anew": remade, "another project's": anothers, "remote": remote}


@pytest.mark.parametrize("place", PLACES)
def test_every_verb_against_a_wrong_server(
    request: pytest.FixtureRequest, project: Path, place: str
) -> None:
    with PLACES[place](request, project) as wrong:
        before, stored = wrong.state(), wrong.stored()
        for verb in VERBS:
            if place == "made anew" and verb in ("restore", "in place"):
                continue  # allowed, see below
            ended = wrong.run(verb)
            assert ended.status == wrong.expected.get(verb, 5), (verb, ended.err)
            if ended.status == 5:
                assert wrong.says in ended.last, verb
                assert len(ended.last.splitlines()) == 1
            if verb == "into" and ended.status == 0:
                wrong.server.sql("DROP DATABASE new", "postgres")
            assert wrong.state() == before, verb
            if place != "remote":  # there they are its own
                assert stored <= wrong.stored(), verb
        AFTERWARDS.get(place, lambda _wrong: None)(wrong)


def is_allowed_by_via_host(wrong: Wrong) -> None:
    """With REPOM_VIA=host the host's server is what the user asks for."""
    wrong.env |= {"REPOM_VIA": "host"}
    assert wrong.run("undo").status == 0
    assert wrong.run("prune").status == 0


def takes_the_old_ones_backups(wrong: Wrong) -> None:
    """And says whose they are; its own are pruned apart from them."""
    for path in (wrong.project / "backups").glob(f"{max(wrong.stored())}*"):
        path.unlink()  # the one that it made above: it has none of its own
    asked = wrong.task("db.restore", "--latest")
    assert asked.status == 5
    assert "another server (container " in asked.err
    own = Path(wrong.task("db.backup").out.strip()).name
    for _ in range(2):
        assert wrong.task("db.backup").status == 0
    assert wrong.run("restore").status == 0
    assert wrong.server.sql("SELECT name FROM who") == "own"

    left = wrong.task("db.prune", "--keep", "1")
    assert left.out.startswith("4 kept, 2 deleted"), left
    assert "db.prune --all-servers" in left.err
    assert not (wrong.project / "backups" / own).exists()
    refused = wrong.task("db.prune", "--keep", "1", "--all-servers")
    assert (refused.status, len(wrong.stored())) == (5, 4)
    done = wrong.task("db.prune", "--keep", "1", "--all-servers", "--yes")
    assert done.status == 0, done.err
    assert len(wrong.stored()) == 2, "the newest, and the pinned one"


AFTERWARDS = {"stopped": is_allowed_by_via_host, "made anew": takes_the_old_ones_backups}


def test_two_checkouts_with_one_server_and_one_store_are_one_database(
    postgres_17: Server, tmp_path: Path
) -> None:
    fill(postgres_17, "own")
    checkouts = [tmp_path / name for name in ("one", "two")]
    for each in checkouts:
        each.mkdir()
        (each / "tasks.py").write_text("from repom.tasks import ns\n")
    both = [
        settings_for(postgres_17, each, REPOM_BACKUP_DIR=str(tmp_path / "backups"))
        for each in checkouts
    ]
    made = [dbops.backup(both[number % 2], keep=2).name for number in range(5)]

    assert [b.name for b in dbops.list_backups(both[0])] == made[:-3:-1]
    assert [upkeep.find_backup(each).name for each in both] == [made[-1]] * 2
    dbops.prune(both[0], keep=1)
    assert [b.name for b in dbops.list_backups(both[1])] == made[-1:]
