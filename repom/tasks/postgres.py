"""`postgres.*`: the database server of this project."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from invoke import Collection, Context

from repom.errors import NotFound, SettingsError
from repom.settings import Settings

from . import console
from .questions import contents

# Tasks import the server room when they run, so that `invoke --list` stays fast.
if TYPE_CHECKING:
    from repom.server.facts import Server

#: The fields of a server that are shown, in this order.
LOGIN = ("host", "port", "user", "database", "url")
STATE = ("kind", "name", "state", "image", "version", "host", "port", "data")


def table(found: Server, fields: tuple[str, ...]) -> str:
    """Name and value of each field that has one, a line each."""
    values = asdict(found)
    return "\n".join(f"{name:<10}{values[name]}" for name in fields if values[name])


@console.command(help={"seed": "fill the database of a new server from the latest backup"})
def start(c: Context, seed: bool = False) -> None:
    """Start this project's PostgreSQL server, creating it if needed, and wait for it."""
    from repom.server import server

    settings = Settings.load(c.config)
    started = server.start(settings)
    if settings.dry:
        return
    if seed:
        _fill(_of_server(Settings.load(c.config, quiet=True), started))
    console.show(table(started, LOGIN))


def _fill(settings: Settings) -> None:
    """Restore the latest backup into a database that has neither tables nor undo copies."""
    from repom.dbops import restore, work

    with closing(work.open_database(settings, "psql")) as database:
        is_new = database.identify().tables == 0 and not database.survey().kept
    if not is_new:
        console.say(f"Not seeded: {settings.database} has tables or an undo copy already")
        return
    try:
        latest = work.find_backup(settings)
    except NotFound as error:
        console.say(f"Not seeded: {error.message}")
        return
    done = restore(latest, settings)
    console.say(f"Seeded {done.database} from {done.backup} ({done.duration_s:.1f} s)")


@console.command(help={})
def stop(c: Context) -> None:
    """Stop the server; its data is kept."""
    from repom.server import server

    settings = Settings.load(c.config)
    stopped = server.stop(settings)
    if not settings.dry:
        console.show(f"{stopped.name}: {stopped.state}")


@console.command(help={"json": "print the result as JSON"})
def status(c: Context, json: bool = False) -> None:
    """Show the server: state, image or version, port, and where its data is."""
    from repom.server import server

    found = server.status(Settings.load(c.config))
    console.show(asdict(found) if json else table(found, STATE))


@console.command(help={"lines": "how many lines, from the end (default 50)"})
def logs(c: Context, lines: str = "50") -> None:
    """Show the last lines of the server's log."""
    from repom.server import server

    if not lines.isdecimal() or int(lines) < 1:
        raise SettingsError(f"--lines is {lines!r}", "Allowed: a whole number, 1 or more")
    console.show(server.logs(Settings.load(c.config), int(lines)))


@console.command(help={"volume": "delete its data, too; asks first", "yes": "do not ask"})
def remove(c: Context, volume: bool = False, yes: bool = False) -> None:
    """Remove the container and keep its data, unless --volume is given."""
    from repom.server import server

    settings = Settings.load(c.config)
    seen = server.removable(settings, volume=True) if volume and not settings.dry else None
    if seen and not console.confirm([] if yes else _question(settings, seen), yes):
        console.say("Nothing was removed")
        return
    before = server.remove(settings, volume=volume, seen=seen)
    if settings.dry:
        return
    if before.state == "absent":
        console.show(f"{before.name}: absent")
        return
    kept = f"; its data is kept in {before.data}" if before.data and not volume else ""
    console.show(f"Removed {before.name}{kept}")


def _question(settings: Settings, seen: Server) -> list[str]:
    data = seen.data or "the container"
    holds = f"{seen.database} ({contents(_of_server(settings, seen))})"
    asked = f"Delete {seen.name} and its data in {data}? All of its databases will be lost:"
    return [asked, console.Lost(f"{holds}.")]


def _of_server(settings: Settings, seen: Server) -> Settings:
    """Settings that lead to the database in this very server."""
    from repom.dbops import work

    address = replace(settings.address, user=seen.user, database=seen.database)
    if seen.kind == "local":
        address = replace(address, host=seen.host, port=seen.port)
        return replace(settings, address=address, via="host")
    address = replace(address, host=None, port=None)
    settings = replace(settings, address=address, via="docker", compose_service=None)
    return work.locate(replace(settings, container=seen.name, is_named=True, configured=True))


postgres = Collection("postgres", start, stop, status, logs, remove)
postgres.configure(console.DEFAULTS)
