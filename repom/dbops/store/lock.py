"""One operation on a database at a time, across processes."""

from __future__ import annotations

import re

NOTE = 4096  # bytes of a lock's note that are read
SESSION = re.compile(r"repom-[0-9a-f]{8}")
DOING = re.compile(r"[a-z -]{1,20}")
