from __future__ import annotations

from pathlib import Path

import pytest

from repom.dbops.store.store import Store


@pytest.fixture
def target(tmp_path: Path) -> Store:
    return Store(tmp_path / "backups")
