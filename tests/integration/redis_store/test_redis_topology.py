"""What servers say about a cluster, and whom to believe when they differ."""

from jobstatus.stores.redis.cluster.topology import owners, view_of
from jobstatus.stores.redis.cluster.url import NodeAddress

ASKED = NodeAddress("127.0.0.1", 7001)
NODES = b"""\
aaa 10.0.0.1:7001@17001,one.example,shard-id=x myself,master - 0 0 4 connected 0-99 200 [300->-ddd]
bbb 10.0.0.2:7002@17002,two.example master - 0 1 2 connected 100-199
ccc 10.0.0.3:7003@17003, slave bbb 0 1 2 connected
ddd :0@0 master,noaddr - 0 1 9 disconnected 0-16383
eee 10.0.0.5:7005@17005 master,fail - 0 1 1 disconnected 201-300
fff [fd00::6]:7006@17006 handshake - 0 0 0 connected
"""
ONE, TWO, THREE, FIVE = (NodeAddress(f"10.0.0.{number}", 7000 + number) for number in (1, 2, 3, 5))


def test_a_view_has_primaries_with_their_slots_and_replicas() -> None:
    """Ranges and single slots; slots on their way stay where they are; servers without an address are left out."""
    view = view_of(NODES, ASKED, by_name=False)
    assert view.members == (ONE, TWO, THREE, FIVE)
    assert [(claim.address, claim.epoch, claim.slots) for claim in view.claims] == [
        (ONE, 4, ((0, 99), (200, 200))),
        (TWO, 2, ((100, 199),)),
        (FIVE, 1, ((201, 300),)),
    ]
    assert view.replicas == ((THREE, TWO),)
    assert owners([view], [0, 99, 100, 200, 250, 400]) == {0: ONE, 99: ONE, 100: TWO, 200: ONE, 250: FIVE}


def test_servers_are_called_by_name_where_certificates_are_checked() -> None:
    """A server without a name keeps its address."""
    view = view_of(NODES, ASKED, by_name=True)
    assert view.members == (NodeAddress("one.example", 7001), NodeAddress("two.example", 7002), THREE, FIVE)


def test_a_server_that_does_not_know_its_address_is_where_it_was_asked() -> None:
    """Before it has met others a server leaves its address empty."""
    view = view_of(b"aaa :7001@17001 myself,master - 0 0 0 connected 0-16383\n", ASKED, by_name=False)
    assert view.members == (ASKED,)


def test_the_latest_claim_holds_whoever_is_heard_last() -> None:
    """A primary that was overruled while it slept is not believed, in any order of the answers."""
    stale = view_of(b"bbb 10.0.0.2:7002@17002 myself,master - 0 0 2 connected 0-99\n", ASKED, by_name=False)
    fresh = view_of(b"aaa 10.0.0.1:7001@17001 myself,master - 0 0 7 connected 0-99\n", ASKED, by_name=False)
    assert owners([stale, fresh], [5]) == owners([fresh, stale], [5]) == {5: ONE}
    assert owners([stale], [5]) == {5: TWO}
    assert owners([], [5]) == {}
