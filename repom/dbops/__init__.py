"""The library under the tasks: each verb returns a value, prints nothing and asks nothing.

Messages for people go to the logger ``repom``.
"""

from .operations import Restored, backup, restore, undo
from .store import Backup, Pruned
from .upkeep import Verified, list_backups, pin, prune, verify

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
