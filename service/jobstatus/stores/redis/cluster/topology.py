"""Which node owns which slots, according to the nodes of a cluster (CLUSTER NODES).

Nodes may disagree for a while: a primary that was frozen still claims what another has taken over. Each claim carries
the epoch in which it was made, and the latest one wins, so it is enough that one node which knows it answers.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from jobstatus.stores.redis.cluster.url import NodeAddress


class Claim(NamedTuple):
    """One node says that the node at `address` is a primary with these slots, as of this epoch."""

    epoch: int
    address: NodeAddress
    slots: tuple[tuple[int, int], ...]


class View(NamedTuple):
    """How one node sees the cluster."""

    members: tuple[NodeAddress, ...]
    claims: tuple[Claim, ...]
    replicas: tuple[tuple[NodeAddress, NodeAddress], ...]
    """Each replica with its primary."""


def view_of(text: bytes, asked: NodeAddress, *, by_name: bool) -> View:
    """Parse the reply of the node at `asked` to CLUSTER NODES. `by_name` prefers host names, as in certificates."""
    members: dict[str, NodeAddress] = {}
    primaries: dict[str, str] = {}
    claims = []
    for line in text.decode("utf-8", "replace").splitlines():
        name, where, flags, primary, _, _, epoch, _, *slots = line.split(" ")
        if not {"noaddr", "handshake"}.isdisjoint(flags.split(",")):
            continue
        members[name] = _address(where, asked, by_name=by_name)
        if "master" in flags.split(","):
            claims.append(Claim(int(epoch), members[name], tuple(_ranges(slots))))
        else:
            primaries[name] = primary
    replicas = [(members[name], members[primary]) for name, primary in primaries.items() if primary in members]
    return View(tuple(members.values()), tuple(claims), tuple(replicas))


def owners(views: Iterable[View], slots: Collection[int]) -> dict[int, NodeAddress]:
    """Return the owner of each of these slots; slots without a claim are left out."""
    claims = {claim for view in views for claim in view.claims}
    found: dict[int, NodeAddress] = {}
    for claim in sorted(claims, key=lambda claim: claim.epoch):
        for slot in slots:
            if any(first <= slot <= last for first, last in claim.slots):
                found[slot] = claim.address
    return found


def _address(text: str, asked: NodeAddress, *, by_name: bool) -> NodeAddress:
    """Parse `ip:port@bus-port,hostname,…`; a node that does not know its own address leaves the ip empty."""
    where, *names = text.split(",")
    host, _, port = where.partition("@")[0].rpartition(":")
    if by_name and names and names[0]:
        host = names[0]
    return NodeAddress(host or asked.host, int(port))


def _ranges(words: Iterable[str]) -> Iterable[tuple[int, int]]:
    for word in words:
        if not word.startswith("["):  # a slot that is being moved, which still has its owner
            first, _, last = word.partition("-")
            yield int(first), int(last or first)
