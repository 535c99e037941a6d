from repom.tasks import ns  # noqa: F401
