"""`postgres.start` and its friends: Compose service, container, or local cluster."""
