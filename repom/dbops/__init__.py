"""The library under the tasks: each verb returns a value, prints nothing and asks nothing.

Messages for people go to the logger ``repom``.
"""

from .operations import (
    Pruned,
    Restored,
    Verified,
    backup,
    list_backups,
    pin,
    prune,
    restore,
    undo,
    verify,
)
from .store import Backup

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
