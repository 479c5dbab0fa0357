"""Short texts between the processes that use one store, by PUBLISH and SUBSCRIBE."""

from collections.abc import Callable

from jobstatus.core.errors import StoreUnavailable
from jobstatus.stores.redis.cluster.connection import pack
from jobstatus.stores.redis.cluster.errors import FAULTS, Refused
from jobstatus.stores.redis.cluster.nodes import Nodes
from jobstatus.stores.redis.cluster.router import ClusterClient, Command
from jobstatus.stores.redis.cluster.subscription import hear
from jobstatus.stores.redis.cluster.url import ClusterConfig
from jobstatus.stores.redis.errors import raise_first


class RedisNotices:
    """Implements `core.store.NoticeChannel`. In a cluster the servers pass on what is published at any of them."""

    def __init__(self, client: ClusterClient, nodes: Nodes, config: ClusterConfig, prefix: str, seconds: float) -> None:
        """`seconds` is how long connecting may take."""
        self._client = client
        self._nodes = nodes
        self._config = config
        self._channel = f"{prefix}:{config.database}:changes"
        self._seconds = seconds

    async def publish(self, text: str) -> None:
        slot = next(iter(self._nodes.primaries().values()), None)
        if slot is None:
            raise StoreUnavailable
        raise_first(await self._client.execute([Command(slot, pack("PUBLISH", self._channel, text))]))

    async def hear(self, heard: Callable[[str], None]) -> str:
        def note(text: bytes) -> None:
            heard(text.decode(errors="replace"))  # any program may publish there

        node = next(iter(self._nodes.primaries()), None)
        if node is None:
            raise StoreUnavailable
        try:
            await hear(node.address, self._config, self._seconds, self._channel, note)
        except (*FAULTS, Refused) as error:
            raise StoreUnavailable from error
        return "the connection has ended"
