"""A bug that a client can cause at will fills no log: one line at once, and the number of events in the next one."""

import logging
from collections.abc import AsyncIterator

import grpc
import pytest
from aiohttp import web
from harness.faults import MeddledStore
from harness.jobs import complete, create
from harness.logged import events_logged
from harness.raw import talk
from harness.service import service_here
from harness.tokens import admin_token, bearer
from jobstatus.core.poll import LargeResult, Poll
from jobstatus.rest import responses
from jobstatus.rest.event_stream import EventSender
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.outcomes import Outcomes
from jobstatus.rest.server import HttpServer
from jobstatus.telemetry.metrics import Metrics
from jobstatus.v1 import job_status_pb2 as pb


async def test_polls_and_calls_that_fail_have_one_line(caplog: pytest.LogCaptureFixture) -> None:
    store = MeddledStore()
    async with service_here(store) as service:
        caplog.clear()
        store.fail_all(ZeroDivisionError("of the test"))
        for _ in range(10):
            assert (await service.poll("job", bearer(admin_token()))).status == 500
            with pytest.raises(grpc.aio.AioRpcError):
                await service.jobs.GetJob(pb.GetJobRequest(job_id="job"))
        store.fail_all(None)
        events = events_logged(caplog)
        assert (events.count("poll_failed"), events.count("rpc_failed")) == (1, 1)


async def test_a_worker_that_sends_nonsense_is_no_failure_of_the_store(caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong with a result is told to the worker, and the operator hears of nothing."""
    async with service_here() as service:
        await create(service, "job")
        for result in (b"{", b"[" * 1000, b"1e999", b"\xff"):
            with pytest.raises(grpc.aio.AioRpcError):
                await complete(service, "job", result)
    assert events_logged(caplog, level=logging.WARNING) == []


def test_one_bug_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Each class of errors has its own line."""
    outcomes = Outcomes(metrics=Metrics(), retry_after_seconds=2)
    for error in (ZeroDivisionError(), KeyError()) * 10:
        assert outcomes.refused(error, "id").status == 500
    assert events_logged(caplog) == ["poll_failed"] * 2
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError, KeyError]


async def no_result(_: LargeResult) -> bytes:
    raise AssertionError("no event has a large result")


async def test_streams_that_fail_have_one_line(caplog: pytest.LogCaptureFixture) -> None:
    sender = EventSender(read_result=no_result, large=RestLimits().large_responses(), quiet_seconds=15)

    async def updates() -> AsyncIterator[Poll]:
        yield Poll(False, 0, 2, None, b"2")
        raise ZeroDivisionError

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = responses.event_stream("id")
        await sender.stream(request, None).send(response, Poll(False, 0, 1, None, b"1"), updates())
        return response

    server = HttpServer(handle, max_connections=10, grace_seconds=1)
    port = await server.start("127.0.0.1", 0)
    try:
        for _ in range(10):
            assert b"data: 2\n" in await talk(port, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
    finally:
        await server.stop()
    assert events_logged(caplog) == ["event_stream_failed"]
