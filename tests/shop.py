"""The shop: the small database that tests back up, damage and restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.live.servers import Server

ITEMS = 1000
SHOP = f"CREATE TABLE item AS SELECT n, md5(n::text) AS name FROM generate_series(1, {ITEMS}) n;"
COUNT = "SELECT count(*) FROM item"
#: Names that need quotes, an index, a large object.
ODD = """CREATE INDEX ON item (n);
CREATE TABLE "odd
name | x" AS SELECT 1 AS a;
SELECT lo_from_bytea(0, 'large');
"""


@contextmanager
def opened(server: Server, script: str = SHOP) -> Iterator[Server]:
    """The database `shop` on this server, made anew; what repom made there goes at the end."""
    server.create("shop", script)
    yield server
    server.clean()
