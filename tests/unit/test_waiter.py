"""Who may begin to wait, and for what."""

import pytest
from jobstatus.core.access import Principal
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll
from jobstatus.core.watching.long_poll import NoPlaceToWait, Waiter
from jobstatus.core.watching.subscriptions import Watchers

ENDED = Poll(True, 0, 1, None, b"{}")


async def find(*_: object) -> Poll:
    return ENDED


async def recognise() -> Principal:
    return Principal("vk-1")


def waiter(watchers: Watchers, *, hears: bool = True) -> Waiter:
    return Waiter(find, watchers, clock=lambda: 0, limit=1, limit_each=1, hears_of_changes=lambda: hears)


@pytest.mark.parametrize(("job_id", "hears"), [("not.an.id", True), ("x" * 129, True), ("", True), ("j1", False)])
async def test_nobody_waits_in_vain(job_id: str, hears: bool) -> None:
    """For what can be no job's id, or where no change would be told: no place is taken, and nobody hears of it."""
    left: list[str] = []
    asking = waiter(Watchers(on_left=left.append), hears=hears)
    with pytest.raises(NoPlaceToWait):
        await asking.wait(job_id, RequestType.OCR, recognise, 1)
    assert (asking.count, left) == (0, [])


async def test_a_look_at_what_has_ended_leaves_nothing_behind() -> None:
    """The place is free, and nobody waits for the job any more."""
    watchers = Watchers()
    asking = waiter(watchers)
    assert await asking.wait("j1", RequestType.OCR, recognise, 1) == ENDED
    assert (asking.count, watchers.versions()) == (0, {})
