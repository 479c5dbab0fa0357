"""What `core.store.VirtualKeyStore` promises, on every store."""

import asyncio
from dataclasses import replace

import pytest
from jobstatus.core.errors import InvalidField
from jobstatus.core.store import Store
from jobstatus.core.virtual_keys import VirtualKey, hash_key

ONE, TWO, THREE = (hash_key(f"sk-bf-{name}") for name in ("one", "two", "three"))


def virtual_key(virtual_key_id: str = "vk-1", *digests: bytes, **fields: object) -> VirtualKey:
    values: dict[str, object] = {"created_at_ms": 5, "updated_at_ms": 5} | fields
    return VirtualKey(virtual_key_id=virtual_key_id, key_sha256=digests, **values)  # type: ignore[arg-type]


async def test_a_virtual_key_comes_back_as_it_went_in(store: Store) -> None:
    """Hashes keep their order; every field survives."""
    full = virtual_key("vk-1", TWO, ONE, disabled=True, expires_at_ms=77)
    assert await store.put_virtual_key(full) == full
    assert await store.read_virtual_keys(["vk-2", "vk-1"]) == [None, full]


async def test_a_key_is_found_by_its_hash_alone(store: Store) -> None:
    """A registered hash leads to its virtual key, any other bytes to nothing."""
    mine, other = virtual_key("vk-1", ONE, TWO), virtual_key("vk-2", THREE)
    await store.put_virtual_key(mine)
    await store.put_virtual_key(other)
    asked = [TWO, THREE, ONE[:-1], b"", ONE, hash_key("sk-bf-four")]
    assert await store.find_virtual_keys(asked) == [mine, other, None, None, mine, None]


async def test_a_put_replaces_all_but_the_time_of_the_first(store: Store) -> None:
    """Hashes that are not named again stop working; created_at_ms stays."""
    await store.put_virtual_key(virtual_key("vk-1", ONE, TWO))
    later = virtual_key("vk-1", TWO, THREE, created_at_ms=9, updated_at_ms=9, disabled=True)
    stored = await store.put_virtual_key(later)
    assert stored == replace(later, created_at_ms=5)
    assert await store.find_virtual_keys([ONE, TWO, THREE]) == [None, stored, stored]


async def test_a_hash_belongs_to_one_virtual_key(store: Store) -> None:
    """A put that names another virtual key's hash is refused and changes nothing."""
    await store.put_virtual_key(virtual_key("vk-1", ONE))
    mine = await store.put_virtual_key(virtual_key("vk-2", TWO))
    with pytest.raises(InvalidField) as refusal:
        await store.put_virtual_key(virtual_key("vk-2", THREE, ONE, disabled=True))
    assert refusal.value.metadata == {"field": "key_sha256"}
    assert await store.read_virtual_keys(["vk-2"]) == [mine]
    assert await store.find_virtual_keys([TWO, THREE]) == [mine, None]


async def test_a_virtual_key_is_disabled_alone(store: Store) -> None:
    """All but the time of the change stays, hashes and an expiry of 15 digits included; another stays as it is."""
    mine = virtual_key("vk-1", TWO, ONE, expires_at_ms=253_402_300_799_999)
    other = virtual_key("vk-2")
    for each in (mine, other):
        await store.put_virtual_key(each)
    assert not await store.disable_virtual_key("vk-3", 8)
    for now_ms in (7, 8):
        assert await store.disable_virtual_key("vk-1", now_ms)
        disabled = replace(mine, disabled=True, updated_at_ms=now_ms)
        assert await store.read_virtual_keys(["vk-1", "vk-2", "vk-3"]) == [disabled, other, None]
    assert await store.find_virtual_keys([ONE, TWO]) == [disabled, disabled]
    assert await store.disable_virtual_key("vk-2", 9)
    assert (await store.read_virtual_keys(["vk-2"])) == [replace(other, disabled=True, updated_at_ms=9)]


async def test_a_key_that_is_disabled_while_it_changes_keeps_the_change(store: Store) -> None:
    """A put and a disabling at the same time come one after the other, whichever is first."""
    await store.put_virtual_key(virtual_key("vk-1", ONE))
    for number in range(10):
        changed = virtual_key("vk-1", TWO, updated_at_ms=number, expires_at_ms=number)
        await asyncio.gather(store.disable_virtual_key("vk-1", 100 + number), store.put_virtual_key(changed))
        disabled = replace(changed, disabled=True, updated_at_ms=100 + number)
        assert (await store.read_virtual_keys(["vk-1"]))[0] in (changed, disabled)


async def test_a_deleted_virtual_key_is_forgotten_with_its_hashes(store: Store) -> None:
    """A delete says whether there was something; the hash is free for another afterwards."""
    await store.put_virtual_key(virtual_key("vk-1", ONE))
    assert await store.delete_virtual_key("vk-1")
    assert not await store.delete_virtual_key("vk-1")
    assert await store.find_virtual_keys([ONE]) == [None]
    assert (await store.put_virtual_key(virtual_key("vk-2", ONE))).virtual_key_id == "vk-2"


async def test_virtual_keys_are_listed_by_id(store: Store) -> None:
    """Pages follow each other by the last id, in the order of code points."""
    for name in ("b", "a", "B", "-", "_"):
        await store.put_virtual_key(virtual_key(name))
    first = [item.virtual_key_id for item in await store.list_virtual_keys("", 3)]
    second = [item.virtual_key_id for item in await store.list_virtual_keys(first[-1], 3)]
    assert (first, second) == (["-", "B", "_"], ["a", "b"])


async def test_the_version_differs_after_each_change(store: Store) -> None:
    """Every change is noticed by the version, and nothing else is."""
    seen = [await store.virtual_keys_version()]
    await store.put_virtual_key(virtual_key("vk-1", ONE))
    seen.append(await store.virtual_keys_version())
    await store.put_virtual_key(virtual_key("vk-1", TWO))
    seen.append(await store.virtual_keys_version())
    await store.disable_virtual_key("vk-1", 6)
    seen.append(await store.virtual_keys_version())
    await store.delete_virtual_key("vk-1")
    seen.append(await store.virtual_keys_version())
    assert len(set(seen)) == 5
    assert await store.virtual_keys_version() == seen[-1]
