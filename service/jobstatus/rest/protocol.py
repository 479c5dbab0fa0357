"""The HTTP connection, and the answer to what is not HTTP.

aiohttp answers a request that its parser refuses without the handler. That answer must have the contract's shape too,
and neither it nor the log may repeat what was sent, which may be a credential.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from jobstatus.rest.headers import request_id_of
from jobstatus.rest.responses import INTERNAL, MAX_BYTES, STORE_UNAVAILABLE, Problem, cors_lines, problem_answer
from jobstatus.rest.send_limits import LargeResponses, NoRoomForLarge

BAD_REQUEST: Final = Problem(400, "invalid_request_error", "malformed_request", "The request is not valid HTTP")
VERSION_NOT_SUPPORTED: Final = replace(BAD_REQUEST, status=505)


class RestProtocol(RequestHandler):
    """aiohttp's connection, with limits on large answers, and the contract's answers to refused requests."""

    def __init__(self, server: web.Server, *, large: LargeResponses, **options: Any) -> None:
        """`options` are aiohttp's for a connection."""
        super().__init__(server, **options)
        self._large = large

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """Send the answer. A small one fits the socket's buffers; the client must read a large one in time."""
        if request.version.major != 1:
            resp = problem_answer(
                VERSION_NOT_SUPPORTED, request_id_of(request.headers.get("X-Request-Id"))
            ).to_response()
        size = resp.content_length or 0
        if size > MAX_BYTES:
            return self._finish_large(request, resp, start_time, size)
        return super().finish_response(request, resp, start_time)

    async def _finish_large(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None, size: int
    ) -> tuple[web.StreamResponse, bool]:
        try:
            async with self._large.sending(size):
                return await super().finish_response(request, resp, start_time)
        except NoRoomForLarge:
            refusal = problem_answer(STORE_UNAVAILABLE, resp.headers["X-Request-Id"])
            refusal.add(cors_lines(resp.headers))
            resp = refusal.to_response()
            return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self.transport is not None:
                self.transport.abort()
            return resp, True

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # it quotes the request
    ) -> web.StreamResponse:
        """Return the answer to what the parser refused; the connection is closed after it."""
        problem = INTERNAL if status == HTTPStatus.INTERNAL_SERVER_ERROR else replace(BAD_REQUEST, status=status)
        self.logger.info(
            "A request was refused.",
            extra={"event": "http_request_refused", "status": status, "cause": type(exc).__name__},
        )
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has been sent in part already")
        response = problem_answer(problem, request_id_of(None)).to_response()
        response.force_close()
        return response


class RefusedConnection(asyncio.Protocol):
    """A connection over the limit, closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
