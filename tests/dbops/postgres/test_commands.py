from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from repom.dbops.postgres.client import Client, Versions, free_bytes
from repom.dbops.postgres.commands import (
    ARCHIVE_FORMATS,
    RESTRICT_SINCE,
    dump_argv,
    psql_argv,
    restore_argv,
    restricts,
    script_argv,
)
from repom.dbops.postgres.load import gate, gated_argv
from repom.dbops.postgres.postgres import Postgres
from repom.errors import CommandFailed, Refused
from repom.runners.host import HostRunner
from repom.settings.address import Address, quoted
from tests import requires
from tests.fakes import Answer, FakeRunner

CANARY = "s3cret-c4nary"
HERE = Address(user="ann", database="shop")
FULL = Address("db", 5433, "ann", "shop", CANARY, (("sslmode", "require"),), "-c a=b")

# -- what df says -------------------------------------------------------------------------

HEAD = "Filesystem 1024-blocks Used Available Capacity Mounted on"
DF = {
    "a disk": ("/dev/vda 263112992 27262976 80740352 25% /var/lib/postgresql/data", 80740352),
    "a full one": ("overlay 100 100 0 100% /", 0),
    "a mount with a space": ("tmpfs 10 4 6 40% /a b", 6),
    "no answer": ("", None),
    "its head alone": (HEAD, None),
    "a system identifier": ("7385628734652873465", None),
}


@pytest.mark.parametrize(("line", "kilobytes"), DF.values(), ids=list(DF))
def test_free_space_is_read_from_df(line: str, kilobytes: int | None) -> None:
    assert (None if kilobytes is None else kilobytes * 1024) == free_bytes(line)


# -- connection strings -------------------------------------------------------------------

CONNINFO = {
    "defaults": (HERE, False, "dbname='shop' user='ann' host='localhost' port='5432'"),
    "in the container, its socket": (HERE, True, "dbname='shop' user='ann'"),
    "in the container, whatever the host": (FULL, True, "dbname='shop' user='ann'"),
    "host, port and options": (
        FULL,
        False,
        "dbname='shop' user='ann' host='db' port='5433' sslmode='require'",
    ),
    "a socket": (
        Address("/var/run/postgresql", None, "ann", "shop"),
        False,
        "dbname='shop' user='ann' host='/var/run/postgresql' port='5432'",
    ),
}


@pytest.mark.parametrize(("login", "local", "expected"), CONNINFO.values(), ids=list(CONNINFO))
def test_a_connection_string_says_which_database_and_where(
    login: Address, local: bool, expected: str
) -> None:
    assert login.conninfo("shop", local=local) == expected + (SOCKET if local else "")


#: What keeps a container's own variables, such as PGHOSTADDR, from leading elsewhere.
SOCKET = " host='' hostaddr='' sslmode='prefer' target_session_attrs='any'"

ODD = {
    "a b'c\"=x": r"""'a b\'c"=x'""",
    "dbname=other": "'dbname=other'",
    "host=evil user=x": "'host=evil user=x'",
    "postgresql://evil/x": "'postgresql://evil/x'",
    "' host='evil": r"'\' host=\'evil'",
    "back\\slash": r"'back\\slash'",
    "ends with \\": r"'ends with \\'",
    r"\' host=evil": r"'\\\' host=evil'",
    "": "''",
    "größe": "'größe'",
}


@pytest.mark.parametrize(("value", "expected"), ODD.items(), ids=list(ODD.values()))
def test_a_value_is_quoted_so_that_it_stays_one_value(value: str, expected: str) -> None:
    assert expected == quoted(value)
    assert HERE.conninfo(value, local=True) == f"dbname={expected} user='ann'{SOCKET}"


@pytest.mark.parametrize("value", [v for v in ODD if v], ids=[ODD[v] for v in ODD if v])
def test_libpq_reads_a_quoted_value_as_what_it_was(tmp_path: Path, value: str) -> None:
    """libpq names in its message the socket that it was told to use."""
    requires.need(shutil.which("psql") and os.name == "posix", "psql")
    folder = str(tmp_path / value.replace("/", ""))
    argv = ["psql", "-X", "-w", "-d", Address(folder, None, "ann").conninfo("x", local=False)]

    said = HostRunner().run(argv, warn=True).stderr

    assert f'"{folder}/.s.PGSQL.5432"' in said


def test_a_login_shows_no_password() -> None:
    assert CANARY not in repr(FULL) + str(FULL) + FULL.conninfo("shop", local=False)


# -- command lines ------------------------------------------------------------------------

INFO = "dbname='shop'"
DUMP = ["pg_dump", "--no-password", "--lock-wait-timeout=30000"]
CUSTOM = [*DUMP, "--format=custom"]
PLAIN = [*DUMP, "--format=plain", "--clean", "--if-exists", "--no-owner", "--no-acl"]
ARGV: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "dump, custom": (
        dump_argv(INFO, "custom", zstd=True),
        [*CUSTOM, "--compress=zstd:1", "--dbname", INFO],
    ),
    "dump, custom without zstd": (
        dump_argv(INFO, "custom", zstd=False),
        [*CUSTOM, "--compress=1", "--dbname", INFO],
    ),
    "dump, plain": (
        dump_argv(INFO, "plain", zstd=True),
        [*PLAIN, "--compress=1", "--dbname", INFO],
    ),
    "dump, plain without zstd": (
        dump_argv(INFO, "plain", zstd=False),
        [*PLAIN, "--compress=1", "--dbname", INFO],
    ),
    "restore": (
        restore_argv(INFO, jobs=4, owner=True),
        ["pg_restore", "--no-password", "--exit-on-error", "--jobs=4", "--dbname", INFO],
    ),
    "restore without owners": (
        restore_argv(INFO, jobs=1, owner=False),
        [
            *("pg_restore", "--no-password", "--exit-on-error", "--jobs=1"),
            *("--no-owner", "--no-acl", "--dbname", INFO),
        ],
    ),
    "psql": (
        psql_argv(INFO, {}),
        [
            *("psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"),
            *("-d", INFO, "-f", "-"),
        ],
    ),
    "psql with variables": (
        psql_argv(INFO, {"live": "a b'c\"=x", "kept": "y"}),
        [
            *("psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"),
            *("-v", "live=a b'c\"=x", "-v", "kept=y", "-d", INFO, "-f", "-"),
        ],
    ),
    "psql with commands before the script": (
        psql_argv(INFO, {}, ["BEGIN", "SELECT 1"]),
        [
            *("psql", "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"),
            *("-d", INFO, "-c", "BEGIN", "-c", "SELECT 1", "-f", "-"),
        ],
    ),
    "dump, with statistics": (
        dump_argv(INFO, "custom", zstd=True, statistics=True),
        [*CUSTOM, "--compress=zstd:1", "--statistics", "--dbname", INFO],
    ),
    "dump, plain, for any server": (
        dump_argv(INFO, "plain", zstd=True, statistics=True),
        [*PLAIN, "--compress=1", "--dbname", INFO],
    ),
    "an archive as SQL": (script_argv(owner=True), ["pg_restore", "--file=-"]),
    "an archive as SQL without owners": (
        script_argv(owner=False, to="/tmp/x"),
        ["pg_restore", "--file=/tmp/x", "--no-owner", "--no-acl"],
    ),
}


@pytest.mark.parametrize(("argv", "expected"), ARGV.values(), ids=list(ARGV))
def test_a_command_line(argv: Sequence[str], expected: Sequence[str]) -> None:
    assert expected == argv


@pytest.mark.parametrize(
    ("version", "knows"),
    [
        (120022, False),
        (130021, False),
        (130022, True),
        (140018, False),
        (140019, True),
        (150013, False),
        (150014, True),
        (160009, False),
        (160010, True),
        (170005, False),
        (170006, True),
        (180000, True),
        (190000, True),
        (90624, False),
    ],
)
def test_which_psql_knows_restrict(version: int, knows: bool) -> None:
    assert knows == restricts(version)


def test_the_tables_of_versions_are_complete() -> None:
    assert sorted(RESTRICT_SINCE) == [13, 14, 15, 16, 17]
    assert (1, 16) not in ARCHIVE_FORMATS.values()


# -- the client ---------------------------------------------------------------------------

WANTED = Answer(stderr="fe_sendauth: no password supplied", exited=2)


def test_on_the_host_the_password_is_in_the_environment_alone() -> None:
    runner = FakeRunner({"psql": [Answer("1")]})
    Client(runner, FULL).apart("SELECT 1", "shop")

    (call,) = runner.calls
    assert call.env["PGPASSWORD"] == CANARY
    assert CANARY not in " ".join(call.argv) + str(call.stdin)


def test_in_a_container_that_trusts_no_password_is_sent() -> None:
    runner = FakeRunner({"psql": [Answer("1")]}, trusts_local=True)
    Client(runner, FULL).apart("SELECT 1", "shop")

    assert ["PGPASSWORD" in call.env for call in runner.calls] == [False]


def test_in_a_container_that_wants_a_password_it_is_sent_from_then_on() -> None:
    answers = {"psql": [WANTED, Answer("1"), Answer("2")]}
    runner = FakeRunner(answers, trusts_local=True)
    client = Client(runner, FULL)

    assert [client.apart("SELECT 1", "shop").stdout for _ in range(2)] == ["1", "2"]
    assert [call.env.get("PGPASSWORD") for call in runner.calls] == [None, CANARY, CANARY]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_password_that_nobody_knows_is_not_asked_for_twice(trusted: bool) -> None:
    runner = FakeRunner({"psql": [WANTED]}, trusts_local=trusted)

    with pytest.raises(Exception, match=r"wants a password|no password"):
        Client(runner, HERE).apart("SELECT 1", "shop")
    assert len(runner.calls) == 1


def test_a_question_is_asked_in_a_dry_run_too() -> None:
    runner = FakeRunner({"psql": [Answer("1"), Answer("1")]})
    client = Client(runner, HERE)
    client.apart("SELECT 1", "shop", probe=True)
    client.apart("SELECT 1", "shop")

    assert [call.dry for call in runner.calls] == [False, None]


def test_names_reach_a_query_as_variables_of_psql() -> None:
    runner = FakeRunner({"psql": [Answer("1")]})
    Client(runner, HERE).apart("SELECT :'live'", "postgres", {"live": "x'; DROP TABLE y; --"})

    (call,) = runner.calls
    assert call.stdin
    assert call.stdin.endswith(b"SELECT :'live'")
    assert "live=x'; DROP TABLE y; --" in call.argv


def test_what_a_role_or_a_database_is_set_to_does_not_end_a_dump() -> None:
    options = Client(FakeRunner(), HERE).environment()["PGOPTIONS"]

    for setting in ("statement_timeout=0", "lock_timeout=0", "default_transaction_read_only=off"):
        assert setting in options


def test_what_a_url_sets_is_set_beside_it_and_not_instead() -> None:
    options = Client(FakeRunner(), FULL).environment()["PGOPTIONS"]

    assert options.startswith("-c a=b ")
    assert "statement_timeout=0" in options


def test_a_pooler_that_refuses_options_is_asked_without() -> None:
    said = 'FATAL:  unsupported startup parameter in options: "statement_timeout"'
    runner = FakeRunner({"pg_dump": [Answer(stderr=said, exited=1), Answer("PGDMP")]})
    Client(runner, HERE).run(["pg_dump"])

    assert ["PGOPTIONS" in call.env for call in runner.calls] == [True, False]


def test_a_source_that_is_only_read_is_not_asked_through_a_pooler() -> None:
    said = "FATAL:  unsupported startup parameter: options"
    runner = FakeRunner({"pg_dump": [Answer(stderr=said, exited=1)]})
    client = Client(runner, FULL)
    client.is_read_only = True
    with pytest.raises(Refused, match="A pooler answers"):
        client.run(["pg_dump"])

    [call] = runner.calls
    assert call.env["PGOPTIONS"].endswith("-c default_transaction_read_only=on")


# -- a dump and a script ------------------------------------------------------------------


def dumped(
    path: Path, answers: Sequence[Answer], major: int = 17, holders: str = "a session"
) -> FakeRunner:
    runner = FakeRunner({"pg_dump": answers, "psql": [Answer(holders)]})
    database = Postgres(runner, replace(HERE, database="postgres"))  # no open session
    database.client._versions = Versions(170006, major * 10_000)
    with path.open("w+b") as file:
        database.dump(file, "custom")
    return runner


def compression(runner: FakeRunner) -> list[str]:
    return [each for call in runner.calls for each in call.argv if "--compress" in each]


@pytest.mark.parametrize(
    ("major", "taken"), [(15, "1"), (16, "zstd:1"), (17, "zstd:1"), (18, "zstd:1")]
)
def test_zstd_is_used_where_the_server_can_have_it(tmp_path: Path, major: int, taken: str) -> None:
    assert [f"--compress={taken}"] == compression(dumped(tmp_path / "x", [Answer("PGDMP")], major))


def test_without_zstd_in_pg_dump_gzip_is_used_on_an_empty_file(tmp_path: Path) -> None:
    said = "pg_dump: error: this build does not support compression with zstd"
    runner = dumped(tmp_path / "x", [Answer("half", said, 1), Answer("whole")])

    assert compression(runner) == ["--compress=zstd:1", "--compress=1"]
    assert (tmp_path / "x").read_text() == "whole"


def test_another_failure_of_pg_dump_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="something else"):
        dumped(tmp_path / "x", [Answer("half", "pg_dump: error: something else", 1)])


def test_a_locked_table_is_refused_and_says_who_holds_it(tmp_path: Path) -> None:
    said = (
        "pg_dump: error: query failed: ERROR:  canceling statement due to statement timeout\n"
        "pg_dump: detail: Query was: LOCK TABLE public.a IN ACCESS SHARE MODE"
    )

    with pytest.raises(Refused, match="locked by a session"):
        dumped(tmp_path / "x", [Answer("half", said, 1)])


def test_a_table_that_this_user_may_not_read_is_not_said_to_be_locked(tmp_path: Path) -> None:
    said = (
        "pg_dump: error: query failed: ERROR:  permission denied for table a\n"
        "pg_dump: detail: Query was: LOCK TABLE public.a IN ACCESS SHARE MODE"
    )

    with pytest.raises(CommandFailed, match="permission denied for table a"):
        dumped(tmp_path / "x", [Answer("half", said, 1)], holders="")


def test_a_script_has_an_answer_behind_it() -> None:
    assert gate("", "COMMIT;\n", "n0nce") == b"\nCOMMIT;\nSELECT 'n0nce';\n"


def test_a_script_is_under_restrict_where_psql_has_it() -> None:
    assert gated_argv(INFO, ["BEGIN"], "k3y")[-6:] == [
        "-c",
        "BEGIN",
        "-c",
        "\\restrict k3y",
        "-f",
        "-",
    ]
    assert gated_argv(INFO, ["BEGIN"], "")[-4:] == ["-c", "BEGIN", "-f", "-"]
    assert gate("k3y", "", "n0nce") == b"\n\\unrestrict k3y\nSELECT 'n0nce';\n"
