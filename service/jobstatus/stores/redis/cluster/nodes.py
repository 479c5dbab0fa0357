"""The nodes of a cluster (or a single server), and which of them owns which slot.

When a node stops answering, a task health-checks all known nodes until every slot has an owner that answers: the same
one again, or one that has taken over. Until then commands for such a slot fail at once.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

import hiredis

from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.errors import FAULTS
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.cluster.node import Node
from jobstatus.stores.redis.cluster.topology import View, owners, view_of
from jobstatus.stores.redis.cluster.url import ClusterConfig, NodeAddress

SHORT_PAUSE_SECONDS: Final = 0.05
LONG_PAUSE_SECONDS: Final = 0.5
"""The pause between two refreshes of the topology: the first after a fault, and the longest."""

_CLUSTER_NODES: Final = pack("CLUSTER", "NODES")
_PING: Final = pack("PING")


class Nodes:
    """Open from `open` to `close`."""

    def __init__(self, config: ClusterConfig, slots: Collection[int], limits: ClusterLimits) -> None:
        """`slots` are all that commands will be sent to."""
        self._limits = limits
        self.is_cluster = False
        self.replicas: tuple[tuple[NodeAddress, NodeAddress], ...] = ()
        """Each replica with its primary; empty for a single server."""
        self._config = config
        self._slots = slots
        self._nodes: dict[NodeAddress, Node] = {}
        self._owners: dict[int, Node] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Learn which node owns which slot. Raises the fault of the first seed when none answers."""
        faults: list[Exception] = []
        for address in self._config.addresses:
            node = self.node(address)
            try:
                await node.health_check(_PING)
            except FAULTS as error:
                faults.append(error)
                continue
            self.is_cluster = node.info.is_cluster
            if not self.is_cluster:
                self._owners = dict.fromkeys(self._slots, node)
            await self._check_all()
            return
        raise faults[0]

    async def close(self) -> None:
        """Close all connections, after the exchanges under way have ended."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(node.close() for node in self._nodes.values()))

    def node(self, address: NodeAddress) -> Node:
        """Return the node at this address."""
        if address not in self._nodes:
            self._nodes[address] = Node(address, self._config, self._limits, self.refresh_topology)
        return self._nodes[address]

    def owner(self, slot: int) -> Node | None:
        """Return the owner of the slot; None where it is unknown."""
        return self._owners.get(slot)

    def primaries(self) -> dict[Node, int]:
        """Return every node that owns slots, with one of them."""
        return {node: slot for slot, node in self._owners.items()}

    def stable_seconds(self, slot: int) -> float:
        """Return for how long the slot has certainly had the same owner, without a restart; 0 for an unknown owner."""
        owner = self._owners.get(slot)
        return 0.0 if owner is None else time.monotonic() - owner.stable_since

    def moved(self, slot: int, address: NodeAddress) -> Node:
        """Record that the node at this address owns the slot now, as another node has said."""
        node = self.node(address)
        node.stable_since = time.monotonic()
        self._owners[slot] = node
        self.refresh_topology()
        return node

    def refresh_topology(self) -> None:
        """Refresh in the background, until every slot has an owner that answers."""
        if not self._is_closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_until_complete(), name="refresh-topology")

    async def _refresh_until_complete(self) -> None:
        pause = SHORT_PAUSE_SECONDS
        while not await self._check_all():
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONG_PAUSE_SECONDS)

    async def _check_all(self) -> bool:
        """Check every node, including those that others name. Return whether every slot has an owner that answers."""
        if self.is_cluster:
            views: dict[Node, View] = {}
            asked: set[Node] = set()
            while asking := set(self._known()) - asked:
                asked |= asking
                found = await asyncio.gather(*(self._view(node) for node in asking))
                views |= {node: view for node, view in zip(asking, found, strict=True) if view is not None}
                for view in list(views.values()):
                    for address in view.members:
                        self.node(address)
            if views:
                self._learn(list(views.values()))
        else:
            await asyncio.gather(*(self._view(node) for node in self.primaries()))
        return len(self._owners) == len(self._slots) and not any(node.is_down for node in self.primaries())

    def _known(self) -> list[Node]:
        return list(self._nodes.values())

    async def _view(self, node: Node) -> View | None:
        """Return how the node sees the cluster; None when it does not answer."""
        try:
            answer = await node.health_check(_CLUSTER_NODES if self.is_cluster else _PING)
        except FAULTS:
            if not node.is_down and node in self.primaries():
                node.mark_down()
            return None
        if not self.is_cluster or isinstance(answer, hiredis.ReplyError):
            return None
        return view_of(answer, node.address, by_name=self._config.tls is not None)

    def _learn(self, views: list[View]) -> None:
        """Apply the latest claims, and drop nodes that no view names any more."""
        for slot, address in owners(views, self._slots).items():
            node = self.node(address)
            if self._owners.get(slot) not in (None, node):
                node.stable_since = time.monotonic()
            self._owners[slot] = node
        self.replicas = tuple({pair for view in views for pair in view.replicas})
        named = {address for view in views for address in view.members}
        for address in self._nodes.keys() - named - set(self._config.addresses):
            self._nodes.pop(address).drop()
