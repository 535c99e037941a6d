"""What a server is found to be before a restore, and why that may forbid it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from repom.dbops.archive import toc
from repom.dbops.archive.archive import Archive
from repom.dbops.database import Facts
from repom.errors import CommandFailed, Refused


def check_count(count: int, expected: int | None) -> None:
    """:raises CommandFailed: other tables were loaded than were backed up, or none."""
    if expected is None and count == 0:
        raise CommandFailed("The file was loaded and left no table", "Nothing was changed")
    if expected is not None and count != expected:
        raise CommandFailed(
            f"The backup holds {expected} tables, and {count} were restored", "Nothing was changed"
        )


def refuse_server(found: Mapping[str, Any]) -> None:
    """:raises Refused: nothing can be created on this server, or not by this user."""
    if found["recovery"]:
        raise Refused("The server is a standby, which takes no writes", "Restore on its primary")
    if not found["may_create"]:
        raise Refused(
            "This user may not create a database, and a restore loads a new one first",
            "Let a superuser run ALTER ROLE … CREATEDB, or add --in-place",
        )
    if found["is_owner"] is False:
        raise Refused(
            "The database belongs to another user, so this one may not replace it",
            "Restore as its owner, or with --into a new name",
        )


def refuse_needs(found: Mapping[str, Any], archive: Archive, facts: Facts, *, owner: bool) -> None:
    """:raises Refused: the server lacks extensions or roles of the backup."""
    missing = sorted(set(facts.extensions) - set(found.get("available") or ()))
    if missing and "available" in found:
        raise Refused(
            f"The server lacks extensions of the backup: {', '.join(missing)}", "Install them first"
        )
    absent = missing_roles(found, archive, facts)
    if absent and owner and archive.is_archive:
        raise Refused(
            f"The server lacks roles of the backup: {', '.join(absent)}",
            "Create them, or add --no-owner",
        )


def missing_roles(found: Mapping[str, Any], archive: Archive, facts: Facts) -> list[str]:
    """Roles of the backup that the server lacks. A role's name has the bytes that it got in
    the database in which it was created: UTF-8, or the encoding of the one backed up."""
    known = {bytes.fromhex(name) for name in found["roles"] or ()}
    encoding = facts.locale.get("encoding") or "UTF8"
    wanted = {*facts.roles, *owners(archive)}
    return sorted(role for role in wanted if not known & spellings(role, encoding))


def owners(archive: Archive) -> set[str]:
    """Who owns something in an archive, as far as it tells and whatever its encoding."""
    found = toc.entries(archive.path) if archive.kind == "custom" else []
    return {each.owner for each in found if each.owner and each.owner.isascii()}


def spellings(role: str, encoding: str) -> set[bytes]:
    found = {role.encode()}
    with suppress(LookupError, UnicodeEncodeError):
        found.add(role.encode(encoding.replace("WIN", "cp")))
    return found


def refuse_space(found: Mapping[str, Any], size: int) -> None:
    """:raises Refused: the disk of the data has less room than the database had in bytes
    when it was backed up. A server that cannot write its log stops for everybody."""
    free = found.get("free")
    if free is not None and free < size:
        raise Refused(
            f"The server's disk has {free} bytes free, and the database takes about {size}",
            "Free some space there, or restore elsewhere",
        )


def refuse_holders(found: Mapping[str, Any]) -> None:
    """:raises Refused: something would hold the old database's name; lists it."""
    for key, what, how in (
        ("firm", "Sessions that this user may not end are open", "End them"),
        ("prepared", "Prepared transactions are open", "End them"),
        ("slots", "Replication slots would be lost with the database", "Drop them"),
        ("subscriptions", "Subscriptions are enabled", "Disable them"),
    ):
        if found[key]:
            raise Refused(f"{what}: {', '.join(found[key])}", f"{how}, then restore again")
