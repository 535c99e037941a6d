from __future__ import annotations

import gzip
import io
import random
import sqlite3
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from repom.dbops.archive.archive import Archive, major, recognise
from repom.dbops.archive.codecs import compressor
from repom.errors import Damaged, NotFound, Refused, RepomError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NOISE = random.Random(1).randbytes(300_000)


def text(value: str | None) -> bytes:
    """A string as the custom format has it: sign, length, bytes."""
    if value is None:
        return b"\x01\x01\x00\x00\x00"
    return b"\x00" + len(value.encode()).to_bytes(4, "little") + value.encode()


def custom(
    version: tuple[int, int] = (1, 16),
    server: str = "17.6",
    tool: str = "17.6 (Debian 17.6-1.pgdg13+1)",
    database: str | None = "größe",
) -> bytes:
    """The head of a custom archive, as PostgreSQL's WriteHead makes it, and some content."""
    number = b"\x00" + (1).to_bytes(4, "little")
    compression = b"\x01" if version >= (1, 15) else number
    sizes = b"\x00\x04\x08\x01"  # revision, integer, offset, format
    names = text(database) + text(server) + text(tool)
    return b"PGDMP" + bytes(version) + sizes + compression + 7 * number + names + NOISE[:500]


def sqlite() -> bytes:
    with closing(sqlite3.connect(":memory:")) as made:
        made.execute("CREATE TABLE a (b)")
        return made.serialize()


PLAIN = (
    b"""--
-- PostgreSQL database dump
--

-- Dumped from database version 17.6 (Debian 17.6-1.pgdg13+1)
-- Dumped by pg_dump version 18.1

SELECT 1;
"""
    + b"INSERT INTO a VALUES ('x');\n" * 20_000
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    "gzip": gzip.compress,
    "zstd": zstd.compress,
}


def told(content: bytes, name: str = "file") -> Archive:
    Path(name).write_bytes(content)
    return recognise(Path(name))


# -- what a file is -----------------------------------------------------------------------


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("name", ["x.dump", "x.sql", "x.sql.gz", "x.sqlite3.zst", "x"])
def test_a_file_is_told_by_its_content_and_not_by_its_name(compression: str, name: str) -> None:
    found = [
        told(COMPRESS[compression](content), name) for content in (PLAIN, sqlite(), b"SELECT 1;")
    ]

    assert [each.kind for each in found] == ["plain", "sqlite", "plain"]
    assert [each.backend for each in found] == ["postgresql", "sqlite", "postgresql"]
    assert {compression} == {each.compression for each in found}


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("content", [PLAIN, sqlite(), NOISE.replace(b"\0", b"1")], ids=len)
def test_the_content_comes_without_its_compression(compression: str, content: bytes) -> None:
    path = Path("file")
    path.write_bytes(COMPRESS[compression](content))

    assert content == b"".join(Archive(path, "plain", compression).blocks())


def test_several_compressed_parts_are_one_content() -> None:
    assert (
        b"".join(told(gzip.compress(b"SELECT 1;\n") + gzip.compress(b"SELECT 2;\n")).blocks())
        == b"SELECT 1;\nSELECT 2;\n"
    )


def test_a_large_content_comes_in_blocks() -> None:
    sizes = [len(block) for block in told(gzip.compress(b"-- x\n" * 1_000_000)).blocks()]

    assert sum(sizes) == 5_000_000
    assert max(sizes) <= 1 << 20


def test_what_repom_compresses_it_reads() -> None:
    with Path("file").open("w+b") as file:
        with compressor(file) as out:
            out.write(sqlite())
        file.write(b"")

    assert (recognise(Path("file")).kind, recognise(Path("file")).compression) == ("sqlite", "zstd")
    assert sqlite() == b"".join(recognise(Path("file")).blocks())


def test_the_versions_of_a_plain_dump_are_in_its_comments() -> None:
    found = told(gzip.compress(PLAIN))

    assert (found.server, found.tool) == ("17.6", "18.1")


@pytest.mark.parametrize(
    ("version", "server", "tool", "expected"),
    [
        ((1, 14), "15.18 (Debian 15.18-1)", "15.18", ("15.18", "15.18")),
        ((1, 15), "16.10", "16.10 (Ubuntu 16.10-0)", ("16.10", "16.10")),
        ((1, 16), "18.1", "18.1", ("18.1", "18.1")),
        ((1, 16), "19beta1", "19devel", ("19beta1", "19devel")),
        ((1, 16), "", "", (None, None)),
    ],
)
@pytest.mark.parametrize("database", ["shop", "größe", "", None])
def test_the_head_of_a_custom_archive_is_read(
    version: tuple[int, int],
    server: str,
    tool: str,
    expected: tuple[str | None, str | None],
    database: str | None,
) -> None:
    found = told(custom(version, server, tool, database))

    assert ("custom", "", version) == (found.kind, found.compression, found.format)
    assert expected == (found.server, found.tool)


@pytest.mark.parametrize(
    ("version", "number"),
    [("18.6", 18), ("19beta1", 19), ("9.6.24", 9), ("", None), (None, None), ("x", None)],
)
def test_the_major_version(version: str | None, number: int | None) -> None:
    assert number == major(version)


# -- what is refused ----------------------------------------------------------------------


def tar() -> bytes:
    with io.BytesIO() as raw:
        with tarfile.open(fileobj=raw, mode="w") as made:
            made.addfile(tarfile.TarInfo("toc.dat"))
        return raw.getvalue()


REFUSED = {
    "tar": (tar(), "tar archive"),
    "a compressed tar": (gzip.compress(tar()), "compressed archive"),
    "a custom archive in gzip": (gzip.compress(custom()), "compressed archive"),
    "a custom archive in zstd": (zstd.compress(custom()), "compressed archive"),
    "UTF-16": ("SELECT 1;\r\n".encode("utf-16"), "UTF-16"),
    "UTF-16 of the other order": (b"\xfe\xff" + "SELECT 1;".encode("utf-16-be"), "UTF-16"),
}
DAMAGED = {
    "empty": (b"", "empty"),
    "empty in gzip": (gzip.compress(b""), "empty"),
    "empty in zstd": (zstd.compress(b""), "empty"),
    "noise": (b"\x00" + NOISE, "unrecognized"),
    "a picture": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "unrecognized"),
    "noise in gzip": (gzip.compress(b"\x00" + NOISE), "unrecognized"),
    "gzip by its first bytes alone": (b"\x1f\x8b", "cut short"),
    "gzip that is none": (b"\x1f\x8bSELECT 1;", "cut short or altered"),
    "zstd by its first bytes alone": (b"\x28\xb5\x2f\xfd", "cut short"),
    "zstd that is none": (b"\x28\xb5\x2f\xfd" + b"\xff" * 99, "cut short or altered"),
    "a custom archive's first bytes": (b"PGDMP", "cut short"),
    "a custom archive's first numbers": (custom()[:20], "cut short"),
    "a custom archive's names": (custom()[: len(custom()) - 510], "cut short"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=list(REFUSED))
def test_a_kind_that_is_not_restored_from_here_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(Refused, match=said) as caught:
        told(content)

    assert caught.value.hint


@pytest.mark.parametrize(("content", "said"), DAMAGED.values(), ids=list(DAMAGED))
def test_what_is_no_backup_is_damage(content: bytes, said: str) -> None:
    with pytest.raises(Damaged, match=f"file.*{said}"):
        told(content)


def test_what_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound, match="nowhere"):
        recognise(Path("nowhere"))


def test_a_folder_is_no_backup() -> None:
    Path("folder").mkdir()

    with pytest.raises(RepomError, match="folder"):
        recognise(Path("folder"))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_compressed_file_that_is_cut_short_is_damage_at_the_latest_when_it_is_read(
    compression: str, part: float
) -> None:
    whole = COMPRESS[compression](b"-- \n" + NOISE.hex().encode())
    with pytest.raises(Damaged, match="cut short"):
        list(told(whole[: int(len(whole) * part)]).blocks())


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_file_that_lacks_its_last_bytes_is_damage(compression: str) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    script = b"SELECT 1;\n" * 9999
    whole = (
        gzip.compress(script) if compression == "gzip" else zstd.compress(script, options=options)
    )
    for missing in range(1, 9):
        with pytest.raises(Damaged):
            list(told(whole[:-missing]).blocks())


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_an_altered_byte_in_a_compressed_file_is_damage(compression: str) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
    script = b"-- \n" + NOISE.hex().encode()
    whole = bytearray(
        gzip.compress(script) if compression == "gzip" else zstd.compress(script, options=options)
    )
    whole[len(whole) // 2] ^= 1

    with pytest.raises(Damaged):
        list(told(bytes(whole)).blocks())
