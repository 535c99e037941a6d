"""Names of backups: what a file name tells, and what repom could not have written."""

from __future__ import annotations

import pytest

from repom.dbops.store.manifest import guess
from repom.dbops.store.names import encoded
from repom.dbops.store.store import Store, beginning
from repom.errors import SettingsError
from tests.dbops.store.making import NOW, SHOP, make

ENCODED = {
    "shop": "shop",
    "My-Shop_2.0": "My-Shop_2.0",
    "data/shop.sqlite3": "data%2Fshop.sqlite3",
    "50%": "50%25",
    "größe": "gr%C3%B6%C3%9Fe",
    "a b'c\"=x": "a%20b%27c%22%3Dx",
    ".hidden": "%2Ehidden",
    "..": "%2E.",
    "~": "%7E",
    "a\nb": "a%0Ab",
    "C:\\shop": "C%3A%5Cshop",
}


@pytest.mark.parametrize(("database", "part"), ENCODED.items(), ids=list(ENCODED.values()))
def test_a_databases_name_is_encoded_in_the_files_name(database: str, part: str) -> None:
    assert part == encoded(database)


@pytest.mark.parametrize("database", ENCODED, ids=list(ENCODED.values()))
def test_a_files_name_tells_which_database_it_is_of(target: Store, database: str) -> None:
    made = make(target, database)
    made.manifest.unlink()

    assert database == guess(made.path).database
    assert [made.name] == [b.name for b in target.backups()]


@pytest.mark.parametrize(
    ("format", "label", "name"),
    [
        ("custom", None, "shop_20260224T150000Z.dump"),
        ("plain", None, "shop_20260224T150000Z.sql.gz"),
        ("sqlite", None, "shop_20260224T150000Z.sqlite3.zst"),
        ("custom", "before-2.0", "shop_20260224T150000Z_before-2.0.dump"),
    ],
)
def test_a_name_says_database_time_and_label(
    target: Store, format: str, label: str | None, name: str
) -> None:
    assert name == target.next_name("shop", format, label, NOW)


@pytest.mark.parametrize("label", ["", "a b", "a/b", "a_b", "ä", "x" * 41, "a\n"])
def test_a_label_that_a_name_cannot_hold_is_refused(target: Store, label: str) -> None:
    with pytest.raises(SettingsError, match="--label"):
        target.next_name("shop", "custom", label, NOW)


def test_later_backups_in_the_same_second_are_numbered_and_newer(target: Store) -> None:
    made = [make(target) for _ in range(12)]

    assert [b.name for b in made[:2]] == [
        "shop_20260224T150000Z.dump",
        "shop_20260224T150000Z-2.dump",
    ]
    assert [b.name for b in reversed(made)] == [b.name for b in target.backups(SHOP)]


def test_a_label_does_not_change_which_backup_of_a_second_is_the_newest(target: Store) -> None:
    first = make(target, label="before-the-migration")
    second = make(target)

    assert f"{first.name.split('_before')[0]}-2.dump" == second.name
    assert second.name == target.latest(SHOP).name


@pytest.mark.parametrize("there", ["", ".json"])
def test_a_name_that_is_taken_is_not_given(target: Store, there: str) -> None:
    target.folder.mkdir()
    (target.folder / f"shop_20260224T150000Z.dump{there}").touch()

    assert target.next_name("shop", "custom", None, NOW) == "shop_20260224T150000Z-2.dump"


@pytest.mark.parametrize("most", [0, 24, 30, 45, 200])
def test_a_shown_beginning_of_a_name_finds_that_backup(target: Store, most: int) -> None:
    labels = [None, "a", "before-migration", "before-migration-2", "before-merge", "b" * 40]
    made = [make(target, label=label) for label in labels]
    alike = made[1].name  # copied by hand: one time, two formats and two labels
    for name in (alike.replace(".dump", ".sql.gz"), alike.replace("_a.", "_ab.")):
        (target.folder / name).touch()
    every = [b.name for b in target.backups()]
    shown = [beginning(name, every, most) for name in every]
    assert [target.find(each).name for each in shown] == every
    cut = [each for each, name in zip(shown, every, strict=True) if name.endswith("bbb.dump")]
    assert max(map(len, cut)) <= max(most, len("shop_20260224T150000Z-6_b"))
