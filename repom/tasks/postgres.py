"""`postgres.*`: the database server of this project."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from invoke import Collection, Context

from repom.errors import NotFound, RepomError, SettingsError
from repom.settings import Settings

from . import console
from .tables import age, counted, size

# Imported by the tasks when they run: `invoke --list` need not pay for it.
if TYPE_CHECKING:
    from repom.server import server


#: What a person wants to see of a server, in this order.
LOGIN = ("host", "port", "user", "database", "url")
STATE = ("kind", "name", "state", "image", "version", "host", "port", "data")


def table(found: server.Server, fields: tuple[str, ...]) -> str:
    """Name and value of each field that has one, a line each."""
    values = asdict(found)
    return "\n".join(f"{name:<10}{values[name]}" for name in fields if values[name])


@console.command(help={})
def start(c: Context) -> None:
    """Start this project's PostgreSQL server, making it if there is none, and wait for it."""
    from repom.server import server

    settings = Settings.load(c.config)
    started = server.start(settings)
    if not settings.dry:
        console.show(table(started, LOGIN))


@console.command(help={})
def stop(c: Context) -> None:
    """Stop the server; its data stay."""
    from repom.server import server

    settings = Settings.load(c.config)
    stopped = server.stop(settings)
    if not settings.dry:
        console.show(f"{stopped.name}: {stopped.state}")


@console.command(help={"json": "print the result as JSON"})
def status(c: Context, json: bool = False) -> None:
    """Show the server: state, image or version, port, and where its data are."""
    from repom.server import server

    found = server.status(Settings.load(c.config))
    console.show(asdict(found) if json else table(found, STATE))


@console.command(help={"lines": "how many lines, from the end (default 50)"})
def logs(c: Context, lines: str = "50") -> None:
    """Show the last lines that the server wrote."""
    from repom.server import server

    if not lines.isdecimal() or int(lines) < 1:
        raise SettingsError(f"--lines is {lines!r}", "Allowed: a whole number, 1 or more")
    console.show(server.logs(Settings.load(c.config), int(lines)))


@console.command(help={"volume": "remove its data, too; asks first", "yes": "do not ask"})
def remove(c: Context, volume: bool = False, yes: bool = False) -> None:
    """Remove the container and keep its data, unless --volume is given."""
    from repom.server import server

    settings = Settings.load(c.config)
    seen = server.removable(settings, volume=True) if volume and not settings.dry else None
    if seen and not console.confirm("" if yes else _question(settings, seen), yes):
        console.say("Nothing was removed")
        return
    before = server.remove(settings, volume=volume, seen=seen)
    if settings.dry:
        return
    kept = f"; its data stay in {before.data}" if before.data and not volume else ""
    console.show(f"Removed {before.name}{kept}")


def _question(settings: Settings, seen: server.Server) -> str:
    """What will be deleted, before somebody says yes."""
    data = seen.data or "the container"
    holds = f"{seen.database} ({_holds(settings, seen)})"
    return f"Delete {seen.name} and its data in {data}? All of its databases will be lost: {holds}."


def _holds(settings: Settings, seen: server.Server) -> str:
    """Size, tables and the age of the last backup of the project's database."""
    from repom.dbops import upkeep, work

    via, host, port = "docker", None, None
    if seen.kind == "local":
        via, host, port = "host", seen.host, seen.port
    named = replace(settings.address, user=seen.user, database=seen.database)
    login = replace(settings, address=replace(named, host=host, port=port), via=via)
    try:
        with closing(work.open_database(login, "psql")) as database:
            found = database.identify()
        facts = [size(found.size)]
        facts += [] if found.tables is None else [counted(found.tables, "table")]
    except RepomError:
        facts = ["contents unknown"]
    try:
        facts.append(f"last backed up {age(upkeep.find_backup(login).created_at)}")
    except NotFound:
        facts.append("never backed up")
    except RepomError:
        facts.append("last backup unknown")
    return ", ".join(facts)


postgres = Collection("postgres", start, stop, status, logs, remove)
postgres.configure(console.DEFAULTS)
