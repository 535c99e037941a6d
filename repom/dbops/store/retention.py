"""Which backups prune deletes, and deleting them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from repom.dbops.files import shown_size
from repom.errors import CommandFailed, advice

from .backup import Backup, is_ahead
from .store import Store

log = logging.getLogger("repom")

#: Why prune leaves a backup of the same name.
FROM_ELSEWHERE = "of another server or project"
#: A backup of less than this share of an earlier one's size deletes nothing.
SUSPICIOUS = 0.25


@dataclass(frozen=True)
class Pruned:
    """Which backups of a database stay and which are deleted, each with its reason."""

    kept: tuple[tuple[Backup, str], ...]
    deleted: tuple[tuple[Backup, str], ...]


def plan(
    backups: Iterable[Backup],
    *,
    keep: int | None,
    days: int | None = None,
    same_as: Sequence[Backup] | None = None,
    is_whole: Callable[[Backup], bool] | None = None,
) -> Pruned:
    """Decide over the backups of one name, given newest first.

    Only verified ones are deleted, and a partial one pushes no whole one out. Pinned ones
    stay on top of `keep`; at least one verified one stays.

    :param keep: how many stay; ``None`` when only age counts.
    :param days: how many days old one must be to be deleted, counted from the newest backup
        and not from the clock, which may be wrong. With `keep`, both must agree.
    :param same_as: only backups of the same database as one of these are deleted, and never
        the first of these: a clock that was ahead makes the backup just made look old.
    :param is_whole: reads a backup that stays, since a damaged one must not push a good one
        out. Not needed right after a backup: the one just written was checked.
    """
    verified = [b for b in backups if b.is_verified]
    own = [b for b in verified if same_as is None or any(map(b.is_same_database_as, same_as))]
    kept = [(b, FROM_ELSEWHERE) for b in verified if b not in own]
    kept += [(b, "pinned") for b in own if b.pinned]
    kept += [(b, "dated in the future") for b in own if is_ahead(b) and not b.pinned]
    deleted: list[tuple[Backup, str]] = []
    reasons = [f"not among the newest {keep}"] if keep else []
    reasons += [f"older than {days} days"] if days is not None else []
    dated = [b for b in own if not is_ahead(b)]
    # One without tables replaces none that has some: it may be what an accident left.
    filled = [b for b in dated if b.facts.tables != 0] or dated
    whole = [b for b in filled if not b.partial] or [b for b in dated if not b.partial]
    least, newer, newer_whole = max(1, keep or 1), 0, 0
    for each in (b for b in dated if not b.pinned):
        if (newer if each.partial else newer_whole) < least:
            kept.append((each, f"among the newest {least}"))
        elif days is not None and dated[0].created_at - each.created_at < timedelta(days=days):
            kept.append((each, f"younger than {days} days"))
        elif same_as and each.name == same_as[0].name:
            kept.append((each, "the last one made"))
        else:
            deleted.append((each, " and ".join(reasons)))
        newer += each in filled
        newer_whole += each in whole
    damaged = [b for b, _ in kept if not is_whole(b)] if deleted and is_whole else []
    if damaged:
        rest = [b for b in verified if b not in damaged]
        return plan(rest, keep=keep, days=days, same_as=same_as, is_whole=is_whole)
    return Pruned(tuple(kept), tuple(deleted))


def carry_out(target: Store, planned: Pruned) -> Pruned:
    """Delete as planned. A backup that cannot be deleted does not stop the others; a
    warning tells, and it is not among the deleted ones."""
    deleted = []
    for backup, reason in planned.deleted:
        try:
            target.delete(backup)
            deleted.append((backup, reason))
        except CommandFailed as error:
            log.warning("%s could not be deleted: %s", backup.name, error)
    return Pruned(planned.kept, tuple(deleted))


def prune_after(target: Store, made: Backup, earlier: Sequence[Backup], keep: int) -> None:
    """Delete what a new backup pushes out, and log it. Whatever fails here, the new backup
    is there.

    :param earlier: verified backups of the same database. One that lost most of what any of
        them held pushes nothing out: the first bad one would vouch for the next.
    """
    for old in (each for each in earlier if each.partial == made.partial):
        shrunk = made.format == old.format and made.size < old.size * SUSPICIOUS
        if shrunk or (made.facts.tables == 0 and old.facts.tables):
            log.warning(
                "The backup is much smaller than %s (%s, was %s): nothing was pruned. "
                "If the database was meant to shrink: %s",
                *(old.name, shown_size(made.size), shown_size(old.size)),
                advice("{}", "db.prune"),
            )
            return
    try:
        planned = plan(target.backups(made.identity), keep=keep, same_as=[made])
        for gone, _reason in carry_out(target, planned).deleted:
            log.info("Deleted an older backup: %s", gone.name)
    except OSError as error:
        log.warning("Older backups were not pruned: %s", error.strerror)
