"""docs/messages.md holds every text that a user can meet, as the source has it now."""

from __future__ import annotations

import re

from repom.tasks import ns
from tests import messages, troubleshooting

#: A task behind a program that not every user has.
SPELLED = r"\b(inv|invoke) (db|postgres)\."


def test_the_page_is_what_the_source_says() -> None:
    written = messages.PAGE.read_text(encoding="utf-8").splitlines()
    assert written == messages.page().splitlines(), "run: python -m tests.messages"


def test_the_page_on_troubleshooting_is_what_the_source_says() -> None:
    written = troubleshooting.PAGE.read_text(encoding="utf-8").splitlines()
    assert written == troubleshooting.page().splitlines(), "run: python -m tests.messages"


def test_what_is_explained_is_still_said() -> None:
    said = [message for _status, message, _hint in messages.collected().pairs]
    gone = [e for e in troubleshooting.EXPLAINED if not any(m.startswith(e) for m in said)]
    assert gone == []


def test_texts_of_every_shape_are_found() -> None:
    page = messages.page()
    for text in (
        "Both --backup and --latest were given. Pass one of them",  # message and hint
        "No PostgreSQL server answers on {where}.",  # a row of a table
        "Using Docker container: {name}",  # the log
        "--no-owner: leave out owners and grants",  # help
        "The backup holds no tables.",  # a part of a question
    ):
        assert text in page


def test_a_task_in_a_hint_is_a_task() -> None:
    named = re.findall(r"\brepom ((?:db|postgres)\.\w+)", messages.page())
    assert set(named) <= set(ns.task_names)
    assert named
    written_out = [line for line in messages.page().splitlines() if re.search(SPELLED, line)]
    assert written_out == [], "the program before a task comes from repom.errors.advice"
