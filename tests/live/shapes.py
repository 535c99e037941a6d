"""Projects as other people write them: their files, their containers, and the round trip that
has to work in each of them with no setting of repom's."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.cli import Ended, invoke
from tests.live.engine import run

SECOND = "tcp://127.0.0.1:23750"  # the daemon that `.ci/engine` starts besides
#: PostgreSQL that starts soon and writes no disk.
POSTGRES = "{image: 'postgres:18', command: -c fsync=off, tmpfs: /var/lib/postgresql"
LOGIN = "environment: {POSTGRES_USER: shop, POSTGRES_PASSWORD: pw, POSTGRES_DB: shop}"
DB = f"{POSTGRES}, {LOGIN}}}"
PUBLISHED = f"{POSTGRES}, {LOGIN}, ports: ['127.0.0.1:HOSTSIDE:5432']}}"

#: Like Bitnami's: other variables, data elsewhere, nothing declared but the port, and local
#: connections that want the password.
BITNAMI = """FROM repom-base:18
ENV PATH=/opt/bitnami/postgresql/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN mkdir -p /opt/bitnami /bitnami && ln -s /usr/lib/postgresql/18 /opt/bitnami/postgresql \\
 && chown postgres /bitnami /var/run/postgresql
COPY entrypoint /
USER postgres
EXPOSE 5432
CMD ["sh", "/entrypoint"]
"""
ENTRYPOINT = """set -e
export D=/bitnami/data PGPASSWORD="$POSTGRESQL_PASSWORD"
echo "$PGPASSWORD" >/tmp/pw
initdb -N -D $D -U postgres -A scram-sha-256 --pwfile=/tmp/pw
echo "host all all all scram-sha-256" >>$D/pg_hba.conf
pg_ctl -w -D $D -o "-c listen_addresses= -F" start
psql -U postgres -c "CREATE ROLE $POSTGRESQL_USERNAME LOGIN CREATEDB PASSWORD '$PGPASSWORD'"
psql -U postgres -c "CREATE DATABASE $POSTGRESQL_DATABASE OWNER $POSTGRESQL_USERNAME"
pg_ctl -w -D $D stop
exec postgres -D $D -F -c listen_addresses='*'
"""
#: A web service, or Redis, for all that discovery can see.
OTHER = 'FROM repom-base:18\nEXPOSE 6379 8000\nCMD ["sleep", "600"]\n'


def build(image: str, dockerfile: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), {"Dockerfile": dockerfile, "entrypoint": ENTRYPOINT})
        subprocess.run(
            ["docker", "build", "-q", "-t", image, folder],
            check=True,
            capture_output=True,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )
    return image


def write(folder: Path, files: dict[str, str], **values: str) -> None:
    """The files of a project; a word in capitals in them stands for a value."""
    for path, text in files.items():
        for word, value in values.items():
            text = text.replace(word, value)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


@dataclass(frozen=True)
class Database:
    """A database in a container, asked without repom."""

    container: str
    user: str = "shop"
    database: str = "shop"
    engine: Iterable[str] = ("docker",)
    password: str = "pw"
    env: dict[str, str] = field(default_factory=dict)

    def sql(self, query: str) -> str:
        login = ("-h", "127.0.0.1", "-U", self.user, "-d", self.database)
        flags = ("-e", f"PGPASSWORD={self.password}", self.container)
        return run(*self.engine, "exec", *flags, "psql", "-XAtqw", *login, "-c", query)

    def wait(self) -> None:
        """Over TCP, since the entry point's first server listens on its socket alone."""
        ready = f"pg_isready -q -h 127.0.0.1 -U {self.user}"
        script = f"for i in $(seq 300); do {ready} && exit 0; sleep 0.1; done; exit 1"
        run(*self.engine, "exec", self.container, "sh", "-c", script)

    def fill(self) -> None:
        self.sql("CREATE TABLE IF NOT EXISTS item AS SELECT generate_series(1, 100) AS n")

    def count(self) -> str:
        return self.sql("SELECT count(*) FROM item")


def round_trip(folder: Path, database: Database, *reasons: str, remote: bool = False) -> Ended:
    """Backed up, damaged, brought back, and the reason for the choice said.

    :returns: the backup.
    """
    database.wait()
    database.fill()
    made = invoke(folder, "db.backup", env=database.env)
    assert (made.status, made.err.count("Backup created")) == (0, 1), made.err
    assert [each for each in reasons if each not in made.err] == [], made.err
    listed = invoke(folder, "db.list", env=database.env)
    assert (listed.status, listed.out.count("latest")) == (0, 1), listed
    assert listed.err.count("Using ") == made.err.count("Using "), listed.err
    database.sql("DROP TABLE item")
    allowed = ("--remote",) if remote else ()
    back = invoke(folder, "db.restore", "--latest", "--yes", *allowed, env=database.env)
    assert back.status == 0, back.err
    assert database.count() == "100"
    return made
