"""What is learnt and checked before a store is used: it refuses servers that would lose jobs, and warns of risks.

Each sentence says what to change.
"""

import logging
from collections.abc import Mapping
from typing import Final

import hiredis

from jobstatus.stores import StoreConfigError
from jobstatus.stores.redis.cluster.connection import Refused, pack
from jobstatus.stores.redis.cluster.durability import Durability
from jobstatus.stores.redis.cluster.node import FAULTS, Node
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.url import RedisConfig

OLDEST_VERSION: Final = (7, 0)

_CONFIG: Final = pack(
    "CONFIG",
    "GET",
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "cluster-require-full-coverage",
)

_log = logging.getLogger(__name__)


async def opened(nodes: Nodes, config: RedisConfig, replicas: int | None) -> Durability:
    """Open the servers and look at every primary; what an acknowledged write will be on.

    Raises StoreConfigError when a server cannot be reached, or would lose jobs.
    """
    try:
        await nodes.open()
        configurations = await _configurations(list(nodes.primaries()))
    except Refused as error:
        raise StoreConfigError(
            f"the server at {_listed(config)} refuses the user, password or database of the store URL"
        ) from error
    except FAULTS as error:
        raise StoreConfigError(
            f"no server answers at {_listed(config)} ({type(error).__name__}): start it, or correct the store URL"
        ) from error
    if not nodes.primaries():
        raise StoreConfigError(f"the cluster at {_listed(config)} has given its slots to nobody: finish setting it up")
    for node, configuration in configurations.items():
        _check(node, configuration, config)
    required = _required_replicas(nodes, replicas)
    return Durability(
        replicas=required,
        fsync=config.waits_for_fsync,
        replicas_with_aof=required if _replicas_have_aof(nodes) else 0,
        is_synced_each_second=any(found.get("appendfsync") == "everysec" for found in configurations.values()),
    )


async def _configurations(primaries: list[Node]) -> dict[Node, dict[str, str]]:
    """Of all that answer; the others are warned of. Raises the last fault when none answers."""
    configurations: dict[Node, dict[str, str]] = {}
    for node in primaries:
        try:
            configurations[node] = await _configuration(node)
        except FAULTS:
            if node is primaries[-1] and not configurations:
                raise
            _log.warning("the server at %s does not answer: its configuration was not checked", node.address)
    return configurations


async def _configuration(node: Node) -> dict[str, str]:
    """What CONFIG tells, if we may ask; else as much as INFO does."""
    found = await node.health_check(_CONFIG)
    if isinstance(found, hiredis.ReplyError):
        _log.warning(
            "the store's server does not let its configuration be read: see to it that appendonly is yes, "
            "maxmemory-policy noeviction and appendfsync not no",
            extra={"server": str(node.address)},
        )
        info = node.info
        return {
            "maxmemory": str(info.maxmemory),
            "maxmemory-policy": info.maxmemory_policy,
            "appendonly": "yes" if info.has_aof else "no",
            "save": "unknown",
        }
    words = [word.decode("utf-8", "replace") for word in found]
    return dict(zip(words[::2], words[1::2], strict=True))


def _check(node: Node, configuration: Mapping[str, str], config: RedisConfig) -> None:
    """Raise StoreConfigError for what loses jobs; warn of what may."""
    where, info = str(node.address), node.info
    if info.version < OLDEST_VERSION:
        version = ".".join(map(str, info.version)) or "unknown"
        raise StoreConfigError(f"the server at {where} has version {version}: use Redis 7.0 or newer, or Valkey")
    if info.role == "slave":
        raise StoreConfigError(f"the server at {where} is a replica: name its primary in the store URL")
    policy = configuration.get("maxmemory-policy", "noeviction")
    if policy not in ("noeviction", ""):
        if int(configuration.get("maxmemory", 0)):
            raise StoreConfigError(
                f"the server at {where} drops keys when its memory is full (maxmemory-policy {policy}): "
                "set maxmemory-policy to noeviction"
            )
        _log.warning(
            "the server at %s would drop keys if its memory had a limit: set maxmemory-policy to noeviction", where
        )
    if configuration.get("appendonly") != "yes":
        _check_unwritten(where, configuration, config)
    elif configuration.get("appendfsync") == "no":
        _log.warning("the server at %s leaves it to the system when it syncs: set appendfsync to always", where)
    elif configuration.get("appendfsync") == "everysec" and config.waits_for_fsync and info.knows_waitaof:
        _log.warning(
            "the server at %s syncs once a second, and so long does each write wait: set appendfsync to always, "
            "or say fsync=false in the store URL",
            where,
        )
    if info.is_cluster and configuration.get("cluster-require-full-coverage") == "yes":
        _log.warning(
            "when one primary fails, the cluster of %s refuses all: set cluster-require-full-coverage to no", where
        )


def _check_unwritten(where: str, configuration: Mapping[str, str], config: RedisConfig) -> None:
    """There is no log of writes."""
    if not configuration.get("save"):
        if not config.is_ephemeral:
            raise StoreConfigError(
                f"the server at {where} writes nothing to a disk: set appendonly to yes, "
                "or say ephemeral=true in the store URL if jobs may be lost"
            )
        _log.warning("the server at %s writes nothing to a disk: all jobs are lost when it ends", where)
    else:
        _log.warning(
            "the server at %s keeps no log of writes, and a crash loses those since its last snapshot, on its replicas "
            "too when it is back before one of them has taken over: set appendonly to yes",
            where,
        )


def _required_replicas(nodes: Nodes, asked: int | None) -> int:
    """On how many replicas writes have to be. Where nobody has said: on one, where a cluster has any."""
    required = int(bool(nodes.replicas)) if asked is None else asked
    _log.info("an acknowledged write is on %d replicas besides the primary", required)
    for node in nodes.primaries():
        if node.info.is_known and node.info.replicas < required:
            _log.warning(
                "the server at %s has %d replicas: until it has the %d that JOBSTATUS_REDIS_REPLICAS requires, "
                "its writes fail",
                *(node.address, node.info.replicas, required),
            )
    if required and not nodes.is_cluster:
        _log.warning(
            "it is not known whether the replicas keep a log of writes: set appendonly to yes there, or say "
            "fsync=false in the store URL, else no write is acknowledged"
        )
    return required


def _replicas_have_aof(nodes: Nodes) -> bool:
    """Whether the disks of replicas can be waited for; those that do not answer are taken to have what others have."""
    info = {address: nodes.node(address).info for address, _ in nodes.replicas}
    without = [address for address, of in info.items() if of.is_known and not of.has_aof]
    for address in without:
        _log.warning("the replica at %s keeps no log of writes: set appendonly to yes", address)
    return not without


def _listed(config: RedisConfig) -> str:
    return ", ".join(map(str, config.addresses))
