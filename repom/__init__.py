"""Back up, restore and rewind the database you are working on."""

__version__ = "0.2.0"
