"""One operation on a database at a time, across processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from repom.dbops.store.lock import locked
from repom.dbops.store.store import Store
from repom.errors import CommandFailed, Refused
from tests.dbops.store.making import holder, names


def test_a_second_process_is_refused_and_told_who_holds_the_lock(target: Store) -> None:
    with (
        holder(target.folder, "shop") as child,
        pytest.raises(Refused, match=rf"process \(pid {child.pid}, backup\) is using shop"),
        locked(target.folder, "shop", "restore"),
    ):
        raise AssertionError("both hold the lock")


def test_a_lock_is_of_one_database(target: Store) -> None:
    with holder(target.folder, "shop"), locked(target.folder, "shop_test", "restore"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_killed_holder_blocks_nobody(target: Store) -> None:
    with holder(target.folder, "shop") as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
        with locked(target.folder, "shop", "restore"):
            pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_who_has_no_session_leaves_a_killed_ones_note_to_who_can_end_it(target: Store) -> None:
    with locked(target.folder, "shop", "restore", "repom-0000dead"):
        note = (target.folder / ".shop.holder").read_bytes()
    (target.folder / ".shop.holder").write_bytes(note)  # as a SIGKILL leaves it
    with locked(target.folder, "shop", "pin") as killed:
        assert killed == "repom-0000dead"
    with locked(target.folder, "shop", "backup", "repom-00000001") as killed:
        assert killed == "repom-0000dead"
    with locked(target.folder, "shop", "backup", "repom-00000002") as killed:
        assert killed == ""


def test_a_lock_can_be_waited_for(target: Store) -> None:
    with holder(target.folder, "shop") as child:
        threading.Timer(0.3, child.kill).start()
        with locked(target.folder, "shop", "pin", wait=10):
            pass


def test_a_lock_ends_with_its_block_whatever_happens_in_it(target: Store) -> None:
    with pytest.raises(KeyboardInterrupt), locked(target.folder, "shop", "backup"):
        raise KeyboardInterrupt
    with locked(target.folder, "shop", "backup"):
        pass


def test_the_locks_own_files_are_no_backups_and_survive_a_sweep(target: Store) -> None:
    with locked(target.folder, "shop", "backup"):
        before = names(target)
        target.sweep("shop")

        assert before == names(target)
        assert target.backups() == []


def test_the_lock_of_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(CommandFailed, match="file"),
        locked(tmp_path / "file/backups", "shop", "backup"),
    ):
        raise AssertionError("locked")


def test_waiting_for_nobody_takes_no_time(target: Store) -> None:
    with holder(target.folder, "shop"):
        started = time.monotonic()
        with pytest.raises(Refused), locked(target.folder, "shop", "restore"):
            pass
        assert time.monotonic() - started < 1
