"""What a dump file is, and SQL on its way into psql."""
