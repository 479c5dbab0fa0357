"""Makes loads; see the package."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

import uvloop

from harness.flood import http, rpc
from harness.flood.plan import Kind, Plan, Prepared
from harness.told import say, told

NICE: Final = 10
KINDS: Final[dict[Kind, Callable[[Plan], Prepared]]] = {
    "requests": http.requests,
    "slow": http.slow,
    "unread": http.unread,
    "connects": http.connects,
    "held": rpc.held,
    "watches": rpc.watches,
    "results": rpc.results,
}


async def main() -> None:
    while plan := await told():
        await make(Plan(**plan))


async def make(plan: Plan) -> None:
    async with KINDS[plan.kind](plan) as run:
        say(ready=True)
        await told()
        outcome = await run()
        say(count=outcome.count, answers=outcome.answers, spans=outcome.spans)
        await told()


if __name__ == "__main__":
    os.nice(NICE)
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
