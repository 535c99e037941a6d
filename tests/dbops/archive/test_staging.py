from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from repom.dbops.archive.staging import WorkingFolder, staged, sweep
from repom.errors import NoSpace
from tests import requires

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_standard_input_is_staged_privately_and_does_not_stay(temporary: Path) -> None:
    with staged(io.BytesIO(b"x" * 3_000_000)) as path:
        assert path.read_bytes() == b"x" * 3_000_000
        if os.name == "posix":
            assert (
                stat.S_IMODE(path.stat().st_mode),
                stat.S_IMODE(path.parent.stat().st_mode),
            ) == (0o600, 0o700)
    assert list(temporary.iterdir()) == []


def test_a_full_disk_ends_the_staging(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(free=1, total=1 << 40)
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    with pytest.raises(NoSpace, match="is full") as caught, staged(io.BytesIO(b"x")):
        pass

    assert "TMPDIR" in caught.value.hint
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_killed_run_is_swept_at_once(temporary: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from repom.dbops.archive.staging import WorkingFolder\n"
        "folder = WorkingFolder(Path(sys.argv[1])); (folder.path / 'copy').touch()\n"
        "os.kill(os.getpid(), 9)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(temporary)], env=env)
    assert len(list(temporary.iterdir())) == 1

    with WorkingFolder() as used:
        sweep(temporary)
        assert [used] == list(temporary.iterdir())


def test_only_what_repom_made_and_left_is_swept(temporary: Path) -> None:
    requires.need(os.name == "posix", "times of a folder")
    kept = ["repom-checkout", "repom-work-mine", "repom-work-01234567", "repom-stdin-1-abcdefgh"]
    left = ["repom-stdin-999-abcdefgh", "repom-sqlite-abcdefgh"]  # of repom 0.1
    for name in (*kept, *left):
        (temporary / name).mkdir()
    (temporary / "repom-sqlite-abcdefgh/lock").touch()
    for name in ("repom-checkout", "repom-work-mine", "repom-stdin-999-abcdefgh"):
        os.utime(temporary / name, (0, 0))
    (temporary / "repom-work-linked00").symlink_to(temporary / "repom-checkout")

    sweep(temporary)

    assert {*kept, "repom-work-linked00"} == {path.name for path in temporary.iterdir()}
