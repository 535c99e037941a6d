"""Back up, restore and rewind the database you are working on."""

__version__ = "0.1.0"
