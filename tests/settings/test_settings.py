from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from invoke import Config

from repom.errors import SettingsError
from repom.settings import Settings, find_project
from repom.settings.address import Address
from repom.settings.sources import KEYS
from repom.tasks.console import DEFAULTS

CANARY = "s3cret-c4nary"


def load(
    environ: dict[str, str] | None = None, *, dotenv: str | bytes = b"", **flags: Any
) -> Settings:
    """Settings of the working directory, with nothing but these sources."""
    content = dotenv.encode() if isinstance(dotenv, str) else dotenv
    Path(".env").write_bytes(content)
    return Settings.load(environ=environ or {}, **flags)


def of_url(url: str) -> Settings:
    return load({"DATABASE_URL": url})


def through_invoke(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Config:
    """Invoke's own configuration, as a task gets it."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    config = Config(project_location=Path.cwd())
    config.load_collection(DEFAULTS)
    config.load_project()
    config.load_shell_env()
    return config


# -- the order of the sources -------------------------------------------------------------


SOURCES = ("flag", "environment", ".env", "invoke", "default")


@pytest.mark.parametrize("first", SOURCES)
def test_an_earlier_source_wins_over_all_later_ones(first: str) -> None:
    given = SOURCES[SOURCES.index(first) :]
    Path(".env").write_text("REPOM_KEEP=3\n" if ".env" in given else "")

    settings = Settings.load(
        {"repom": {"keep": "4" if "invoke" in given else None}},
        environ={"REPOM_KEEP": "2"} if "environment" in given else {},
        keep="1" if "flag" in given else None,
    )

    assert {"flag": 1, "environment": 2, ".env": 3, "invoke": 4, "default": 7}[
        first
    ] == settings.keep


def test_nothing_configured_is_the_embedded_default(tmp_path: Path) -> None:
    settings = load()

    assert settings == Settings(
        tmp_path,
        sqlite="data/repom.sqlite3",
        configured=False,
        left_open=("user", "database"),
        container="repom_postgres",
        image="postgres:18",
        via="auto",
        docker="docker",
        backup_dir=tmp_path / "backups",
        keep=7,
        undo_keep=1,
        format="custom",
        jobs=min(os.cpu_count() or 1, 8),
    )


def test_every_setting_can_be_given_in_the_environment(tmp_path: Path) -> None:
    environ = {
        "REPOM_DATABASE_URL": "sqlite:///shop.db",
        "REPOM_CONTAINER": "shop_db",
        "REPOM_IMAGE": "registry.example:5000/postgres:17@sha256:ab",
        "REPOM_VIA": "host",
        "REPOM_DOCKER": "podman",
        "REPOM_BACKUP_DIR": "kept",
        "REPOM_KEEP": "3",
        "REPOM_UNDO_KEEP": "0",
        "REPOM_FORMAT": "plain",
        "REPOM_JOBS": "2",
    }

    names = {f"REPOM_{key.upper()}" for key in KEYS}
    assert names == {*environ, "REPOM_COMPOSE_SERVICE"}  # instead of a container
    assert load({"REPOM_COMPOSE_SERVICE": "db"}).compose_service == "db"
    assert load(environ) == Settings(
        tmp_path,
        sqlite="shop.db",
        container="shop_db",
        is_named=True,
        image="registry.example:5000/postgres:17@sha256:ab",
        via="host",
        docker="podman",
        backup_dir=tmp_path / "kept",
        keep=3,
        undo_keep=0,
        format="plain",
        jobs=2,
    )


def test_two_names_of_the_container_are_an_error() -> None:
    with pytest.raises(SettingsError, match=r"Both REPOM_CONTAINER.*REPOM_COMPOSE_SERVICE"):
        load({"REPOM_CONTAINER": "shop_db", "REPOM_COMPOSE_SERVICE": "db"})


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        load().keep = 9  # type: ignore[misc]


# -- values that are not allowed ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("REPOM_KEEP", "0", "1 or more"),
        ("REPOM_KEEP", "abc", "1 or more"),
        ("REPOM_KEEP", "-1", "1 or more"),
        ("REPOM_KEEP", "1.5", "1 or more"),
        ("REPOM_UNDO_KEEP", "-1", "0 or more"),
        ("REPOM_JOBS", "0", "1 to 64"),
        ("REPOM_JOBS", "300", "1 to 64"),
        ("REPOM_VIA", "podman", "auto or docker or host"),
        ("REPOM_FORMAT", "tar", "custom or plain"),
        ("REPOM_CONTAINER", "--privileged", "letters"),
        ("REPOM_CONTAINER", "a b", "letters"),
        ("REPOM_COMPOSE_SERVICE", "-db", "letters"),
        ("REPOM_IMAGE", "--rm", "letters"),
        ("POSTGRES_PORT", "abc", "1 to 65535"),
        ("POSTGRES_PORT", "70000", "65535"),
    ],
)
def test_a_bad_value_names_the_variable_the_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: value})

    assert caught.value.exit_status == 2
    assert f"{name} (from the environment) is '{value}'" in caught.value.message
    assert allowed in caught.value.hint


@pytest.mark.parametrize("value", ["0", "abc"])
def test_a_bad_value_of_invokes_environment_is_an_error(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    config = through_invoke(monkeypatch, INVOKE_REPOM_KEEP=value)

    with pytest.raises(SettingsError, match=rf"repom.keep .*'{value}'.*1 or more"):
        Settings.load(config)


def test_invokes_environment_and_file_reach_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("invoke.yaml").write_text("repom:\n  keep: 5\n  format: plain\n")

    settings = Settings.load(through_invoke(monkeypatch, INVOKE_REPOM_FORMAT="custom"))

    assert (settings.keep, settings.format) == (5, "custom")


def test_dry_and_echo_are_invokes() -> None:
    settings = Settings.load({"run": {"dry": True, "echo": True}}, environ={})

    assert (settings.dry, settings.echo) == (True, True)


@pytest.mark.parametrize("keep", ["0", "abc", 0])
def test_replacing_a_setting_checks_it(keep: str | int) -> None:
    with pytest.raises(SettingsError, match="1 or more"):
        load().having(keep=keep)


def test_replacing_a_setting_by_nothing_leaves_it() -> None:
    assert load({"REPOM_KEEP": "3"}).having(keep=None, format="plain").keep == 3


TEXT = [f"REPOM_{key.upper()}" for key in KEYS] + ["DATABASE_URL"]
IMAGE = [f"POSTGRES_{name}" for name in ("USER", "DB", "HOST", "PORT")]


@pytest.mark.parametrize("name", [*TEXT, *IMAGE])
@pytest.mark.parametrize("value", ["", "  "], ids=["empty", "blank"])
@pytest.mark.parametrize("source", ["the environment", ".env"])
def test_an_empty_variable_is_an_error_and_not_the_default(
    name: str, value: str, source: str
) -> None:
    environ = {name: value} if source == "the environment" else {}

    with pytest.raises(SettingsError) as caught:
        load(environ, dotenv=f"{name}='{value}'\n" if not environ else "")

    assert f"{name} (from {source}) is empty" == caught.value.message
    assert caught.value.exit_status == 2


def test_an_empty_variable_of_the_environment_does_not_uncover_the_one_in_dotenv() -> None:
    with pytest.raises(SettingsError, match="REPOM_CONTAINER"):
        load({"REPOM_CONTAINER": ""}, dotenv="REPOM_CONTAINER=shop\n")


@pytest.mark.parametrize("key", KEYS)
def test_an_empty_flag_or_an_empty_key_of_invokes_is_an_error(key: str) -> None:
    flag, given = f"--{key.replace('_', '-')}", dict[str, Any]({key: ""})
    with pytest.raises(SettingsError, match=f"{flag} is empty"):
        Settings.load(None, environ={}, **given)
    with pytest.raises(SettingsError, match=f"repom.{key} .* is empty"):
        Settings.load({"repom": {key: ""}}, environ={})


def test_an_empty_value_cannot_replace_a_setting() -> None:
    with pytest.raises(SettingsError, match="via is empty"):
        load().having(via="")


def test_an_empty_password_is_none_and_names_no_database() -> None:
    assert load({"POSTGRES_PASSWORD": "", "POSTGRES_DB": "shop"}).password is None
    assert (
        load({"POSTGRES_PASSWORD": ""}, dotenv="POSTGRES_PASSWORD=p\nPOSTGRES_DB=s").password
        is None
    )
    assert not load({"POSTGRES_PASSWORD": ""}).configured


ODD = {"a NUL": "a\0b", "other bytes": os.fsdecode(b"a\xffb")}


@pytest.mark.parametrize("value", ODD.values(), ids=list(ODD))
@pytest.mark.parametrize(
    "name", ["POSTGRES_DB", "POSTGRES_PASSWORD", "REPOM_BACKUP_DIR", "REPOM_DOCKER"]
)
def test_characters_that_nothing_takes_are_an_error(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as caught:
        load({name: value})
    caught.value.message.encode()
    assert "a" + value[1:] not in caught.value.message


@pytest.mark.parametrize("value", [True, 1.5, ["a"], {"a": 1}])
def test_a_value_of_another_type_in_invokes_file_is_an_error(value: object) -> None:
    with pytest.raises(SettingsError, match=r"repom\.container"):
        Settings.load({"repom": {"container": value}}, environ={})


def test_a_section_of_invokes_file_without_names_is_an_error() -> None:
    with pytest.raises(SettingsError, match="repom in Invoke's configuration"):
        Settings.load({"repom": "x"}, environ={})


@pytest.mark.parametrize("name", ["POSTGRES_HOST", "REPOM_VIA", "REPOM_CONTAINER", "POSTGRES_PORT"])
def test_a_url_in_the_wrong_variable_is_not_shown(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({name: f"postgresql://u:{CANARY}@h/d"})

    assert name in caught.value.message
    assert CANARY not in "".join(traceback.format_exception(caught.value))


MISSPELT = {
    "environment": ({"REPOM_BAKUP_DIR": "x"}, "", None, "REPOM_BAKUP_DIR", "REPOM_BACKUP_DIR"),
    ".env": ({}, "REPOM_BAKUP_DIR=x", None, "REPOM_BAKUP_DIR", "REPOM_BACKUP_DIR"),
    "INVOKE_": (
        {"INVOKE_REPOM_BAKUP_DIR": "x"},
        "",
        None,
        "INVOKE_REPOM_BAKUP_DIR",
        "INVOKE_REPOM_BACKUP_DIR",
    ),
    "file": ({}, "", {"repom": {"bakup_dir": 1}}, "repom.bakup_dir", "repom.backup_dir"),
}


@pytest.mark.parametrize(
    ("environ", "dotenv", "config", "name", "meant"), MISSPELT.values(), ids=list(MISSPELT)
)
def test_a_misspelt_setting_is_one_warning(
    environ: dict[str, str],
    dotenv: str,
    config: dict[str, Any] | None,
    name: str,
    meant: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    Path(".env").write_text(dotenv)

    Settings.load(config, environ=environ)

    assert [f"Unknown setting {name} (did you mean {meant}?)"] == caplog.messages


def test_a_setting_of_a_newer_version_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert load({"REPOM_MOON_PHASE": "full", "REPOM_KEEP": "3"}).keep == 3
    assert caplog.messages == ["Unknown setting REPOM_MOON_PHASE"]


# -- the project folder -------------------------------------------------------------------


@pytest.mark.parametrize("marker", [".env", "tasks.py", ".git"])
def test_the_project_folder_is_the_nearest_one_with_a_marker(tmp_path: Path, marker: str) -> None:
    for folder in (tmp_path, tmp_path / "shop"):
        folder.mkdir(exist_ok=True)
        (folder / marker).touch()
    (tmp_path / "shop/src/deep").mkdir(parents=True)

    assert tmp_path / "shop" == find_project(tmp_path / "shop/src/deep")


def test_the_search_never_leaves_the_repository(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REPOM_KEEP=3\n")
    (tmp_path / "shop/.git").mkdir(parents=True)
    (tmp_path / "shop/src").mkdir()

    settings = Settings.load(environ={}, cwd=tmp_path / "shop/src")

    assert (tmp_path / "shop", 7) == (settings.project, settings.keep)


def test_without_a_marker_the_working_directory_is_the_project_folder(tmp_path: Path) -> None:
    assert tmp_path == find_project(tmp_path)


def test_relative_paths_belong_to_the_project_folder(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///shop.db\nREPOM_BACKUP_DIR=kept\n")

    settings = Settings.load(environ={}, cwd=tmp_path / "src")

    assert tmp_path / "shop.db" == settings.sqlite_path
    assert tmp_path / "kept" == settings.backup_dir


def test_a_backup_folder_may_be_in_the_home_or_elsewhere(tmp_path: Path) -> None:
    assert Path.home() / "kept" == load({"REPOM_BACKUP_DIR": "~/kept"}).backup_dir
    assert tmp_path.parent == load({"REPOM_BACKUP_DIR": str(tmp_path.parent)}).backup_dir


@pytest.mark.parametrize(
    "environ",
    [{"REPOM_BACKUP_DIR": "~nouser/x"}, {"DATABASE_URL": "sqlite:///~nouser/x.db"}],
    ids=["backups", "sqlite"],
)
def test_the_home_of_a_user_that_is_not_there_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(environ))} .*~nouser"):
        load(environ)


def test_a_link_to_itself_is_read_or_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    with contextlib.suppress(SettingsError):
        assert of_url("sqlite:///loop.db/x").backend == "sqlite"


# -- which database -----------------------------------------------------------------------


def test_repoms_own_url_wins_even_over_the_environments() -> None:
    settings = load(
        {"DATABASE_URL": "sqlite:///app.db", "POSTGRES_DB": "x"},
        dotenv="REPOM_DATABASE_URL=sqlite:///mine.db\n",
    )

    assert settings.database == "mine.db"


def test_a_url_wins_over_the_images_variables() -> None:
    settings = load(
        {"POSTGRES_DB": "image", "POSTGRES_PASSWORD": CANARY},
        dotenv="DATABASE_URL=postgresql://u@h/app\n",
    )

    assert (settings.database, settings.user, settings.password) == ("app", "u", None)


def test_a_url_may_come_from_invokes_configuration() -> None:
    settings = Settings.load({"repom": {"database_url": "sqlite:///app.db"}}, environ={})

    assert (settings.database, settings.configured) == ("app.db", True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"USER": "ann"}, ("ann", "ann", None, None, None), id="user"),
        pytest.param({"DB": "shop"}, ("shop", "postgres", None, None, None), id="database"),
        pytest.param(
            {"PASSWORD": "p"}, ("postgres", "postgres", "p", None, None), id="password alone"
        ),
        pytest.param({"HOST": "h"}, ("postgres", "postgres", None, "h", None), id="host"),
        pytest.param({"PORT": "5433"}, ("postgres", "postgres", None, None, 5433), id="port"),
        pytest.param(
            {"USER": "ann", "DB": "shop", "PASSWORD": "p", "HOST": "db", "PORT": "1"},
            ("shop", "ann", "p", "db", 1),
            id="all",
        ),
    ],
)
def test_the_images_variables_name_a_database(
    given: dict[str, str], expected: tuple[object, ...]
) -> None:
    s = load({f"POSTGRES_{name}": value for name, value in given.items()})

    assert (s.backend, s.configured) == ("postgresql", True)
    assert expected == (s.database, s.user, s.password, s.host, s.port)


def test_the_images_variables_may_be_spread_over_the_sources() -> None:
    s = load({"POSTGRES_PASSWORD": "p"}, dotenv="POSTGRES_DB=shop\nPOSTGRES_PASSWORD=old\n")

    assert (s.database, s.password) == ("shop", "p")


POSTGRESQL = [
    ("postgresql://ann:p@db:5433/shop", ("shop", "ann", "p", "db", 5433)),
    ("postgres://ann:p@db/shop", ("shop", "ann", "p", "db", None)),
    ("postgresql+psycopg://ann@db/shop", ("shop", "ann", None, "db", None)),
    ("postgresql+asyncpg://ann@db/shop", ("shop", "ann", None, "db", None)),
    ("postgresql://db", ("postgres", "postgres", None, "db", None)),
    ("postgresql://ann@db", ("ann", "ann", None, "db", None)),
    ("postgresql:///shop", ("shop", "postgres", None, None, None)),
    ("postgresql://a%40n:p%2F%3A%25@db/shop", ("shop", "a@n", "p/:%", "db", None)),
    ("postgresql://db/a%20b%27c%22%3Dx", ("a b'c\"=x", "postgres", None, "db", None)),
    ("postgresql://my%2Dhost/shop", ("shop", "postgres", None, "my-host", None)),
    ("postgresql://%2Fvar%2Frun/shop", ("shop", "postgres", None, "/var/run", None)),
    ("postgresql:///shop?host=/var/run", ("shop", "postgres", None, "/var/run", None)),
    ("postgresql:///shop?host=%2Fvar%2Frun", ("shop", "postgres", None, "/var/run", None)),
    ("postgresql://[::1]:5433/shop", ("shop", "postgres", None, "::1", 5433)),
    (
        "postgresql:///?user=ann&password=p&dbname=shop&port=5&host=db",
        ("shop", "ann", "p", "db", 5),
    ),
    ("postgresql://db/shop?pool_size=5&application_name=x", ("shop", "postgres", None, "db", None)),
    ("postgresql://db/shop?application_name=a@b,c", ("shop", "postgres", None, "db", None)),
]


@pytest.mark.parametrize(("url", "expected"), POSTGRESQL, ids=[url for url, _ in POSTGRESQL])
def test_a_postgresql_url_is_read(url: str, expected: tuple[object, ...]) -> None:
    s = of_url(url)

    assert s.backend == "postgresql"
    assert expected == (s.database, s.user, s.password, s.host, s.port)
    assert (s.address.options, s.address.session) == ((), "")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///shop.db", "shop.db"),
        ("sqlite:///data/shop.db", "data/shop.db"),
        ("sqlite:///./data/../shop.db", "shop.db"),
        ("sqlite+pysqlite:///shop.db", "shop.db"),
        ("sqlite:////srv/shop.db", "/srv/shop.db"),
        ("sqlite:///shop.db?mode=ro", "shop.db"),
    ],
)
def test_an_sqlite_url_names_a_file_of_the_project(tmp_path: Path, url: str, name: str) -> None:
    s = of_url(url)

    assert ("sqlite", name) == (s.backend, s.database)
    assert tmp_path / name == s.sqlite_path


def test_an_absolute_path_into_the_project_is_the_same_database(tmp_path: Path) -> None:
    assert of_url(f"sqlite:///{tmp_path}/data/shop.db").database == "data/shop.db"


def test_links_to_an_sqlite_file_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")

    assert tmp_path / "real.db" == of_url("sqlite:///link.db").sqlite_path


REFUSED = {
    "several hosts": (f"postgresql://u:{CANARY}@a,b/shop", "several hosts"),
    "several hosts with ports": (f"postgresql://u:{CANARY}@a:1,b:2/shop", "several hosts"),
    "several hosts in the query": (
        f"postgresql:///shop?host=a,b&password={CANARY}",
        "several hosts",
    ),
    "a host twice": (f"postgresql:///shop?host=a&host=b&password={CANARY}", "several hosts"),
    "no URL": (CANARY, "not a database URL"),
    "a port that is no number": (f"postgresql://u:{CANARY}@h:x/shop", "port"),
    "a port out of range": (f"postgresql://u:{CANARY}@h:70000/shop", "port"),
    "a port in the query": (f"postgresql:///shop?port=x&password={CANARY}", "port"),
    "another backend": (f"mysql://u:{CANARY}@h/shop", "mysql"),
    "a driver of another backend": (f"mysql+pymysql://u:{CANARY}@h/shop", "mysql"),
    "nothing before the colon": (f"://u:{CANARY}@h/shop", "not a database URL"),
    "a broken bracket": (f"postgresql://u:{CANARY}@[::1/shop", "special characters"),
    "SQLite in memory": ("sqlite://", "SQLite file on disk"),
    "SQLite in memory by name": ("sqlite:///:memory:", "SQLite file on disk"),
    "SQLite by file URI": ("sqlite:///file:shop.db?uri=true", "SQLite file on disk"),
    "SQLite with two slashes": ("sqlite://data/shop.db", "SQLite"),
}


@pytest.mark.parametrize(("url", "said"), REFUSED.values(), ids=list(REFUSED))
@pytest.mark.parametrize("source", ["environment", ".env", "invoke"])
def test_a_url_that_cannot_be_used_is_refused_without_a_word_of_it(
    url: str, said: str, source: str
) -> None:
    if source == ".env":
        Path(".env").write_text(f"DATABASE_URL='{url}'\n")
    with pytest.raises(SettingsError) as caught:
        Settings.load(
            {"repom": {"database_url": url if source == "invoke" else None}},
            environ={"DATABASE_URL": url} if source == "environment" else {},
        )

    assert caught.value.exit_status == 2
    assert said in caught.value.message
    assert "URL" in caught.value.message or "database_url" in caught.value.message
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_several_hosts_in_the_images_variables_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"POSTGRES_HOST .* several hosts"):
        load({"POSTGRES_HOST": "a,b"})


@pytest.mark.parametrize(
    "environ",
    [{"DATABASE_URL": f"postgresql://u:{CANARY}@h/d"}, {"POSTGRES_PASSWORD": CANARY}],
    ids=["url", "variable"],
)
def test_the_password_is_read_and_in_no_representation(environ: dict[str, str]) -> None:
    settings = load(environ)

    assert settings.password == CANARY
    assert CANARY not in repr(settings) + str(settings)


@pytest.mark.parametrize(
    ("host", "remote"),
    [
        (None, None),
        ("", None),
        ("localhost", None),
        ("LOCALHOST", None),
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("::1", None),
        ("/var/run/postgresql", None),
        ("@abstract", None),
        ("[::1]", None),
        ("::ffff:127.0.0.1", None),
        ("db", None),
        ("repom_postgres", "repom_postgres"),
        ("db.example.com", "db.example.com"),
        ("10.0.0.5", "10.0.0.5"),
    ],
)
def test_only_another_machine_is_remote(host: str | None, remote: str | None) -> None:
    settings = Settings(Path(), Address(host, database="shop"), compose_service="db")

    assert remote == settings.remote_host


@pytest.mark.parametrize("service", ["shop_pg", None], ids=["service", "container"])
def test_a_containers_name_is_another_machine_for_programs_on_the_host(
    service: str | None,
) -> None:
    address = Address("shop_pg", database="shop")
    found = Settings(Path(), address, container="shop_pg", compose_service=service)

    assert (found.remote_from("docker"), found.remote_from("host")) == (None, "shop_pg")


def test_importing_the_settings_does_not_import_sqlalchemy_or_dotenv() -> None:
    script = (
        "import sys; import repom.settings as s; s.Settings.load(environ={});"
        "sys.exit(bool({'sqlalchemy', 'dotenv', 'rich'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]

    done = subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": str(root)})

    assert done.returncode == 0


# -- .env ---------------------------------------------------------------------------------


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_nothing_is_expanded_in_a_password(quote: str) -> None:
    settings = load({"X": "y"}, dotenv=f"POSTGRES_PASSWORD={quote}a${{X}}$b{quote}\n")

    assert settings.password == "a${X}$b"


def test_a_url_may_be_put_together_from_the_lines_above() -> None:
    settings = load(
        dotenv="POSTGRES_PASSWORD=abc\nDATABASE_URL=postgresql://u:${POSTGRES_PASSWORD}@h/d\n"
    )

    assert settings.password == "abc"


def test_a_dotenv_file_with_a_byte_order_mark_is_read() -> None:
    assert load(dotenv=b"\xef\xbb\xbfREPOM_KEEP=3\r\n").keep == 3


def test_a_dotenv_file_does_not_change_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("REPOM_KEEP=3\n")

    assert Settings.load().keep == 3
    monkeypatch.setenv("REPOM_KEEP", "4")
    assert Settings.load().keep == 4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{CANARY} is no line\n", 1),
        (f"A=b\nPOSTGRES_PASSWORD='{CANARY}\nC=d\n", 2),
        (f'A=b\nC="{CANARY}\n', 2),
        (f"A=b\n\n# comment\n\nno line {CANARY}\n", 5),
    ],
    ids=["first", "an open quote", "an open double quote", "behind blank lines"],
)
def test_a_dotenv_line_that_cannot_be_parsed_is_named_by_its_number_alone(
    text: str, line: int
) -> None:
    with pytest.raises(SettingsError) as caught:
        load(dotenv=text)

    assert f".env line {line} cannot be parsed" == caught.value.message
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "content", [b"A=\xff\xfe\n", "A=b\n".encode("utf-16")], ids=["latin", "UTF-16"]
)
def test_a_dotenv_file_that_is_not_utf8_is_an_error_and_not_skipped(content: bytes) -> None:
    with pytest.raises(SettingsError, match=r"\.env"):
        load(dotenv=content)
