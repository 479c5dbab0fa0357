"""The checks before a store is used: they refuse servers that would lose jobs, and warn of risks.

Each message says what to change.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Final

import hiredis

from jobstatus.stores import StoreConfigError
from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.durability import Durability
from jobstatus.stores.redis.cluster.errors import FAULTS, Refused
from jobstatus.stores.redis.cluster.node import Node
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.size_limits import SETTINGS, SizeLimits, size_limits
from jobstatus.stores.redis.url import RedisConfig

OLDEST_VERSION: Final = (7, 0)
USUAL_RESULT_BYTES: Final = 16 * 1024 * 1024
"""The default of JOBSTATUS_MAX_RESULT_BYTES."""

_CONFIG: Final = pack(
    "CONFIG",
    "GET",
    "maxmemory",
    "maxmemory-policy",
    "appendonly",
    "appendfsync",
    "save",
    "cluster-require-full-coverage",
    *SETTINGS,
)

_log = logging.getLogger(__name__)


async def opened(
    nodes: Nodes, config: RedisConfig, replicas: int | None, wait_ms: int
) -> tuple[Durability, SizeLimits]:
    """Open the nodes and check every primary. Return what an acknowledged write is on, and what the servers can take.

    Raises StoreConfigError when no server can be reached, or one would lose jobs.
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
        raise StoreConfigError(f"the cluster at {_listed(config)} has assigned no slots: finish setting it up")
    for node, configuration in configurations.items():
        _check(node, configuration, config)
    required = _required_replicas(nodes, replicas)
    durability = Durability(
        replicas=required,
        fsync=config.waits_for_fsync,
        wait_ms=wait_ms,
        replicas_with_aof=required if _replicas_have_aof(nodes) else 0,
        is_synced_each_second=any(found.get("appendfsync") == "everysec" for found in configurations.values()),
    )
    return durability, _size_limits(configurations.values())


async def _configurations(primaries: list[Node]) -> dict[Node, dict[str, str]]:
    """Return those of all primaries that answer, and warn of the others. Raises the last fault when none answers."""
    configurations: dict[Node, dict[str, str]] = {}
    for node in primaries:
        try:
            configurations[node] = await _configuration(node)
        except FAULTS:
            if node is primaries[-1] and not configurations:
                raise
            _log.warning(
                "A server of the store does not answer, so its configuration is not checked.",
                extra={"event": "store_config_unchecked", "server": str(node.address)},
            )
    return configurations


async def _configuration(node: Node) -> dict[str, str]:
    """Return what CONFIG GET tells, or where it is not allowed, as much as INFO tells."""
    found = await node.health_check(_CONFIG)
    if isinstance(found, hiredis.ReplyError):
        _log.warning(
            "The store's server does not allow CONFIG GET: make sure that appendonly is yes, "
            "maxmemory-policy is noeviction and appendfsync is not no.",
            extra={"event": "store_config_unreadable", "server": str(node.address)},
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
    """Raise StoreConfigError for what loses jobs; warn of what may lose some."""
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
            "The server would drop keys if its memory had a limit: set maxmemory-policy to noeviction.",
            extra={"event": "store_may_evict", "server": where},
        )
    if configuration.get("appendonly") != "yes":
        _check_unwritten(where, configuration, config)
    elif configuration.get("appendfsync") == "no":
        _log.warning(
            "The server leaves syncing to the operating system: set appendfsync to always.",
            extra={"event": "store_fsync_off", "server": where},
        )
    elif configuration.get("appendfsync") == "everysec" and config.waits_for_fsync and info.knows_waitaof:
        _log.warning(
            "The server syncs once a second, and each write waits for that: set appendfsync to always, "
            "or fsync=false in the store URL.",
            extra={"event": "store_fsync_every_second", "server": where},
        )
    if info.is_cluster and configuration.get("cluster-require-full-coverage") == "yes":
        _log.warning(
            "The whole cluster refuses commands when one primary fails: set cluster-require-full-coverage to no.",
            extra={"event": "store_needs_full_coverage", "server": where},
        )


def _size_limits(configurations: Iterable[Mapping[str, str]]) -> SizeLimits:
    """Return the limits. Warn if they keep results out that the service accepts by default."""
    limits = size_limits(configurations)
    if limits.result_bytes < USUAL_RESULT_BYTES:
        _log.warning(
            "The servers could not send back larger results than this, so they are refused: raise proto-max-bulk-len, "
            "client-query-buffer-limit and the limits of client-output-buffer-limit normal.",
            extra={"event": "store_limits_results", "bytes": limits.result_bytes},
        )
    return limits


def _check_unwritten(where: str, configuration: Mapping[str, str], config: RedisConfig) -> None:
    """As `_check`, for a server without an append-only file."""
    if not configuration.get("save"):
        if not config.is_ephemeral:
            raise StoreConfigError(
                f"the server at {where} writes nothing to a disk: set appendonly to yes, "
                "or say ephemeral=true in the store URL if jobs may be lost"
            )
        _log.warning(
            "The server writes nothing to a disk: all jobs are lost when it ends.",
            extra={"event": "store_not_persistent", "server": where},
        )
    else:
        _log.warning(
            "The server keeps no append-only file, so a crash loses the writes since its last snapshot, on its "
            "replicas too if it restarts before one of them takes over: set appendonly to yes.",
            extra={"event": "store_without_aof", "server": where},
        )


def _required_replicas(nodes: Nodes, asked: int | None) -> int:
    """Return on how many replicas writes must be. By default one, where a cluster has replicas."""
    required = int(bool(nodes.replicas)) if asked is None else asked
    _log.info(
        "An acknowledged write is on this many replicas besides the primary.",
        extra={"event": "store_replicas_required", "replicas": required},
    )
    for node in nodes.primaries():
        if node.info.is_known and node.info.replicas < required:
            _log.warning(
                "The server has fewer replicas than JOBSTATUS_REDIS_REPLICAS requires: its writes fail until it has "
                "enough.",
                extra={
                    "event": "store_replicas_missing",
                    "server": str(node.address),
                    "replicas": node.info.replicas,
                    "required": required,
                },
            )
    if required and not nodes.is_cluster:
        _log.warning(
            "Whether the replicas keep an append-only file is unknown: set appendonly to yes there, or fsync=false in "
            "the store URL, else no write is acknowledged.",
            extra={"event": "store_replica_aof_unknown"},
        )
    return required


def _replicas_have_aof(nodes: Nodes) -> bool:
    """Whether the disks of replicas can confirm writes. Replicas that do not answer are assumed to be like others."""
    info = {address: nodes.node(address).info for address, _ in nodes.replicas}
    without = [address for address, of in info.items() if of.is_known and not of.has_aof]
    for address in without:
        _log.warning(
            "A replica keeps no append-only file: set appendonly to yes.",
            extra={"event": "store_replica_without_aof", "server": str(address)},
        )
    return not without


def _listed(config: RedisConfig) -> str:
    return ", ".join(map(str, config.cluster.addresses))
