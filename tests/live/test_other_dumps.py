"""Dumps that others made, in every form that pg_dump writes, and what stands in their way."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from repom import dbops
from repom.dbops.archive.codecs import zstd
from repom.errors import Refused
from tests.live.cli import invoke, started
from tests.live.servers import Server, settings_for
from tests.shop import ODD


@pytest.fixture
def shop(any_shop: Server) -> Server:
    any_shop.sql(ODD)
    return any_shop


def fetched(server: Server, path: Path, *flags: str) -> Path:
    """A dump of the shop, made by pg_dump where the server is, brought here."""
    inside = f"/tmp/other-{path.name}"
    server.run("pg_dump", *flags, "-d", "dbname=shop", "-f", inside)
    if server.container:
        where = f"{server.container}:{inside}"
        subprocess.run(["docker", "cp", "-q", where, path], check=True, capture_output=True)
        server.run("rm", "-rf", inside)
    else:
        subprocess.run(["mv", inside, path], check=True)
    return path


FORMS = {
    "custom": ["-Fc"],
    "tar": ["-Ft"],
    "directory": ["-Fd"],
    "directory, plain": ["-Fd", "-Z0"],
    "directory, in parallel": ["-Fd", "-j2"],
    "plain": ["-Fp"],
    "plain, clean": ["-Fp", "--clean", "--if-exists"],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_pg_dump_is_restored(shop: Server, project: Path, form: str) -> None:
    dump = fetched(shop, project / "theirs", *FORMS[form])
    before = shop.dump()
    shop.sql("DROP TABLE item; CREATE TABLE stranger (a int)")
    env = shop.environment(REPOM_JOBS="3")

    verified = invoke(project, "db.verify", "--backup", "theirs", env=env)
    assert (verified.status, verified.out) == (0, "theirs: archive\n"), verified.err
    ended = invoke(project, "db.restore", "--backup", str(dump), "--yes", env=env)
    assert ended.status == 0, ended.err
    assert shop.dump() == before
    assert shop.leftovers() == []


@pytest.mark.parametrize(
    ("name", "packed"), [("x.sql.zst", zstd.compress), ("x.sql.gz", gzip.compress)]
)
def test_compressed_sql_is_restored(shop: Server, project: Path, name: str, packed: object) -> None:
    assert callable(packed)
    plain = fetched(shop, project / "plain", "-Fp")
    (project / name).write_bytes(packed(plain.read_bytes()))
    before = shop.dump()
    shop.sql("DROP TABLE item")

    dbops.restore(name, settings_for(shop, project))
    assert shop.dump() == before


def test_an_archive_comes_from_standard_input(shop: Server, project: Path) -> None:
    dump = fetched(shop, project / "theirs", "-Fc")
    before = shop.dump()
    shop.sql("DROP TABLE item")
    with (
        dump.open("rb") as stream,
        started(
            *(project, "db.restore", "--backup", "-", "--yes"),
            env=shop.environment(),
            stdin=stream,
            stderr=subprocess.PIPE,
        ) as process,
    ):
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert shop.dump() == before


def test_a_folder_with_something_else_in_it_is_refused(shop: Server, project: Path) -> None:
    dump = fetched(shop, project / "theirs", "-Fd")
    (dump / "1.dat.gz").symlink_to("/etc/passwd")
    with pytest.raises(Refused, match=r"1\.dat\.gz"):
        dbops.restore("theirs", settings_for(shop, project))
    (dump / "1.dat.gz").unlink()
    (dump / "notes").touch()
    with pytest.raises(Refused, match="notes"):
        dbops.restore("theirs", settings_for(shop, project))


def test_a_drill_of_tables_with_odd_names_counts_their_rows(shop: Server, project: Path) -> None:
    made = dbops.backup(settings_for(shop, project))
    ended = invoke(project, "db.verify", "--drill", env=shop.environment())
    assert ended.status == 0, ended.err
    assert "1001 rows in 2 tables" in ended.out
    rows = dbops.verify(made, settings_for(shop, project), drill=True).rows
    assert rows == {"public.item": 1000, "public.odd\nname | x": 1}


def test_a_name_that_postgresql_would_cut_is_an_error(any_shop: Server, project: Path) -> None:
    dbops.backup(settings_for(any_shop, project))
    databases, env = any_shop.databases(), any_shop.environment()
    for name in ("x" * 70, "é" * 32):
        ended = invoke(project, "db.restore", "--latest", "--into", name, env=env)
        assert ended.status == 2, ended.err
        assert "--into" in ended.err
    assert any_shop.databases() == databases
