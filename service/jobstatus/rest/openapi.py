"""The service's own description, which anybody may have.

It is 600 times as long as the request for it, so a stranger could fill the network with it. Clients and proxies may
keep it and revalidate it, and one address gets it a few times a second at most; HEAD and a 304 are always answered.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web

from jobstatus.rest import responses
from jobstatus.rest.connection_table import network_of
from jobstatus.rest.headers import IF_NONE_MATCH, is_known
from jobstatus.rest.responses import PrebuiltResponse

OPENAPI_PATH: Final = "/openapi.json"
_FILE: Final = Path(__file__).with_name("openapi.json")


class OpenApiDocument:
    """The document and how often it was sent. Build it once for each port."""

    def __init__(self, *, each_second: int, monotonic: Callable[[], float]) -> None:
        """One address gets the document `each_second` times at most; 0 is no limit. `monotonic` returns seconds."""
        self._body = _FILE.read_bytes()
        self._tag = f'"{hashlib.sha256(self._body).hexdigest()[:16]}"'
        self._each_second = each_second
        self._monotonic = monotonic
        self._second = 0
        self._sent: Counter[str | None] = Counter()
        """How often each address was sent the document in this second."""

    def answer(self, request: web.BaseRequest, request_id: str) -> PrebuiltResponse:
        """Return the response to a GET or HEAD."""
        if IF_NONE_MATCH in request.headers and is_known(request.headers.getall(IF_NONE_MATCH), self._tag):
            return responses.public(HTTPStatus.NOT_MODIFIED, b"", request_id, self._tag)
        if request.method == "GET" and self._each_second and self._is_too_often(request):
            return responses.problem_answer(responses.TOO_OFTEN, request_id)
        return responses.public(HTTPStatus.OK, self._body, request_id, self._tag)

    def _is_too_often(self, request: web.BaseRequest) -> bool:
        second = int(self._monotonic())
        if second != self._second:
            self._second = second
            self._sent.clear()
        network = None if request.transport is None else network_of(request.transport.get_extra_info("peername"))
        self._sent[network] += 1
        return self._sent[network] > self._each_second
