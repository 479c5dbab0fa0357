"""What a server says about itself (INFO)."""

from dataclasses import dataclass
from typing import Final

_UNKNOWN: Final = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Empty texts and zeros where INFO does not say."""

    is_known: bool = False
    version: tuple[int, ...] = ()
    is_cluster: bool = False
    role: str = _UNKNOWN
    replicas: int = 0
    has_aof: bool = False
    maxmemory: int = 0
    maxmemory_policy: str = _UNKNOWN

    @property
    def knows_waitaof(self) -> bool:
        """Whether WAITAOF works on the server."""
        return self.has_aof and self.version >= (7, 2)


def parse_server_info(info: bytes) -> ServerInfo:
    """Parse a reply to INFO."""
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    found = {name: value for name, _, value in lines}
    return ServerInfo(
        is_known=True,
        version=_version(found.get("redis_version", "")),
        is_cluster="1" in (found.get("cluster_enabled"), str(int(found.get("redis_mode") == "cluster"))),
        role=found.get("role", _UNKNOWN),
        replicas=int(found.get("connected_slaves", 0)),
        has_aof=found.get("aof_enabled") == "1",
        maxmemory=int(found.get("maxmemory", 0)),
        maxmemory_policy=found.get("maxmemory_policy", _UNKNOWN),
    )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
