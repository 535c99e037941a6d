"""A PostgreSQL database: asked, dumped, loaded, swapped."""
