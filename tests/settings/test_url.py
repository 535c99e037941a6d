from __future__ import annotations

import traceback
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL, make_url

from repom.errors import SettingsError
from repom.settings.address import Address
from repom.settings.url import PASSED, of_sqlalchemy, parse, parse_source
from tests.settings.test_settings import POSTGRESQL

CANARY = "s3cretc4nary"


def address(url: str) -> Address:
    found = parse(url, "DATABASE_URL")
    assert isinstance(found, Address)
    return found


def of_query(query: str) -> Address:
    return address(f"postgresql://db/shop?{query}")


def refusal(url: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        parse(url, "DATABASE_URL")
    assert caught.value.exit_status == 2
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize(
    "url", [u for u, _ in POSTGRESQL if "?" not in u and "%2D" not in u and "%2F" not in u[:16]]
)
def test_a_url_is_read_as_sqlalchemy_reads_it(url: str) -> None:
    assert as_sqlalchemy_reads(url) == address(url)


def as_sqlalchemy_reads(url: str) -> Address:
    theirs = make_url(url)
    user = theirs.username or "postgres"
    database = theirs.database or user
    host = unquote(theirs.host or "") or None  # which only libpq decodes
    password = theirs.password or None
    return Address(host, theirs.port, user, database, password)


#: What has a meaning in a URL, beside letters, digits and characters of other alphabets.
TEXT = st.text(st.sampled_from("ab1:/@?#[]%+ &=,.\\'\"~é"), min_size=1, max_size=12)
HOSTS = st.sampled_from(["db", "db.example.com", "10.0.0.1", "::1", "localhost"])


@settings(deadline=None)
@given(user=TEXT, password=TEXT, host=HOSTS, port=st.none() | st.integers(1, 65535), name=TEXT)
def test_a_url_that_sqlalchemy_writes_is_read_as_it_reads_it(
    user: str, password: str, host: str, port: int | None, name: str
) -> None:
    url = URL.create("postgresql", user, password, host, port, name)
    expected = Address(host, port, user, name, password)

    assert expected == address(url.render_as_string(hide_password=False))
    assert expected == of_sqlalchemy(url)


PIECES = st.sampled_from([*"ab1:/@#[]%+ ,.-é", "%40", "%2F", "::1", "db"])


@settings(deadline=None)
@given(st.lists(PIECES, max_size=12).map("".join))
@example("u:p%40@h:1/d%20b")
def test_whatever_is_read_at_all_is_read_as_sqlalchemy_reads_it(text: str) -> None:
    url = f"postgresql://{text}"
    try:
        ours = address(url)
    except SettingsError as refused:
        assert "DATABASE_URL" in refused.message
        return

    assert as_sqlalchemy_reads(url) == ours


# -- parameters ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PASSED)
def test_what_libpq_takes_is_passed_on(name: str) -> None:
    assert ((name, "5"),) == of_query(f"{name}=5").options


def test_what_a_pool_takes_is_left_out_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    url = "pool_size=5&connection_limit=3&schema=x&pgbouncer=true&application_name=a&echo="

    assert (of_query(url).options, of_query(url).session) == ((), "")
    assert caplog.messages == []


def test_an_unknown_parameter_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert of_query("statusColor=686B6F&sslmode=require").options == (("sslmode", "require"),)
    assert caplog.messages == ["Ignoring parameters of DATABASE_URL: statusColor"]


@pytest.mark.parametrize(
    "name",
    [
        *("hostaddr", "service", "servicefile", "sslpassword", "sslaccept", "sslfactory"),
        *("direct_tls", "unix_sock", "targetServerType", "oauth_client_secret", "replication"),
        *("scram_client_key", "sslkeylogfile", "passwd", "database", "usePrivateKey", "role"),
    ],
)
def test_what_could_change_the_server_or_its_security_is_refused(name: str) -> None:
    error = refusal(f"postgresql://db/shop?{name}={CANARY}")

    assert f"DATABASE_URL has the parameter {name}, which repom does not support" == error.message
    assert error.hint


@pytest.mark.parametrize(
    ("query", "mode"),
    [
        ("ssl=true", "require"),
        ("ssl=require", "require"),
        ("ssl=verify-full", "verify-full"),
        ("ssl=TRUE", "require"),
        ("ssl=1", "require"),
        ("ssl=false", "disable"),
        ("ssl_require=true", "require"),
        ("ssl=true&sslmode=require", "require"),
    ],
)
def test_other_drivers_spelling_of_tls_is_honoured(query: str, mode: str) -> None:
    assert (("sslmode", mode),) == of_query(query).options


@pytest.mark.parametrize("query", ["ssl=true&sslmode=disable", "ssl=maybe", "ssl_require=x"])
def test_a_demand_for_tls_that_is_not_clear_is_refused(query: str) -> None:
    assert "is ambiguous" in refusal(f"postgresql://db/shop?{query}").message


def test_options_of_the_session_are_kept_apart() -> None:
    found = of_query("options=-c%20search_path%3Dx&sslmode=require")

    assert (found.session, found.options) == ("-c search_path=x", (("sslmode", "require"),))


@pytest.mark.parametrize("value", ["0", "-1", "00"])
def test_connecting_always_has_a_time_limit(value: str) -> None:
    assert of_query(f"connect_timeout={value}").options == ()


@pytest.mark.parametrize("name", ["sslmode", "host", "port", "user", "dbname", "options", "ssl"])
def test_an_empty_parameter_is_an_error(name: str) -> None:
    error = refusal(f"postgresql:///shop?{name}=&password={CANARY}")

    assert f"The parameter {name} in DATABASE_URL is empty" == error.message


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{CANARY}@good/shop?host=evil",
        f"postgresql://u:{CANARY}@h:1/shop?port=2",
        f"postgresql://u:{CANARY}@h/shop?user=v",
        f"postgresql://u:{CANARY}@h/shop?password=v",
        f"postgresql://u:{CANARY}@h/shop?dbname=other",
    ],
)
def test_two_different_values_for_one_thing_are_refused(url: str) -> None:
    assert "gives two values for" in refusal(url).message


def test_the_same_value_twice_is_read() -> None:
    assert address("postgresql://h/shop?host=h&dbname=shop").host == "h"


# -- passwords that were not encoded ------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://app:p@{CANARY}@host/db",
        f"postgresql://app:p@@{CANARY}/db@host",
        f"postgresql://app:p@x/{CANARY}@host/db",
        f"postgresql://app:p@x?{CANARY}@host/db",
        f"postgresql://app:p@x#{CANARY}@host/db",
        f"postgresql://app:p@x#{CANARY}/db",
        f"postgresql://app:p@[{CANARY}@host/db",
        f"postgresql://app:p@x]{CANARY}@host/db",
        f"postgresql://app:p@[::1]{CANARY}/db",
        f"postgresql://app:p@x:1{CANARY}@host/db",
        f"postgresql://app:p@x:{CANARY}/db",
        f"postgresql://ap/p:{CANARY}@host/db",
        f"postgresql://app:{CANARY}%40@x y/db",
        f"postgresql://{CANARY}:5432/db?user=a@b",
        f"postgresql://u:12/{CANARY}@host/db",
        f"postgresql:///shop?port={CANARY}",
        f"postgresql:///shop?host=x@{CANARY}",
        f"{CANARY}://app:p@host/db",
        f"postgresql:/app:{CANARY}@host/db",
        f"sqlite://:{CANARY}@/shop.db",
        f"sqlite+pysqlcipher://:{CANARY}@/shop.db",
    ],
)
def test_a_url_that_looks_like_another_one_is_refused_without_a_word_of_it(url: str) -> None:
    assert "DATABASE_URL" in refusal(url).message


def test_a_host_with_an_at_sign_says_what_to_do() -> None:
    assert "@ as %40" in refusal(f"postgresql://app:p@{CANARY}@host/db").hint


@pytest.mark.parametrize(
    "password", ["p%40ss", "p/ss", "p#ss", "p?ss", "p:ss", "[p", "p]", "p%2F%23", "12a/x"]
)
def test_other_special_characters_in_a_password_are_read(password: str) -> None:
    url = f"postgresql://app:{password}@host/db"

    assert (address(url).host, address(url).database) == ("host", "db")
    assert make_url(url).password == address(url).password


@pytest.mark.parametrize("part", ["%00", "%ff", "%E4"])
@pytest.mark.parametrize("url", ["u{}@h/d", "u:p{}@h/d", "h{}/d", "h/d{}", "h/d?sslcert={}"])
def test_bytes_that_are_not_text_are_refused(url: str, part: str) -> None:
    assert "not a database URL" in refusal(f"postgresql://{url.format(part)}").message


@pytest.mark.parametrize("url", ["postgresql://@h/db", "postgresql://:p@h/db"])
def test_an_empty_user_is_an_error(url: str) -> None:
    assert refusal(url).message == "The user in DATABASE_URL is empty"


def test_an_empty_port_is_an_error() -> None:
    assert "port" in refusal("postgresql://h:/db").message


def test_an_sqlite_path_may_hold_what_a_url_may_not() -> None:
    assert parse("sqlite:////srv/a@b,c/shop#1.db", "x") == "/srv/a@b,c/shop#1.db"


@pytest.mark.parametrize("text", ["postgresql://me@prod", "postgresql://me@prod/", "postgres://"])
def test_a_source_must_name_its_database(text: str) -> None:
    with pytest.raises(SettingsError, match="does not name a database"):
        parse_source(text, "REPOM_PULL_URL")
    named = parse_source("postgresql://me@prod?dbname=app", "REPOM_PULL_URL")
    assert isinstance(named, Address) and named.database == "app"
