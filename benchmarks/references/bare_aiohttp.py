"""The least that aiohttp can do: a handler on the same route that returns one of two documents and looks at nothing.

The documents are those of a pending and a completed job, as long as every other one.
"""

import argparse
import asyncio

import uvloop
from aiohttp import web

from benchmarks.workload import PATH, Workload, document, is_completed


async def serve(result_bytes: int) -> None:
    """Print the port, and serve."""
    workload = Workload(jobs=2, credentials=2, result_bytes=result_bytes)
    pending, completed = (document(workload.job(number)) for number in (0, 1))

    async def answer(request: web.Request) -> web.Response:
        if is_completed(request.match_info["job_id"]):
            return web.Response(status=200, body=completed, content_type="application/json")
        return web.Response(status=202, body=pending, content_type="application/json")

    app = web.Application()
    app.router.add_get(PATH + "{job_id}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site.port, flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--result-bytes", type=int, required=True)
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve(parser.parse_args().result_bytes))


if __name__ == "__main__":
    main()
