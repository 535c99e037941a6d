"""The library under the tasks: each verb returns a value, prints nothing and asks nothing.

Messages for people go to the logger ``repom``. Where a verb takes `settings`, SQLAlchemy's
`Engine` or `URL` will do, and without it the verb works on the configured database.
"""

from repom.dbops.backup import backup
from repom.dbops.restore import restore
from repom.dbops.store.backup import Backup
from repom.dbops.store.retention import Pruned
from repom.dbops.undo import undo
from repom.dbops.upkeep import list_backups, pin, prune
from repom.dbops.verify import Verified, verify
from repom.dbops.work import Restored

__all__ = [
    "Backup",
    "Pruned",
    "Restored",
    "Verified",
    "backup",
    "list_backups",
    "pin",
    "prune",
    "restore",
    "undo",
    "verify",
]
