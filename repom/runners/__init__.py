"""Where client programs run, and how that is decided."""
