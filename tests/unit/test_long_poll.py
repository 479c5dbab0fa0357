"""Who may begin to wait, and for what."""

import pytest
from jobstatus.core.access import Principal
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll
from jobstatus.core.watching.long_poll import CannotWait, LongPoller
from jobstatus.core.watching.subscriptions import JobSubscriptions

ENDED = Poll(True, 0, 1, None, b"{}")


async def find(*_: object) -> Poll:
    return ENDED


async def reauthenticate() -> Principal:
    return Principal("vk-1")


def waiter(subscriptions: JobSubscriptions, *, hears: bool = True) -> LongPoller:
    return LongPoller(find, subscriptions, clock=lambda: 0, limit=1, limit_each=1, hears_of_changes=lambda: hears)


@pytest.mark.parametrize(("job_id", "hears"), [("not.an.id", True), ("x" * 129, True), ("", True), ("j1", False)])
async def test_nobody_waits_in_vain(job_id: str, hears: bool) -> None:
    """For what can be no job's id, or where no change would be told: no place is taken, and nobody hears of it."""
    left: list[str] = []
    asking = waiter(JobSubscriptions(on_left=left.append), hears=hears)
    with pytest.raises(CannotWait):
        await asking.wait(job_id, RequestType.OCR, reauthenticate, 1)
    assert (asking.count, left) == (0, [])


async def test_a_look_at_what_has_ended_leaves_nothing_behind() -> None:
    """The place is free, and nobody waits for the job any more."""
    subscriptions = JobSubscriptions()
    asking = waiter(subscriptions)
    assert await asking.wait("j1", RequestType.OCR, reauthenticate, 1) == ENDED
    assert (asking.count, subscriptions.versions()) == (0, {})
