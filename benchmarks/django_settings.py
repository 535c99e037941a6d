"""Django settings with which django-dbbackup is a rival: its programs run in the container,
too, over the socket there."""

from __future__ import annotations

import os

SECRET_KEY = "benchmark"
INSTALLED_APPS = ["dbbackup"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["BENCHMARK_DATABASE"],
        "USER": "postgres",
        "HOST": "/var/run/postgresql",
    }
}
EXEC = "docker exec -i " + os.environ["BENCHMARK_CONTAINER"]
DBBACKUP_CONNECTORS = {
    "default": {
        "CONNECTOR": "dbbackup.db.postgresql.PgDumpConnector",
        "DUMP_PREFIX": EXEC,
        "RESTORE_PREFIX": EXEC,
    }
}
FILES = "django.core.files.storage.FileSystemStorage"
STORAGES = {
    "default": {"BACKEND": FILES},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "dbbackup": {"BACKEND": FILES, "OPTIONS": {"location": "dbbackup"}},
}
