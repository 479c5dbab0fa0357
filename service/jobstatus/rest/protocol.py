"""The HTTP connection: how many there may be, and what is answered to what is not HTTP.

aiohttp answers a request that its parser refuses before any handler is asked; that answer has to keep the contract's
shape as well, and neither it nor the log may repeat what was sent, which may be a credential.
"""

import asyncio
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobstatus.rest.answers import INTERNAL, Problem, problem_answer, request_id_of

BAD_REQUEST: Final = Problem(400, "invalid_request_error", "malformed_request", "The request is not valid HTTP")


NO_ACCESS_LOG: Final[dict[str, Any]] = {"access_log": None}  # aiohttp takes None and is not typed so


class EdgeProtocol(RequestHandler):
    """aiohttp's connection with answers of our shape where no handler is asked."""

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


class _Surplus(asyncio.Protocol):
    """A connection over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def protocol_factory(server: web.Server, *, max_connections: int, keepalive_seconds: float) -> asyncio.Protocol:
    """A protocol for a new connection to a server of aiohttp's."""
    if len(server.connections) >= max_connections:
        return _Surplus()
    loop = asyncio.get_running_loop()
    return EdgeProtocol(server, loop=loop, keepalive_timeout=keepalive_seconds, **NO_ACCESS_LOG)
