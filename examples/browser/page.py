"""A page that follows a job in the browser, and the proxy before the service that its requests need.

A browser lets a page ask only where it comes from, so the page and the service are behind one address, as they are
behind a gateway. What a proxy has to do for event streams is to pass on each part as it comes.

    python examples/browser/page.py --service http://127.0.0.1:8080
"""

import argparse
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

FOLDER: Final = Path(__file__).parent
PASSED_ON: Final = ("Authorization", "x-bf-vk", "Accept", "Last-Event-ID", "Prefer", "If-None-Match")
NOT_PASSED_BACK: Final = ("Transfer-Encoding", "Content-Length", "Connection", "Date")
SESSION: Final = web.AppKey("session", aiohttp.ClientSession)
NO_LIMIT: Final = aiohttp.ClientTimeout(total=None)


def application(service: str) -> web.Application:
    """The page at /, and what the service says below /v1/."""

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(service, auto_decompress=False) as app[SESSION]:
            yield

    async def page(_: web.Request) -> web.FileResponse:
        return web.FileResponse(FOLDER / "index.html")

    async def script(_: web.Request) -> web.FileResponse:
        return web.FileResponse(FOLDER / "follow.js")

    app = web.Application()
    app.cleanup_ctx.append(client)
    app.add_routes([web.get("/", page), web.get("/follow.js", script), web.get("/v1/{path:.*}", pass_on)])
    return app


async def pass_on(request: web.Request) -> web.StreamResponse:
    """The service's answer, part by part."""
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    async with request.app[SESSION].get(request.rel_url, headers=headers, timeout=NO_LIMIT) as answer:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        for name in NOT_PASSED_BACK:
            response.headers.popall(name, None)
        await response.prepare(request)
        async for part in answer.content.iter_any():
            await response.write(part)
        return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", default="http://127.0.0.1:8080", help="where it listens for REST (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="of the page, on 127.0.0.1 (%(default)s)")
    options = parser.parse_args()
    web.run_app(application(options.service), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
