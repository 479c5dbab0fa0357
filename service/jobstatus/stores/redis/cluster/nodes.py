"""All servers of a store, and which of them has which slot.

When a server stops answering, a task looks at all servers that are known until every slot has an owner that answers:
the same ones again, or others that have taken over. Until then whoever asks for such a slot is told so at once.
"""

import asyncio
import time
from collections.abc import Collection
from typing import Final

import hiredis

from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.node import FAULTS, Node
from jobstatus.stores.redis.cluster.topology import View, owners, view_of
from jobstatus.stores.redis.cluster.url import NodeAddress, RedisConfig

SHORT_PAUSE_SECONDS: Final = 0.05
LONG_PAUSE_SECONDS: Final = 0.5
"""How long to wait between two looks: the first after a fault, and the last of many."""

_CLUSTER_NODES: Final = pack("CLUSTER", "NODES")
_PING: Final = pack("PING")


class Nodes:
    """Open from `open` to `close`."""

    def __init__(self, config: RedisConfig, slots: Collection[int]) -> None:
        """`slots` are all that will ever be asked for."""
        self.is_cluster = False
        self.replicas: tuple[tuple[NodeAddress, NodeAddress], ...] = ()
        """Replica and its primary, as far as a cluster tells."""
        self._config = config
        self._slots = slots
        self._nodes: dict[NodeAddress, Node] = {}
        self._owners: dict[int, Node] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def open(self) -> None:
        """Learn who has what. Raises the fault of the first server when none answers."""
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
        """Let go of everything."""
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        for node in self._nodes.values():
            node.close()

    def node(self, address: NodeAddress) -> Node:
        """The server at this address."""
        if address not in self._nodes:
            self._nodes[address] = Node(address, self._config, self.refresh_topology)
        return self._nodes[address]

    def owner(self, slot: int) -> Node | None:
        """Who has the slot; None where nobody knows."""
        return self._owners.get(slot)

    def primaries(self) -> dict[Node, int]:
        """Every server that has slots of ours, and one of those."""
        return {node: slot for slot, node in self._owners.items()}

    def stable_seconds(self, slot: int) -> float:
        """For how long the slot has had the same owner, and that one has kept all it had, without a doubt."""
        owner = self._owners.get(slot)
        return 0.0 if owner is None else time.monotonic() - owner.stable_since

    def moved(self, slot: int, address: NodeAddress) -> Node:
        """A server says that another one has the slot now."""
        node = self.node(address)
        node.stable_since = time.monotonic()
        self._owners[slot] = node
        self.refresh_topology()
        return node

    def refresh_topology(self) -> None:
        """See to it, in the background, that every slot has an owner that answers."""
        if not self._is_closed and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_until_complete(), name="jobstatus-mend")

    async def _refresh_until_complete(self) -> None:
        pause = SHORT_PAUSE_SECONDS
        while not await self._check_all():
            await asyncio.sleep(pause)
            pause = min(1.5 * pause, LONG_PAUSE_SECONDS)

    async def _check_all(self) -> bool:
        """Ask every server, also those that the others name; whether every slot has an owner that answers."""
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
        """How the server sees the cluster; None when it does not say."""
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
        """Believe the latest claims, and forget servers that nobody names any more."""
        for slot, address in owners(views, self._slots).items():
            node = self.node(address)
            if self._owners.get(slot) not in (None, node):
                node.stable_since = time.monotonic()
            self._owners[slot] = node
        self.replicas = tuple({pair for view in views for pair in view.replicas})
        named = {address for view in views for address in view.members}
        for address in self._nodes.keys() - named - set(self._config.addresses):
            self._nodes.pop(address).close()
