"""Which backups may be deleted, and deleting them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from repom.errors import CommandFailed

from .backup import Backup, Identity, is_ahead
from .manifest import is_whole
from .store import Store

log = logging.getLogger("repom")

#: Why prune leaves a backup of the same name.
FROM_ELSEWHERE = "of another server or project"


@dataclass(frozen=True)
class Pruned:
    """Which backups of a database stay and which go, each with its reason."""

    kept: tuple[tuple[Backup, str], ...]
    deleted: tuple[tuple[Backup, str], ...]


def plan_prune(
    backups: Iterable[Backup],
    *,
    keep: int | None,
    days: int | None = None,
    like: Backup | None = None,
    more: Sequence[Backup] = (),
) -> Pruned:
    """Decide over one database's backups, given newest first.

    Only proven ones go; pinned ones stay on top of `keep`; at least one proven one stays.

    :param keep: how many stay; ``None`` when only age counts.
    :param days: how many days old one must be to go, counted from the newest backup and
        not from the clock, which may be wrong. With `keep`, both must agree.
    :param like: only backups that are `Backup.is_same_database_as` this one go.
    :param more: and those that are like one of these.
    """
    kept: list[tuple[Backup, str]] = []
    gone: list[tuple[Backup, str]] = []
    counted = [b for b in backups if b.is_verified]
    own = [b for b in counted if like is None or any(map(b.is_same_database_as, (like, *more)))]
    kept += [(b, FROM_ELSEWHERE) for b in counted if b not in own]
    kept += [(b, "pinned") for b in own if b.pinned]
    kept += [(b, "dated in the future") for b in own if is_ahead(b) and not b.pinned]
    dated = [b for b in own if not is_ahead(b)]
    least, rank = max(1, keep or 1), 0
    # One without a table pushes none out that has some: it may be what an accident left.
    filled = [b for b in dated if b.facts.tables != 0] or dated
    for each in (b for b in dated if not b.pinned):
        rank += each in filled
        if rank <= least - (each not in filled):
            kept.append((each, f"among the newest {least}"))
        elif days is not None and dated[0].created_at - each.created_at < timedelta(days=days):
            kept.append((each, f"younger than {days} days"))
        else:
            gone.append((each, _why_gone(keep, days)))
    return Pruned(tuple(kept), tuple(gone))


def _why_gone(keep: int | None, days: int | None) -> str:
    why = [f"not among the newest {keep}"] if keep else []
    return " and ".join([*why, *([f"older than {days} days"] if days is not None else [])])


def prune(
    target: Store,
    which: Identity,
    *,
    keep: int | None,
    days: int | None = None,
    dry: bool = False,
    thorough: bool = False,
    like: Backup | None = None,
    more: Sequence[Backup] = (),
) -> Pruned:
    """Delete what `plan_prune` says. One that cannot be deleted does not stop the others;
    it is told in a warning, and is not among the deleted ones.

    :param thorough: read those that stay, since a damaged one must not push a good one
        out; needless right after a backup, whose own checks hold the floor.
    :param like: one that never goes, and only backups like it do. A clock that was ahead
        once makes the backup that was just made look old.
    """
    backups = target.backups(which)
    plan = plan_prune(backups, keep=keep, days=days, like=like, more=more)
    while thorough and plan.deleted:
        bad = {b.name for b, _reason in plan.kept if not is_whole(b)}
        if not bad:
            break
        backups = [b for b in backups if b.name not in bad]
        plan = plan_prune(backups, keep=keep, days=days, like=like, more=more)
    going = [d for d in plan.deleted if like is None or d[0].name != like.name]
    deleted = [d for d in going if dry or _deleted(target, d[0])]
    return Pruned(plan.kept, tuple(deleted))


def _deleted(target: Store, backup: Backup) -> bool:
    try:
        target.delete(backup)
        return True
    except CommandFailed as error:
        log.warning("%s could not be deleted: %s", backup.name, error)
        return False
