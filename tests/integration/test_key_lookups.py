"""Keys that are not cached: however many come at once, they cost the store a few reads, and polls do not wait."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
import pytest
from harness.faults import MeddledStore
from harness.jobs import create, put_virtual_key
from harness.postgresql import url_for
from harness.service import AT_ONCE, edge_here, service_here
from harness.stores import PATIENT_POSTGRESQL, STORES, DelegatingStore, store_in
from harness.tokens import bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.auth.authenticator import Authenticator
from jobstatus.auth.errors import InvalidCredential, Reason
from jobstatus.auth.virtual_key_cache import LOOKUPS
from jobstatus.core.access import Principal
from jobstatus.core.store import Store
from jobstatus.core.virtual_keys import VirtualKey, hash_key
from jobstatus.stores.postgresql import PostgreSQLJobStore
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

OWNER: Final = bearer(virtual_key_token("vk-1"))
KEY: Final = "sk-bf-of-vk-1"
STORED: Final = VirtualKey(virtual_key_id="vk-1", key_sha256=(hash_key(KEY),), created_at_ms=1, updated_at_ms=1)
WAITING: Final = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


class CountedStore(DelegatingStore):
    """A store whose reads of virtual keys are counted, and whose lookups by key end when they are let."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        self.finds: list[int] = []
        self.reads: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        self.finds.append(len(digests))
        await self.gate.wait()
        return await self.real.find_virtual_keys(digests)

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        self.reads.append(len(virtual_key_ids))
        return await self.real.read_virtual_keys(virtual_key_ids)


def authenticator_of(store: CountedStore) -> Authenticator:
    """One that accepts keys alone, for which no time passes."""
    return Authenticator(verifier=None, store=store, clock=lambda: 1_800_000_000.0, monotonic=lambda: 0.0)


async def ask(authenticator: Authenticator, *keys: str) -> list[Principal | BaseException]:
    """Who each of these keys is, asked at the same time."""
    return await asyncio.gather(*(authenticator.authenticate([], [key]) for key in keys), return_exceptions=True)


@pytest.mark.parametrize("kind", STORES)
async def test_keys_that_come_together_are_a_few_reads(tmp_path: Path, kind: str) -> None:
    """A thousand made-up keys are twenty reads, one key from many clients is one, and a real one among them works."""
    async with CountedStore(store_in(kind, tmp_path)) as store:
        await store.put_virtual_key(STORED)
        authenticator = authenticator_of(store)
        await authenticator.refresh()
        *refused, known = await ask(authenticator, *(f"sk-bf-{number}" for number in range(999)), KEY)
        assert store.finds == [50] * 20
        assert known == Principal("vk-1")
        assert Counter(getattr(error, "reason", error) for error in refused) == {Reason.UNKNOWN_VIRTUAL_KEY: 999}
        store.finds.clear()
        await ask(authenticator, *["sk-bf-1"] * 50)
        assert store.finds == [1]
        await ask(authenticator, *[KEY] * 50)
        assert store.finds == [1], "the real key is cached in spite of the others"


async def test_one_lookup_by_key_is_under_way_at_a_time() -> None:
    """Those that come during one are all in the next."""
    async with CountedStore(store_in("memory", Path())) as store:
        authenticator = authenticator_of(store)
        store.gate.clear()
        first = asyncio.create_task(ask(authenticator, "sk-bf-first"))
        await until(lambda: bool(store.finds))
        later = asyncio.create_task(ask(authenticator, *(f"sk-bf-{number}" for number in range(40))))
        for _ in range(10):
            await asyncio.sleep(0)
        assert store.finds == [1]
        store.gate.set()
        answers = [*await first, *await later]
        assert all(isinstance(answer, InvalidCredential) for answer in answers)
        assert store.finds == [1, 40]


async def test_tokens_do_not_wait_behind_made_up_keys() -> None:
    """A token's virtual key is read while a lookup by key hangs, and tokens that come together are one read."""
    store = CountedStore(store_in("memory", Path()))
    async with service_here(store) as service:
        await create(service, "job-1")
        store.gate.clear()
        stranger = asyncio.create_task(service.poll("job-1", "x-bf-vk: sk-bf-made-up"))
        await until(lambda: bool(store.finds))
        store.reads.clear()
        assert (await service.poll("job-1", OWNER)).status == 202
        assert store.reads == [1]
        store.gate.set()
        assert (await stranger).status == 401


async def test_without_virtual_keys_a_service_and_an_edge_ask_for_none() -> None:
    """A key is a 401 like any other bad credential, though it is registered; tokens work."""
    store = CountedStore(store_in("memory", Path()))
    async with (
        service_here(store, virtual_keys="off") as service,
        edge_here(service, virtual_keys="off") as edge,
    ):
        await put_virtual_key(service, "vk-1", key_sha256=STORED.key_sha256)
        await create(service, "job-1")
        for front in service, edge:
            for header in f"x-bf-vk: {KEY}", f"Authorization: Bearer {KEY}":
                refused = await front.poll("job-1", header)
                assert (refused.status, refused.json["error"]["code"]) == (401, "invalid_credentials")
            assert (await front.poll("job-1", OWNER)).status == 202
        assert store.finds == []


async def test_polls_do_not_wait_behind_lookups_that_hang(tmp_path: Path) -> None:
    """On PostgreSQL lookups by key take one connection, however many wait; polls have the others."""
    url = url_for(tmp_path)
    store = PostgreSQLJobStore(url, PATIENT_POSTGRESQL)
    limits = replace(AT_ONCE, lookups=replace(LOOKUPS, wait_seconds=LIMIT_SECONDS))
    async with service_here(store, limits=limits) as service, await psycopg.AsyncConnection.connect(url) as other:
        await create(service, "job-1")
        assert (await service.poll("job-1", OWNER)).status == 202
        await other.execute("LOCK TABLE jobstatus.virtual_key_hashes IN ACCESS EXCLUSIVE MODE")

        async def waiting() -> int:
            (row,) = await (await other.execute(WAITING)).fetchall()
            return int(row[0])

        async def hangs() -> bool:
            return await waiting() > 0

        strangers = [asyncio.create_task(service.poll("job-1", f"x-bf-vk: sk-bf-{number}")) for number in range(50)]
        await until(hangs)
        assert [(await service.poll("job-1", OWNER)).status for _ in range(20)] == [202] * 20
        assert await waiting() == 1
        await other.rollback()
        assert {(await stranger).status for stranger in strangers} == {401}


async def test_lookups_of_many_edges_are_done_one_after_the_other() -> None:
    """Each edge asks for the keys that it was sent; together they take one connection of the service's store."""
    store = MeddledStore()
    under_way: list[int] = []
    most = 0

    async def find(digests: Sequence[bytes]) -> list[VirtualKey | None]:
        nonlocal most
        under_way.append(1)
        most = max(most, len(under_way))
        for _ in range(50):  # stands for the time that a read takes
            await asyncio.sleep(0)
        under_way.pop()
        return await store.real.find_virtual_keys(digests)  # type: ignore[no-any-return]  # the real store's

    async with service_here(store) as service:
        await put_virtual_key(service, "vk-1", key_sha256=STORED.key_sha256)
        store.replace("find_virtual_keys", find)
        asked = vk_pb.BatchGetVirtualKeysRequest(key_sha256=[*STORED.key_sha256, hash_key("sk-bf-made-up")])
        answers = await asyncio.gather(*(service.virtual_keys.BatchGetVirtualKeys(asked) for _ in range(10)))
        assert [[key.virtual_key_id for key in answer.virtual_keys] for answer in answers] == [["vk-1"]] * 10
        assert most == 1
