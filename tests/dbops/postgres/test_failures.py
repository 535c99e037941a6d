from __future__ import annotations

import signal

import pytest
from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom import errors
from repom.dbops.postgres.failures import best_line, explain, place, translated
from repom.errors import (
    CommandFailed,
    Damaged,
    Interrupted,
    NoSpace,
    NotFound,
    Refused,
    RepomError,
    SettingsError,
    Unreachable,
)
from repom.runners.exec import ExecRunner
from repom.runners.host import HostRunner
from repom.settings.address import Address

CANARY = "s3cret-c4nary"
LOGIN = Address("db.example.com", 5433, "ann", "shop", CANARY)
WHERE = "db.example.com:5433"
AT = 'psql: error: connection to server at "db.example.com" (10.0.0.1), port 5433 failed: '


def explained(said: str, exited: int = 1, login: Address = LOGIN) -> RepomError:
    return explain(Result(stderr=said, exited=exited), login, HostRunner())


CONNECTION = {
    "a wrong password": (
        f'{AT}FATAL:  password authentication failed for user "ann"',
        f"{WHERE} does not accept the password of user ann",
    ),
    "no password": (f"{AT}fe_sendauth: no password supplied", f"{WHERE} wants a password"),
    "peer": (
        f'{AT}FATAL:  Peer authentication failed for user "ann"',
        f"{WHERE} does not accept user ann",
    ),
    "an unknown user": (f'{AT}FATAL:  role "ann" does not exist', f"no user ann on {WHERE}"),
    "an unknown database": (
        f'{AT}FATAL:  database "shop" does not exist',
        f"No database shop on {WHERE}",
    ),
    "an unknown host": (
        'psql: error: could not translate host name "x" to address: Name or service not known',
        f"host of {WHERE} cannot be resolved",
    ),
    "nobody there": (
        f"{AT}Connection refused\n\tIs the server running on that host and accepting TCP/IP?",
        f"No PostgreSQL server answers on {WHERE}",
    ),
    "no socket": (
        'psql: error: connection to server on socket "/run/.s.PGSQL.5432" failed: '
        "No such file or directory\n\tIs the server running locally and accepting connections?",
        f"No PostgreSQL server answers on {WHERE}",
    ),
    "no answer": (f"{AT}timeout expired", f"No PostgreSQL server answers on {WHERE}"),
    "no route": (f"{AT}No route to host", f"No PostgreSQL server answers on {WHERE}"),
    "starting up": (f"{AT}FATAL:  the database system is starting up", "is not ready"),
    "recovering": (f"{AT}FATAL:  the database system is in recovery mode", "is not ready"),
}


@pytest.mark.parametrize(("said", "message"), CONNECTION.values(), ids=list(CONNECTION))
def test_no_way_to_the_server_is_3_and_says_what_to_do(said: str, message: str) -> None:
    error = explained(said, 2)

    assert isinstance(error, Unreachable)
    assert error.exit_status == 3
    assert message in error.message
    assert error.hint


OTHER = {
    "a command of psql": (
        "psql:<stdin>:9: error: backslash commands are restricted; only \\unrestrict is allowed",
        Refused,
        "commands of psql",
    ),
    "a database in a script": (
        "psql:<stdin>:9: ERROR:  DROP DATABASE cannot run inside a transaction block",
        Refused,
        "creates or drops a database",
    ),
    "a pooler": (
        'psql: error: connection to server at "db" failed: FATAL:  unsupported startup'
        " parameter: options",
        Refused,
        "A pooler answers",
    ),
    "an archive that is too new": (
        "pg_restore: error: unsupported version (1.16) in file header",
        Refused,
        "too old for this archive",
    ),
    "an archive that is cut short": (
        "pg_restore: error: could not read from input file: end of file",
        Damaged,
        "cut short",
    ),
    "a server that is too new": (
        "pg_dump: error: aborting because of server version mismatch",
        Refused,
        "newer than the program",
    ),
    "a missing role": (
        'pg_restore: error: could not execute query: ERROR:  role "bob" does not exist',
        Refused,
        "missing role",
    ),
    "anything else": (
        "pg_dump: error: something new\nDETAIL: long",
        CommandFailed,
        "something new",
    ),
    "no words at all": ("", CommandFailed, "exit status 1"),
}


@pytest.mark.parametrize(("said", "kind", "message"), OTHER.values(), ids=list(OTHER))
def test_other_failures_are_told_apart_by_the_programs_words(
    said: str, kind: type[RepomError], message: str
) -> None:
    error = explained(said)

    assert kind is type(error)
    assert message in error.message
    assert "\n" not in str(error)


@pytest.mark.parametrize("exited", [126, 127])
def test_no_program_in_the_container_is_3(exited: int) -> None:
    runner = ExecRunner("docker", "id", "shop_db")
    error = explain(Result(stderr="exec failed", exited=exited), LOGIN, runner)

    assert isinstance(error, Unreachable)
    assert "missing in container shop_db" in error.message


def test_words_in_the_users_own_data_do_not_make_it_a_failure_to_connect() -> None:
    said = "psql:<stdin>:3: ERROR:  invalid input: Connection refused\nCONTEXT:  COPY a, line 1"

    assert CommandFailed is type(explained(said))


def test_a_role_that_is_missing_inside_is_not_the_user_that_is_missing() -> None:
    said = 'pg_restore: error: could not execute query: ERROR:  role "ann" does not exist'

    assert Refused is type(explained(said))


@pytest.mark.parametrize(
    "database", ["a b'c\"=x", "{user}", "{", "größe", "x {where} {0}"], ids=repr
)
def test_odd_names_do_no_harm(database: str) -> None:
    said = f'{AT}FATAL:  database "{database}" does not exist'
    error = explained(said, 2, Address("db", 1, "a{n}n", database, CANARY))

    assert f"No database {database} on db:1" == error.message


@pytest.mark.parametrize(
    ("login", "runner", "expected"),
    [
        (Address(user="ann", database="shop"), HostRunner(), "localhost:5432"),
        (LOGIN, HostRunner(), WHERE),
        (LOGIN, ExecRunner("docker", "id", "shop_db"), "container shop_db"),
        (Address("/run", None, "ann", "shop"), HostRunner(), "/run:5432"),
    ],
    ids=["defaults", "another machine", "a container", "a socket"],
)
def test_the_place_is_named_for_people(login: Address, runner: HostRunner, expected: str) -> None:
    assert expected == place(login, runner)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n", "two"),
        ("x: error: first\nERROR:  cause\nlast", "ERROR:  cause"),
        ("ERROR:  cause\nFATAL:  end", "FATAL:  end"),
        ("warning\nx: error: cause\nx: hint: do", "x: error: cause"),
    ],
    ids=["nothing", "blank", "no mark", "ERROR", "FATAL", "error"],
)
def test_the_line_that_names_the_cause(said: str, line: str) -> None:
    assert line == best_line(said)


def test_only_the_failure_of_a_program_is_translated() -> None:
    with pytest.raises(Damaged, match="mine"), translated(LOGIN, HostRunner()):
        raise Damaged("mine")
    with pytest.raises(CommandFailed, match="theirs") as caught, translated(LOGIN, HostRunner()):
        raise UnexpectedExit(Result(stderr="x: error: theirs", exited=1))

    assert caught.value.stderr == "x: error: theirs"


# -- the errors themselves ----------------------------------------------------------------


def test_exit_statuses_are_those_of_the_contract() -> None:
    statuses = {
        RepomError: 1,
        CommandFailed: 1,
        NoSpace: 1,
        SettingsError: 2,
        Unreachable: 3,
        NotFound: 4,
        Refused: 5,
        Damaged: 6,
    }
    kinds = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, RepomError)}

    assert statuses == {kind: kind.exit_status for kind in kinds}


@pytest.mark.parametrize(("name", "status"), [("SIGHUP", 129), ("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_has_the_status_of_its_signal(name: str, status: int) -> None:
    assert status == Interrupted(getattr(signal, name, status - 128)).exit_status


def test_no_handler_of_ordinary_errors_swallows_an_interrupt() -> None:
    assert not issubclass(Interrupted, Exception)


def test_a_message_and_its_hint_are_one_line() -> None:
    assert str(RepomError("It failed", "Do this")) == "It failed. Do this"
    assert str(RepomError("It failed")) == "It failed"
