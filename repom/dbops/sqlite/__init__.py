"""An SQLite database: copied, loaded, swapped."""
