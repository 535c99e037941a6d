"""The contract of a runner: the same assertions on the host's, on a container's and on the
one that other tests use in their place."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from invoke.exceptions import UnexpectedExit
from invoke.runners import Result

from repom.runners import oneshot
from repom.runners.exec import ExecRunner
from repom.runners.host import HostRunner
from repom.runners.runner import Runner
from tests import requires
from tests.fakes import Answer, FakeDocker, FakeRunner
from tests.live.servers import Server

#: A program that says the first argument, complains with the second, ends with the third.
PROGRAM = ["sh", "-c", 'cat; printf %s "$1"; printf %s "$2" >&2; exit $3', "program"]
#: Skips the arguments of `docker exec` up to the command.
SKIP = 'shift; while [ "$1" = -i ] || [ "$1" = -e ]; do [ "$1" = -e ] && shift; shift; done; shift'
BYTES = bytes(range(256)) * 1024
Make = Callable[[str, str, int], tuple[Runner, Sequence[str]]]


@pytest.fixture(
    params=[
        *("host", "container", "fake"),
        *(pytest.param(each, marks=pytest.mark.live) for each in ("live", "one-shot")),
    ],
)
def make(request: pytest.FixtureRequest) -> Make:
    """Makes a runner, and the command line of a program that behaves as given."""
    requires.need(os.name == "posix", "a POSIX shell")

    def make(says: str = "", complains: str = "", ends: int = 0) -> tuple[Runner, list[str]]:
        argv = [*PROGRAM, says, complains, str(ends)]
        if request.param == "host":
            return HostRunner(), argv
        if request.param == "fake":
            return FakeRunner(answers={"sh": [Answer(says, complains, ends)] * 2}), argv
        if request.param == "live":
            server: Server = request.getfixturevalue("postgres_17")
            return ExecRunner("docker", server.container, server.container), argv
        if request.param == "one-shot":
            requires.image(17)
            runner = oneshot.start(HostRunner(engine="docker"), "postgres:17")
            request.addfinalizer(runner.close)
            return runner, argv
        docker: FakeDocker = request.getfixturevalue("docker")
        docker.runs("exec ", f'{SKIP}; exec "$@"')
        return ExecRunner(docker.program, "the-id", "shop"), argv

    return make


def said(result: Result) -> tuple[str, str, int]:
    return result.stdout, result.stderr, result.exited


def test_output_messages_and_status_are_kept_apart(make: Make) -> None:
    runner, argv = make("größe\n", "told", 0)
    assert said(runner.run(argv)) == ("größe\n", "told", 0)


def test_output_goes_to_a_file_that_holds_all_of_it(make: Make, tmp_path: Path) -> None:
    runner, argv = make("x" * 100_000, "", 0)
    with (tmp_path / "out").open("w+b") as file:
        assert said(runner.run(argv, stdout=file)) == ("", "", 0)
        assert file.tell() == 100_000
    assert (tmp_path / "out").read_text() == "x" * 100_000


def test_a_failure_is_an_exception_with_the_programs_words(make: Make, tmp_path: Path) -> None:
    runner, argv = make("half", "no", 4)
    with pytest.raises(UnexpectedExit) as caught:
        runner.run(argv)
    assert said(caught.value.result) == ("half", "no", 4)
    with (tmp_path / "out").open("w+b") as file, pytest.raises(UnexpectedExit):
        runner.run(argv, stdout=file)


def test_a_failure_that_is_expected_is_a_result(make: Make) -> None:
    runner, argv = make("", "no", 4)
    assert said(runner.run(argv, warn=True)) == ("", "no", 4)


def test_blocks_of_input_arrive_as_they_are(make: Make, tmp_path: Path) -> None:
    runner, argv = make("", "", 0)
    with (tmp_path / "out").open("w+b") as file:
        runner.run(argv, stdin=[BYTES, b"", BYTES], stdout=file)
    if isinstance(runner, FakeRunner):
        assert [call.stdin for call in runner.calls] == [BYTES * 2]
    else:
        assert (tmp_path / "out").read_bytes() == BYTES * 2


def test_a_file_is_readable_where_the_program_runs(make: Make, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(BYTES)
    runner, _argv = make("", "", 0)
    if isinstance(runner, FakeRunner):
        runner.run_on_file(["sh"], tmp_path / "in")
        assert [call.argv for call in runner.calls] == [["sh", str(tmp_path / "in")]]
        return
    with (tmp_path / "out").open("w+b") as file:
        runner.run_on_file(["cat"], tmp_path / "in", stdout=file)
    assert (tmp_path / "out").read_bytes() == BYTES


def test_a_program_is_told_the_session_and_the_variables(make: Make) -> None:
    runner, _argv = make("", "", 0)
    show = ["sh", "-c", 'printf %s "$PGAPPNAME $PGPASSWORD"']
    result = runner.run(show, env={"PGPASSWORD": "s3cret"})
    if isinstance(runner, FakeRunner):
        assert [call.env for call in runner.calls] == [{"PGPASSWORD": "s3cret"}]
    else:
        assert result.stdout == f"{runner.session} s3cret"
