"""A follower whose stream ends: at the moment when it is stopped, and by a proxy again and again."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import pytest
from harness.cutting_proxy import Cut, cutting_proxy
from harness.stand_in import stand_in
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.client.channel import ServiceChannel
from jobstatus.upstream.follower import UpstreamFollower
from jobstatus.v1 import job_status_pb2 as pb

NOBODY = "127.0.0.1:1"


class _HookedChannel(ServiceChannel):
    """A channel that calls `at_status` when gRPC has received the status of a FollowJobs call."""

    def __init__(self, target: str, at_status: Callable[[Any], object]) -> None:
        super().__init__(target, credentials=None, timeout_seconds=LIMIT_SECONDS, retry=False)
        self._at_status = at_status

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.jobs: Any = _HookedJobs(self.jobs, self._at_status)
        return self


class _HookedJobs:
    def __init__(self, jobs: Any, at_status: Callable[[Any], object]) -> None:
        self._jobs = jobs
        self._at_status = at_status

    def FollowJobs(self) -> Any:  # noqa: N802  # the name of the call
        call = self._jobs.FollowJobs()
        call.add_done_callback(self._at_status)
        return call


@pytest.mark.parametrize("is_there", [True, False], ids=["unknown call", "no service"])
async def test_a_follower_stops_when_its_stream_ends_at_that_moment(*, is_there: bool) -> None:
    """The cancellation comes after the call's status and before the follower sees it. gRPC then raises the status."""
    following: list[asyncio.Task[Any]] = []
    async with (
        stand_in() as address,
        _HookedChannel(address if is_there else NOBODY, lambda _: following[0].cancel()) as channel,
    ):
        following.append(asyncio.create_task(UpstreamFollower(channel).run()))
        done, _ = await asyncio.wait(following, timeout=LIMIT_SECONDS)
        for _ in range(100):  # so that a follower that goes on does not hold up the end of this test
            following[0].cancel()
            await asyncio.sleep(0)
        assert done
        assert following[0].cancelled()


@pytest.mark.parametrize("cut", Cut)
async def test_a_stream_that_a_proxy_cuts_is_opened_again(cut: Cut) -> None:
    """However it ends: polls that wait go on waiting, and hear of what changed meanwhile."""
    answers = [pb.FollowJobsResponse(), pb.FollowJobsResponse(job_ids=["job-1"])]
    async with (
        cutting_proxy(lambda _: answers, cut, at_once=True) as proxy,
        ServiceChannel(proxy.target, credentials=None, timeout_seconds=1, retry=True, first_try_part=1) as channel,
    ):
        follower = UpstreamFollower(channel)
        following = asyncio.create_task(follower.run())
        for count in (1, 2, 3):
            await until(lambda: follower.is_connected and len(proxy.requests) == count)  # noqa: B023  # called at once
            proxy.cut_open()
        assert not following.done()
        following.cancel()
        await asyncio.wait((following,), timeout=LIMIT_SECONDS)
