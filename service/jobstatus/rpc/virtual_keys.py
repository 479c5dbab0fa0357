"""`service VirtualKeys`: parse the request, call the store, build the response."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from jobstatus.core.commands import MAX_BATCH, check_id
from jobstatus.core.errors import InvalidField, VirtualKeyNotFound
from jobstatus.core.store import VirtualKeyStore
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.rpc.messages import ms_from_timestamp, page_size, timestamp_from_ms, virtual_key_to_message
from jobstatus.rpc.pages import PageLimits, fill
from jobstatus.v1 import virtual_keys_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualKeysServicer:
    """Each RPC as a coroutine of its request.

    `clock` returns ms since the epoch. `on_change` is called after each change, so that it takes effect in this process
    at once. Lookups by key are done one after the other, because edges ask for whatever made-up keys they are sent: so
    these take one connection to the store, however many edges there are.
    """

    store: VirtualKeyStore
    clock: Callable[[], int]
    on_change: Callable[[], None]
    pages: PageLimits = PageLimits()  # noqa: RUF009  # a frozen value
    _finding: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)

    async def PutVirtualKey(self, request: pb.PutVirtualKeyRequest) -> pb.PutVirtualKeyResponse:
        now_ms = self.clock()
        virtual_key = VirtualKey(
            virtual_key_id=request.virtual_key_id,
            key_sha256=tuple(request.key_sha256),
            disabled=request.disabled,
            expires_at_ms=(
                ms_from_timestamp(request.expires_at, "expires_at") if request.HasField("expires_at") else None
            ),
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
        )
        try:
            stored = await self.store.put_virtual_key(virtual_key)
        finally:
            self.on_change()  # also when the call is cancelled or its outcome is unknown
        return pb.PutVirtualKeyResponse(virtual_key=virtual_key_to_message(stored))

    async def GetVirtualKey(self, request: pb.GetVirtualKeyRequest) -> pb.GetVirtualKeyResponse:
        check_id("virtual_key_id", request.virtual_key_id)
        (virtual_key,) = await self.store.read_virtual_keys((request.virtual_key_id,))
        if virtual_key is None:
            raise VirtualKeyNotFound
        return pb.GetVirtualKeyResponse(virtual_key=virtual_key_to_message(virtual_key))

    async def BatchGetVirtualKeys(self, request: pb.BatchGetVirtualKeysRequest) -> pb.BatchGetVirtualKeysResponse:
        for name in ("virtual_key_ids", "key_sha256"):
            if len(getattr(request, name)) > MAX_BATCH:
                raise InvalidField.of(name, f"must have at most {MAX_BATCH} items")
        for virtual_key_id in request.virtual_key_ids:
            check_id("virtual_key_ids", virtual_key_id)
        version = await self.store.virtual_keys_version()
        found = [
            *(await self.store.read_virtual_keys(request.virtual_key_ids) if request.virtual_key_ids else ()),
            *(await self._find(request.key_sha256) if request.key_sha256 else ()),
        ]
        each_once = {virtual_key.virtual_key_id: virtual_key for virtual_key in found if virtual_key is not None}
        messages = map(virtual_key_to_message, each_once.values())
        return pb.BatchGetVirtualKeysResponse(
            virtual_keys=messages, version=version, time=timestamp_from_ms(self.clock())
        )

    async def _find(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        async with self._finding:
            return await self.store.find_virtual_keys(digests)

    async def ListVirtualKeys(self, request: pb.ListVirtualKeysRequest) -> pb.ListVirtualKeysResponse:
        count = page_size(request.page_size)
        if request.page_token:
            check_id("page_token", request.page_token)
        page = pb.ListVirtualKeysResponse()

        async def read(last: VirtualKey | None, limit: int) -> list[VirtualKey]:
            return await self.store.list_virtual_keys(last.virtual_key_id if last else request.page_token, limit)

        def add(virtual_key: VirtualKey) -> pb.VirtualKey:
            page.virtual_keys.append(virtual_key_to_message(virtual_key))
            return page.virtual_keys[-1]

        last = await fill(page.virtual_keys, read, add, count=count, limits=self.pages)
        page.next_page_token = last.virtual_key_id if last else ""
        return page

    async def DeleteVirtualKey(self, request: pb.DeleteVirtualKeyRequest) -> pb.DeleteVirtualKeyResponse:
        check_id("virtual_key_id", request.virtual_key_id)
        try:
            existed = await self.store.delete_virtual_key(request.virtual_key_id)
        finally:
            self.on_change()
        if not existed:
            raise VirtualKeyNotFound
        return pb.DeleteVirtualKeyResponse()
