"""Routes each command to the node that owns its slot and returns the replies in order.

A node that fails fails only its own commands. Redirections (MOVED, ASK), keys that are being moved (TRYAGAIN) and
scripts that a node does not have (NOSCRIPT) are handled here; any other error reply becomes a CommandError.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import hiredis

from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.durability import Durability, DurabilityWait
from jobstatus.stores.redis.cluster.errors import FAULTS, CommandError, NoSpace, NotDurable, Unavailable
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.cluster.node import Node
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.url import NodeAddress

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
"""Error replies of a node that is at fault itself; any other is logged, because an operator has to act."""

_log = logging.getLogger(__name__)


class Command(NamedTuple):
    """One command, for the owner of the slot."""

    slot: int
    packed: bytes


class ScriptLoading(NamedTuple):
    """The commands that load the scripts which commands may use, and how many they are."""

    packed: bytes
    replies: int


@dataclass(slots=True)
class _Round:
    """What is sent at one time: by node, the indexes of its commands; `asking`: those with an ASK redirection."""

    until: float
    groups: dict[Node | None, list[int]] = field(default_factory=dict)
    asking: dict[Node, list[int]] = field(default_factory=dict)
    pause: bool = False

    @property
    def is_empty(self) -> bool:
        return not self.groups and not self.asking


class ClusterClient:
    """Executes commands on the nodes that own their slots."""

    def __init__(self, nodes: Nodes, scripts: ScriptLoading, limits: ClusterLimits) -> None:
        self.durability = Durability()
        self._nodes = nodes
        self._scripts = scripts
        self._limit_seconds = limits.operation_seconds
        self._writes: set[asyncio.Task[list[Any]]] = set()
        self._missed: set[Node] = set()
        """Nodes whose replicas or disks did not confirm the last write in time."""
        self._reported: set[str] = set()

    async def execute(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Return the reply to each command, or a CommandError in its place, within `operation_seconds`.

        With `durable` a reply means that what was written is as durable as `durability` says, and all commands are
        executed even if the caller is cancelled. Without it nodes then still execute what they were sent, but what they
        redirect is not sent again, which spares every read a task.
        """
        if not durable:
            return await self._execute(commands, durable=False)
        task = asyncio.create_task(self._execute(commands, durable=True), name="durable-write")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Return when no durable write is in progress."""
        if self._writes:
            await asyncio.wait(set(self._writes))

    async def _execute(self, commands: Sequence[Command], *, durable: bool) -> list[Any]:
        replies: list[Any] = [None] * len(commands)
        if not commands:
            return replies
        now = _Round(asyncio.get_running_loop().time() + self._limit_seconds)
        for index, command in enumerate(commands):
            now.groups.setdefault(self._nodes.owner(command.slot), []).append(index)
        for _ in range(MAX_ROUNDS):
            await self._send_all(now, commands, replies, durable=durable)
            following = _Round(now.until)
            for node, indexes in (*now.groups.items(), *now.asking.items()):
                await self._handle_errors(node, indexes, commands, replies, following)
            if following.is_empty:
                break
            now = following
            if now.pause:
                await asyncio.sleep(PAUSE_SECONDS)
        return [_error(Unavailable, reply) if isinstance(reply, hiredis.ReplyError) else reply for reply in replies]

    # --- requests ---

    async def _send_all(self, now: _Round, commands: Sequence[Command], replies: list[Any], *, durable: bool) -> None:
        """Send to all nodes at the same time. Put every reply, or its error, in its place."""

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
        """Return the replies of one node, or an error in each place."""
        if node is None:
            self._nodes.refresh_topology()
            return [_error(Unavailable, None) for _ in packed]
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
            return [_error(Unavailable, error) for _ in packed]
        replies = found[1:wanted:2] if asking else found[:wanted]
        return self._if_durable(node, replies, waits, found[wanted:])

    def _waits(self, node: Node, size: int) -> DurabilityWait:
        return self.durability.waits(node.info, size=size, was_missed=node in self._missed)

    def _if_durable(self, node: Node, replies: list[Any], waits: DurabilityWait, confirmations: list[Any]) -> list[Any]:
        """Return the replies, or errors in place of those that are not certainly durable."""
        if waits.are_fulfilled_by(confirmations):
            if waits.least:  # an exchange that waited for nothing says nothing about replicas
                self._missed.discard(node)
            return replies
        self._missed.add(node)
        for reply in confirmations:
            if isinstance(reply, hiredis.ReplyError):  # its configuration has changed
                self._report(node, reply)
                node.mark_down()
        return [
            reply if isinstance(reply, hiredis.ReplyError) else _error(Unavailable, NotDurable(str(confirmations)))
            for reply in replies
        ]

    # --- replies ---

    async def _handle_errors(
        self,
        node: Node | None,
        indexes: Collection[int],
        commands: Sequence[Command],
        replies: list[Any],
        following: _Round,
    ) -> None:
        """Put each command with an error reply into the following round, or its error in the place of the reply."""
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
        """Load the scripts. Return whether that worked; if not, the next round has the error."""
        try:
            await node.exchange(self._scripts.packed, self._scripts.replies, until=until)
        except FAULTS:
            return False
        return True

    def _refusal(self, node: Node, reply: hiredis.ReplyError, code: str) -> CommandError:
        self._report(node, reply)
        match code:
            case "LOADING" | "READONLY":
                node.mark_down()
            case "CLUSTERDOWN":
                self._nodes.refresh_topology()
        if code == "OOM" or "No space left on device" in str(reply):
            return _error(NoSpace, reply)
        return _error(Unavailable, reply)

    def _report(self, node: Node, reply: hiredis.ReplyError) -> None:
        """Log once an error that no fault of a node explains, such as a command that the user may not execute."""
        code = str(reply).partition(" ")[0]
        if code not in _EXPECTED and code not in self._reported:
            self._reported.add(code)
            _log.error(
                "The store refused a command.",
                extra={"event": "store_command_refused", "server": str(node.address), "code": code},
            )


def _error(leaf: type[CommandError], cause: BaseException | None) -> CommandError:
    """Make an error for one command alone."""
    error = leaf()
    error.__cause__ = cause
    return error


def _redirected(rest: str, node: Node) -> NodeAddress:
    """Parse `slot host:port`; an absent host is the node that replied."""
    host, _, port = rest.partition(" ")[2].rpartition(":")
    return NodeAddress(host.strip("[]") or node.address.host, int(port))
