"""Clients that write, race and read, repeat what got no answer, and note all of it in a history."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import grpc
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from harness.history import ENDED, GONE, PENDING, PROCESSING, STATES, Call, History, Seen, digest
from harness.http import Answer, request
from harness.jobs import creation, job_error
from harness.tokens import admin_token, bearer
from harness.wire import refusal_in

TRIES: Final = 200
"""A call that has got no answer so often will not get one, unless a run is told that it may last longer."""
PATIENCE_SECONDS: Final = 60.0
IMPATIENCE_SECONDS: Final = 0.03
"""A few calls are given up as early as this, most of them while the service is at work on them."""
CHUNK: Final = 200
SIZES: Final = (10, 10, 10, 1_000, 1_000, 20_000)
CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)

_UNKNOWN: Final = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_RANKS: Final = {
    pb.JOB_STATE_PENDING: PENDING,
    pb.JOB_STATE_PROCESSING: PROCESSING,
    pb.JOB_STATE_COMPLETED: ENDED,
    pb.JOB_STATE_FAILED: ENDED,
}


class NoAnswer(Exception):
    """A call was repeated as often as it may be, and never got an answer."""


def completed_as(result: bytes) -> str:
    return f"completed {digest(result)}"


def failed_as(message: str) -> str:
    return f"failed {message}"


def seen_in(job: pb.Job, wanted: str = "", *, has_result: bool) -> Seen:
    """What the message shows; a write's answer leaves out the result, which is then the one that was `wanted`."""
    outcome = ""
    if job.state == pb.JOB_STATE_FAILED:
        outcome = failed_as(job.error.error.message)
    elif job.state == pb.JOB_STATE_COMPLETED:
        outcome = completed_as(job.result) if has_result else wanted
    bare = pb.Job()
    bare.CopyFrom(job)
    bare.ClearField("result")
    snapshot = digest(bare.SerializeToString(deterministic=True))
    return Seen(rank=_RANKS[job.state], version=job.version, snapshot=snapshot, outcome=outcome)


def seen_in_body(answer: Answer) -> Seen:
    """What a poll's answer shows."""
    if answer.status == 404:
        return Seen(rank=GONE)
    document = answer.json
    rank = STATES[document["status"]]
    if rank < ENDED:
        return Seen(rank=rank)
    if document["status"] == "completed":
        outcome = completed_as(answer.body.partition(b',"result":')[2][:-1])
    else:
        outcome = failed_as(document["error"]["error"]["message"])
    return Seen(rank=rank, outcome=outcome, body=digest(answer.body))


class Load:
    """All clients of a run, on a few connections of their own."""

    def __init__(
        self,
        history: History,
        chance: random.Random,
        *,
        http_port: int,
        grpc_port: int,
        others: Sequence[tuple[int, int]] = (),
        tries: int = TRIES,
    ) -> None:
        """`others` are the ports of further services upon the same store: each call goes to any of them."""
        self.history = history
        self._chance = chance
        self._tries = tries
        self._http_ports = [http_port, *(http for http, _ in others)]
        self._authorization = bearer(admin_token(exp=int(time.time()) + 24 * 3600))
        addresses = [f"127.0.0.1:{port}" for port in (grpc_port, *(grpc for _, grpc in others))]
        self._channels = [grpc.aio.insecure_channel(at, options=CHANNEL_OPTIONS) for _ in range(4) for at in addresses]
        self._stubs = itertools.cycle([JobStatusStub(channel) for channel in self._channels])
        self.created: list[str] = []
        """The jobs whose creation was acknowledged."""
        self.ended = 0

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def live(self, job_ids: list[str]) -> None:
        """The whole life of some jobs, which are created together."""
        await (self._create(job_ids[0]) if len(job_ids) == 1 else self._create_together(job_ids))
        self.created += job_ids
        lives = [self._live(job_id) for job_id in job_ids]
        watches = [self._watch(job_id) for job_id in job_ids if self._chance.random() < 0.1]
        await asyncio.gather(*lives, *watches)
        self.ended += len(job_ids)

    async def look_at(self, job_ids: list[str]) -> None:
        """Read these jobs, which have to be there."""
        for first in range(0, len(job_ids), CHUNK):
            await self._read_together("look", job_ids[first : first + CHUNK])

    async def poll(self) -> None:
        """Poll one of the jobs over REST, once."""
        if not self.created:
            await asyncio.sleep(0.05)  # there is nothing to wait on but the first job
            return
        job_id = self._chance.choice(self.created[-2000:])
        call = self.history.begin("poll", job_id)
        try:
            port = self._chance.choice(self._http_ports)
            answer = await request(port, f"/v1/async/audio/transcriptions/{job_id}", self._authorization)
        except (OSError, AssertionError, TimeoutError):  # nobody there, or half an answer: the service was killed
            self.history.end(call, "unknown")
            await asyncio.sleep(0.05)  # until it is back, which nothing announces
            return
        if answer.status == 503:
            self.history.end(call, "unknown")
        else:
            if answer.status not in (200, 202, 404):
                self.history.faults.append(f"a poll was answered {answer.status}")
            self.history.end(call, "ok", seen_in_body(answer))
        await asyncio.sleep(0.02)  # pollers pause; and the writers need the machine

    # --- one job ---

    async def _create(self, job_id: str) -> None:
        await self._ask("create", job_id, "CreateJob", creation(job_id, result_ttl={"seconds": 86400}), rank=PENDING)

    async def _live(self, job_id: str) -> None:
        attempt = 0
        if self._chance.random() < 0.8:
            attempt = await self._start(job_id)
            for _ in range(self._chance.randrange(3)):
                beat = pb.HeartbeatJobRequest(job_id=job_id, attempt=attempt, progress=self._chance.random())
                await self._ask("heartbeat", job_id, "HeartbeatJob", beat, rank=PROCESSING)
        await asyncio.gather(*self._endings(job_id, attempt))
        await self._ask("get", job_id, "GetJob", pb.GetJobRequest(job_id=job_id))

    async def _start(self, job_id: str) -> int:
        start = pb.StartJobRequest(job_id=job_id, worker_id="worker")
        if self._chance.random() < 0.5:
            start.lease.FromSeconds(86400)
        job = await self._ask("start", job_id, "StartJob", start, rank=PROCESSING)
        return job.attempt if job is not None else 0

    def _endings(self, job_id: str, attempt: int) -> Iterable[Awaitable[Any]]:
        """Two to four callers who each want another end."""
        for number in range(self._chance.randrange(2, 5)):
            text = f"{job_id} ended by {number}"
            if self._chance.random() < 0.5:
                result = json.dumps({"text": text, "more": "x" * self._chance.choice(SIZES)}).encode()
                done = pb.CompleteJobRequest(job_id=job_id, attempt=attempt, result=result)
                wanted = completed_as(result)
                yield self._ask("complete", job_id, "CompleteJob", done, rank=ENDED, wanted=wanted)
            else:
                failed = pb.FailJobRequest(job_id=job_id, attempt=attempt, error=job_error(text))
                yield self._ask("fail", job_id, "FailJob", failed, rank=ENDED, wanted=failed_as(text))

    async def _ask(
        self, kind: str, job_id: str, method: str, message: Any, *, rank: int = GONE, wanted: str = ""
    ) -> pb.Job | None:
        """Call until there is an answer; the job as it shows it, or None when the call was refused."""
        for _ in range(self._tries):
            call = self.history.begin(kind, job_id, rank, wanted)
            try:
                answer = await getattr(next(self._stubs), method)(
                    message, timeout=self._patience(), wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if not self._answered(call, error):
                    continue
                return None
            self.history.end(call, "ok", seen_in(answer.job, wanted, has_result=method == "GetJob"))
            job: pb.Job = answer.job
            return job
        raise NoAnswer(f"{kind} {job_id}")

    def _patience(self) -> float:
        return IMPATIENCE_SECONDS if self._chance.random() < 0.02 else PATIENCE_SECONDS

    def _answered(self, call: Call, error: grpc.aio.AioRpcError) -> bool:
        """Note the error; whether it is an answer, or leaves open what happened."""
        if error.code() in _UNKNOWN:
            self.history.end(call, "unknown")
            return False
        refusal = refusal_in(error)
        if refusal.reason == "JOB_TERMINAL":
            self.history.end(call, "refused", Seen(rank=STATES[refusal.metadata["state"]]))
        elif refusal.reason == "JOB_NOT_FOUND":
            self.history.end(call, "refused", Seen(rank=GONE))
        else:
            self.history.end(call, "refused")
            self.history.faults.append(f"{call.job_id}: {call.kind} was answered {refusal.code.name} {refusal.reason}")
        return True

    def _all_answered(self, calls: Iterable[Call], error: grpc.aio.AioRpcError) -> bool:
        return all([self._answered(call, error) for call in calls])  # noqa: C419  # each is to be noted

    # --- several jobs ---

    async def _create_together(self, job_ids: list[str]) -> None:
        """Create jobs in one batch; after a crash, before it is repeated, either all of them are there or none."""
        batch = pb.BatchWriteRequest(
            operation=[pb.Operation(create_job=creation(job_id, result_ttl={"seconds": 86400})) for job_id in job_ids]
        )
        for _ in range(self._tries):
            calls = [self.history.begin("create", job_id, PENDING) for job_id in job_ids]
            try:
                answer = await next(self._stubs).BatchWrite(batch, timeout=self._patience(), wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if self._all_answered(calls, error):
                    return
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    found = await self._read_together("look", job_ids)
                    if found not in (0, len(job_ids)):
                        self.history.faults.append(f"{job_ids}: a batch was written in part")
                continue
            for call, result in zip(calls, answer.result, strict=True):
                self.history.end(call, "ok", seen_in(result.job, has_result=False))
            return
        raise NoAnswer(f"create {job_ids}")

    async def _read_together(self, kind: str, job_ids: list[str]) -> int:
        """Read these jobs until there is an answer; how many of them there are."""
        for _ in range(self._tries):
            calls = [self.history.begin(kind, job_id) for job_id in job_ids]
            try:
                answer = await next(self._stubs).BatchGetJobs(
                    pb.BatchGetJobsRequest(job_ids=job_ids), timeout=PATIENCE_SECONDS, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                if self._all_answered(calls, error):
                    return 0
                continue
            found = {job.job_id: job for job in answer.jobs}
            for call in calls:
                job = found.get(call.job_id)
                self.history.end(call, "ok", Seen(rank=GONE) if job is None else seen_in(job, has_result=True))
            return len(found)
        raise NoAnswer(f"{kind} {job_ids}")

    async def _watch(self, job_id: str) -> None:
        """Follow a job to its end: each version newer than the one before, over all interruptions."""
        version = 0
        for _ in range(self._tries):
            first, last = (self.history.begin("watch", job_id) for _ in range(2))
            jobs: list[pb.Job] = []
            try:
                watch = pb.WatchJobRequest(job_id=job_id, after_version=version)
                async for message in next(self._stubs).WatchJob(watch, timeout=PATIENCE_SECONDS, wait_for_ready=True):
                    jobs.append(message.job)
                    if message.job.version <= version and message.job.state not in (
                        pb.JOB_STATE_COMPLETED,
                        pb.JOB_STATE_FAILED,
                    ):
                        self.history.faults.append(f"{job_id}: a watch went back to version {message.job.version}")
                    version = max(version, message.job.version)
            except grpc.aio.AioRpcError as error:
                self._note(first, jobs[:1])
                self._note(last, jobs[-1:])
                if error.code() not in _UNKNOWN:
                    self.history.faults.append(f"{job_id}: a watch was answered {refusal_in(error)}")
                    return
                continue
            self._note(first, jobs[:1])
            self._note(last, jobs[-1:])
            if not jobs or _RANKS[jobs[-1].state] < ENDED:
                self.history.faults.append(f"{job_id}: a watch ended before the job")
            return
        raise NoAnswer(f"watch {job_id}")

    def _note(self, call: Call, jobs: list[pb.Job]) -> None:
        if jobs:
            self.history.end(call, "ok", seen_in(jobs[0], has_result=True))


async def until_cancelled(work: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again."""
    while True:
        await work()
