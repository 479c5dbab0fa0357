"""Commands brought to the servers that they concern, and their replies back.

A server that fails fails its own commands only. Redirections (MOVED, ASK), keys on their way (TRYAGAIN) and forgotten
scripts (NOSCRIPT) are settled here; what else a server says against a command becomes StoreUnavailable or StoreFull.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import hiredis

from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.store import StoreError
from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.durability import Durability, DurabilityWait
from jobstatus.stores.redis.cluster.node import FAULTS, Node
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.url import NodeAddress
from jobstatus.stores.redis.scripts import LOADING

LIMIT_SECONDS: Final = 2.7
"""How long an operation takes at most, whatever happens."""
MAX_ROUNDS: Final = 16
PAUSE_SECONDS: Final = 0.05

_PING: Final = pack("PING")
_ASKING: Final = pack("ASKING")
_EXPECTED: Final = frozenset(
    {
        "CLUSTERDOWN",
        "MASTERDOWN",
        "LOADING",
        "READONLY",
        "NOREPLICAS",
        "MISCONF",
        "BUSY",
        "OOM",
        "TRYAGAIN",
        "UNBLOCKED",
    }
)
"""What servers say when something is the matter with them; anything else is news for whoever runs this."""

_log = logging.getLogger(__name__)


class Command(NamedTuple):
    """One command, for whoever has the slot."""

    slot: int
    packed: bytes


class NotDurable(Exception):
    """Too few replicas or disks have confirmed a write."""


@dataclass(slots=True)
class _Round:
    """What is sent at one time: by server, the indexes of its commands; `asking` those that another one passed on."""

    until: float
    groups: dict[Node | None, list[int]] = field(default_factory=dict)
    asking: dict[Node, list[int]] = field(default_factory=dict)
    pause: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.groups and not self.asking


class ClusterClient:
    """Asks the servers on behalf of one store."""

    def __init__(self, nodes: Nodes) -> None:
        self.durability = Durability()
        self._nodes = nodes
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._missed: set[Node] = set()
        """Servers whose replicas or disks did not confirm the last write in time."""
        self._heard: set[str] = set()

    async def execute(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """The reply to each command, or the StoreError in its place.

        With `durable` a reply means that what was written is as durable as `durability` says. What has begun is
        finished, also when the caller is cancelled.
        """
        task = asyncio.create_task(self._execute(commands, durable=durable))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Return when nothing is under way any more."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _execute(self, commands: Sequence[Command], *, durable: bool) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        if not commands:
            return replies
        now = _Round(asyncio.get_running_loop().time() + LIMIT_SECONDS)
        for index, command in enumerate(commands):
            now.groups.setdefault(self._nodes.owner(command.slot), []).append(index)
        for _ in range(MAX_ROUNDS):
            await self._send_all(now, commands, replies, durable=durable)
            following = _Round(now.until)
            for node, indexes in (*now.groups.items(), *now.asking.items()):
                await self._judge_all(node, indexes, commands, replies, following)
            if following.is_empty:
                break
            now = following
            if now.pause:
                await asyncio.sleep(PAUSE_SECONDS)
        return [unavailable(reply) if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]

    # --- there ---

    async def _send_all(self, now: _Round, commands: Sequence[Command], replies: list[Any], *, durable: bool) -> None:
        """Send to all servers at the same time; put every reply, or what went wrong, in its place."""

        async def send(node: Node | None, indexes: list[int], *, asking: bool) -> None:
            packed = [commands[index].packed for index in indexes]
            found = await self._send(node, packed, asking=asking, until=now.until, durable=durable)
            for index, reply in zip(indexes, found, strict=True):
                replies[index] = reply

        sending = [send(node, indexes, asking=False) for node, indexes in now.groups.items()]
        sending += [send(node, indexes, asking=True) for node, indexes in now.asking.items()]
        await (sending[0] if len(sending) == 1 else asyncio.gather(*sending))

    async def _send(
        self, node: Node | None, packed: list[bytes], *, asking: bool, until: float, durable: bool
    ) -> list[Any]:
        """The replies of one server, or what went wrong in each place."""
        if node is None:
            self._nodes.refresh_topology()
            return [unavailable(None) for _ in packed]
        try:
            if durable and not node.info.is_known:
                await node.health_check(_PING)
            waits = self._waits(node, sum(map(len, packed))) if durable else DurabilityWait(b"", (), 0)
            payload = _ASKING.join((b"", *packed)) if asking else b"".join(packed)
            wanted = len(packed) * (2 if asking else 1)
            found = await node.exchange(
                payload + waits.packed, wanted + len(waits.least), until=until, waits_ms=waits.ms
            )
        except FAULTS as error:
            return [unavailable(error) for _ in packed]
        replies = found[1:wanted:2] if asking else found[:wanted]
        return self._if_durable(node, replies, waits, found[wanted:])

    def _waits(self, node: Node, size: int) -> DurabilityWait:
        return self.durability.waits(node.info, size=size, was_missed=node in self._missed)

    def _if_durable(self, node: Node, replies: list[Any], waits: DurabilityWait, confirmations: list[Any]) -> list[Any]:
        """The replies, unless it is uncertain that what they tell of will last."""
        if waits.are_fulfilled_by(confirmations):
            self._missed.discard(node)
            return replies
        self._missed.add(node)
        for reply in confirmations:
            if isinstance(reply, hiredis.ReplyError):  # its configuration has changed
                self._report(node, reply)
                node.mark_down()
        return [
            reply if isinstance(reply, hiredis.ReplyError) else unavailable(NotDurable(str(confirmations)))
            for reply in replies
        ]

    # --- and back ---

    async def _judge_all(
        self,
        node: Node | None,
        indexes: Collection[int],
        commands: Sequence[Command],
        replies: list[Any],
        following: _Round,
    ) -> None:
        """What becomes of error replies: a place in the following round, or an error for the caller."""
        has_scripts = False
        for index in indexes:
            reply = replies[index]
            if node is None or not isinstance(reply, hiredis.ReplyError):
                continue
            code, _, rest = str(reply).partition(" ")
            match code:
                case "MOVED":
                    owner = self._nodes.moved(commands[index].slot, _redirected(rest, node))
                    following.groups.setdefault(owner, []).append(index)
                case "ASK":
                    target = self._nodes.node(_redirected(rest, node))
                    following.asking.setdefault(target, []).append(index)
                case "TRYAGAIN":
                    following.groups.setdefault(node, []).append(index)
                    following.pause = True
                case "NOSCRIPT":
                    has_scripts = has_scripts or await self._load_scripts(node, following.until)
                    following.groups.setdefault(node, []).append(index)
                case _:
                    replies[index] = self._refusal(node, reply, code)

    async def _load_scripts(self, node: Node, until: float) -> bool:
        """Teach the server our scripts; whether it listened (if not, the next round says why)."""
        try:
            await node.exchange(LOADING.packed, LOADING.replies, until=until)
        except FAULTS:
            return False
        return True

    def _refusal(self, node: Node, reply: hiredis.ReplyError, code: str) -> StoreError:
        self._report(node, reply)
        match code:
            case "LOADING" | "READONLY":
                node.mark_down()
            case "CLUSTERDOWN":
                self._nodes.refresh_topology()
        if code == "OOM" or "No space left on device" in str(reply):
            full = StoreFull()
            full.__cause__ = reply
            return full
        return unavailable(reply)

    def _report(self, node: Node, reply: hiredis.ReplyError) -> None:
        """Say once what no fault of a server explains, such as a command that we may not use."""
        code = str(reply).partition(" ")[0]
        if code not in _EXPECTED and code not in self._heard:
            self._heard.add(code)
            _log.error(
                "The store refused a command.",
                extra={"event": "store_command_refused", "server": str(node.address), "code": code},
            )


def unavailable(cause: BaseException | None) -> StoreUnavailable:
    """The error, made anew for each who is told."""
    error = StoreUnavailable()
    error.__cause__ = cause
    return error


def is_error(reply: Any) -> bool:
    """Whether what `ask` returned in a place is a StoreError."""
    return isinstance(reply, StoreUnavailable | StoreFull)


def raise_first(replies: Iterable[Any]) -> None:
    """Raise the first StoreError among replies."""
    for reply in replies:
        if isinstance(reply, StoreUnavailable | StoreFull):
            raise reply


def _redirected(rest: str, node: Node) -> NodeAddress:
    """`slot host:port`; a host that is left out is the one that said it."""
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return NodeAddress(host.strip("[]") or node.address.host, int(port))
