"""Giving another database a database's name, while pools keep reconnecting to it."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from repom.errors import CommandFailed, Refused, RepomError

from . import owned, queries
from .client import Client
from .load import warn
from .survey import ServerSurvey, refuse_holders

log = logging.getLogger("repom")

#: SQLSTATE of a database that is in use, and of a lock that was not to be had.
IN_USE = ("55006", "55P03")
#: Seconds that a swap waits for the drop of older undo copies, and bytes of a database
#: beyond which it does not wait: the drop goes on by itself.
TIDYING, SLOW_TO_DROP = 0.25, 100_000_000
ABORTING = 1.0  # seconds that ending what still runs in the server may take


def swap(client: Client, found: ServerSurvey, scratch: str, keep: int) -> str | None:
    """Give `scratch` the name of the client's database, in one transaction.

    :param keep: undo copies that stay, this one included.
    :returns: the name of the undo copy; ``None`` when none is kept.
    :raises Refused: sessions could not be ended, or another repom is at work.
    """
    refuse_holders(found)
    live, kept = client.login.database, owned.new_name("undo")
    client.close(live, scratch)
    gone = [kept, *(each.name for each in found.kept if each.name != scratch)][keep:]
    names = {"live": live, "kept": kept, "scratch": scratch}
    evictor = threading.Thread(target=_evict, args=(client, names, gone), daemon=True)
    if found.exists:
        evictor.start()
    variables = {**names, "description": _note(client, found), "key": str(lock_key(live))}
    query = f"\\set VERBOSITY verbose\n{queries.SWAP}"
    try:
        done = client.script(query, client.maintenance, variables, changes=True)
    except BaseException as error:
        if evictor.is_alive():
            abort(client, client.runner.session)
            evictor.join(ABORTING)
        raise _explained(error, live) from None
    warn("Not granted on the restored database", done.stderr)
    if evictor.ident and found.size < SLOW_TO_DROP:
        evictor.join(TIDYING)
    return kept if done.stdout.split()[-1:] == ["1"] and keep else None


def _note(client: Client, found: ServerSurvey) -> str:
    """Describes the undo copy as made now, or after all others: a clock that was ahead must
    not change which database was replaced last."""
    newest = max((k.created_at for k in found.kept), default=datetime.min.replace(tzinfo=UTC))
    when = max(datetime.now(UTC), newest + timedelta(microseconds=1))
    return owned.describe("undo", client.login.database, client.runner.session, when)


def _evict(client: Client, names: Mapping[str, str], gone: Iterable[str]) -> None:
    drop = queries.drop(gone, client.maintenance)
    query = f"{queries.EVICT}\\if :repom_swapped\n{drop}\\endif\n"
    with suppress(RepomError):
        client.apart(query, client.maintenance, names, changes=True)


def _explained(error: BaseException, database: str) -> BaseException:
    said = error.stderr if isinstance(error, CommandFailed) else ""
    if queries.BUSY in said:
        return in_use(database, "")
    if any(code in said for code in IN_USE):
        message = f"Sessions on {database} could not be ended"
        return Refused(message, "Close them and restore again")
    return error


def lock_key(database: str) -> int:
    """The key of the advisory lock of a database's name, 64 bits with a sign."""
    digest = hashlib.sha256(f"repom {database}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def in_use(database: str, who: str) -> Refused:
    holder = f" (server process {who})" if who else ""
    return Refused(
        f"Another repom process{holder} is replacing {database}",
        "Try again when it has finished",
    )


def abort(client: Client, session: str) -> None:
    """End what a run still has going on in the server; once, if nothing was begun since."""
    is_own = session == client.runner.session
    if is_own and client.is_aborted:
        return
    client.is_aborted = client.is_aborted or is_own
    spared = str(client.pid(client.maintenance))
    with suppress(RepomError):
        variables = {"session": session, "spared": spared}
        client.apart(queries.ABORT, client.maintenance, variables, timeout=ABORTING)
