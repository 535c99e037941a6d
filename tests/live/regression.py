"""The database that PostgreSQL's own regression tests leave behind, backed up, drilled and
restored in both formats, and compared with what the raw programs bring back.

`python -m tests.live.regression --major 18 --record FILE` runs the whole schedule of the
source package; `test_regression.py` takes a sample of it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from difflib import unified_diff
from pathlib import Path

from repom import dbops
from repom.errors import Refused, RepomError
from repom.settings import Settings
from tests import requires
from tests.live.servers import Server, container_server

NAME = "regression"
FORMATS = ("custom", "plain")
THERE = "/regress"  # in the container
DIFFERENCES = 60  # lines of a comparison that are told
#: Flags of the raw dump that repom's backup of this format corresponds to.
RAW = {
    "custom": "-Fc",
    "plain": "-Fp --clean --if-exists --no-owner --no-acl",
}
#: Files that leave much of what a dump has to bring back, and take little time.
SAMPLE = frozenset(
    word
    for line in (
        "test_setup int8 varchar enum rangetypes regproc point box path polygon circle",
        "multirangetypes create_function_c create_operator create_procedure create_table",
        "create_type create_schema create_index create_view index_including",
        "create_aggregate create_function_sql create_cast constraints triggers inherit",
        "typed_table updatable_views create_am hash_func select_into brin gin privileges",
        "collate matview replica_identity rowsecurity identity generated_stored",
        "create_table_like alter_operator collate.utf8 without_overlaps generated_virtual",
        "rules stats_ext publication foreign_key dependency tsdicts foreign_data domain",
        "rangefuncs sequence polymorphism largeobject xml partition_prune reloptions",
        "hash_part indexing compression event_trigger fast_default",
    )
    for word in line.split()
)


@dataclass
class Came:
    """What came of one format.

    :param problems: what failed or differed; none when all is well.
    :param raw_errors: what the raw programs, with which it is compared, failed in.
    :param refused: what a restore in place said when it was refused, which is no problem.
    """

    format: str
    backup: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    raw_errors: list[str] = field(default_factory=list)
    refused: str = ""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step of repom's; a failure is a problem and no end."""
        started = time.monotonic()
        try:
            yield
        except RepomError as error:
            self.problems.append(f"{name}: {error}")
        self.seconds[name] = round(time.monotonic() - started, 2)

    def note_differences(self, server: Server, wanted: str, found: str) -> None:
        if differ := differences(server, wanted, found):
            self.problems.append(f"another dump than after the raw programs:\n{differ}")


# -- making the database ----------------------------------------------------------------


def schedule(source: Path) -> list[str]:
    """The names of the tests in their order."""
    lines = (source / "parallel_schedule").read_text().splitlines()
    named = [name for line in lines if line.startswith("test:") for name in line.split()[1:]]
    return [name for name in named if (source / "sql" / f"{name}.sql").is_file()]


def install(server: Server, source: Path) -> None:
    """Bring the files into the container, where the server looks for data and libraries."""
    server.run("mkdir", "-p", f"{THERE}/results")
    for name in ("sql", "data", "expected", "regress.so"):
        if (source / name).exists():
            argv = ["docker", "cp", "-q", str(source / name), f"{server.container}:{THERE}"]
            subprocess.run(argv, check=True, capture_output=True)
    libraries = f"cd $(pg_config --pkglibdir) && cp refint.so autoinc.so {THERE}"
    server.run("sh", "-c", f"({libraries}); chmod -R a+rwX {THERE}", check=False)


def create(server: Server, database: str, owner: str = "postgres") -> None:
    """A database as pg_regress makes it."""
    how = "TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'"
    script = f"CREATE DATABASE {database} {how} OWNER {owner};"
    for name in ("lc_messages", "lc_monetary", "lc_numeric", "lc_time"):
        script += f"ALTER DATABASE {database} SET {name} TO 'C';"
    script += f"ALTER DATABASE {database} SET bytea_output TO 'hex';"
    script += f"ALTER DATABASE {database} SET timezone_abbreviations TO 'Default';"
    server.sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)", "postgres")
    for statement in script.rstrip(";").split(";"):
        server.sql(statement, "postgres")


def fill(
    server: Server, names: Sequence[str], database: str = NAME, user: str = "postgres"
) -> list[str]:
    """Run the tests in their order, whatever fails in them.

    :returns: those that did not print just what PostgreSQL's developers expect.
    """
    psql = "psql -X -a -q -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on"
    script = f"""cd {THERE}; unset LC_ALL LANGUAGE
    export LANG=C LC_MESSAGES=C PGTZ=America/Los_Angeles PGDATESTYLE='Postgres, MDY'
    export PGOPTIONS='-c intervalstyle=postgres_verbose'
    export PG_ABS_SRCDIR={THERE} PG_ABS_BUILDDIR={THERE} PG_LIBDIR={THERE} PG_DLSUFFIX=.so
    export PGUSER={user}
    for name in {shlex.join(names)}; do
      export PGAPPNAME=pg_regress/$name
      timeout 120 {psql} -d {database} <sql/$name.sql >results/$name.out 2>&1
      for expected in expected/$name.out expected/${{name}}_?.out; do
        cmp -s $expected results/$name.out && continue 2
      done
      echo $name
    done"""
    return server.run("sh", "-c", script).split()


# -- asking -----------------------------------------------------------------------------

#: What the planner has statistics of, each with the table whose rows they are of: tables,
#: indexes of expressions and extended statistics, without or with a table's children.
STATISTICS = """WITH known (kind, what, of, inherited) AS (
  SELECT 'relation', starelid::regclass::text, coalesce(indrelid, starelid), stainherit
    FROM pg_statistic LEFT JOIN pg_index ON indexrelid = starelid
  UNION SELECT 'extended', stxname, stxrelid, stxdinherit
    FROM pg_statistic_ext JOIN pg_statistic_ext_data ON stxoid = oid)
SELECT concat_ws(' ', kind, what, 'of', CASE WHEN NOT inherited THEN 'ONLY' END, of::regclass)
  FROM known WHERE of >= 16384"""
#: A table that has rows, with or without those of its children.
FILLED = """SELECT concat_ws(' ', 'of', x."only", c.oid::regclass)
  FROM pg_class c, (VALUES (NULL), ('ONLY')) x ("only")
  WHERE relkind IN ('r', 'p', 'm') AND relispopulated AND oid >= 16384
    AND query_to_xml(concat_ws(' ', 'SELECT 1 AS n FROM', x."only", c.oid::regclass, 'LIMIT 1'),
                     false, true, '')::text LIKE '%<n>%'"""


def lacking_statistics(server: Server, original: str, restored: str) -> list[str]:
    """What the planner knew of tables with rows, and no longer knows."""
    one, other = (set(server.sql(STATISTICS, d).splitlines()) for d in (original, restored))
    filled = set(server.sql(FILLED, restored).splitlines()) if one - other else set()
    return sorted(x for x in one - other if "of " + x.rpartition(" of ")[2] in filled)


def differences(server: Server, wanted: str, found: str) -> str:
    """How the dumps of two databases differ; nothing when they do not."""
    one, other = server.dump(wanted).splitlines(), server.dump(found).splitlines()
    lines = list(unified_diff(one, other, wanted, found, lineterm="", n=2))
    more = [f"… {len(lines) - DIFFERENCES} lines more"] if len(lines) > DIFFERENCES else []
    return "\n".join([*lines[:DIFFERENCES], *more])


def raw(server: Server, settings: Settings, format: str) -> tuple[str, list[str]]:
    """What the raw programs, one worker each, bring back.

    :returns: the new database's name, and the errors they met.
    """
    database, made = settings.database, f"{settings.database}_raw_{format}"
    create(server, made, settings.user)
    file = f"{THERE}/raw.{format}"
    load = f"pg_restore -d {made} {file}" if format == "custom" else f"psql -Xq -f {file} {made}"
    dump = f"pg_dump {RAW[format]} -f {file} {database}"
    script = f"export PGUSER={settings.user}; {dump} && {load} 2>&1 >/dev/null; rm {file}"
    said = server.run("sh", "-c", script, check=False)
    return made, [line for line in said.splitlines() if "error:" in line or "ERROR:" in line]


# -- the check --------------------------------------------------------------------------


def check(server: Server, settings: Settings, format: str) -> Came:
    """Back up, drill and restore the database of the settings, and compare."""
    came, into = Came(format), f"{settings.database}_from_{format}"
    with came.step("backup"):
        backup = dbops.backup(settings, format=format)
        came.backup = backup.name
    if not came.backup:
        return came
    with came.step("drill"):
        verified = dbops.verify(backup, settings, drill=True)
        came.problems += [f"drill: {problem}" for problem in verified.problems]
    with came.step("restore"):
        dbops.restore(backup, settings, into=into)
    if into in server.databases():
        compare(server, settings, into, came)
    came.problems += [f"left behind: {one}" for one in server.leftovers()]
    return came


def compare(server: Server, settings: Settings, into: str, came: Came) -> None:
    """Note what is not as the raw programs have it, and which statistics lack."""
    wanted, came.raw_errors = raw(server, settings, came.format)
    came.note_differences(server, wanted, into)
    if lacking := lacking_statistics(server, settings.database, into):
        came.problems.append(f"{len(lacking)} tables lack statistics: {' '.join(lacking[:20])}")


def check_in_place(server: Server, settings: Settings, format: str) -> Came:
    """A restore in place brings what the raw programs bring, or is refused while all is
    as it was."""
    came, database = Came(f"{format} in place"), settings.database
    with came.step("backup"):
        backup = dbops.backup(settings, format=format)
    wanted, came.raw_errors = raw(server, settings, format)
    before, started = server.dump(database), time.monotonic()
    try:
        dbops.restore(backup, settings, in_place=True)
    except Refused as error:
        came.refused = str(error)
        came.problems += [] if server.dump(database) == before else ["refused, and not as it was"]
    except RepomError as error:
        kept = "all kept" if server.dump(database) == before else "CHANGED"
        came.problems.append(f"restore ({kept}): {error}")
    else:
        came.note_differences(server, wanted, database)
    came.seconds["restore"] = round(time.monotonic() - started, 2)
    return came


def settings_of(server: Server, project: Path, database: str = NAME, **more: str) -> Settings:
    environment = server.environment(database, **{"REPOM_JOBS": "2", **more})
    return Settings.load(environ=environment, cwd=project)


def owned(server: Server, project: Path, names: Sequence[str]) -> Settings:
    """The database that these tests leave when an ordinary role runs them, without what
    such a role cannot dump (tables that force their policies on their owner) or load (a
    refresh that fails on purpose)."""
    role = "regression_owner"
    server.sql(f"CREATE ROLE {role} LOGIN CREATEDB CREATEROLE PASSWORD 'x'", "postgres")
    server.sql(f"GRANT pg_read_server_files TO {role}", "postgres")
    create(server, "owned", role)
    fill(server, names, "owned", role)
    server.sql(
        """DROP MATERIALIZED VIEW IF EXISTS sro_mv;
        SELECT format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', oid::regclass)
          FROM pg_class WHERE relforcerowsecurity \\gexec""",
        "owned",
    )
    return settings_of(server, project, "owned", POSTGRES_USER=role, POSTGRES_PASSWORD="x")


def everything(server: Server, project: Path, names: Sequence[str]) -> Iterator[Came]:
    """Every check of the database: by a superuser, in place, and by a plain owner."""
    settings = settings_of(server, project)
    yield from (check(server, settings, format) for format in FORMATS)
    for format in FORMATS:
        server.sql("DROP DATABASE IF EXISTS in_place", "postgres")
        server.sql(f"CREATE DATABASE in_place TEMPLATE {NAME}", "postgres")
        yield check_in_place(server, settings_of(server, project, "in_place"), format)
    settings = owned(server, project, [name for name in names if name in SAMPLE])
    for format in FORMATS:
        came = check(server, settings, format)
        came.format += " as its owner"
        yield came


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--major", type=int, default=18, choices=(15, 17, 18))
    parser.add_argument("--source", type=Path, help="an unpacked src/test/regress")
    parser.add_argument("--record", type=Path, default=Path("regression.json"))
    return parser.parse_args()


def main() -> int:
    given = parsed()
    source = given.source or requires.regression_source(given.major)
    names = schedule(source)
    with tempfile.TemporaryDirectory() as project, container_server(given.major) as server:
        install(server, source)
        create(server, NAME)
        other = fill(server, names)
        done = list(everything(server, Path(project), names))
        version = server.sql("SHOW server_version", "postgres")
    record = {
        "server": version,
        "regress.so": (source / "regress.so").exists(),
        "files": len(names),
        "not_as_expected": other,
        "checks": [asdict(came) for came in done],
    }
    given.record.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    for came in done:
        print(f"{came.format}: " + ("\n".join(came.problems) or came.refused or "equal"))
    return int(any(came.problems for came in done))


if __name__ == "__main__":
    sys.exit(main())
