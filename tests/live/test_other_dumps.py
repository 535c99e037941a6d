"""Dumps that others made, in every form that pg_dump writes, and what stands in their way."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repom import dbops
from repom.errors import CommandFailed, Refused
from tests.live.cli import environment, invoke
from tests.live.conftest import settings_for
from tests.live.servers import Server, container_server

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SHOP = """CREATE TABLE item AS SELECT n, md5(n::text) FROM generate_series(1, 1000) n;
CREATE INDEX ON item (n);
CREATE TABLE "odd
name | x" AS SELECT 1 AS a;
SELECT lo_from_bytea(0, 'large');"""


@pytest.fixture(params=["postgres_host", "postgres_17"])
def shop(request: pytest.FixtureRequest) -> Iterator[Server]:
    server: Server = request.getfixturevalue(request.param)
    server.create("shop")
    server.sql(SHOP)
    yield server
    for name in server.databases():
        if name.startswith("repom_"):
            server.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


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
    with dump.open("rb") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "db.restore", "--backup", "-", "--yes"],
            cwd=project,
            env=environment(**shop.environment()),
            stdin=stream,
            capture_output=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
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


def test_a_forged_manifest_beside_a_script_opens_no_way_in_place(
    postgres_17: Server, project: Path
) -> None:
    server = postgres_17
    server.create("shop")
    server.sql(SHOP)
    settings = settings_for(server, project, REPOM_FORMAT="plain")
    made = dbops.backup(settings)
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    for path in (made.path, made.manifest):
        path.rename(elsewhere / path.name)
    before = server.dump()
    with pytest.raises(Refused, match="unknown origin"):
        dbops.restore(elsewhere / made.name, settings, in_place=True)
    assert server.dump() == before


def test_a_full_disk_in_the_container_says_nothing_of_the_backup(project: Path) -> None:
    with container_server(17, "--tmpfs", "/tmp:size=64k") as server:
        server.create("shop")
        server.sql("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 20000) n")
        settings = settings_for(server, project)
        made = dbops.backup(settings)
        for task in (["db.verify"], ["db.verify", "--drill"]):
            ended = invoke(project, *task, env=server.environment())
            assert ended.status == 1, ended.err
            assert made.verified == dbops.list_backups(settings)[0].verified
        with pytest.raises(CommandFailed):
            dbops.verify(None, settings)
        assert dbops.list_backups(settings)[0].is_verified


@pytest.mark.parametrize("name", ["x" * 70, "é" * 32])
def test_a_name_that_postgresql_would_cut_is_an_error(
    postgres_17: Server, project: Path, name: str
) -> None:
    server = postgres_17
    server.create("shop")
    server.sql("CREATE TABLE t (a int)")
    dbops.backup(settings_for(server, project))
    databases = server.databases()
    env = server.environment()
    ended = invoke(project, "db.restore", "--latest", "--into", name, env=env)
    assert ended.status == 2, ended.err
    assert "--into" in ended.err
    assert server.databases() == databases
