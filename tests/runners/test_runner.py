from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke.exceptions import UnexpectedExit

from repom.dbops.postgres.client import Client
from repom.errors import CommandFailed, Damaged, Unreachable
from repom.runners import process
from repom.runners.exec import ExecRunner
from repom.runners.host import HostRunner
from repom.runners.process import Stalled, client_environment, display, popen_options
from repom.runners.runner import Runner
from repom.settings.address import Address
from tests.fakes import Answer, FakeDocker, FakeRunner

EVERY_BYTE = bytes(range(256)) * 4096
CANARY = "s3cret-c4nary"
ROOT = str(Path(__file__).parents[2])


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\n{script}", *arguments]


COPY = python("sys.stdout.buffer.write(sys.stdin.buffer.read())")


def is_gone(pid: int) -> bool:
    """Whether a process ends within a second."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return True
        time.sleep(0.01)
    return False


# -- bytes --------------------------------------------------------------------------------


def test_bytes_of_every_value_go_from_file_to_file_unchanged(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(EVERY_BYTE)
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("w+b") as stdout:
        HostRunner().run(COPY, stdin=stdin, stdout=stdout)

    assert (tmp_path / "out").read_bytes() == EVERY_BYTE


@pytest.mark.parametrize("size", [1000, 1 << 16, 1 << 20])
def test_bytes_of_every_value_are_pumped_unchanged(tmp_path: Path, size: int) -> None:
    blocks = [EVERY_BYTE[at : at + size] for at in range(0, len(EVERY_BYTE), size)]
    with (tmp_path / "out").open("w+b") as stdout:
        HostRunner().run(COPY, stdin=blocks, stdout=stdout)

    assert (tmp_path / "out").read_bytes() == EVERY_BYTE


@pytest.mark.parametrize("blocks", [[], iter([]), [b""]], ids=["list", "iterator", "empty block"])
def test_nothing_to_pump_is_an_empty_input(blocks: Iterable[bytes]) -> None:
    assert HostRunner().run(COPY, stdin=blocks, timeout=2).stdout == ""


def test_no_input_is_an_empty_input_and_not_this_process_own() -> None:
    assert HostRunner().run(COPY).stdout == ""


def test_text_is_captured_as_utf8_whole_characters_at_a_time() -> None:
    text = "größe → ∞ 🎉" * 20_000

    result = HostRunner().run(
        python("sys.stdout.buffer.write(sys.stdin.buffer.read())"), stdin=[text.encode()]
    )

    assert text == result.stdout


def test_bytes_that_are_no_text_do_no_harm() -> None:
    result = HostRunner().run(python("sys.stdout.buffer.write(b'a\\xff\\xfeb')"))

    assert result.stdout == "a��b"


@pytest.mark.parametrize("stdin", [None, [b"x" * 5_000_000]], ids=["no input", "unread input"])
def test_a_flood_of_messages_does_not_stop_the_output(
    tmp_path: Path, stdin: Sequence[bytes] | None
) -> None:
    flood = python("for _ in range(160): sys.stderr.write('x' * 65536)\nprint('done')")
    with (tmp_path / "out").open("w+b") as stdout:
        result = HostRunner().run(flood, stdin=stdin, stdout=stdout, timeout=20)

    assert (tmp_path / "out").read_bytes() == b"done\n"
    assert 0 < len(result.stderr) < 6_000_000


def test_the_first_and_the_last_of_a_flood_of_messages_are_kept() -> None:
    script = "print('first', file=sys.stderr)\nfor _ in range(160): sys.stderr.write('x' * 65536)\n"
    result = HostRunner().run(python(f"{script}print('last', file=sys.stderr)"))

    assert result.stderr.startswith("first")
    assert result.stderr.endswith("last\n")


def test_many_short_lines_that_come_slowly_are_all_kept() -> None:
    script = "for n in range(200): print(n, flush=True); time.sleep(0.002)"
    said = HostRunner().run(python(script)).stdout
    assert said.split() == [str(n) for n in range(200)]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a shell's child in the background")
def test_a_child_that_keeps_the_streams_does_not_keep_repom() -> None:
    began = time.monotonic()
    assert HostRunner().run(["sh", "-c", "sleep 20 & echo $!"]).ok
    assert time.monotonic() - began < 10


def test_a_second_attempt_gets_the_whole_input_again() -> None:
    answers = [Answer(stderr="no password supplied", exited=2), Answer("1")]
    runner = FakeRunner({"psql": answers}, True)
    client = Client(runner, Address(user="ann", database="shop", password="x"))
    client.run(["psql"], stdin=lambda: iter([b"a", b"b"]))
    assert [call.stdin for call in runner.calls] == [b"ab", b"ab"]


def test_a_program_that_stops_reading_speaks_for_itself() -> None:
    argv = python("sys.stdin.buffer.read(10); sys.stderr.write('enough'); sys.exit(3)")

    with pytest.raises(UnexpectedExit) as caught:
        HostRunner().run(argv, stdin=(b"x" * 65536 for _ in range(200)), timeout=20)

    assert (caught.value.result.stderr, caught.value.result.exited) == ("enough", 3)


# -- failures -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [Damaged("cut short"), RuntimeError("broken"), OSError("disk")],
    ids=["repom's", "any", "the disk's"],
)
def test_when_the_input_cannot_be_made_the_program_never_sees_its_end(
    tmp_path: Path, error: Exception
) -> None:
    def blocks() -> Iterator[bytes]:
        yield b"half"
        raise error

    marker = tmp_path / "saw the end"
    argv = python("sys.stdin.buffer.read(); open(sys.argv[1], 'w')", str(marker))

    with pytest.raises(Exception) as caught:
        HostRunner().run(argv, stdin=blocks(), timeout=20)

    if isinstance(error, Damaged):
        assert error is caught.value
    assert not marker.exists()


@pytest.mark.parametrize("warn", [False, True])
def test_a_missing_program_is_unreachable(warn: bool) -> None:
    with pytest.raises(Unreachable, match="no-such-program was not found") as caught:
        HostRunner().run(["no-such-program"], warn=warn)

    assert caught.value.exit_status == 3


def test_a_program_that_may_not_be_run_is_unreachable(tmp_path: Path) -> None:
    (tmp_path / "pg_dump").touch()
    runner = HostRunner(str(tmp_path))

    with pytest.raises(Unreachable, match=r"pg_dump"):
        runner.run(["pg_dump"])


def test_a_missing_program_on_the_terminal_is_unreachable() -> None:
    with pytest.raises(Unreachable, match="no-such-program"):
        HostRunner().interactive(["no-such-program"], {})


def test_a_program_on_the_terminal_returns_its_status() -> None:
    assert HostRunner().interactive(python("sys.exit(7)"), {}) == 7


def test_programs_are_taken_from_the_folder_that_was_chosen(tmp_path: Path) -> None:
    program = tmp_path / "psql"
    program.write_text("#!/bin/sh\necho mine\n")
    program.chmod(0o755)
    assert HostRunner(str(tmp_path)).run(["psql"]).stdout == "mine\n"


@pytest.mark.skipif(os.name != "posix", reason="asks for processes as POSIX does")
def test_after_its_time_a_program_and_its_children_are_killed(tmp_path: Path) -> None:
    script = "if not os.fork(): time.sleep(60)\nopen('pid', 'w').write(str(os.getpid()))\n"
    started = time.monotonic()

    with pytest.raises(CommandFailed, match=r"did not end within 0.5 s"):
        HostRunner().run(python(f"{script}time.sleep(60)"), timeout=0.5)

    assert time.monotonic() - started < 3
    assert is_gone(int(Path("pid").read_text()))


INTERRUPTED = """
import signal, sys
from repom.runners.host import HostRunner
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
script = "import os, time; print(os.getpid(), flush=True); time.sleep(30)"
with open("pid", "w+b") as file:
    HostRunner().run([sys.executable, "-c", script], stdout=file)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_an_interrupt_ends_the_program_within_two_seconds_and_leaves_no_process() -> None:
    env = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], env=env, stderr=subprocess.PIPE
    ) as child:
        pid = wait_for_pid()
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        _out, said = child.communicate(timeout=10)

    assert time.monotonic() - sent < 2
    assert b"KeyboardInterrupt" in said
    assert is_gone(pid)


def wait_for_pid() -> int:
    for _ in range(500):
        text = Path("pid").read_text() if Path("pid").exists() else ""
        if text.endswith("\n"):
            return int(text)
        time.sleep(0.01)
    raise AssertionError("the program did not start")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_program_that_ignores_the_request_to_end_is_killed() -> None:
    stubborn = INTERRUPTED.replace("import os, time;", "import os, time, signal;").replace(
        "print(os", "signal.signal(15, signal.SIG_IGN); print(os"
    )
    env = {**os.environ, "PYTHONPATH": ROOT}
    with subprocess.Popen(
        [sys.executable, "-c", stubborn], env=env, stderr=subprocess.DEVNULL
    ) as child:
        pid = wait_for_pid()
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        child.wait(10)

    assert time.monotonic() - sent < 2
    assert is_gone(pid)


# -- echo and dry -------------------------------------------------------------------------


def test_echo_goes_to_the_log_and_shows_no_secret(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="repom")
    HostRunner(echo=True).run(python("print('x')", "a b"), env={"PGPASSWORD": "s3cret"})

    assert "'a b'" in caplog.text
    assert "s3cret" not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_dry_run_shows_the_command_and_runs_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="repom")
    result = HostRunner(dry=True).run(python("open('made', 'w')"))

    assert (result.ok, result.stdout) == (True, "")
    assert sys.executable in caplog.text
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_question_is_asked_in_a_dry_run_too() -> None:
    assert HostRunner(dry=True).run(python("print('x')"), dry=False).stdout == "x\n"


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    HostRunner().run(python("print('x'); print('y', file=sys.stderr)"), warn=True)

    assert capfd.readouterr() == ("", "")


# -- the environment ----------------------------------------------------------------------


def test_nobodys_libpq_variables_redirect_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSERVICE", "PGOPTIONS", "PGPASSWORD", "PGPASSFILE", "PGSSLCERT"):
        monkeypatch.setenv(name, "theirs")
    show = python("print(*sorted(k + '=' + v for k, v in os.environ.items() if k[:2] == 'PG'))")

    said = HostRunner().run(show, env={"PGPASSWORD": "mine"}).stdout.split()

    assert [each for each in said if not each.startswith("PGAPPNAME=repom-")] == [
        "PGPASSFILE=theirs",
        "PGPASSWORD=mine",
        "PGSSLCERT=theirs",
    ]
    assert len(said) == 4


def test_messages_are_in_english_whatever_the_users_language() -> None:
    env = client_environment({"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE", "PATH": "/bin"}, {})

    assert env == {"LANG": "de_DE.UTF-8", "LC_ALL": "C", "LANGUAGE": "C", "PATH": "/bin"}


def test_every_runner_has_a_session_of_its_own() -> None:
    assert HostRunner().session != HostRunner().session


@pytest.mark.parametrize(
    ("platform", "options"),
    [
        ("linux", {"start_new_session": True}),
        ("darwin", {"start_new_session": True}),
        ("win32", {"creationflags": 0x200}),
    ],
)
def test_children_are_in_a_group_of_their_own(platform: str, options: dict[str, Any]) -> None:
    assert options == popen_options(platform)


@pytest.mark.parametrize(
    ("platform", "argv", "shown"),
    [
        ("linux", ["psql", "-d", "dbname='a b'"], """psql -d 'dbname='"'"'a b'"'"''"""),
        ("darwin", ["psql", "a$b", ""], "psql 'a$b' ''"),
        ("win32", ["psql", "-d", "dbname='a b'"], "psql -d \"dbname='a b'\""),
        ("win32", [r"C:\Program Files\psql.exe", 'a"b'], r'"C:\Program Files\psql.exe" a\"b'),
    ],
)
def test_a_command_is_shown_as_one_would_type_it(
    platform: str, argv: list[str], shown: str
) -> None:
    assert shown == display(argv, platform)


OWN = ("-e", "PGAPPNAME", "-e", "PGHOST", "-e", "LC_ALL")

# -- docker exec --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "interactive", "expected"),
    [
        ({}, False, ["docker", "exec", *OWN, "shop", "psql", "-X"]),
        ({}, True, ["docker", "exec", "-i", *OWN, "shop", "psql", "-X"]),
        (
            {"PGPASSWORD": "s3cret", "A": "b"},
            True,
            ["docker", "exec", "-i", *OWN, "-e", "PGPASSWORD", "-e", "A", "shop", "psql", "-X"],
        ),
    ],
    ids=["no input", "input", "variables by name"],
)
def test_docker_exec_gets_variables_by_name_and_no_terminal(
    env: dict[str, str],
    interactive: bool,
    expected: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="repom")
    stdin = [b""] if interactive else None
    ExecRunner("docker", "shop", "shop", dry=True).run(["psql", "-X"], stdin=stdin, env=env)
    assert caplog.messages[-1] == f"$ {' '.join(expected)}"


SKIP_TO_COMMAND = (
    'shift; while [ "$1" = -i ] || [ "$1" = -e ]; do [ "$1" = -e ] && shift; shift; done; shift; '
)


@pytest.fixture
def inside(docker: FakeDocker) -> ExecRunner:
    """A runner whose container is this host, so that `sh` and the rest are real."""
    docker.runs("exec ", f'{SKIP_TO_COMMAND} exec "$@"')
    return ExecRunner(docker.program, "the-id", "shop")


def test_a_whole_stream_is_taken_without_its_proof(inside: ExecRunner, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as stdout:
        inside.run(COPY, stdin=[EVERY_BYTE], stdout=stdout)

        assert len(EVERY_BYTE) == stdout.tell()
    assert (tmp_path / "out").read_bytes() == EVERY_BYTE


LOST = {
    "half of a dump": "printf PGDMPhalf",
    "nothing": "true",
    "a part of the proof": 'printf %s "PGDMP$(printf %s "$4" | cut -c1-20)"',
    "more behind the proof": 'printf %s "PGDMP$4 and more"',
}


@pytest.mark.parametrize("script", LOST.values(), ids=list(LOST))
def test_a_stream_without_its_proof_is_no_success_although_docker_exits_0(
    docker: FakeDocker, tmp_path: Path, script: str
) -> None:
    docker.runs("exec ", f"{SKIP_TO_COMMAND} {script}; exit 0")

    with (
        (tmp_path / "out").open("w+b") as stdout,
        pytest.raises(CommandFailed, match="ended before"),
    ):
        ExecRunner(docker.program, "the-id", "shop").run(["pg_dump"], stdout=stdout)


@pytest.mark.parametrize("status", [126, 127, 1, 137])
def test_an_engines_words_on_the_output_are_no_dump(
    docker: FakeDocker, tmp_path: Path, status: int
) -> None:
    oci = "OCI runtime exec failed: exec failed: unable to start container process"
    docker.answers("exec ", f"{oci}\n", status=status)

    with (tmp_path / "out").open("w+b") as stdout, pytest.raises(UnexpectedExit) as caught:
        ExecRunner(docker.program, "the-id", "shop").run(["pg_dump"], stdout=stdout)

    assert status == caught.value.result.exited


def test_a_program_that_fails_in_the_container_gives_no_proof(
    inside: ExecRunner, tmp_path: Path
) -> None:
    argv = python("sys.stdout.write('half'); sys.exit(3)")
    with (tmp_path / "out").open("w+b") as stdout, pytest.raises(UnexpectedExit) as caught:
        inside.run(argv, stdout=stdout)

    assert caught.value.result.exited == 3
    assert (tmp_path / "out").read_bytes() == b"half"


def test_arguments_reach_the_program_as_they_are(inside: ExecRunner, tmp_path: Path) -> None:
    odd = ["a b", "$HOME", "`id`", "'", '"', "\\", "*", "", "dbname='a b'", "ü\n"]
    show = python("sys.stdout.write(repr(sys.argv[1:]))", *odd)
    with (tmp_path / "out").open("w+b") as stdout:
        inside.run(show, stdout=stdout)

    assert repr(odd) == (tmp_path / "out").read_text()
    assert repr(odd) == inside.run(show).stdout


def test_a_password_goes_by_the_environment_alone(inside: ExecRunner, docker: FakeDocker) -> None:
    show = python("print(os.environ['PGPASSWORD'])")

    said = inside.run(show, env={"PGPASSWORD": "s3cret"}).stdout

    assert said == "s3cret\n"
    assert "s3cret" not in "".join(docker.calls)
    assert " -e PGPASSWORD the-id " in docker.calls[0]


def test_the_containers_own_libpq_host_does_not_count(
    inside: ExecRunner, docker: FakeDocker
) -> None:
    said = inside.run(python("print(os.environ['PGHOST'] + '|' + os.environ['PGAPPNAME'])")).stdout

    assert f"|{inside.session}\n" == said


def test_a_dry_run_needs_no_proof(docker: FakeDocker, tmp_path: Path) -> None:
    runner = ExecRunner(docker.program, "the-id", "shop", dry=True)
    with (tmp_path / "out").open("w+b") as stdout:
        assert runner.run(["pg_dump"], stdout=stdout).ok

    assert docker.calls == []


# -- a file for a program -----------------------------------------------------------------


def copies(runner: Runner) -> list[Path]:
    return list(Path("/tmp").glob(f"{runner.session}-*"))


def test_in_the_container_a_private_copy_is_read_and_removed(
    inside: ExecRunner, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(EVERY_BYTE)
    script = "f = sys.argv[-1]; print(os.path.getsize(f), oct(os.stat(f).st_mode)[-3:], f)"

    size, mode, path = inside.run_on_file(python(script), tmp_path / "in").stdout.split()

    assert (str(len(EVERY_BYTE)), "600") == (size, mode)
    assert path.startswith(f"/tmp/{inside.session}-")
    assert copies(inside) == []


def test_the_copy_is_removed_when_the_program_fails(inside: ExecRunner, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x")

    with pytest.raises(UnexpectedExit) as caught:
        inside.run_on_file(python("sys.exit(5)"), tmp_path / "in")

    assert caught.value.result.exited == 5
    assert copies(inside) == []


def test_a_copy_that_is_incomplete_is_not_used(docker: FakeDocker, tmp_path: Path) -> None:
    docker.runs("exec ", f'{SKIP_TO_COMMAND} head -c 1000 | "$@"')
    runner = ExecRunner(docker.program, "the-id", "shop")
    (tmp_path / "in").write_bytes(EVERY_BYTE)

    with pytest.raises(UnexpectedExit) as caught:
        runner.run_on_file(python("open('ran', 'w')"), tmp_path / "in")

    assert "the copy is incomplete" in caught.value.result.stderr
    assert not Path("ran").exists()
    assert copies(runner) == []


def test_no_exception_shows_a_secret(tmp_path: Path) -> None:
    with pytest.raises(UnexpectedExit) as caught:
        HostRunner().run(python("sys.exit(1)"), env={"PGPASSWORD": CANARY})

    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY not in f"{caught.value!r} {caught.value.result} {caught.value.result!r}"


# -- watched --------------------------------------------------------------------------------

SILENT = [sys.executable, "-c", "import time; time.sleep(1)"]


def test_a_silent_program_is_ended_when_its_watch_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALL", 0.1)
    begun = time.monotonic()
    with pytest.raises(Stalled, match="ended: nobody answers"):
        argv = [sys.executable, "-c", "import time; time.sleep(30)"]
        HostRunner().run(argv, watch=lambda: "nobody answers")

    assert time.monotonic() - begun < 10


def test_a_silent_program_goes_on_while_its_watch_has_no_objection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "STALL", 0.1)
    asked = []

    def watch() -> str:
        asked.append(time.monotonic())
        return ""

    assert HostRunner().run(SILENT, watch=watch).ok
    assert len(asked) > 2


def test_a_question_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STALL", 0.1)

    assert HostRunner().run(SILENT).ok
