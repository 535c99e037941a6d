"""The folder of backups: names, manifests, locks, and what may be deleted."""
