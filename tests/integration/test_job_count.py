"""`jobstatus_jobs`: the process that leads reports the jobs of the store, from when it begins to until it ceases to."""

from functools import partial

from harness.faults import MeddledStore
from harness.http import request
from harness.jobs import create
from harness.service import Service, service_here
from harness.waiting import until
from jobstatus.core.store import Claim

FEWEST_SWEEPS = 100
"""So many sweeps are done before a count that waits for its own interval."""


async def counts(service: Service) -> list[str]:
    """The lines of the metric that are not zero."""
    exposition = (await request(service.admin_port, "/metrics")).body.decode()
    lines = [line for line in exposition.splitlines() if line.startswith("jobstatus_jobs{")]
    return [line for line in lines if not line.endswith(" 0.0")]


async def reports(service: Service, expected: list[str]) -> bool:
    return await counts(service) == expected


async def test_jobs_are_counted_as_soon_as_a_process_leads() -> None:
    """Right after a start as after another leader's end; a process that ceases to lead reports nothing."""
    store = MeddledStore()
    leads = [False]
    sweeps = 0

    async def try_lead(_holder: str, for_ms: int) -> Claim:
        nonlocal sweeps
        sweeps += 1
        return Claim(leads[0] and for_ms > 0, None)

    store.replace("try_lead", try_lead)
    async with service_here(store, sweep_interval_seconds=0.1) as service:
        await create(service, "j1")
        one_pending = ['jobstatus_jobs{state="pending"} 1.0']
        for is_leader, expected in ((True, one_pending), (False, []), (True, one_pending)):
            before, leads[0] = sweeps, is_leader
            await until(partial(reports, service, expected))
            assert sweeps - before < FEWEST_SWEEPS
