"""Who may see which job, and that nobody learns anything of the others: not by an answer, not by the work behind it."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from harness.faults import Clock, MeddledStore
from harness.http import Answer, exchange, request
from harness.jobs import KINDS, complete, create, job_in, number_of, put_virtual_key
from harness.service import Service, service_here
from harness.stores import DelegatingStore
from harness.tokens import admin_token, bearer, token, virtual_key_token
from jobstatus.core.job import JobState, RequestType, is_valid_id
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.core.virtual_keys import hash_key

OWNER: Final = bearer(virtual_key_token("vk-1"))
STRANGER: Final = bearer(virtual_key_token("vk-2"))
ADMIN: Final = bearer(admin_token())
PATH: Final = "/v1/async/audio/transcriptions/"
KEY: Final = "sk-bf-key-of-vk-1"
READS: Final = ("read_answers", "read_jobs", "read_virtual_keys", "find_virtual_keys")

MALFORMED: Final = [
    "",
    "a%2Fb",
    "..%2f..%2fetc",
    "%2e%2e",
    "%252e%252e",
    "..\\x",
    "job1;x=1",
    "a%00b",
    "a%0d%0aX:1",
    "%0a",
    "%ff",
    "%C3%A9",
    "%zz",
    "%20completed",
    "completed%20",
    "completed/",
    "completed%0A",
    "a" * 129,
    "a" * 4096,
    "'%20OR%201=1--",
    "{id}",
    "*",
    "{hash}tag",
    "%0d%0aGET%20x%0d%0a",
    "$(id)",
    "/completed",
    "./completed",
    "../speech/completed",
]
UNKNOWN: Final = ["unknown", "x", "0", "a" * 37, "a" * 128, str(uuid.UUID(int=1)), "-", "_"]
FOREIGN: Final = [*(state.value for state in JobState), "completed-large"]


@asynccontextmanager
async def furnished(store: str | DelegatingStore) -> AsyncIterator[Service]:
    """The service with jobs of vk-1 in each state, one of them large, one of another type, and one that has expired."""
    clock = Clock()
    async with service_here(store, sweep_interval_seconds=60, clock=clock) as service:
        for state in JobState:
            await job_in(service, state, state.value)
        await create(service, "completed-large")
        await complete(service, "completed-large", b'"' + b"x" * SMALL_RESULT_BYTES + b'"')
        await job_in(service, JobState.COMPLETED, "speech", request_type=number_of(RequestType.SPEECH))
        await job_in(service, JobState.COMPLETED, "expired", result_ttl={"seconds": 1})
        clock.move(seconds=1)
        yield service


def impersonal(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
    """All of an answer that a client can compare: status, headers in order and body, but for the ids and the date."""
    request_id = answer.headers["x-request-id"]
    headers = [(name, value) for name, value in answer.headers.items() if name not in ("x-request-id", "date")]
    assert answer.body.count(request_id.encode()) == 1
    return answer.status, headers, answer.body.replace(request_id.encode(), b"")


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_every_404_is_the_same(tmp_path: Path, store: str) -> None:
    """Unknown, foreign in each state, expired, of another type, malformed: the answers are equal byte for byte."""
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"
    async with furnished(url) as service:
        expected = impersonal(await service.poll("no-such-job", OWNER))
        assert expected[0] == 404
        causes = [(job_id, STRANGER) for job_id in (*FOREIGN, "speech", "expired")]
        causes += [(job_id, OWNER) for job_id in ("speech", "expired", *UNKNOWN, *MALFORMED)]
        causes += [(job_id, ADMIN) for job_id in ("speech", "expired", *UNKNOWN, *MALFORMED)]
        different = [
            (job_id, answer)
            for job_id, header in causes
            if impersonal(answer := await service.poll(job_id, header)) != expected
        ]
        assert different == []


async def test_every_404_costs_the_store_the_same() -> None:
    """For each cause of a 404 the store does the same reads, and it is never asked for an id that no job can have."""
    store = MeddledStore()
    async with furnished(store) as service:
        await service.poll("no-such-job", OWNER)
        await service.poll("no-such-job", STRANGER)  # now both virtual keys are known
        for job_id, header in [(job_id, STRANGER) for job_id in FOREIGN] + [
            (job_id, OWNER) for job_id in ("speech", "expired", *UNKNOWN, *MALFORMED)
        ]:
            store.calls.clear()
            assert (await service.poll(job_id, header)).status == 404
            ((name, (asked,)),) = store.calls_of(*READS)
            assert name == "read_answers"
            assert asked == "" or is_valid_id(asked)


@pytest.mark.parametrize("job_id", FOREIGN)
async def test_admin_reads_every_job(job_id: str) -> None:
    """An admin is answered about a job of any virtual key exactly what its owner is."""
    async with furnished("memory://") as service:
        owner, admin = [await service.poll(job_id, header) for header in (OWNER, ADMIN)]
    assert admin.status in (200, 202)
    assert (admin.status, admin.body) == (owner.status, owner.body)


@pytest.mark.parametrize("request_type", RequestType)
async def test_isolation_holds_for_every_type(service: Service, request_type: RequestType) -> None:
    """At each type's path the owner and an admin read the job and a stranger does not."""
    await create(service, "j1", request_type=number_of(request_type))
    kind = KINDS[request_type]
    statuses = [(await service.poll("j1", header, kind=kind)).status for header in (OWNER, ADMIN, STRANGER)]
    assert statuses == [202, 202, 404]


@pytest.mark.parametrize(("unscoped_jobs", "status"), [("admin_only", 404), ("any_credential", 202)])
async def test_jobs_without_a_virtual_key(unscoped_jobs: str, status: int) -> None:
    """A job without a virtual key is for admins only, or for every valid credential if the setting says so."""
    async with service_here(unscoped_jobs=unscoped_jobs) as service:
        await put_virtual_key(service, key_sha256=[hash_key(KEY)])
        await create(service, "unscoped", virtual_key_id=None)
        await create(service, "scoped")
        for header in (OWNER, STRANGER, bearer(KEY), f"x-bf-vk: {KEY}"):
            assert (await service.poll("unscoped", header)).status == status
        assert (await service.poll("unscoped", ADMIN)).status == 202
        assert (await service.poll("unscoped")).status == 401
        assert (await service.poll("scoped", STRANGER)).status == 404


async def test_virtual_keys_are_compared_whole(service: Service) -> None:
    """An id that only resembles the owner's (its prefix, another case, one character more) is somebody else's."""
    await create(service, "j1", virtual_key_id="Team-1")
    for other in ("Team-", "team-1", "Team-11", "TEAM-1", "Team_1"):
        assert (await service.poll("j1", bearer(virtual_key_token(other)))).status == 404
    assert (await service.poll("j1", bearer(virtual_key_token("Team-1")))).status == 202


async def test_ids_are_compared_whole(either_store: Service) -> None:
    """A job is found by its very id only: not by another case, a prefix or a pattern of it."""
    await create(either_store, "Job_1")
    for other in ("job_1", "JOB_1", "Job_", "Job_11", "Job-1", "Job%251", "Job%25"):
        assert (await either_store.poll(other, OWNER)).status == 404
    assert (await either_store.poll("Job_1", OWNER)).status == 202


@pytest.fixture(params=["memory", "sqlite"])
async def either_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """The service on each of the stores that need no server."""
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'jobs.db'}"
    async with service_here(url) as running:
        yield running


async def test_guessing_is_refused() -> None:
    """2,000 random ids are all 404 and 2,000 made-up credentials all 401; the owner's credential works all the same."""
    chance = random.Random(1)
    async with service_here() as service:
        await job_in(service, JobState.COMPLETED, "done")
        ids = [str(uuid.UUID(int=chance.getrandbits(128), version=4)) for _ in range(2000)]
        forged = token("another secret of more than thirty-two bytes", virtual_key_id="vk-1").rpartition(".")[0]
        credentials = [
            f"sk-bf-{chance.getrandbits(128):x}" if number % 2 else f"{forged}.{chance.getrandbits(256):043x}"
            for number in range(2000)
        ]
        assert await statuses_of(service, [(job_id, OWNER) for job_id in ids]) == {404}
        assert await statuses_of(service, [("x", bearer(credential)) for credential in credentials]) == {401}
        assert (await service.poll("done", OWNER)).status == 200


async def statuses_of(service: Service, polls: list[tuple[str, str]]) -> set[int]:
    """The statuses of many polls, pipelined on one connection; there must be one for each."""
    head = "GET {}{} HTTP/1.1\r\nHost: test\r\n{}\r\n{}\r\n"
    last = len(polls) - 1
    requests = [
        head.format(PATH, job_id, header, "Connection: close\r\n" if number == last else "")
        for number, (job_id, header) in enumerate(polls)
    ]
    received = await exchange(service.http_port, "".join(requests).encode())
    statuses = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert len(statuses) == len(polls)
    return set(statuses)


async def test_concurrent_polls_do_not_mix(either_store: Service) -> None:
    """Polls at the same time are each answered about their own job and by their own credential."""
    for number in range(20):
        await create(either_store, f"j{number}", virtual_key_id=f"vk-{number}")
        await complete(either_store, f"j{number}", b"%d" % number)
    headers = [bearer(virtual_key_token(f"vk-{number}")) for number in range(20)]

    async def poll(number: int, caller: int) -> None:
        answer = await request(either_store.http_port, f"{PATH}j{number}", headers[caller])
        assert answer.status == (200 if number == caller else 404)
        if number == caller:
            assert answer.body.endswith(b'"result":%d}' % number)

    await asyncio.gather(*(poll(number, caller) for number in range(20) for caller in (number, (number + 1) % 20)))
