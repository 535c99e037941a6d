"""Where configuration is read, and what it says."""

from .settings import Settings, Source, find_project

__all__ = ["Settings", "Source", "find_project"]
