"""Where configuration is read, and what it says."""

from .settings import Settings, find_project

__all__ = ["Settings", "find_project"]
