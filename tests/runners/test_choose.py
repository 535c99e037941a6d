"""Which server is meant: settings and what there is → what is used, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from repom.errors import SettingsError, Unreachable
from repom.runners.choose import Located, choose, completed
from repom.runners.compose import compose_folder
from repom.runners.container import CLIENT_LABEL, COMPOSE, PROJECT_LABEL, Container
from repom.runners.discover import Found, look
from repom.runners.engine import EngineSilent, Trouble
from repom.settings import Settings
from repom.settings.address import Address
from tests.fakes import FakeDocker, inspected

HERE, THERE = Path("/work/shop"), Path("/work/other")
NOTHING = Settings(HERE, configured=False, left_open=("user", "database"))
DOWN = EngineSilent(Trouble.NOT_RUNNING, "the Docker daemon is not running")


def at(host: str | None = None, port: int | None = None, **more: Any) -> Settings:
    return Settings(HERE, Address(host, port, "ann", "shop"), **more)


def db(
    name: str = "shop-db-1", service: str = "db", folder: Path = HERE, port: int = 0, **more: Any
) -> Container:
    """A container of a Compose project."""
    labels = {f"{COMPOSE}service": service, f"{COMPOSE}project.working_dir": str(folder)}
    known = {"state": "running", "id": f"id-of-{name}", "labels": labels, "is_postgres": True}
    bindings = (("127.0.0.1", port),) if port else ()
    return Container(name, **{**known, "bindings": bindings, **more})


def made(folder: Path | None = HERE, name: str = "repom_postgres", **more: Any) -> Container:
    """A container of `postgres.start`, or with no folder one that was started by hand."""
    return db(name, **{"labels": {PROJECT_LABEL: str(folder)} if folder else {}, **more})


STOPPED: dict[str, Any] = {"state": "exited"}
ABSENT: dict[str, Any] = {"state": "absent", "id": "", "trouble": Trouble.ABSENT}
WEB = db("shop-web-1", "web", is_postgres=False)
NAMED: dict[str, Any] = {"is_named": True, "container": "shop_pg"}
POOLER = db("other-pooler-1", folder=THERE, published=(("127.0.0.1", 5432),), is_postgres=False)
BY_NAME = made(None, "shop_pg", port=5432)


@dataclass
class Row:
    """:param rule: the rule that matches.
    :param used: the container; empty for the host's programs.
    :param says: a part of the reason.
    """

    settings: Settings
    found: Found
    rule: int
    used: str = ""
    says: str = ""
    warns: str = ""
    refuses: bool = False
    sqlite: str | None = None


SERVICE = "Using Docker container: shop-db-1 (service db of this folder's Compose project)"
ROWS = {
    "an SQLite URL ends the question": Row(
        Settings(HERE, sqlite="app.db"), Found(composed=(db(),)), 0
    ),
    "1 a named one": Row(at(**NAMED), Found(BY_NAME), 1, "shop_pg", "container: shop_pg"),
    "1 with nothing else": Row(replace(NOTHING, **NAMED), Found(BY_NAME), 1, "shop_pg"),
    "1 at its port": Row(at("localhost", 5432, **NAMED), Found(BY_NAME), 1, "shop_pg"),
    "1 another machine": Row(
        at("db.example.com", **NAMED), Found(BY_NAME), 1, "", "db.example.com", "REPOM_CONTAINER"
    ),
    "1 a port that it does not publish": Row(
        at("localhost", 5433, **NAMED), Found(BY_NAME), 1, "", "localhost:5433", "POSTGRES_PORT"
    ),
    "1 no port is published": Row(
        at("localhost", 5433, **NAMED), Found(made(None, "shop_pg")), 1, "shop_pg"
    ),
    "1 the host is what its network calls it": Row(
        at("pg", **NAMED), Found(replace(BY_NAME, aliases=("pg",))), 1, "shop_pg"
    ),
    "2 a service": Row(at("db", 5432), Found(composed=(WEB, db())), 2, "shop-db-1", SERVICE),
    "2 a container's name": Row(at("shop-db-1"), Found(composed=(WEB, db())), 2, "shop-db-1"),
    "2 a hostname": Row(at("pg"), Found(composed=(db(hostname="pg"),)), 2, "shop-db-1"),
    "2 an alias": Row(at("pg"), Found(composed=(db(aliases=("pg",)),)), 2, "shop-db-1"),
    "2 of several servers": Row(
        at("two"), Found(composed=(db(), db("x-two-1", "two"))), 2, "x-two-1"
    ),
    "3 another machine": Row(at("db.example.com"), Found(composed=(db(),)), 3, says="example.com"),
    "4 this folder's": Row(
        at("localhost", 5432), Found(composed=(db(port=5432),)), 4, "shop-db-1", SERVICE
    ),
    "4 this folder's own": Row(
        at("127.0.0.1", 5432), Found(own=(made(port=5432),)), 4, "repom_postgres"
    ),
    "4 this folder's before another's": Row(
        at("localhost", 5432),
        Found(composed=(db(port=5432),), others=(db("y", folder=THERE, port=5432),)),
        4,
        "shop-db-1",
    ),
    "4 another folder's, to read": Row(
        at("localhost", 5432),
        Found(others=(db("y", folder=THERE, port=5432),)),
        4,
        "y",
        f"of the project in {THERE}",
        refuses=True,
    ),
    "4 another folder's that is down": Row(
        at("localhost", 5432), Found(others=(db("y", folder=THERE, port=5432, **STOPPED),)), 7
    ),
    "4 no folder's": Row(
        at("localhost", 5432), Found(others=(made(None, "ci", port=5432),)), 4, "ci", "5432"
    ),
    "4 a pooler": Row(
        at("localhost", 5432), Found(others=(made(None, port=5432, is_postgres=False),)), 7
    ),
    "4 another address": Row(
        at("127.0.0.1", 5432),
        Found(others=(made(None, bindings=(("127.0.0.2", 5432),)),)),
        7,
    ),
    "4 IPv6": Row(
        at("::1", 5432), Found(others=(made(None, bindings=(("::1", 5432),)),)), 4, "repom_postgres"
    ),
    "4 an engine elsewhere": Row(
        at("localhost", 5432), Found(others=(made(None, port=5432),), is_elsewhere=True), 7
    ),
    "5 the one server": Row(NOTHING, Found(composed=(WEB, db())), 5, "shop-db-1", SERVICE),
    "5 with a user": Row(at(), Found(composed=(WEB, db())), 5, "shop-db-1"),
    "5 what exists comes before what does not": Row(
        NOTHING, Found(composed=(db("test", "test", **ABSENT), db())), 5, "shop-db-1"
    ),
    "5 a socket is a place": Row(
        at("/run/postgresql"), Found(composed=(db(),)), 7, warns="REPOM_COMPOSE_SERVICE"
    ),
    "6 the labelled one": Row(at(), Found(own=(made(),)), 6, "repom_postgres", "repom_postgres"),
    "6 a port that it has not": Row(
        at(None, 5433), Found(own=(made(port=5432),)), 7, warns="POSTGRES_PORT to 5432"
    ),
    "7 settings alone": Row(at(), Found(), 7, says="localhost:5432, with programs of this host"),
    "7 a service that publishes nothing": Row(
        at("localhost", 5432), Found(composed=(db(),)), 7, warns="REPOM_COMPOSE_SERVICE to db"
    ),
    "7 at the port of another folder's pooler": Row(
        at("localhost", 5432), Found(others=(POOLER,)), 7, refuses=True
    ),
    "7 by wish": Row(at(via="host"), Found(), 7),
    "8 one file": Row(
        NOTHING, Found(files=("db.sqlite3",)), 8, says="db.sqlite3", sqlite="db.sqlite3"
    ),
    "8 beside Redis": Row(
        NOTHING,
        Found(composed=(WEB,), has_compose=True, files=("db.sqlite3",)),
        8,
        sqlite="db.sqlite3",
    ),
    "8 none": Row(NOTHING, Found(), 8),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_the_first_rule_that_matches_wins(row: Row) -> None:
    choice = choose(row.settings, row.found)

    assert choice.problem is None
    assert (choice.rule, choice.container.name if choice.container else "") == (row.rule, row.used)
    assert row.says in choice.reason
    assert row.warns in "\n".join(choice.warnings)
    assert bool(choice.warnings) == bool(row.warns)
    assert (bool(choice.refusal), choice.sqlite) == (row.refuses, row.sqlite)
    assert choice.runner(row.settings).via == ("docker" if row.used else "host")


PROBLEMS: dict[str, tuple[Settings, Found, type[Exception], str]] = {
    "several servers": (
        *(NOTHING, Found(composed=(db(), db("x", "test")))),
        *(SettingsError, "several PostgreSQL servers: db, test.*REPOM_COMPOSE_SERVICE"),
    ),
    "several files": (NOTHING, Found(files=("a.db", "b.db")), SettingsError, "a.db, b.db"),
    "a stopped service": (
        *(at("db", 5432), Found(composed=(db(port=5432, **STOPPED),))),
        *(Unreachable, r"shop-db-1 is not running \(exited\).*postgres.start"),
    ),
    "a service that nothing leads to": (
        *(at(), Found(composed=(db(**STOPPED),)), Unreachable, "postgres.start"),
    ),
    "no container yet": (NOTHING, Found(composed=(db(**ABSENT),)), Unreachable, "postgres.start"),
    "a named one that is absent": (
        *(at(**NAMED), Found(made(None, "shop_pg", **ABSENT)), Unreachable, "postgres.start"),
    ),
    "a named one whose port a neighbour's has": (
        *(at("localhost", 5432, **NAMED), Found(made(None, "shop_pg", **ABSENT), others=(POOLER,))),
        *(Unreachable, "container other-pooler-1 has its port"),
    ),
    "a stopped service whose port a neighbour's has": (
        at("localhost", 5432),
        Found(composed=(db(port=5432, **STOPPED),), others=(POOLER,)),
        *(Unreachable, "container other-pooler-1 has its port"),
    ),
    "nothing known of the Compose project": (
        *(NOTHING, Found(has_compose=True, silent=DOWN), Unreachable, "daemon is not running"),
    ),
    "docker forced, another machine": (
        *(at("db.example.com", via="docker"), Found(), SettingsError, "REPOM_VIA is docker"),
    ),
    "docker forced, another port": (
        *(at("localhost", 5433, via="docker", **NAMED), Found(BY_NAME)),
        *(SettingsError, "does not publish port 5433"),
    ),
    "docker forced, nothing there": (at(via="docker"), Found(), Unreachable, "postgres.start"),
    "docker forced, silence": (at(via="docker"), Found(silent=DOWN), Unreachable, "daemon"),
}


@pytest.mark.parametrize(
    ("settings", "found", "kind", "says"), PROBLEMS.values(), ids=list(PROBLEMS)
)
def test_what_cannot_be_used_says_why(
    settings: Settings, found: Found, kind: type[Exception], says: str
) -> None:
    problem = choose(settings, found).problem

    assert type(problem) in (kind, *kind.__subclasses__())
    with pytest.raises(kind, match=says):
        choose(settings, found).runner(settings)


FALLBACKS = {
    "its published port": (at(), Found(composed=(db(port=5432, **STOPPED),))),
    "the port is configured": (at("localhost", 5432), Found(composed=(db(port=5432, **STOPPED),))),
    "no engine": (at(**NAMED), Found(Container("shop_pg", "off", trouble=Trouble.NOT_RUNNING))),
    "the default one is absent": (at("localhost", 5432), Found()),
}


@pytest.mark.parametrize(("settings", "found"), FALLBACKS.values(), ids=list(FALLBACKS))
def test_a_fallback_is_known_as_one(settings: Settings, found: Found) -> None:
    choice = choose(settings, found)

    assert choice.runner(settings).via == "host"
    assert "is not running" in choice.fallback


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, {"POSTGRES_USER": "app", "POSTGRES_DB": "shop"}, ("app", "shop")),
        ({}, {"POSTGRES_USER": "app"}, ("app", "app")),
        ({}, {"POSTGRESQL_USERNAME": "b", "POSTGRESQL_DATABASE": "n"}, ("b", "n")),
        ({}, {}, ("postgres", "postgres")),
        ({"user": "me"}, {"POSTGRES_USER": "app", "POSTGRES_DB": "shop"}, ("me", "shop")),
        ({"user": "me", "database": "x"}, {"POSTGRES_DB": "shop"}, ("me", "x")),
    ],
)
def test_what_the_settings_leave_open_is_the_containers(
    given: dict[str, Any], environment: dict[str, str], expected: tuple[str, str]
) -> None:
    open = tuple({"user", "database"} - given.keys())
    settings = Settings(HERE, Address(**given), left_open=open)

    address = completed(settings, db(environment=environment)).address

    assert (address.user, address.database) == expected


def test_located_settings_know_no_other_machine_behind_a_service() -> None:
    settings = at("db", 5432)
    choice = choose(settings, Found(composed=(db(),)))

    assert settings.remote_host == "db"
    assert Located(HERE, settings.address, choice=choice).remote_host is None


# -- looking ------------------------------------------------------------------------------

SQLITE = b"SQLite format 3\0" + bytes(84)


def files(tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(SQLITE)


def test_sqlite_files_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    files(tmp_path, "instance/app.db", "a/b/deep.db", ".hidden/x.db", "venv/x.db", "backups/x.db")
    files(tmp_path, "sub/x.db", ".coverage", "instance/.coverage")
    (tmp_path / "venv/pyvenv.cfg").touch()
    (tmp_path / "sub/.env").touch()
    (tmp_path / "other.sqlite3").write_text("text")

    settings = Settings(tmp_path, configured=False, backup_dir=tmp_path / "backups", docker="no")

    assert look(settings).files == ("instance/app.db",)


@pytest.mark.parametrize(
    ("compose", "expected"),
    [
        (("compose.yaml",), "."),
        (("docker-compose.local.yml",), "."),
        (("backend/compose.yml", "compose.yml"), "backend"),
        ((".devcontainer/docker-compose.yml",), ".devcontainer"),
        ((".devcontainer/docker-compose.yml", "compose.yaml"), "."),
        (("../compose.yaml",), None),
        ((), None),
    ],
)
def test_the_compose_file_is_the_nearest_one_of_the_repository(
    tmp_path: Path, compose: tuple[str, ...], expected: str | None
) -> None:
    top = tmp_path / "top"
    (top / ".git").mkdir(parents=True)
    (top / "backend").mkdir()
    for name in compose:
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).touch()

    found = compose_folder(top / "backend")

    assert found == (None if expected is None else (top / expected).resolve())


def test_without_a_server_or_a_compose_file_no_engine_is_asked(
    docker: FakeDocker, tmp_path: Path
) -> None:
    look(Settings(tmp_path, configured=False, docker=docker.program))
    look(Settings(tmp_path, Address("db.example.com", None, "ann", "shop"), docker=docker.program))

    assert docker.calls == []


@pytest.mark.parametrize("none", [{}, None], ids=["no labels", "null for no labels"])
def test_the_containers_of_the_folder_and_of_the_port_are_found(
    docker: FakeDocker, tmp_path: Path, none: object
) -> None:
    docker.answers("ps --all", "1\n2\n3\n")
    own = inspected("own", labels={PROJECT_LABEL: str(tmp_path)})
    other, far = inspected("other"), inspected("far", ports=(5433,))
    other["Config"] = {
        "Labels": none,
        "Env": ["PGDATA=/data"],
        "ExposedPorts": {"5432/tcp": {}},
    }
    client = inspected("client", labels={CLIENT_LABEL: ""}, network="host")
    docker.answers("container inspect 1 2 3", json.dumps([own, other, far, client]))
    docker.answers("context inspect", "unix:///var/run/docker.sock\n")

    found = look(Settings(tmp_path, Address(None, 5432, "ann", "shop"), docker=docker.program))

    assert ([c.name for c in found.own], [c.name for c in found.others]) == (["own"], ["other"])
    assert found.others[0].is_postgres
    assert len(docker.calls) == 3
