"""User, database and password of the project's server: made up, adopted, remembered."""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from repom.settings import Settings
from repom.settings.address import PORT
from repom.settings.dotenv import read_dotenv

log = logging.getLogger("repom")

VARIABLES = ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB")
MADE_UP = {"POSTGRES_USER": "repom", "POSTGRES_DB": "repom_dev"}


def complete(settings: Settings) -> Settings:
    """The settings of a new server, with made-up values for those that are missing."""
    address = adopt(settings, MADE_UP).address
    password = address.password or secrets.token_urlsafe(24)
    return replace(settings, address=replace(address, password=password))


def adopt(settings: Settings, env: Mapping[str, str]) -> Settings:
    """The settings, completed by what a container was made with.

    :param env: the container's environment.
    """
    password = settings.password or env.get("POSTGRES_PASSWORD") or None
    user, database = settings.user, settings.address.database
    if not database:
        user = env.get("POSTGRES_USER") or "postgres"
        database = env.get("POSTGRES_DB") or user
    address = replace(settings.address, user=user, database=database, password=password)
    return replace(settings, address=address)


def variables(settings: Settings) -> dict[str, str]:
    """What the official image wants to know of a new server."""
    return {
        "POSTGRES_USER": settings.user,
        "POSTGRES_PASSWORD": settings.password or "",
        "POSTGRES_DB": settings.database,
    }


def login(settings: Settings, host: str, port: int | None = None) -> dict[str, str]:
    """libpq's variables for the target database as the target user. As a variable, a
    database's name is never read as a connection string, and the password stays hidden."""
    env = {
        "PGHOST": host,
        "PGUSER": settings.user,
        "PGDATABASE": settings.database,
        "PGPASSWORD": settings.password or "",
        "PGCONNECT_TIMEOUT": "3",
    }
    return env if port is None else {**env, "PGPORT": str(port)}


def remember(
    before: Settings,
    after: Settings,
    port: int | None = None,
    *,
    wanted: Collection[str] = VARIABLES,
) -> None:
    """Add to `.env` what is known now and was not before, and say so.

    :param wanted: the variables that are of use there: a Compose file gives the others.
    """
    known = {name: value for name, value in variables(after).items() if name in wanted}
    if before.configured:
        known = {} if before.password else {"POSTGRES_PASSWORD": known.get("POSTGRES_PASSWORD", "")}
    elif port not in (None, PORT):
        known["POSTGRES_PORT"] = str(port)
    path = before.project / ".env"
    there = read_dotenv(path, {})  # another start may have been faster
    new = {name: value for name, value in known.items() if value and not there.get(name)}
    if not new or before.dry:
        return
    append(path, new)
    log.info("Added %s to %s", ", ".join(new), path)
    if "POSTGRES_PASSWORD" not in new:
        return
    if Settings.load(cwd=before.project, quiet=True).password is None:
        log.warning("DATABASE_URL has no password. Add the one that is now in %s", path)


def append(path: Path, values: Mapping[str, str]) -> None:
    """Append variables to a `.env` file, which is private if it is new."""
    text = "".join(f"{name}={quoted(value)}\n" for name, value in values.items())
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags, 0o600), "rb+") as file:
        unfinished = file.read()[-1:] not in (b"", b"\n")
        file.write((("\n" if unfinished else "") + text).encode())


def quoted(value: str) -> str:
    """The value as `.env` needs it: Compose and repom both read it back, also as a password,
    in which repom expands nothing. Single quotes cannot hold every backslash."""
    if re.fullmatch(r"[\w.,:/@%+=~-]+", value):
        return value
    if "\\" not in value:
        return "'" + value.replace("'", "\\'") + "'"
    return '"' + re.sub(r'([\\"$])', r"\\\1", value) + '"'
