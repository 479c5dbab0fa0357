"""The HTTP connection: how many there may be, and what is answered to what is not HTTP.

aiohttp answers a request that its parser refuses before any handler is asked; that answer has to keep the contract's
shape as well, and neither it nor the log may repeat what was sent, which may be a credential.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobstatus.rest.answers import INTERNAL, PATH_NOT_FOUND, STORE_UNAVAILABLE, Problem, problem_answer, request_id_of
from jobstatus.rest.small_answer import MAX_BYTES

BAD_REQUEST: Final = Problem(400, "invalid_request_error", "malformed_request", "The request is not valid HTTP")

SEND_SECONDS: Final = 30.0
"""How long a large answer may take to be read; a client that is slower is cut off."""
MAX_LARGE_BYTES: Final = 256 * 1024 * 1024
"""How much memory large answers under way may take together; what would exceed it is a 503."""
NO_ACCESS_LOG: Final[dict[str, Any]] = {"access_log": None}  # aiohttp takes None and is not typed so


class EdgeProtocol(RequestHandler):
    """aiohttp's connection with answers of our shape where no handler is asked."""

    large_bytes = 0
    """Of the large answers that are under way on all connections of this process."""

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send the answer. A small one fits the socket's buffers; a large one must be read in time."""
        if isinstance(resp, web.HTTPException) or request.version.major != 1:
            resp = _own_answer(request, resp)
        size = resp.content_length or 0
        if size > MAX_BYTES:
            if EdgeProtocol.large_bytes + size <= MAX_LARGE_BYTES:
                return self._finish_large(request, resp, start_time, size)
            resp = problem_answer(STORE_UNAVAILABLE, resp.headers["X-Request-Id"])
        return super().finish_response(request, resp, start_time)

    async def _finish_large(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None, size: int
    ) -> tuple[web.StreamResponse, bool]:
        EdgeProtocol.large_bytes += size
        try:
            async with asyncio.timeout(SEND_SECONDS):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            return resp, True
        finally:
            EdgeProtocol.large_bytes -= size

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the request
    ) -> web.StreamResponse:
        """The answer to what the parser refused; the connection is closed after it."""
        problem = INTERNAL if status == HTTPStatus.INTERNAL_SERVER_ERROR else replace(BAD_REQUEST, status=status)
        self.logger.info("a request was refused", extra={"status": status, "cause": type(exc).__name__})
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has been sent in part already")
        response = problem_answer(problem, request_id_of(None))
        response.force_close()
        return response


def _own_answer(request: web.BaseRequest, resp: web.StreamResponse) -> web.Response:
    """In place of an answer that aiohttp gives by itself (to CONNECT, say), and of any to another HTTP than 1.x."""
    status = HTTPStatus.HTTP_VERSION_NOT_SUPPORTED if request.version.major != 1 else HTTPStatus(resp.status)
    problem = PATH_NOT_FOUND if status == HTTPStatus.NOT_FOUND else replace(BAD_REQUEST, status=status.value)
    return problem_answer(problem, request_id_of(request.headers.get("X-Request-Id")))


class _Surplus(asyncio.Protocol):
    """A connection over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def protocol_factory(server: web.Server, *, max_connections: int, keepalive_seconds: float) -> asyncio.Protocol:
    """A protocol for a new connection to a server of aiohttp's."""
    if len(server.connections) >= max_connections:
        return _Surplus()
    loop = asyncio.get_running_loop()
    # Bodies are never read: nor shall a stranger have them decompressed.
    return EdgeProtocol(server, loop=loop, keepalive_timeout=keepalive_seconds, auto_decompress=False, **NO_ACCESS_LOG)
