"""The authenticator: what is remembered, for how long, and what makes it forget."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jobstatus.auth.authenticator import MAX_REFUSED, Authenticator
from jobstatus.auth.errors import CredentialError, InvalidCredential, MissingCredential, Reason
from jobstatus.auth.issuers import IssuerConfig, TokenVerifier
from jobstatus.auth.lru_cache import LruCache
from jobstatus.auth.minting import mint_token
from jobstatus.core.access import Principal
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.virtual_keys import VirtualKey, hash_key
from jobstatus.stores.memory import MemoryJobStore
from jwt.algorithms import OKPAlgorithm

START: Final = 1_800_000_000.0
SECRET: Final = "a secret of the tests, thirty-two bytes or more"
KEY: Final = "sk-bf-0123456789abcdef"
VK: Final = Principal("vk-1")
Headers: TypeAlias = tuple[list[str], list[str]]


class Clock:
    """The time of the tests; moves when it is told to."""

    def __init__(self) -> None:
        self.elapsed = 0.0

    def wall(self) -> float:
        return START + self.elapsed

    def monotonic(self) -> float:
        return 5.0 + self.elapsed


class WatchedStore:
    """A store in memory whose reads are counted, can fail, and can be held up between reading and answering."""

    def __init__(self) -> None:
        self.inner = MemoryJobStore()
        self.reads = 0
        self.is_away = False
        self.before_version: Callable[[], None] = lambda: None
        self.has_read = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        return await self._answer(await self.inner.read_virtual_keys(virtual_key_ids))

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        return await self._answer(await self.inner.find_virtual_keys(digests))

    async def virtual_keys_version(self) -> int:
        self._check()
        self.before_version()
        return await self.inner.virtual_keys_version()

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        return await self.inner.put_virtual_key(virtual_key)

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        return await self.inner.disable_virtual_key(virtual_key_id, now_ms)

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        return await self.inner.delete_virtual_key(virtual_key_id)

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        return await self.inner.list_virtual_keys(after, limit)

    async def put(self, **changes: Any) -> None:
        """Register KEY for vk-1, as another process would."""
        fields = {"virtual_key_id": "vk-1", "key_sha256": (hash_key(KEY),), "created_at_ms": 1, "updated_at_ms": 1}
        await self.put_virtual_key(VirtualKey(**{**fields, **changes}))

    @asynccontextmanager
    async def held_up(self) -> AsyncIterator[None]:
        """Within, reads have their answer and do not give it yet."""
        self.has_read.clear()
        self.may_answer.clear()
        yield
        self.may_answer.set()

    async def _answer(self, answer: list[VirtualKey | None]) -> list[VirtualKey | None]:
        self._check()
        self.reads += 1
        self.has_read.set()
        await self.may_answer.wait()
        return answer

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable


@pytest.fixture
def clock() -> Clock:
    """The time of the tests."""
    return Clock()


@pytest.fixture
def store() -> WatchedStore:
    """An empty store."""
    return WatchedStore()


@pytest.fixture
def authenticator(clock: Clock, store: WatchedStore) -> Authenticator:
    """One issuer with a secret; nothing is fresh yet."""
    config = IssuerConfig(issuer="tests", audience="jobstatus", algorithm="HS256", secret=SECRET)
    return make_authenticator(clock, store, TokenVerifier([config]))


def make_authenticator(
    clock: Clock,
    store: WatchedStore,
    verifier: TokenVerifier | None,
    *,
    max_cached: int = 100,
    accepts_keys: bool = True,
) -> Authenticator:
    """An authenticator that lives by the clock of the tests."""
    return Authenticator(
        verifier=verifier,
        accepts_keys=accepts_keys,
        store=store,
        clock=clock.wall,
        monotonic=clock.monotonic,
        max_cached=max_cached,
    )


def mint(ttl_seconds: int = 3600, now_seconds: float = START, **claims: object) -> str:
    """A token of the issuer `tests`, for vk-1 unless other claims are given."""
    return mint_token(
        issuer="tests",
        audience="jobstatus",
        algorithm="HS256",
        key=SECRET,
        key_id=None,
        claims=claims or {"virtual_key_id": "vk-1"},
        ttl_seconds=ttl_seconds,
        now_seconds=now_seconds,
    )


async def ask(authenticator: Authenticator, credential: str) -> Principal:
    """Whom a bearer credential stands for."""
    return await authenticator.authenticate([f"Bearer {credential}"], [])


async def assert_refused(authenticator: Authenticator, credential: str, reason: Reason) -> None:
    """The credential is refused for this reason."""
    with pytest.raises(InvalidCredential) as refused:
        await ask(authenticator, credential)
    assert refused.value.reason == reason


async def test_all_kinds_of_credential_are_recognised(authenticator: Authenticator, store: WatchedStore) -> None:
    """A virtual key in either header, a virtual key's token and an admin's token each give their principal."""
    await store.put()
    assert await ask(authenticator, KEY) == VK
    assert await authenticator.authenticate([], [KEY]) == VK
    assert await ask(authenticator, mint()) == VK
    assert await ask(authenticator, mint(role="admin")) == Principal(None)


async def test_missing_and_malformed_credentials_are_told_apart(authenticator: Authenticator) -> None:
    """J1, J2: nothing sent is missing; something bad sent is invalid, a token in x-bf-vk among it."""
    token = mint()
    missing: list[Headers] = [([], []), (["Bearer"], []), (["Basic abc"], []), ([], [""])]
    for headers in missing:
        with pytest.raises(MissingCredential):
            await authenticator.authenticate(*headers)
    bad: list[Headers] = [(["Bearer abc"], []), (["Bearer a.b.c"], []), ([], [token]), ([f"Bearer {token}"], [KEY])]
    for headers in bad:
        with pytest.raises(InvalidCredential):
            await authenticator.authenticate(*headers)


@pytest.mark.parametrize("raw", ["\udc80", "\u00e9"])
async def test_raw_bytes_are_invalid(authenticator: Authenticator, store: WatchedStore, raw: str) -> None:
    """J23, J24: raw bytes in a token or a key are a bad credential and never an accident; the store is not asked."""
    requests: list[Headers] = [([f"Bearer {mint()}{raw}"], []), ([f"Bearer {KEY}{raw}"], []), ([], [f"{KEY}{raw}"])]
    for headers in requests:
        with pytest.raises(InvalidCredential):
            await authenticator.authenticate(*headers)
    assert store.reads == 0


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("sk-bf-", Reason.NOT_A_VIRTUAL_KEY),
        (KEY[:-1], Reason.UNKNOWN_VIRTUAL_KEY),
        (KEY + "0", Reason.UNKNOWN_VIRTUAL_KEY),
        ("sk-bf-" + KEY[6:].upper(), Reason.UNKNOWN_VIRTUAL_KEY),
        (KEY.upper(), Reason.MALFORMED),
        ("sk-bf-%", Reason.UNKNOWN_VIRTUAL_KEY),
        (KEY + "x" * 1024 * 1024, Reason.TOO_LONG),
    ],
)
async def test_only_the_whole_key_is_known(
    authenticator: Authenticator, store: WatchedStore, key: str, reason: Reason
) -> None:
    """J25: a prefix, an extension, another case and a huge key are refused, beside a key that is good."""
    await store.put()
    await assert_refused(authenticator, key, reason)
    assert await ask(authenticator, KEY) == VK


async def test_a_long_token_is_refused_before_it_is_decoded(authenticator: Authenticator) -> None:
    """One of exactly 4,096 characters is verified; one of a character more is not, although it is good."""
    tokens = [mint(virtual_key_id="vk-1", padding="x" * length) for length in range(2_900, 2_910)]
    longest, too_long = (next(token for token in tokens if len(token) == length) for length in (4096, 4097))
    assert await ask(authenticator, longest) == VK
    authenticator._verifier = None  # which refuses each token that it gets
    await assert_refused(authenticator, too_long, Reason.TOO_LONG)


@pytest.mark.parametrize("change", [{"disabled": True}, {"expires_at_ms": int(START * 1000)}, {"key_sha256": ()}])
async def test_unusable_keys_are_refused(
    authenticator: Authenticator, store: WatchedStore, change: dict[str, Any]
) -> None:
    """J25: a key that is disabled, expired or no longer registered is refused."""
    await store.put(**change)
    with pytest.raises(InvalidCredential):
        await ask(authenticator, KEY)


@pytest.mark.parametrize("credential", ["c2VjcmV0", "eyJh.c2VjcmV0.eyJh", "sk-bf-c2VjcmV0", "sk-bf-c2VjcmV0\udc80"])
async def test_refusals_hold_no_credential(authenticator: Authenticator, credential: str) -> None:
    """J27: nothing that can be logged of a refusal has a part of what was sent."""
    with pytest.raises(CredentialError) as refused:
        await ask(authenticator, credential)
    assert "c2VjcmV0" not in f"{refused.value!r}{refused.value}{vars(refused.value)}"


async def test_without_an_issuer_only_virtual_keys_count(clock: Clock, store: WatchedStore) -> None:
    """A service without issuers refuses every token and works with virtual keys."""
    await store.put()
    authenticator = make_authenticator(clock, store, None)
    await authenticator.refresh()
    await assert_refused(authenticator, mint(), Reason.NO_ISSUER)
    assert await ask(authenticator, KEY) == VK


async def test_without_virtual_keys_only_tokens_count(clock: Clock, store: WatchedStore) -> None:
    """Keys are refused without a read, good ones as well; a virtual key that is disabled still stops its tokens."""
    config = IssuerConfig(issuer="tests", audience="jobstatus", algorithm="HS256", secret=SECRET)
    authenticator = make_authenticator(clock, store, TokenVerifier([config]), accepts_keys=False)
    await store.put()
    await authenticator.refresh()
    for key in (KEY, "sk-bf-unknown", "sk-bf-"):
        await assert_refused(authenticator, key, Reason.VIRTUAL_KEYS_OFF)
        with pytest.raises(InvalidCredential):
            authenticator.try_authenticate([], [key])
    assert store.reads == 0
    assert await ask(authenticator, mint()) == VK
    await store.put(disabled=True)
    await authenticator.refresh()
    await assert_refused(authenticator, mint(), Reason.UNUSABLE_VIRTUAL_KEY)


async def test_remembered_tokens_are_not_verified_again(
    authenticator: Authenticator, store: WatchedStore, clock: Clock
) -> None:
    """For a minute a token is recognised without its keys and without the store; then it is verified again."""
    token = mint()
    await authenticator.refresh()
    await ask(authenticator, token)
    authenticator._verifier = None
    assert await ask(authenticator, token) == VK
    assert store.reads == 1
    clock.elapsed = 59.9
    assert await ask(authenticator, token) == VK
    clock.elapsed = 60
    await assert_refused(authenticator, token, Reason.NO_ISSUER)


async def test_refused_tokens_are_not_verified_again(authenticator: Authenticator) -> None:
    """The reason is the same without a verifier's work; only the newest refusals are cached."""
    forged = mint()[:-4] + "AAAA"
    await assert_refused(authenticator, forged, Reason.BAD_SIGNATURE)
    authenticator._verifier = TokenVerifier([])
    await assert_refused(authenticator, forged, Reason.BAD_SIGNATURE)
    for number in range(MAX_REFUSED):
        await assert_refused(authenticator, f"x{number}", Reason.MALFORMED)
    assert len(authenticator._refused) == MAX_REFUSED
    assert len(authenticator._tokens) == 0
    await assert_refused(authenticator, forged, Reason.UNKNOWN_ISSUER)


async def test_remembered_tokens_expire(authenticator: Authenticator, clock: Clock) -> None:
    """A token's exp holds however recently it was verified, and the leeway after it is the verifier's to give."""
    token = mint(ttl_seconds=5)
    for elapsed in 0, 4.9, 5, 14.9:
        clock.elapsed = elapsed
        assert await ask(authenticator, token) == VK
    clock.elapsed = 15
    await assert_refused(authenticator, token, Reason.EXPIRED)


async def test_clock_that_steps_back_has_tokens_verified_again(authenticator: Authenticator, clock: Clock) -> None:
    """A memory from the future is not believed."""
    token = mint(now_seconds=START)
    await ask(authenticator, token)
    clock.elapsed = -600
    await assert_refused(authenticator, token, Reason.NOT_YET_VALID)


async def test_failures_are_not_remembered(authenticator: Authenticator, clock: Clock, store: WatchedStore) -> None:
    """Bad tokens and unknown keys leave nothing behind; a key that is registered later works at once."""
    await authenticator.refresh()
    early = mint(now_seconds=START + 60)
    await assert_refused(authenticator, early, Reason.NOT_YET_VALID)
    await assert_refused(authenticator, KEY, Reason.UNKNOWN_VIRTUAL_KEY)
    await store.put()
    assert await ask(authenticator, KEY) == VK
    clock.elapsed = 60
    assert await ask(authenticator, early) == VK
    for number in range(50):
        await assert_refused(authenticator, f"sk-bf-unknown-{number}", Reason.UNKNOWN_VIRTUAL_KEY)
    assert (len(authenticator._tokens), len(authenticator._virtual_keys._by_digest)) == (1, 1)


async def test_memory_is_bounded(clock: Clock, store: WatchedStore) -> None:
    """However many tokens, ids and keys are good, only the newest are remembered, and all work."""
    config = IssuerConfig(issuer="tests", audience="jobstatus", algorithm="HS256", secret=SECRET)
    authenticator = make_authenticator(clock, store, TokenVerifier([config]), max_cached=3)
    await store.put(key_sha256=tuple(hash_key(f"sk-bf-{number}") for number in range(10)))
    await authenticator.refresh()
    for number in range(10):
        assert await ask(authenticator, mint(virtual_key_id=f"vk-{number}")) == Principal(f"vk-{number}")
        assert await ask(authenticator, f"sk-bf-{number}") == VK
    known = authenticator._virtual_keys
    assert [len(memory) for memory in (authenticator._tokens, known._by_id, known._by_digest)] == [3, 3, 3]
    assert list(known._by_id) == ["vk-7", "vk-8", "vk-9"]


def test_cache_keeps_what_is_in_use() -> None:
    """What is stored again, and what is read, counts as new; a cache without room keeps nothing."""
    cache: LruCache[str, int] = LruCache(2)
    for key, value in ("a", 1), ("b", 1), ("a", 2), ("c", 1):
        cache.put(key, value)
    assert dict(cache) == {"a": 2, "c": 1}
    assert (cache.get("a"), cache.get("b")) == (2, None)
    cache.put("d", 1)
    assert dict(cache) == {"a": 2, "d": 1}
    nothing: LruCache[str, int] = LruCache(0)
    nothing.put("a", 1)
    assert not nothing


async def test_fresh_tokens_push_out_none_in_use(clock: Clock, store: WatchedStore) -> None:
    """However many tokens and keys one client shows, those that others use meanwhile are still cached."""
    config = IssuerConfig(issuer="tests", audience="jobstatus", algorithm="HS256", secret=SECRET)
    authenticator = make_authenticator(clock, store, TokenVerifier([config]), max_cached=4)
    await store.put(key_sha256=(hash_key(KEY), *(hash_key(f"sk-bf-{number}") for number in range(4))))
    await authenticator.refresh()
    token = mint()
    for number in range(4):
        for credential in (token, KEY, mint(virtual_key_id="vk-2", jti=str(number)), f"sk-bf-{number}"):
            await ask(authenticator, credential)
    authenticator._verifier = None
    reads = store.reads
    for credential in token, KEY:
        assert await ask(authenticator, credential) == VK
    assert store.reads == reads


async def test_a_token_that_is_over_leaves_the_cache(authenticator: Authenticator, clock: Clock) -> None:
    """It is not kept by those who still send it."""
    token = mint(ttl_seconds=5)
    await ask(authenticator, token)
    clock.elapsed = 15
    await assert_refused(authenticator, token, Reason.EXPIRED)
    assert len(authenticator._tokens) == 0


async def test_virtual_keys_are_remembered_while_fresh(
    authenticator: Authenticator, clock: Clock, store: WatchedStore
) -> None:
    """While refreshes succeed and nothing changes, each virtual key is read once, also one that is not registered."""
    await store.put()
    await authenticator.refresh()
    for second in range(10):
        clock.elapsed = second
        await authenticator.refresh()
        assert await ask(authenticator, KEY) == VK
        assert await ask(authenticator, mint()) == VK
        assert await ask(authenticator, mint(virtual_key_id="vk-unknown")) == Principal("vk-unknown")
    assert store.reads == 3


async def test_nothing_is_believed_before_the_first_refresh(authenticator: Authenticator, store: WatchedStore) -> None:
    """Until the store has said which version it has, every question goes to it."""
    await store.put()
    for _ in range(3):
        await ask(authenticator, KEY)
        await ask(authenticator, mint())
    assert store.reads == 6


async def test_stale_memory_fails_closed(authenticator: Authenticator, clock: Clock, store: WatchedStore) -> None:
    """With the store away, what is known counts for 4 s; then virtual keys are unavailable, and admins go on."""
    await store.put()
    await authenticator.refresh()
    credentials = [KEY, mint(), mint(virtual_key_id="vk-unknown")]
    for credential in credentials:
        await ask(authenticator, credential)
    store.is_away = True
    clock.elapsed = 4
    with pytest.raises(StoreUnavailable):
        await authenticator.refresh()
    for credential in credentials:
        await ask(authenticator, credential)
    clock.elapsed = 4.001
    for credential in credentials:
        with pytest.raises(StoreUnavailable):
            await ask(authenticator, credential)
    assert await ask(authenticator, mint(role="admin")) == Principal(None)


async def test_memory_counts_again_after_an_outage(
    authenticator: Authenticator, clock: Clock, store: WatchedStore
) -> None:
    """Once a refresh succeeds and nothing has changed meanwhile, what was known is believed again."""
    await store.put()
    await authenticator.refresh()
    await ask(authenticator, KEY)
    clock.elapsed = 100
    await authenticator.refresh()
    await ask(authenticator, KEY)
    assert store.reads == 1


@pytest.mark.parametrize("has_refreshed", [True, False])
async def test_disabled_key_stops_within_five_seconds(
    authenticator: Authenticator, clock: Clock, store: WatchedStore, has_refreshed: bool
) -> None:
    """A key that another process disables stops with the next refresh, and after 4 s without one; so do its tokens."""
    await store.put()
    await authenticator.refresh()
    token = mint()
    await ask(authenticator, KEY)
    await ask(authenticator, token)
    await store.put(disabled=True)
    assert await ask(authenticator, KEY) == VK
    clock.elapsed = 1 if has_refreshed else 4.5
    if has_refreshed:
        await authenticator.refresh()
    await assert_refused(authenticator, KEY, Reason.UNUSABLE_VIRTUAL_KEY)
    await assert_refused(authenticator, token, Reason.UNUSABLE_VIRTUAL_KEY)


async def test_change_in_this_process_counts_at_once(authenticator: Authenticator, store: WatchedStore) -> None:
    """After forget_virtual_keys a disabled key is refused and an enabled one works, without a refresh."""
    await store.put()
    await authenticator.refresh()
    token = mint()
    for is_disabled in True, False:
        for credential in KEY, token:
            assert await ask(authenticator, credential) == VK
        await store.put(disabled=is_disabled)
        authenticator.forget_virtual_keys()
        if is_disabled:
            await assert_refused(authenticator, KEY, Reason.UNUSABLE_VIRTUAL_KEY)
            await assert_refused(authenticator, token, Reason.UNUSABLE_VIRTUAL_KEY)
            await store.put()
            authenticator.forget_virtual_keys()


async def test_deleted_key_stops_and_its_tokens_do_not(authenticator: Authenticator, store: WatchedStore) -> None:
    """A virtual key that is gone takes its sk-bf- keys along; its tokens are like those of one never registered."""
    await store.put(disabled=True)
    await authenticator.refresh()
    token = mint()
    await assert_refused(authenticator, token, Reason.UNUSABLE_VIRTUAL_KEY)
    await store.delete_virtual_key("vk-1")
    await authenticator.refresh()
    await assert_refused(authenticator, KEY, Reason.UNKNOWN_VIRTUAL_KEY)
    assert await ask(authenticator, token) == VK


async def test_virtual_key_expires_while_remembered(
    authenticator: Authenticator, clock: Clock, store: WatchedStore
) -> None:
    """A virtual key's expiry holds to the millisecond, whatever is remembered, for its tokens too."""
    await store.put(expires_at_ms=int(START * 1000) + 2000)
    await authenticator.refresh()
    token = mint()
    clock.elapsed = 1.999
    for credential in KEY, token:
        assert await ask(authenticator, credential) == VK
    clock.elapsed = 2
    for credential in KEY, token:
        await assert_refused(authenticator, credential, Reason.UNUSABLE_VIRTUAL_KEY)
    assert store.reads == 2


@pytest.mark.parametrize("noticed_by", ["forget", "refresh"])
async def test_read_that_began_before_a_change_is_not_remembered(
    authenticator: Authenticator, store: WatchedStore, noticed_by: str
) -> None:
    """An old answer that arrives after the change was noticed answers its own request and is then forgotten."""
    await store.put()
    await authenticator.refresh()
    for credential in KEY, mint():
        async with store.held_up():
            asked = asyncio.create_task(ask(authenticator, credential))
            await store.has_read.wait()
            await store.put(disabled=True)
            if noticed_by == "forget":
                authenticator.forget_virtual_keys()
            else:
                await authenticator.refresh()
        assert await asked == VK
        await assert_refused(authenticator, credential, Reason.UNUSABLE_VIRTUAL_KEY)
        await store.put()
        await authenticator.refresh()


async def test_freshness_counts_from_the_question(
    authenticator: Authenticator, clock: Clock, store: WatchedStore
) -> None:
    """A version that took 3 s to arrive keeps the cache fresh for one more second, not for four."""

    def take_three_seconds() -> None:
        clock.elapsed += 3

    store.before_version = take_three_seconds
    await store.put()
    await authenticator.refresh()
    await ask(authenticator, KEY)
    clock.elapsed = 4
    await ask(authenticator, KEY)
    assert store.reads == 1
    clock.elapsed = 4.5
    await ask(authenticator, KEY)
    assert store.reads == 2


async def test_cancelled_request_leaves_nothing_wrong(authenticator: Authenticator, store: WatchedStore) -> None:
    """A request that is given up while the store reads is no harm to the next."""
    await store.put()
    await authenticator.refresh()
    async with store.held_up():
        asked = asyncio.create_task(ask(authenticator, KEY))
        await store.has_read.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
    assert await ask(authenticator, KEY) == VK


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    """Where the issuer's JWKS lies."""
    return tmp_path / "keys.json"


def publish(path: Path, **keys: ed25519.Ed25519PrivateKey) -> None:
    """Write these keys as the issuer's JWKS."""
    jwks = [OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} for kid, key in keys.items()]
    path.write_text(json.dumps({"keys": jwks}))


def mint_eddsa(key: ed25519.Ed25519PrivateKey, kid: str) -> str:
    """A token of the issuer `tests` for vk-1, signed by this key."""
    return mint_token(
        issuer="tests",
        audience="jobstatus",
        algorithm="EdDSA",
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key_id=kid,
        claims={"virtual_key_id": "vk-1"},
        ttl_seconds=3600,
        now_seconds=START,
    )


@pytest.mark.parametrize("store_is_away", [False, True])
async def test_withdrawn_issuer_key_stops_with_the_next_refresh(
    clock: Clock, store: WatchedStore, jwks: Path, store_is_away: bool
) -> None:
    """J29: a token of a key that left the set is forgotten by the next refresh, also while the store is away."""
    old, new = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    publish(jwks, old=old)
    config = IssuerConfig(issuer="tests", audience="jobstatus", algorithm="EdDSA", jwks_file=jwks)
    authenticator = make_authenticator(clock, store, TokenVerifier([config]))
    await authenticator.refresh()
    old_token, new_token = mint_eddsa(old, "old"), mint_eddsa(new, "new")
    await assert_refused(authenticator, new_token, Reason.UNKNOWN_KEY_ID)
    publish(jwks, old=old, new=new)
    await authenticator.refresh()
    for token in old_token, new_token:
        assert await ask(authenticator, token) == VK
    publish(jwks, new=new)
    store.is_away = store_is_away
    if store_is_away:
        with pytest.raises(StoreUnavailable):
            await authenticator.refresh()
    else:
        await authenticator.refresh()
    await assert_refused(authenticator, old_token, Reason.UNKNOWN_KEY_ID)
    store.is_away = False
    assert await ask(authenticator, new_token) == VK
    await authenticator.refresh()
    assert len(authenticator._tokens) == 1, "keys that did not change again make nothing be forgotten"


async def test_reload_whose_answer_was_lost_is_noticed(clock: Clock, store: WatchedStore, jwks: Path) -> None:
    """Keys that changed while a refresh was cancelled are noticed by the next one."""
    key = ed25519.Ed25519PrivateKey.generate()
    publish(jwks, old=key)
    verifier = TokenVerifier([IssuerConfig(issuer="tests", audience="jobstatus", algorithm="EdDSA", jwks_file=jwks)])
    authenticator = make_authenticator(clock, store, verifier)
    await authenticator.refresh()
    token = mint_eddsa(key, "old")
    await ask(authenticator, token)
    publish(jwks, renamed=key)
    assert verifier.reload()
    await authenticator.refresh()
    await assert_refused(authenticator, token, Reason.UNKNOWN_KEY_ID)
