from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom.errors import Unreachable
from repom.runners import programs
from repom.runners.programs import fitting, folders, install_hint, installed, newest, version_num
from tests import requires

FITTING = {
    "its own": (17, [16, 17, 18], 17),
    "its own, whatever the order": (17, [18, 17, 16], 17),
    "the nearest newer one": (15, [18, 16, 17], 16),
    "the only newer one": (13, [18], 18),
    "never an older one": (16, [15, 18], 18),
}


@pytest.mark.parametrize(("server", "there", "taken"), FITTING.values(), ids=list(FITTING))
def test_programs_are_of_the_servers_major_or_the_nearest_newer(
    server: int, there: list[int], taken: int
) -> None:
    assert f"/{taken}/bin" == fitting(server, [(major, f"/{major}/bin") for major in there])


def test_of_two_folders_of_one_major_the_first_is_taken() -> None:
    assert fitting(17, [(17, "/usual"), (17, "/path")]) == "/usual"


@pytest.mark.parametrize(
    ("there", "said"), [([], "none"), ([15], "15"), ([16, 9, 16], "9, 16")], ids=str
)
def test_without_a_fitting_program_both_versions_are_named(there: list[int], said: str) -> None:
    with pytest.raises(Unreachable) as caught:
        fitting(18, [(major, "/bin") for major in there])

    assert caught.value.exit_status == 3
    assert "The server is PostgreSQL 18" in caught.value.message
    assert caught.value.message.endswith(f"are {said}")
    assert "18" in caught.value.hint or "Install" in caught.value.hint


@pytest.mark.parametrize(
    ("major", "system", "hint"),
    [
        (17, "darwin", "brew install postgresql@17"),
        (None, "darwin", "brew install libpq"),
        (17, "win32", "command line tools of PostgreSQL for Windows"),
    ],
)
def test_the_hint_names_this_systems_package(major: int | None, system: str, hint: str) -> None:
    assert hint in install_hint(major, system)


@pytest.mark.parametrize(
    ("release", "major", "hint"),
    [
        ("ID=debian", 17, "apt install postgresql-client-17"),
        ("ID=debian", None, "apt install postgresql-client"),
        ('ID=ubuntu\nID_LIKE="debian"', 18, "apt install postgresql-client-18"),
        ("ID=fedora", 17, "dnf install postgresql"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', 17, "dnf install postgresql"),
        ("ID=arch", 17, "pacman -S postgresql"),
        ("ID=alpine", 17, "apk add postgresql17-client"),
        ("ID=nixos", 17, "postgresql-client-17"),
        (None, 17, "postgresql-client-17"),
    ],
)
def test_the_hint_knows_the_families_of_linux(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    release: str | None,
    major: int | None,
    hint: str,
) -> None:
    if release:
        (tmp_path / "os-release").write_text(f"{release}\n")
    monkeypatch.setattr("platform._os_release_candidates", (str(tmp_path / "os-release"),))
    monkeypatch.setattr("platform._os_release_cache", None)

    assert install_hint(major, "linux").endswith(hint)


# -- those of this host -------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A host whose usual folders and PATH are in this folder."""
    requires.need(os.name == "posix", "a POSIX shell")
    monkeypatch.setitem(programs.FOLDERS, "here", (f"{tmp_path}/usual/*/bin",))
    monkeypatch.setitem(programs.FOLDERS, "linux", (f"{tmp_path}/usual/*/bin",))
    monkeypatch.setitem(programs.FOLDERS, sys.platform, (f"{tmp_path}/usual/*/bin",))
    monkeypatch.setenv("PATH", f"{tmp_path}/path:/usr/bin-that-is-not-there")
    installed.cache_clear()
    yield tmp_path
    installed.cache_clear()


def put(folder: Path, version: str, status: int = 0, to: str = "pg_dump") -> str:
    folder.mkdir(parents=True)
    path = folder / to
    path.write_text(f"#!/bin/sh\necho '{version}'\nexit {status}\n")
    path.chmod(0o755)
    return str(folder)


def test_the_usual_folders_come_before_path(host: Path) -> None:
    usual = put(host / "usual/16/bin", "pg_dump (PostgreSQL) 16.10")
    on_path = put(host / "path", "pg_dump (PostgreSQL) 17.6")
    (host / "usual/empty/bin").mkdir(parents=True)

    assert [usual, on_path] == folders("here")


def test_a_system_that_is_not_known_is_searched_like_linux(host: Path) -> None:
    usual = put(host / "usual/16/bin", "pg_dump (PostgreSQL) 16.10")

    assert [usual] == folders("freebsd")


@pytest.mark.parametrize(
    ("version", "major"),
    [
        ("pg_dump (PostgreSQL) 17.6", 17),
        ("pg_dump (PostgreSQL) 15.18 (Debian 15.18-1.pgdg12+1)", 15),
        ("pg_dump (PostgreSQL) 19beta1", 19),
        ("pg_dump (PostgreSQL) 19devel", 19),
        ("pg_dump (PostgreSQL) 18rc1", 18),
    ],
)
def test_a_program_says_its_own_version(host: Path, version: str, major: int) -> None:
    folder = put(host / "usual/x/bin", version)

    assert ((major, folder),) == installed()


def test_each_folder_has_a_version_of_its_own(host: Path) -> None:
    old = put(host / "usual/15/bin", "psql (PostgreSQL) 15.18 (Debian 15.18-1.pgdg12+1)", to="psql")
    new = put(host / "usual/18/bin", "psql (PostgreSQL) 18beta1", to="psql")

    assert (version_num("psql", old), version_num("psql", new)) == (150018, 180000)
    assert version_num("psql", str(host)) == 0


def test_programs_that_cannot_be_run_do_not_spoil_the_others(host: Path) -> None:
    folder = put(host / "usual/17/bin", "pg_dump (PostgreSQL) 17.6")
    put(host / "usual/16/bin", "pg_dump (PostgreSQL) 16.1")
    (host / "usual/16/bin/pg_dump").write_text("#!/no/such/interpreter\n")

    assert ((17, folder),) == installed()


def test_a_wrapper_that_cannot_find_its_program_does_not_count(host: Path) -> None:
    put(host / "path", "Error: You must install at least one postgresql-client package", 1)

    assert installed() == ()
    with pytest.raises(Unreachable, match="pg_dump is not installed on this host"):
        newest()


def test_the_newest_asks_a_server_of_unknown_version(host: Path) -> None:
    put(host / "usual/9/bin", "pg_dump (PostgreSQL) 9.6.24")
    taken = put(host / "usual/17/bin", "pg_dump (PostgreSQL) 17.6")
    put(host / "usual/18old/bin", "pg_dump (PostgreSQL) 16.1")

    assert taken == newest()


def test_nothing_installed_says_what_to_install(host: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        newest()

    assert "Install" in caught.value.hint
