"""`undo`: put back what the last restore or undo replaced."""

from __future__ import annotations

import logging
import time
from contextlib import closing
from dataclasses import dataclass

from repom.errors import NotFound, RepomError
from repom.settings import Settings, Source

from . import work
from .database import Database, Kept, Survey
from .work import Restored, open_database, since

log = logging.getLogger("repom")


@dataclass(frozen=True)
class Undo:
    """An undo that could be carried out.

    :param survey: what it found.
    :param kept: what would be put back.
    :param engine: address of the container engine, when that is on another machine.
    """

    settings: Settings
    database: Database
    survey: Survey
    kept: Kept
    engine: str = ""


def undo(settings: Source = None, *, remote: bool = False) -> Restored:
    """Put back what the last restore replaced, and keep what it had put in its place.

    :param remote: allow a database on another machine.
    :raises NotFound: there is nothing to put back.
    :raises Refused: it is on another machine, and `remote` is not set.
    """
    return carry_out_undo(plan_undo(Settings.of(settings), remote=remote))


def plan_undo(settings: Settings, *, remote: bool = False) -> Undo:
    """What an undo would put back, without touching anything; raises as `undo`."""
    settings = work.locate(settings)
    database = open_database(settings, "psql")
    with work.closed_on_failure(database):
        engine = work.engine_of(settings, database, remote)
        survey = database.survey()
        work.check_server(settings, database, survey.system_identifier)
    if not survey.kept:
        database.close()
        raise NotFound(
            f"There is no undo copy of {database.name}",
            "A restore keeps one, unless REPOM_UNDO_KEEP is 0",
        )
    return Undo(settings, database, survey, survey.kept[0], engine)


def carry_out_undo(plan: Undo) -> Restored:
    """Undo as planned.

    :raises Refused: another restore has come between.
    """
    started, database, kept = time.monotonic(), plan.database, plan.kept
    if plan.settings.dry:
        log.info("Would put %s back", kept.name)
        return Restored(database.name, kept.name, None, 0.0)
    with work.on(plan.settings, database, "undo", replaces=True):
        survey = database.survey()
        work.check_server(plan.settings, database, survey.system_identifier)
        work.check_same(database.name, plan.survey, survey)
        replaced = database.swap(survey, kept.name, keep=max(1, plan.settings.undo_keep))
    return Restored(database.name, kept.name, replaced, since(started))


def look(settings: Settings) -> Survey:
    """What is there, with the undo copies; never fails, since backups can be listed while the
    server is down."""
    try:
        with closing(open_database(settings, "psql")) as database:
            return database.survey()
    except RepomError as error:
        log.info("Could not check for undo copies: %s", error.message)
        return Survey(exists=False, size=0)
