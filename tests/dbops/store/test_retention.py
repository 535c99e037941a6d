"""What prune deletes: only verified backups of the same database, and never the last."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from repom.dbops.database import Facts
from repom.dbops.store.backup import Origin
from repom.dbops.store.retention import plan
from repom.dbops.store.store import Store
from tests.dbops.store.making import NOW, SHOP, draft, make

DATABASES = ("a", "a_b", "a.b", "a_test", "a_20260224T150000Z", "A", "a%2Fb")


def test_databases_of_one_store_never_mix(target: Store) -> None:
    made = {d: [make(target, d), make(target, d, when=NOW + timedelta(hours=1))] for d in DATABASES}
    for database, (old, new) in made.items():
        which = ("postgresql", database, None)

        planned = plan(target.backups(which), keep=1)
        assert ([new], [old]) == ([b for b, _ in planned.kept], [b for b, _ in planned.deleted])
        assert [new, old] == target.backups(which)


def test_of_a_name_that_two_servers_share_only_the_own_ones_go(target: Store) -> None:
    """A server made anew is another one; two checkouts that use one server are not."""
    made = {
        (server, project): [
            make(target, facts=Facts(system_identifier=server), origin=Origin(project=project))
            for _ in range(2)
        ]
        for server in ("1", "2")
        for project in ("/here", "/there")
    }
    unknown = make(target)
    for like in made["2", "/here"]:
        planned = plan(target.backups(SHOP), keep=1, same_as=[like])

        gone = {b.name for b, _ in planned.deleted}
        assert {b.name for f in ("/here", "/there") for b in made["2", f]} - {like.name} == gone
        assert unknown in [b for b, _ in planned.kept]
        assert [why for _, why in planned.kept if "another" in why] == [
            "of another server or project"
        ] * 4


def test_what_an_accident_left_pushes_no_backup_with_tables_out(target: Store) -> None:
    full = [make(target, facts=Facts(tables=3)) for _ in range(3)]
    empty = [make(target, facts=Facts(tables=0)) for _ in range(3)]

    deleted = {b.name for b, _ in plan(target.backups(SHOP), keep=2).deleted}
    assert {full[0].name} == deleted
    assert {empty[0].name} == {b.name for b, _ in plan(empty[::-1], keep=2).deleted}


def test_a_server_on_a_copied_volume_is_another_one(target: Store) -> None:
    """It has the original's identifier; what tells is another folder at another address."""
    one, two = (
        make(target, facts=Facts(system_identifier="1"), origin=Origin(project=p, where=w))
        for p, w in (("/here", "container a"), ("/there", "container b"))
    )
    other_checkout = make(
        target,
        facts=Facts(system_identifier="1"),
        origin=Origin(project="/third", where="container a"),
    )

    gone = [b for b, _ in plan(target.backups(SHOP), keep=1, same_as=[other_checkout]).deleted]
    assert two not in gone
    assert [one] == gone
    assert other_checkout.is_same_database_as(one)


PROVEN, PINNED, UNPROVEN = "proven", "pinned", "unproven"
PRUNE = {
    "none": ([], 3, []),
    "fewer than the limit": ([PROVEN] * 2, 3, []),
    "as many": ([PROVEN] * 3, 3, []),
    "one more": ([PROVEN] * 4, 3, [3]),
    "many more": ([PROVEN] * 5, 2, [2, 3, 4]),
    "never below one": ([PROVEN] * 3, 0, [1, 2]),
    "nor for a negative limit": ([PROVEN] * 2, -5, [1]),
    "unproven ones neither count nor go": ([UNPROVEN, PROVEN, UNPROVEN, PROVEN], 1, [3]),
    "only unproven ones": ([UNPROVEN] * 4, 1, []),
    "pinned ones neither count nor go": ([PINNED, PROVEN, PROVEN, PINNED], 1, [2]),
}


@pytest.mark.parametrize(("kinds", "keep", "going"), PRUNE.values(), ids=list(PRUNE))
def test_prune_takes_only_proven_backups_beyond_the_limit(
    kinds: list[str], keep: int, going: list[int]
) -> None:
    backups = [
        replace(
            draft(Store(Path()), f"shop_{number}"),
            verified=() if kind == UNPROVEN else ("complete", "sha256"),
            pinned=kind == PINNED,
        )
        for number, kind in enumerate(kinds)
    ]

    assert [backups[n] for n in going] == [b for b, _ in plan(backups, keep=keep).deleted]


def test_the_backup_just_made_stays_although_a_wrong_clock_makes_it_look_old(
    target: Store,
) -> None:
    made, newer = make(target), make(target, when=NOW + timedelta(days=1))
    planned = plan(target.backups(SHOP), keep=1, same_as=[made])

    assert [(newer, "among the newest 1"), (made, "the last one made")] == [*planned.kept]
    assert planned.deleted == ()


def test_a_partial_backup_pushes_no_whole_one_out_and_whole_ones_push_it_out(target: Store) -> None:
    whole = [make(target) for _ in range(3)]
    partial = [make(target, partial=("log_*",)) for _ in range(3)]

    deleted = {b.name for b, _ in plan(target.backups(SHOP), keep=2).deleted}
    assert deleted == {whole[0].name, partial[0].name}
    newer = [make(target) for _ in range(2)]
    kept = [b for b, _ in plan(target.backups(SHOP), keep=2).kept]
    assert kept == newer[::-1]


def test_a_pulled_backup_of_the_same_name_is_left_alone_by_prune(target: Store) -> None:
    own = [make(target) for _ in range(2)]
    pulled = [make(target, pulled=True) for _ in range(2)]

    deleted = [b for b, _ in plan(target.backups(SHOP), keep=1, same_as=[own[1]]).deleted]
    assert deleted == [own[0]]
    deleted = [b for b, _ in plan(target.backups(SHOP), keep=1, same_as=[pulled[1]]).deleted]
    assert deleted == [pulled[0]]


def test_a_pulled_backup_of_a_copied_server_is_not_the_projects_own(target: Store) -> None:
    """A standby and a copied volume have the system identifier of their original."""
    facts = Facts(system_identifier="7", tables=3)
    own = make(target, facts=facts)
    pulled = [make(target, facts=facts, pulled=True) for _ in range(3)]

    deleted = [b for b, _ in plan(target.backups(SHOP), keep=1, same_as=[pulled[2]]).deleted]
    assert deleted == pulled[1::-1]
    assert plan(target.backups(SHOP), keep=1, same_as=[own]).deleted == ()


@pytest.mark.parametrize("seed", range(300))
def test_the_last_whole_backup_stays_in_every_mixture(target: Store, seed: int) -> None:
    chance = random.Random(seed)
    backups = [
        draft(
            target,
            f"b{number}",
            created_at=NOW - timedelta(hours=number),
            verified=("complete", "sha256"),
            facts=Facts(system_identifier=chance.choice(["7", None]), tables=chance.choice([0, 3])),
            partial=chance.choice([(), (), ("log_*",)]),
            pulled=chance.random() < 0.3,
        )
        for number in range(chance.randint(1, 8))
    ]
    same_as = chance.choice(backups)

    planned = plan(backups, keep=chance.randint(1, 3), same_as=[same_as])

    gone = [b for b, _reason in planned.deleted]
    whole = [b for b in backups if b.is_same_database_as(same_as) and not b.partial]
    for least in (whole, [b for b in whole if b.facts.tables]):
        assert not least or [b for b in least if b not in gone]
    assert [b for b in gone if b.is_guest != same_as.is_guest] == []
