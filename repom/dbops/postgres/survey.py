"""What a server is found to be before a restore, and why that may forbid it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from repom.dbops.archive import toc
from repom.dbops.archive.archive import Archive
from repom.dbops.database import Facts, Kept, Survey
from repom.dbops.files import shown_size
from repom.errors import CommandFailed, Refused

from . import owned
from .owned import Owned


@dataclass(frozen=True)
class ServerSurvey(Survey):
    """What a PostgreSQL server says; see `queries.SURVEY`.

    :param owner: of the database; ``None`` when there is no such database.
    :param own: repom's own databases that belong to it, newest first.
    :param present: application names of repom's sessions in the server.
    :param roles: names as bytes, since they have the encoding of the database that they
        were created in.
    :param available: extensions; ``None`` when they could not be listed.
    :param free: bytes of the disk of the data; ``None`` when unknown.
    :param holders: what would hold the old database's name, by kind.
    """

    owner: str | None = None
    own: tuple[Owned, ...] = ()
    present: frozenset[str] = frozenset()
    roles: frozenset[bytes] = frozenset()
    available: frozenset[str] | None = None
    free: int | None = None
    may_create: bool = True
    is_owner: bool = True
    is_standby: bool = False
    holders: Mapping[str, tuple[str, ...]] | None = None


#: Kind of holder in `queries.SURVEY` → what it is, and what to do.
HOLDERS = {
    "firm": ("Sessions that this user may not end are open", "End them"),
    "prepared": ("Prepared transactions are open", "End them"),
    "slots": ("Replication slots would be lost with the database", "Drop them"),
    "subscriptions": ("Subscriptions are enabled", "Disable them"),
}


def parsed(answer: Mapping[str, Any], database: str) -> ServerSurvey:
    """The answer to `queries.SURVEY`."""
    found = owned.find(answer["own"] or (), answer.get("own_sizes") or {})
    own = tuple(each for each in found if each.database == database)
    kept = [each for each in own if each.kind == "undo" and each.valid]
    available = answer.get("available")
    return ServerSurvey(
        exists=answer["exists"],
        size=answer.get("size") or 0,
        system_identifier=answer.get("system_identifier"),
        kept=tuple(Kept(each.name, database, each.created_at, each.size) for each in kept),
        sessions=tuple(answer.get("sessions") or ()),
        owner=answer["owner"],
        own=own,
        present=frozenset(answer["present"] or ()),
        roles=frozenset(bytes.fromhex(name) for name in answer["roles"] or ()),
        available=None if "available" not in answer else frozenset(available or ()),
        free=answer["free"],
        may_create=answer["may_create"],
        is_owner=answer["is_owner"] is not False,
        is_standby=answer["recovery"],
        holders={kind: tuple(answer[kind] or ()) for kind in HOLDERS},
    )


def check_count(count: int, expected: int | None) -> None:
    """:raises CommandFailed: other tables were loaded than were backed up, or none."""
    if expected is None and count == 0:
        raise CommandFailed("The file created no tables", "Nothing was changed")
    if expected is not None and count != expected:
        raise CommandFailed(
            f"The backup holds {expected} tables, and {count} were restored", "Nothing was changed"
        )


def refuse_server(found: ServerSurvey) -> None:
    """:raises Refused: nothing can be created on this server, or not by this user."""
    if found.is_standby:
        raise Refused("The server is a standby, which takes no writes", "Restore on its primary")
    if not found.may_create:
        raise Refused(
            "This user may not create a database, and a restore loads a new one first",
            "Let a superuser run ALTER ROLE … CREATEDB, or pass --in-place",
        )
    if not found.is_owner:
        raise Refused(
            "The database belongs to another user, so this user may not replace it",
            "Restore as its owner, or with --into a new name",
        )


def refuse_needs(
    found: ServerSurvey, archive: Archive, facts: Facts | None, *, owner: bool
) -> None:
    """:raises Refused: the server lacks extensions or roles of the backup."""
    extensions = set(facts.extensions if facts else ())
    missing = sorted(extensions - found.available) if found.available is not None else []
    if missing:
        raise Refused(
            f"The server lacks extensions of the backup: {', '.join(missing)}", "Install them first"
        )
    absent = missing_roles(found.roles, archive, facts)
    if absent and owner and archive.is_archive:
        raise Refused(
            f"The server lacks roles of the backup: {', '.join(absent)}",
            "Create them, or pass --no-owner",
        )


def missing_roles(known: Collection[bytes], archive: Archive, facts: Facts | None) -> list[str]:
    """Roles of the backup that the server lacks. A role's name has the bytes that it got in
    the database in which it was created: UTF-8, or the encoding of the one backed up."""
    encoding = facts.locale.get("encoding", "UTF8") if facts else "UTF8"
    wanted = {*(facts.roles if facts else ()), *owners(archive)}
    return sorted(role for role in wanted if spellings(role, encoding).isdisjoint(known))


def owners(archive: Archive) -> set[str]:
    """Owners named in an archive, as far as it tells and whatever its encoding."""
    found = toc.entries(archive.path) if archive.kind == "custom" else []
    return {each.owner for each in found if each.owner and each.owner.isascii()}


def spellings(role: str, encoding: str) -> set[bytes]:
    found = {role.encode()}
    with suppress(LookupError, UnicodeEncodeError):
        found.add(role.encode(encoding.replace("WIN", "cp")))
    return found


def refuse_space(found: ServerSurvey, size: int) -> None:
    """:param size: bytes that the database had when it was backed up.
    :raises Refused: the disk of the data has less. A server that cannot write its log stops
        for everyone.
    """
    if found.free is not None and found.free < size:
        raise Refused(
            f"The server's disk has {shown_size(found.free)} free, and the database takes about"
            f" {shown_size(size)}",
            "Free some space there, or restore elsewhere",
        )


def refuse_holders(found: ServerSurvey) -> None:
    """:raises Refused: something would hold the old database's name; lists it."""
    for kind, names in (found.holders or {}).items():
        if names:
            what, how = HOLDERS[kind]
            raise Refused(f"{what}: {', '.join(names)}", f"{how}, then restore again")
