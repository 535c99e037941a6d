"""Every command on the pages of the documentation that needs a server, in the order of the
page, in a Compose project of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import pages, requires


@pytest.mark.parametrize(
    "page", [p for p in pages.pages() if pages.runs(p) and pages.kind(p) in pages.LIVE]
)
def test_what_a_page_says_to_type_works(page: str, tmp_path: Path) -> None:
    requires.image(17)
    requires.compose()
    with pages.PROJECTS[pages.kind(page)](tmp_path) as project:
        pages.check(page, project)
