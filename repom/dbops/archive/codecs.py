"""Compression around a backup: gzip and zstd, read and written in blocks."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from typing import Any, BinaryIO

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

#: What a decompressor raises for data that is cut short or altered.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError)


def recognised(start: bytes) -> str:
    """The compression of a file that begins so: ``gzip``, ``zstd`` or empty."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if start.startswith(b"\x28\xb5\x2f\xfd") else ""


def decompressed(raw: BinaryIO, compression: str) -> Any:
    if compression == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if compression == "zstd":
        return zstd.ZstdFile(raw)
    return raw


def compressor(file: Any) -> Any:
    """A writer that compresses into `file` with zstd, level 1, one frame, at most 8 cores."""
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: 1,
        parameter.checksum_flag: 1,
        parameter.nb_workers: min(os.cpu_count() or 1, 8),
    }
    return zstd.ZstdFile(file, "w", options=options)
