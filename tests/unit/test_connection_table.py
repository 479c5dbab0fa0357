"""The table of a port's connections: what counts as one address, and what is told of those that are turned away."""

import logging

import pytest
from harness.logged import events_logged
from jobstatus.rest.connection_table import ConnectionTable, Limit, network_of


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        (("192.0.2.1", 4711), "192.0.2.1"),
        (("::ffff:192.0.2.1", 4711, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::", 4711, 0, 0), "2001:db8:1:2::/64"),
        (("2001:db8:1:3::", 4711, 0, 0), "2001:db8:1:3::/64"),
        (("::1", 4711, 0, 0), "::/64"),
        (("fe80::1%eth0", 4711, 0, 2), "fe80::/64"),
        ("/run/a.sock", None),
        ("", None),
        (None, None),
    ],
)
def test_an_address_counts_as_what_its_owner_has(peer: object, network: str | None) -> None:
    """One address of IPv4, a network of 64 bits of IPv6; a peer without an address is nobody's."""
    assert network_of(peer) == network


def test_each_limit_holds_and_a_connection_that_ends_makes_room() -> None:
    table = ConnectionTable(limit=3, limit_each=2)
    assert [table.admit("a") for _ in range(3)] == [None, None, "max_connections_each"]
    assert [table.admit("b") for _ in range(2)] == [None, "max_connections"]
    table.release("a")
    assert (table.count, table.admit("a"), table.admit("b")) == (2, None, "max_connections")


def test_without_a_limit_for_each_address_one_may_have_all() -> None:
    table = ConnectionTable(limit=3)
    assert [table.admit("a") for _ in range(4)] == [None, None, None, "max_connections"]


def test_a_peer_without_an_address_counts_in_all_only() -> None:
    table = ConnectionTable(limit=3, limit_each=1)
    assert [table.admit(None) for _ in range(4)] == [None, None, None, "max_connections"]
    table.release(None)
    assert table.admit("a") is None


def test_the_first_of_many_is_logged_with_the_address_to_look_for(caplog: pytest.LogCaptureFixture) -> None:
    """Of a full table that is the one with the most connections, not the one that was turned away."""
    refused: list[Limit] = []
    table = ConnectionTable(limit=5, limit_each=3, on_refused=refused.append)
    for network in ("b", "a", "a", "a", "c"):
        assert table.admit(network) is None
    caplog.set_level(logging.INFO)
    for _ in range(100):
        table.report("max_connections", "d", 8080)
        table.report("max_connections_each", "a", 8080)
    assert events_logged(caplog) == ["connections_refused"] * 2
    told = [{name: vars(record)[name] for name in ("limit", "address", "of_address")} for record in caplog.records]
    assert told == [
        {"limit": "max_connections", "address": "a", "of_address": 3},
        {"limit": "max_connections_each", "address": "a", "of_address": 3},
    ]
    assert refused == ["max_connections", "max_connections_each"] * 100
