from __future__ import annotations

import pytest

from repom.settings.address import Address, is_host

CANARY = "s3cret-c4nary"
LOOPBACK = (
    *("localhost", "LocalHost", "127.0.0.1", "127.255.0.9", "::1", "[::1]", "::1%lo"),
    *("::ffff:127.0.0.1", "0:0:0:0:0:0:0:1"),
)
SOCKETS = (None, "", "/run/postgresql", "@abstract")
ELSEWHERE = (
    *("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "127.0.0.1.example.com", "db"),
    *("[::2]", "::ffff:10.0.0.1"),
)


@pytest.mark.parametrize("host", [*LOOPBACK, *SOCKETS, *ELSEWHERE])
def test_what_is_this_machine(host: str | None) -> None:
    address = Address(host)

    assert (host in SOCKETS) == address.is_socket
    assert (host in LOOPBACK) == address.is_loopback
    assert (host not in ELSEWHERE) == address.is_local


@pytest.mark.parametrize(
    ("host", "bound", "reached"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.2", "127.0.0.2", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "", True),
        ("127.0.0.1", "::", False),
        ("127.0.0.1", "::1", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("::1", "::", True),
        ("::1", "0.0.0.0", False),
        ("::1", "127.0.0.1", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "::1", True),
        ("localhost", "0.0.0.0", True),
        ("localhost", "192.168.0.7", False),
        ("localhost", "127.0.0.2", False),
    ],
)
def test_which_listening_address_is_reached(host: str, bound: str, reached: bool) -> None:
    assert reached == Address(host).reaches(bound)


@pytest.mark.parametrize(
    ("host", "near"),
    [(None, True), ("localhost", True), ("::1", True), ("db", True), ("db2", False)],
)
def test_a_container_can_be_at_its_own_name_or_on_this_machine(
    host: str | None, near: bool
) -> None:
    assert near == Address(host).is_near("db")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (Address(None, None, "a", "b"), "postgresql://a@localhost:5432/b"),
        (Address("db", 5433, "a@b", "c/d"), "postgresql://a%40b@db:5433/c%2Fd"),
        (Address("::1", None, "a", "b", CANARY), "postgresql://a:***@[::1]:5432/b"),
        (Address("fe80::1%eth0", 1, "a", "b"), "postgresql://a@[fe80::1%25eth0]:1/b"),
        (Address("/run/a:b", None, "a", "b"), "postgresql://a@%2Frun%2Fa%3Ab:5432/b"),
    ],
)
def test_the_url_that_is_shown_hides_the_password(address: Address, url: str) -> None:
    assert url == address.masked_url()


def test_what_it_shows_and_passes_on_hides_the_password() -> None:
    found = Address("db", None, "a", "b", CANARY)
    shown = [repr(found), str(found), found.where, found.conninfo("b", local=False)]

    assert found.where == "db:5432"
    assert CANARY not in "".join(shown)


HOSTS = ("db", "my_db", "a.b-c", "bücher.example", "10.0.0.1", "::1", "[::1]", "/run", "@x")
NONE = ("", "a b", "p@h", "h:5432", "a/b", "a#b", "a?b", "[x", "-h", "a\nb", "a,b", "%2F")


@pytest.mark.parametrize("host", HOSTS)
def test_a_host(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize("host", NONE)
def test_not_a_host(host: str) -> None:
    assert not is_host(host)
