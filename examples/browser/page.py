"""Serve a page that follows a job in the browser, and forward the page's requests to the service.

The page and the service share an address here, as they do behind a gateway, so the browser needs no permission. A page
of another origin needs JOBSTATUS_CORS_ORIGINS. For event streams a proxy must forward each part at once.

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
    """Return the application: the page at /, and the service below /v1/."""

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
    """Forward the request, and return the service's answer part by part; 502 while the service does not answer."""
    headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
    try:
        answer = await request.app[SESSION].get(request.rel_url, headers=headers, timeout=NO_LIMIT)
    except aiohttp.ClientError:
        raise web.HTTPBadGateway(text="The service does not answer.\n") from None
    async with answer:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        for name in NOT_PASSED_BACK:
            response.headers.popall(name, None)
        await response.prepare(request)
        try:
            async for part in answer.content.iter_any():
                await response.write(part)
        except (aiohttp.ClientError, ConnectionError):  # one of the two has gone away: so does the other
            if request.transport is not None:
                request.transport.abort()
        return response


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", default="http://127.0.0.1:8080", help="the service's REST address (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="the port of the page, on 127.0.0.1 (%(default)s)")
    options = parser.parse_args()
    web.run_app(application(options.service), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
