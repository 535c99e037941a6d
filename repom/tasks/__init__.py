"""The tasks. A project's ``tasks.py`` needs one line, ``from repom.tasks import ns``; or it
adds `db` and `postgres` to a collection of its own."""

from __future__ import annotations

from invoke import Collection, Program

from repom import __version__
from repom.tasks import masking
from repom.tasks.console import DEFAULTS, started_as
from repom.tasks.db import db
from repom.tasks.demo import demo
from repom.tasks.doctor import doctor
from repom.tasks.postgres import postgres

masking.install()
ns = Collection(db, postgres, demo, doctor)
ns.configure(DEFAULTS)


def main() -> None:
    """The console script ``repom``: the same tasks in a folder without a ``tasks.py``."""
    started_as("repom")
    Program(name="repom", binary="repom", version=__version__, namespace=ns).run()


__all__ = ["db", "demo", "doctor", "main", "ns", "postgres"]
