"""The folder of backups: their names, publishing, listing, deleting, and the lock.

A backup appears by one rename, after its manifest. A manifest without its backup, which a
kill between the two leaves, is invisible and swept by the next run; deleting goes the
same way backwards. So at no time does a name stand for half a backup.
"""

from __future__ import annotations

import re

NOTE = 4096  # bytes of a lock's note that are read
SESSION = re.compile(r"repom-[0-9a-f]{8}")
DOING = re.compile(r"[a-z -]{1,20}")
