"""Virtual keys: few, so all have one hash tag, and each change is one script.

prefix:{keys}:documents   hash    id -> JSON, see `_document`
prefix:{keys}:hashes      hash    SHA-256 in hexadecimal -> id
prefix:{keys}:created     hash    id -> created_at_ms of the first put
prefix:{keys}:ids         zset    the ids in their order
prefix:{keys}:version     string  differs after every change, even after a failover that lost one: it follows the time
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from jobstatus.core.errors import InvalidField
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores.redis import scripts
from jobstatus.stores.redis.cluster.connection import Word, pack
from jobstatus.stores.redis.cluster.router import ClusterClient, Command
from jobstatus.stores.redis.errors import raise_first
from jobstatus.stores.redis.keys import Keys

_NAMES: Final = ("documents", "hashes", "created", "ids", "version")


class VirtualKeys:
    """Implements `core.store.VirtualKeyStore`."""

    def __init__(self, client: ClusterClient, keys: Keys) -> None:
        self._client = client
        self._slot = keys.slot_of_virtual_keys
        self._keys = tuple(keys.of_virtual_keys + name for name in _NAMES)
        self._documents, self._hashes, self._created, self._ids, self._version = self._keys

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        if not virtual_key_ids:
            return []
        documents, created = await self._ask(
            pack("HMGET", self._documents, *virtual_key_ids), pack("HMGET", self._created, *virtual_key_ids)
        )
        return [
            None if document is None or created_at_ms is None else _virtual_key(document, int(created_at_ms))
            for document, created_at_ms in zip(documents, created, strict=True)
        ]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        if not digests:
            return []
        (owners,) = await self._ask(pack("HMGET", self._hashes, *(digest.hex() for digest in digests)))
        ids = sorted({owner.decode() for owner in owners if owner is not None})
        found = {key.virtual_key_id: key for key in await self.read_virtual_keys(ids) if key is not None}
        keys = [None if owner is None else found.get(owner.decode()) for owner in owners]
        return [
            key if key is not None and digest in key.key_sha256 else None
            for key, digest in zip(keys, digests, strict=True)
        ]

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        arguments: list[Word] = [virtual_key.virtual_key_id, _document(virtual_key), virtual_key.created_at_ms]
        arguments += (digest.hex() for digest in virtual_key.key_sha256)
        (created_at_ms,) = await self._ask(scripts.PUT_VIRTUAL_KEY.call(self._keys, arguments), durable=True)
        if created_at_ms is None:
            raise InvalidField.of("key_sha256", "must not be registered for another virtual key")
        return replace(virtual_key, created_at_ms=int(created_at_ms))

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        """Change the document, and begin anew where it has changed since it was read."""
        while True:
            ((document,),) = await self._ask(pack("HMGET", self._documents, virtual_key_id))
            if document is None:
                return False
            disabled = json.dumps(json.loads(document) | {"disabled": True, "updated_at_ms": now_ms})
            call = scripts.REPLACE_VIRTUAL_KEY.call(self._keys, [virtual_key_id, document, disabled])
            (is_done,) = await self._ask(call, durable=True)
            if is_done:
                return True

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        (existed,) = await self._ask(scripts.DELETE_VIRTUAL_KEY.call(self._keys, [virtual_key_id]), durable=True)
        return bool(existed)

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        (ids,) = await self._ask(
            pack("ZRANGE", self._ids, f"({after}" if after else "-", "+", "BYLEX", "LIMIT", 0, limit)
        )
        found = await self.read_virtual_keys([virtual_key_id.decode() for virtual_key_id in ids])
        return [virtual_key for virtual_key in found if virtual_key is not None]

    async def virtual_keys_version(self) -> int:
        (version,) = await self._ask(pack("GET", self._version))
        return int(version or 0)

    async def _ask(self, *packed: bytes, durable: bool = False) -> list[Any]:
        """Return the replies. Raises the first error."""
        replies = await self._client.execute([Command(self._slot, command) for command in packed], durable=durable)
        raise_first(replies)
        return replies


def _document(virtual_key: VirtualKey) -> str:
    return json.dumps(
        {
            "virtual_key_id": virtual_key.virtual_key_id,
            "key_sha256": [digest.hex() for digest in virtual_key.key_sha256],
            "disabled": virtual_key.disabled,
            "expires_at_ms": virtual_key.expires_at_ms,
            "updated_at_ms": virtual_key.updated_at_ms,
        }
    )


def _virtual_key(document: bytes, created_at_ms: int) -> VirtualKey:
    fields: dict[str, Any] = json.loads(document)
    digests = tuple(bytes.fromhex(digest) for digest in fields.pop("key_sha256"))
    return VirtualKey(**fields, key_sha256=digests, created_at_ms=created_at_ms)
