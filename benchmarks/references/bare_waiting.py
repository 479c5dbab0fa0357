"""The least that aiohttp can do for those who wait: a handler that waits for an event, and one that sets it."""

import asyncio
from collections import defaultdict
from typing import Final

import uvloop
from aiohttp import web

from benchmarks.workload import PATH, Workload, document

DONE: Final = "/done/"


async def serve() -> None:
    """Print the port, and serve."""
    body = document(Workload(jobs=2, credentials=2).job(1))
    events: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        await events[job_id].wait()
        head = b'{"id":"%b",' % job_id.encode()
        return web.Response(body=head + body.partition(b",")[2], content_type="application/json")

    async def done(request: web.Request) -> web.Response:
        events[request.match_info["job_id"]].set()
        return web.Response()

    app = web.Application()
    app.router.add_get(PATH + "{job_id}", wait)
    app.router.add_post(DONE + "{job_id}", done)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    print(site.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
