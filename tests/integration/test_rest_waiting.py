"""What a client may ask for beyond a plain poll: to wait for the end, and to be told whether anything has changed."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from harness.faults import MeddledStore
from harness.fronts import WAYS, front_here, listening_edge, waiting
from harness.http import Answer
from harness.jobs import complete, create, fail, job_in, put_virtual_key, start
from harness.service import Service, service_here
from harness.stores import SHARED, STORES
from harness.tokens import AUDIENCE, ISSUER, SECRET, admin_token, bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import JobState
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rest import headers
from jobstatus.settings import IssuerSettings
from jobstatus.v1 import job_status_pb2 as pb
from pydantic import SecretStr

OWNER = bearer(virtual_key_token("vk-1"))
STRANGER = bearer(virtual_key_token("vk-2"))
ADMIN = bearer(admin_token())
PATH = "/v1/async/audio/transcriptions/"
LONG = "Prefer: wait=8"


@pytest.fixture(params=WAYS)
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    async with front_here(request.param) as running:
        yield running


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[tuple[Service, Service]]:
    store = STORES["sqlite"](tmp_path)
    async with service_here(store) as one, service_here(store) as two:
        yield one, two


async def in_time(*awaitables: Awaitable[Any]) -> list[Any]:
    """What they come to, well before any wait is over."""
    async with asyncio.timeout(LIMIT_SECONDS / 2):
        return await asyncio.gather(*awaitables)


# --- waiting ---


@pytest.mark.parametrize("end", [complete, fail])
async def test_a_poll_that_waits_is_answered_when_the_job_ends(front: Service, end: Any) -> None:
    """The answer is the plain one, and says that it has waited; steps before the end do not end the wait."""
    await create(front, "j1")
    poll = asyncio.create_task(front.poll("j1", OWNER, LONG))
    await waiting(front, 1)
    await start(front, "j1")
    await front.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="j1", progress=0.5))
    assert not poll.done()
    await end(front, "j1")
    (answer,) = await in_time(poll)
    plain = await front.poll("j1", OWNER)
    assert (answer.status, answer.body) == (200, plain.body)
    assert answer.headers["preference-applied"] == "wait=8"
    assert "preference-applied" not in plain.headers
    await waiting(front, 0)


async def test_a_poll_that_has_waited_long_enough_is_a_202(front: Service) -> None:
    """After N seconds, and not before, the job is told as it is then."""
    await create(front, "j1")
    began = time.monotonic()
    poll = asyncio.create_task(front.poll("j1", OWNER, "Prefer: wait=4"))
    await waiting(front, 1)
    await start(front, "j1")
    answer = await poll
    assert time.monotonic() - began >= 4
    assert (answer.status, answer.json["status"]) == (202, "processing")
    assert answer.headers["preference-applied"] == "wait=4"
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("kind", WAYS)
async def test_less_may_be_granted_than_was_asked_for(kind: str) -> None:
    """The longest wait is the operator's to set, and the answer says how much of the wish was granted."""
    async with front_here(kind, max_wait_seconds=1) as front:
        await create(front, "j1")
        (answer,) = await in_time(front.poll("j1", OWNER, "Prefer: wait=60"))
        assert (answer.status, answer.headers["preference-applied"]) == (202, "wait=1")


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED])
async def test_nobody_waits_for_what_has_happened(front: Service, state: JobState) -> None:
    """A job that has ended is answered at once."""
    await job_in(front, state, "j1")
    (answer,) = await in_time(front.poll("j1", OWNER, LONG))
    assert answer.status == 200


@pytest.mark.parametrize(("header", "status"), [(STRANGER, 404), (bearer("x"), 401), ("x-bf-vk: sk-bf-unknown", 401)])
async def test_nobody_waits_who_may_not_read(front: Service, header: str, status: int) -> None:
    """Whoever would not be shown the job is told so at once, in the same bytes as without a wish to wait."""
    await create(front, "j1")
    plain, waited = await in_time(
        *(front.poll("j1", header, "X-Request-Id: same", *prefer) for prefer in ((), (LONG,)))
    )
    assert (waited.status, waited.body) == (status, plain.body)
    assert (await in_time(front.poll("unknown", OWNER, LONG)))[0].status == 404


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["wait=5"], 5),
        (["respond-async, wait=5"], 5),
        (["respond-async", "WAIT = 5; x=y"], 5),
        (['wait="5"'], 5),
        (["wait=5", "wait=7"], 5),
        (["wait=45"], 45),
        (["wait=46"], 45),
        (["wait=999999999"], 45),
        (['x="a, wait=9", wait=5'], 5),
        (['x="a; wait=9"; y="\\", wait=9", wait=5'], 5),
        (['x="wait=9'], 0),
        (['wait="5'], 0),
        (["wait=5 s"], 0),
        (["a=b; wait=5"], 0),
        (["wait=0"], 0),
        (["wait=-1"], 0),
        (["wait=1e3"], 0),
        (["wait=NaN"], 0),
        (["wait=abc"], 0),
        (["wait=٣"], 0),
        (["wait=99999999999999999999"], 0),
        (["wait"], 0),
        (["waiting=5"], 0),
        ([""], 0),
    ],
)
def test_how_long_to_wait_is_read_as_the_rfc_says(lines: list[str], seconds: int) -> None:
    """Of several the first that can be read counts, up to the longest wait; what is no number is no wish to wait."""
    assert headers.wait_seconds(lines, 45) == seconds


async def test_a_change_made_through_another_process_ends_the_wait(replicas: tuple[Service, Service]) -> None:
    """Polls wait at one service, and at an edge in front of it, for what is written through the other."""
    one, two = replicas
    async with listening_edge(two) as edge:
        await create(one, "j1")
        polls = [asyncio.create_task(front.poll("j1", OWNER, LONG)) for front in (two, edge)]
        for front in (two, edge):
            await waiting(front, 1)
        await complete(one, "j1")
        assert [answer.status for answer in await in_time(*polls)] == [200, 200]


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("store", SHARED)
async def test_many_wait_on_every_store_and_each_gets_its_own(store: str, kind: str, tmp_path: Path) -> None:
    """Forty polls wait for forty jobs; each is answered with its own job's result.

    A poll is sent again after a 503, which a busy machine may cause.
    """
    async with front_here(kind, STORES[store](tmp_path), max_waiting_polls_each=40) as service:

        async def until_answered(name: str) -> Answer:
            while (answer := await service.poll(name, OWNER, "Prefer: wait=30")).status == 503:
                pass
            return answer

        names = [f"job-{number}" for number in range(40)]
        await asyncio.gather(*(create(service, name) for name in names))
        polls = [asyncio.create_task(until_answered(name)) for name in names]
        await waiting(service, len(names))
        await asyncio.gather(*(complete(service, name, f'"{name}"'.encode()) for name in names))
        found = await in_time(*polls)
    assert [(answer.status, answer.json["result"]) for answer in found] == [(200, name) for name in names]


async def test_a_client_that_goes_away_frees_its_place(front: Service) -> None:
    """Nobody is waited for who does not wait any more."""
    await create(front, "j1")
    reader, writer = await asyncio.open_connection("127.0.0.1", front.http_port)
    writer.write(f"GET {PATH}j1 HTTP/1.1\r\nHost: test\r\n{OWNER}\r\n{LONG}\r\n\r\n".encode())
    await waiting(front, 1)
    writer.transport.abort()
    await waiting(front, 0)
    assert await reader.read() == b""


async def test_a_credential_that_is_disabled_ends_the_wait(front: Service) -> None:
    """A virtual key and its JWTs stop waiting when it is disabled; others go on."""
    await put_virtual_key(front, key_sha256=[hash_key("sk-bf-1")])
    await create(front, "j1")
    polls = [asyncio.create_task(front.poll("j1", header, LONG)) for header in ("x-bf-vk: sk-bf-1", OWNER, ADMIN)]
    await waiting(front, 3)
    await put_virtual_key(front, key_sha256=[hash_key("sk-bf-1")], disabled=True)
    refused = await in_time(*polls[:2])
    assert [answer.status for answer in refused] == [401, 401]
    assert not polls[2].done()
    await complete(front, "j1")
    assert (await in_time(polls[2]))[0].status == 200


@pytest.mark.parametrize("kind", WAYS)
async def test_a_credential_that_expires_ends_the_wait(kind: str) -> None:
    """A token, and a virtual key, are good for no longer than they say, however long their poll wants to wait."""
    issuer = IssuerSettings(
        issuer=ISSUER, audience=AUDIENCE, algorithm="HS256", secret=SecretStr(SECRET), leeway_seconds=0
    )
    async with front_here(kind, issuers=(issuer,)) as service:
        await create(service, "j1")
        ends_at = int(time.time()) + 2
        expiry = Timestamp(seconds=ends_at)
        await put_virtual_key(service, "vk-1", key_sha256=[hash_key("sk-bf-1")], expires_at=expiry)
        headers = ("x-bf-vk: sk-bf-1", OWNER, bearer(admin_token(exp=ends_at)))
        found = await in_time(*(service.poll("j1", header, LONG) for header in headers))
        assert [answer.status for answer in found] == [401] * 3
        assert time.time() >= ends_at


async def test_a_job_that_is_deleted_ends_the_wait(front: Service) -> None:
    """Who waits for a job that goes is told that there is none."""
    await create(front, "j1")
    poll = asyncio.create_task(front.poll("j1", OWNER, LONG))
    await waiting(front, 1)
    await front.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
    assert (await in_time(poll))[0].status == 404


@pytest.mark.parametrize("kind", WAYS)
async def test_a_stop_answers_all_who_wait(kind: str) -> None:
    """They get the job as it is, whole, and may ask another process."""
    async with front_here(kind) as service:
        await create(service, "j1")
        polls = [asyncio.create_task(service.poll("j1", OWNER, LONG)) for _ in range(20)]
        await waiting(service, 20)
    found: list[Answer] = await in_time(*polls)
    assert {(answer.status, answer.json["status"]) for answer in found} == {(202, "pending")}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize(
    ("limits", "others"),
    [({"max_waiting_polls": 1}, OWNER), ({"max_waiting_polls_each": 1}, OWNER), ({"max_waiting_polls": 0}, OWNER)],
)
async def test_without_a_place_a_poll_is_answered_at_once(limits: dict[str, Any], others: str, kind: str) -> None:
    """Over the limits it is a plain 202, which does not claim to have waited, and never an error."""
    async with front_here(kind, **limits) as service:
        await create(service, "j1")
        first = asyncio.create_task(service.poll("j1", OWNER, LONG))
        await waiting(service, min(1, limits.get("max_waiting_polls", 1)))
        (answer,) = await in_time(service.poll("j1", others, LONG))
        assert answer.status == 202
        assert "preference-applied" not in answer.headers
        await complete(service, "j1")
        assert (await in_time(first))[0].status in (200, 202)


@pytest.mark.parametrize("kind", WAYS)
async def test_each_credential_has_places_of_its_own(kind: str) -> None:
    """One who uses up all of theirs leaves others theirs."""
    async with front_here(kind, max_waiting_polls_each=1) as service:
        await create(service, "j1")
        polls = [asyncio.create_task(service.poll("j1", header, LONG)) for header in (OWNER, ADMIN)]
        await waiting(service, 2)
        await complete(service, "j1")
        found = await in_time(*polls)
    assert ["preference-applied" in answer.headers for answer in found] == [True, True]


@pytest.mark.parametrize("kind", WAYS)
async def test_a_store_that_fails_while_somebody_waits_is_a_503(kind: str) -> None:
    """What cannot be known is not claimed."""
    store = MeddledStore()
    async with front_here(kind, store) as service:
        await create(service, "j1")
        poll = asyncio.create_task(service.poll("j1", OWNER, LONG))
        await waiting(service, 1)
        store.failures["read_answers"] = StoreUnavailable()
        await complete(service, "j1")
        answer = (await in_time(poll))[0]
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")


# --- what has not changed, and how far it is ---


async def test_an_answer_that_is_known_is_not_sent_again(service: Service) -> None:
    """A terminal answer has a strong tag; with it, or with any, its owner is told 304, without a body."""
    await job_in(service, JobState.COMPLETED, "j1")
    first = await service.poll("j1", OWNER)
    assert first.headers["cache-control"] == "private, no-cache"
    tag = first.headers["etag"]
    assert tag.startswith('"')
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        for method in ("GET", "HEAD"):
            again = await raw_poll(service, "j1", OWNER, f"If-None-Match: {known}", method=method)
            assert again.startswith(b"HTTP/1.1 304 ")
            assert again.endswith(b"\r\n\r\n")
            assert f"ETag: {tag}".encode() in again
            assert b"\r\nContent-Type:" not in again
    changed = await service.poll("j1", OWNER, 'If-None-Match: "other"')
    assert (changed.status, changed.body) == (200, first.body)


async def test_a_document_that_is_not_expected_is_not_sent(front: Service) -> None:
    """If-Match compares strongly: with another tag, or with any while a job is under way, the owner is told 412."""
    await job_in(front, JobState.COMPLETED, "j1")
    await create(front, "j2")
    first = await front.poll("j1", OWNER)
    tag = first.headers["etag"]
    for expected, status in (
        (tag, 200),
        (f'"other", {tag}', 200),
        ("*", 200),
        (f"W/{tag}", 412),
        ('"other"', 412),
        ("", 412),
    ):
        answer = await front.poll("j1", OWNER, f"If-Match: {expected}")
        assert answer.status == status, expected
    assert (answer.json["error"]["code"], answer.json["status_code"]) == ("precondition_failed", 412)
    assert (await front.poll("j1", OWNER, f"If-Match: {tag}", f"If-None-Match: {tag}", method="HEAD")).status == 304
    assert (await front.poll("j1", OWNER, 'If-Match: "other"', "If-None-Match: *")).status == 412
    assert (await front.poll("j1", OWNER, 'If-Match: "other"', "Accept: text/event-stream")).status == 412
    assert (await front.poll("j1", OWNER, 'If-Match: "other"', LONG)).status == 412
    assert [(await front.poll("j2", OWNER, f"If-Match: {expected}")).status for expected in ("*", tag)] == [202, 412]
    assert [(await front.poll("j1", header, f"If-Match: {tag}")).status for header in (STRANGER, bearer("x"))] == [
        404,
        401,
    ]


@pytest.mark.parametrize(
    ("lines", "is_known", "is_expected"),
    [
        (['"1-1"'], True, True),
        (['W/"1-1"'], True, False),
        (['"a", "1-1"'], True, True),
        (['"a"', '"1-1"'], True, True),
        (['"a"', "*"], True, True),
        (['"a, *, b"'], False, False),
        (['"a\\", "1-1"'], True, True),
        (["1-1"], False, False),
        (['"1-1'], False, False),
        ([""], False, False),
    ],
)
def test_lists_of_tags_are_read_as_the_rfc_says(lines: list[str], is_known: bool, is_expected: bool) -> None:
    """A comma in quotes is a part of its tag, and a backslash is a character like any other."""
    assert headers.is_known(lines, '"1-1"') is is_known
    assert headers.is_expected(lines, '"1-1"') is is_expected


async def raw_poll(service: Service, job_id: str, *headers: str, method: str) -> bytes:
    """All bytes of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.http_port)
    lines = [f"{method} {PATH}{job_id} HTTP/1.1", "Host: test", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    async with asyncio.timeout(LIMIT_SECONDS):
        answer = await reader.read()
    writer.close()
    return answer


async def test_only_who_may_read_learns_whether_it_is_known(service: Service) -> None:
    """Without a credential, or for somebody else's job, the tag changes nothing; a job under way has none."""
    await job_in(service, JobState.COMPLETED, "j1")
    await create(service, "j2")
    tag = (await service.poll("j1", OWNER)).headers["etag"]
    assert (await service.poll("j1", f"If-None-Match: {tag}")).status == 401
    assert (await service.poll("j1", STRANGER, "If-None-Match: *")).status == 404
    under_way = await service.poll("j2", OWNER, "If-None-Match: *")
    assert under_way.status == 202
    assert "etag" not in under_way.headers


async def test_another_job_of_the_same_id_has_another_tag(service: Service) -> None:
    """A tag stands for bytes: a job that was deleted and made anew is not taken for the old one."""
    tags = []
    for result in (b"1", b"2"):
        await create(service, "j1")
        await complete(service, "j1", result)
        tags.append((await service.poll("j1", OWNER)).headers["etag"])
        await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
    assert tags[0] != tags[1]


@pytest.mark.parametrize(
    ("progress", "shown"), [(0.42, "0.42"), (0.0, "0"), (1.0, "1"), (1 / 3, "0.3333"), (1e-05, "0.00001")]
)
async def test_progress_accompanies_a_202(service: Service, progress: float, shown: str) -> None:
    """Once the worker has reported it, and as long as the job is under way; never in the body."""
    await job_in(service, JobState.PROCESSING, "j1")
    assert "job-progress" not in (await service.poll("j1", OWNER)).headers
    await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="j1", attempt=1, progress=progress))
    answer = await service.poll("j1", OWNER)
    assert answer.headers["job-progress"] == shown
    assert set(answer.json) == {"id", "status", "created_at"}
    await complete(service, "j1")
    assert "job-progress" not in (await service.poll("j1", OWNER)).headers
