"""Clients that wait and a worker that ends their jobs, run as a process of its own: `-m benchmarks.waiting_load`.

Every client has a connection, asks with `Prefer: wait` for a job of its own, and listens on to the end, so that an
answer that came twice would be seen. Does one step whenever it is told by a line to go on, and prints a line of JSON
when it is done: plain polls, the connections, plain polls again, and the end of the jobs, so many a second whether or
not the last have been answered.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import quantiles
from typing import Final, cast

import grpc
import uvloop
from harness.http import request
from harness.raw import answers_in
from harness.waiting import until
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from benchmarks.references.bare_waiting import DONE
from benchmarks.workload import SMALL, credential_line, poll_request, result_of, virtual_key_id_of

WAIT_SECONDS: Final = 600
"""Longer than all that is measured takes."""
WAIT: Final = f"Prefer: wait={WAIT_SECONDS}"
_AT_ONCE: Final = 200
_OF_ONE_ADDRESS: Final = 20_000
"""Connections from one address of this machine, which has no more than about 28,000 ports for them."""
_POLLERS: Final = 16
_PATIENCE_SECONDS: Final = 20.0
"""For the last answers after the last job has ended."""
_LISTENING_SECONDS: Final = 0.5
"""For answers that come twice."""

End = Callable[[str], Awaitable[object]]
"""Ends the job with this id; when it returns the job has certainly ended."""


class Client(asyncio.Protocol):
    """One who waits for one job. `received` is all that ever came, `at` when the last of it did."""

    def __init__(self, asked: bytes) -> None:
        self.received = b""
        self.at = 0.0
        self._asked = asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._asked)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.at = time.perf_counter()


class Poller(asyncio.Protocol):
    """One who polls so often, one poll after the other; `done` then."""

    def __init__(self, asked: bytes, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked = asked
        self._left = count
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._asked)

    def data_received(self, data: bytes) -> None:  # an answer, which is small, comes in one piece
        assert self._transport is not None
        self._left -= data.count(b"HTTP/1.1 ")
        if self._left > 0:
            self._transport.write(self._asked)
        else:
            self._transport.close()
            self.done.set_result(None)


async def poll(http_port: int, asked: bytes, count: int) -> None:
    """Ask so often on some connections."""
    loop = asyncio.get_running_loop()
    pollers = [Poller(asked, count // _POLLERS) for _ in range(_POLLERS)]
    for poller in pollers:
        await loop.create_connection(lambda poller=poller: poller, "127.0.0.1", http_port)  # type: ignore[misc]  # a lambda's default
    await asyncio.gather(*(poller.done for poller in pollers))


@asynccontextmanager
async def worker(grpc_address: str, owners: dict[str, str]) -> AsyncIterator[End]:
    """Has created the jobs, and ends them over gRPC."""
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        stub = JobStatusStub(channel)
        creates = [
            pb.CreateJobRequest(job_id=job_id, request_type=pb.REQUEST_TYPE_TRANSCRIPTION, virtual_key_id=owner)
            for job_id, owner in owners.items()
        ]
        for first in range(0, len(creates), _AT_ONCE):
            operations = [pb.Operation(create_job=create) for create in creates[first : first + _AT_ONCE]]
            done = await stub.BatchWrite(pb.BatchWriteRequest(operation=operations))
            if any(result.HasField("error") for result in done.result):
                raise RuntimeError("a job could not be created")
        result = result_of(SMALL)
        yield lambda job_id: stub.CompleteJob(pb.CompleteJobRequest(job_id=job_id, result=result))


@asynccontextmanager
async def bare_worker(http_port: int) -> AsyncIterator[End]:
    """The same for the reference, which is told over HTTP."""
    yield lambda job_id: request(http_port, DONE + job_id, method="POST")


async def connect(http_port: int, owners: dict[str, str], lines: Sequence[str]) -> dict[str, Client]:
    """Every client, once it has asked."""
    loop = asyncio.get_running_loop()
    clients = {
        job_id: Client(poll_request(job_id, lines[number % len(lines)], WAIT)) for number, job_id in enumerate(owners)
    }
    waiting = list(clients.values())
    for first in range(0, len(waiting), _AT_ONCE):
        part = waiting[first : first + _AT_ONCE]
        own = (f"127.0.0.{2 + first // _OF_ONE_ADDRESS}", 0)
        await asyncio.gather(
            *(
                loop.create_connection(lambda client=client: client, "127.0.0.1", http_port, local_addr=own)  # type: ignore[misc]  # a lambda's default
                for client in part
            )
        )
    return clients


async def end_all(job_ids: Sequence[str], end: End, rate: float) -> dict[str, float]:
    """End so many a second; when each had certainly ended."""
    ended: dict[str, float] = {}

    async def one(job_id: str) -> None:
        await end(job_id)
        ended[job_id] = time.perf_counter()

    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, job_id in enumerate(job_ids):
            await asyncio.sleep(max(0.0, began_at + number / rate - time.perf_counter()))
            tasks.create_task(one(job_id))
    return ended


async def until_answered(clients: dict[str, Client]) -> None:
    """Return when all have an answer, or patience ends; then listen a little for answers that come twice."""
    with suppress(TimeoutError):
        await until(lambda: all(client.received for client in clients.values()), _PATIENCE_SECONDS)
    await asyncio.sleep(_LISTENING_SECONDS)


def outcome(clients: dict[str, Client], ended: dict[str, float]) -> dict[str, float]:
    """How many answers were missing or came twice, and the delays from a job's end to its answer's last byte."""
    lost = twice = 0
    delays = []
    for job_id, client in clients.items():
        answers = answers_in(client.received)
        if any(answer.status != 200 or job_id.encode() not in answer.body for answer in answers):
            raise RuntimeError(f"an answer that was not wanted: {client.received!r}")
        lost += not answers
        twice += len(answers) > 1
        if answers:
            delays.append(client.at - ended[job_id])
    hundredths = quantiles(delays, n=100)
    return {"lost": lost, "twice": twice, "p50_ms": hundredths[49] * 1e3, "p99_ms": hundredths[98] * 1e3}


async def run(options: argparse.Namespace) -> None:
    """The whole of it, with a line of JSON for each step."""
    lines = [credential_line(3 * number) for number in range(options.credentials)]  # tokens of virtual keys
    owners = {
        f"{options.prefix}-{number}": virtual_key_id_of(3 * (number % options.credentials))
        for number in range(options.waiters)
    }
    work = bare_worker(options.http) if options.grpc is None else worker(options.grpc, owners)
    asked = poll_request(next(iter(owners)), lines[0])

    async def polls() -> None:
        if options.grpc is not None:  # the reference knows no plain polls
            await poll(options.http, asked, options.polls)

    async with work as end:
        await _step({"created": len(owners)})
        await polls()
        await _step({"polled": options.polls})
        clients = await connect(options.http, owners, lines)
        await _step({"connected": len(clients)})
        await polls()
        await _step({"polled": options.polls})
        due = list(owners)[: options.ended]
        ended = await end_all(due, end, options.rate)
        answered = {job_id: clients[job_id] for job_id in due}
        await until_answered(answered)
        if any(client.received for job_id, client in clients.items() if job_id not in ended):
            raise RuntimeError("an answer about a job that has not ended")
        print(json.dumps(outcome(answered, ended)), flush=True)


async def _step(done: dict[str, int]) -> None:
    """Say what is done, and wait for a line."""
    print(json.dumps(done), flush=True)
    await asyncio.to_thread(sys.stdin.readline)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", type=int, required=True, help="port")
    parser.add_argument("--grpc", help="address; without one the reference is asked")
    parser.add_argument("--prefix", required=True, help="of the ids of the jobs")
    parser.add_argument("--waiters", type=int, required=True)
    parser.add_argument("--credentials", type=int, required=True)
    parser.add_argument("--ended", type=int, required=True, help="jobs that end, at most")
    parser.add_argument("--polls", type=int, required=True, help="plain polls before the wait and during it")
    parser.add_argument("--rate", type=float, required=True, help="jobs that end in a second")
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
