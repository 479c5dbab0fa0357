"""The loads of `abuse.py`: what each needs and asks, and the bounds of what it may do."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from harness.flood.plan import Kind
from harness.flood.rpc import SHAPES
from harness.forging import forge
from harness.http import request
from harness.jobs import complete, create, start
from harness.service import Process, Service
from harness.tokens import AUDIENCE, ISSUER, virtual_key_token
from jobstatus.core.virtual_keys import KEY_PREFIX

MIB: Final = 1024 * 1024
GOOD: Final = "good"
BAD: Final = "bad"
"""The virtual keys of the good client and of whoever is a tenant of the service and abuses it."""
OPENAPI: Final = "/openapi.json"
PATH: Final = "/v1/async/audio/transcriptions/"
CROWD: Final = 1000
FEW: Final = 16
"""How many connections a flood has: many, or as many as keep the service busy."""


@dataclass(frozen=True, slots=True)
class Ground:
    """A service, and what its clients need."""

    service: Service
    measured: Process
    """The process that is abused: that of the service, or of the edge before it."""
    prefix: str
    result_bytes: int
    """The size of a large result."""

    def credential(self, virtual_key_id: str) -> str:
        return f"Authorization: Bearer {virtual_key_token(virtual_key_id)}"

    async def job(self, owner: str, name: str) -> str:
        """Return the id of a new job of this virtual key."""
        return (await create(self.service, f"{self.prefix}-{name}", virtual_key_id=owner)).job_id

    async def large(self, owner: str) -> str:
        """Return the id of a job with a large result."""
        job_id = await self.job(owner, f"large-{owner}")
        await complete(self.service, job_id, SHAPES["text"](self.result_bytes))
        return job_id


Prepare = Callable[[Ground], Awaitable[Mapping[str, Any]]]
"""Makes what a load needs; returns fields of its plan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One load, and its bounds."""

    title: str
    kind: Kind = "requests"
    prepare: Prepare
    connections: int = CROWD
    shrinks: bool = True
    """Whether a small scale has fewer connections of it."""
    answers: frozenset[str]
    """How it may be answered."""
    unit: str = "request"
    most_polls: float | None = None
    """One costs at most so many plain polls."""
    most_ms: float | None = None
    """One costs at most so much processor time."""
    judges_stall: bool = False
    memory_mib: int = 200
    """The memory grows by no more."""
    settings: Mapping[str, str] = field(default_factory=dict)
    reads_large: bool = False
    """Whether the good client reads a large result once a second."""
    on_edge: bool = True
    is_cut_off: bool = False
    """Whether the service is to close the connections of the load, by and by."""


# --- what the loads ask ---


def get(path: str, *lines: str, method: str = "GET") -> str:
    """Return a whole request."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""))


def asking(*lines: str, path: str = f"{PATH}some-job") -> Prepare:
    """Requests that need nothing to be there."""

    async def prepare(_: Ground) -> Mapping[str, Any]:
        return {"requests": [get(path, *lines)]}

    return prepare


async def asking_twice(_: Ground) -> Mapping[str, Any]:
    """What has small answers, and what has larger ones."""
    return {"requests": [get(f"{PATH}some-job"), get(OPENAPI)]}


def signed_by(algorithm: str, signature_bytes: int, *, padding: int = 0) -> Prepare:
    """Tokens with everything right but the signature, which is another one each time."""
    issuer = ISSUER if algorithm == "HS256" else f"{ISSUER}/{algorithm}"
    claims = {"iss": issuer, "aud": AUDIENCE, "exp": int(time.time()) + 24 * 3600, "virtual_key_id": BAD}
    token = forge(claims | {"padding": "x" * padding}, {"alg": algorithm, "typ": "JWT"}).rpartition(".")[0]
    return asking(f"Authorization: Bearer {token}.{{random:{signature_bytes}}}")


async def plain_polls(ground: Ground) -> Mapping[str, Any]:
    return {"requests": [get(PATH + await ground.job(BAD, "polled"), ground.credential(BAD))]}


async def unknown_jobs(ground: Ground) -> Mapping[str, Any]:
    return {"requests": [get(f"{PATH}{{random:16}}", ground.credential(BAD))]}


async def large_head(ground: Ground) -> Mapping[str, Any]:
    path = PATH + await ground.large(BAD)
    return {"requests": [get(path, ground.credential(BAD), method="HEAD")], "head_only": True}


async def large_unchanged(ground: Ground) -> Mapping[str, Any]:
    path, credential = PATH + await ground.large(BAD), ground.credential(BAD)
    head = await request(ground.measured.port("HTTP"), path, credential, method="HEAD")
    return {"requests": [get(path, credential, f"If-None-Match: {head.headers['etag']}")]}


async def large_slowly(ground: Ground) -> Mapping[str, Any]:
    return {"requests": [get(PATH + await ground.large(BAD), ground.credential(BAD))]}


def waiting(*lines: str) -> Prepare:
    """Many who wait for one job that is being processed."""

    async def prepare(ground: Ground) -> Mapping[str, Any]:
        job_id = await ground.job(BAD, "awaited")
        await start(ground.service, job_id)
        return {"requests": [get(PATH + job_id, ground.credential(BAD), *lines)], "job_id": job_id}

    return prepare


def results(*shapes: str) -> Prepare:
    async def prepare(ground: Ground) -> Mapping[str, Any]:
        return {"shapes": shapes, "result_bytes": ground.result_bytes, "prefix": f"{ground.prefix}-results"}

    return prepare


async def nothing(_: Ground) -> Mapping[str, Any]:
    return {}


REFUSED: Final = frozenset({"401"})
ANY: Final = frozenset({"closed", "ConnectionResetError", "BrokenPipeError", "503", "400", "408"})
MANY_WAITS: Final = {"MAX_WAITING_POLLS_EACH": "2000"}

ROWS: Final[dict[str, Row]] = {
    "no-credential": Row(title="no credential", prepare=asking(), answers=REFUSED),
    "malformed-token": Row(
        title="a malformed token", prepare=asking("Authorization: Bearer eyJ.{random:24}.x"), answers=REFUSED
    ),
    "oversized-token": Row(title="a token of 7.9 kB", prepare=signed_by("RS256", 256, padding=5200), answers=REFUSED),
    "wrong-hs256": Row(title="a wrong HS256 signature", prepare=signed_by("HS256", 32), answers=REFUSED),
    "wrong-rs256": Row(title="a wrong RS256 signature", prepare=signed_by("RS256", 256), answers=REFUSED),
    "wrong-es256": Row(title="a wrong ES256 signature", prepare=signed_by("ES256", 64), answers=REFUSED),
    "invented-keys": Row(
        title="invented keys",
        prepare=asking(f"Authorization: Bearer {KEY_PREFIX}{{random:24}}"),
        answers=REFUSED,
    ),
    "openapi": Row(
        title="/openapi.json",
        prepare=asking(path=OPENAPI),
        connections=FEW,
        answers=frozenset({"200"}),
    ),
    "bad-requests": Row(
        title="not HTTP",
        prepare=asking(path="/ HTTP/1.1\r\nno field"),
        connections=FEW,
        answers=frozenset({"400"}),
    ),
    "connections": Row(
        title="10,500 silent connections",
        kind="connects",
        prepare=nothing,
        connections=10_500,
        answers=ANY,
        unit="-",
        settings={"MAX_CONNECTIONS_EACH": "1000"},
    ),
    "unread": Row(
        title="pipelined, never read",
        kind="unread",
        prepare=asking_twice,
        connections=100,
        answers=ANY,
        unit="-",
        is_cut_off=True,
    ),
    "unknown-jobs": Row(title="unknown jobs", prepare=unknown_jobs, answers=frozenset({"404"})),
    "rate-limited": Row(
        title="a tenant beyond its rate",
        prepare=plain_polls,
        connections=FEW,
        answers=frozenset({"202", "429"}),
        settings={"RATE_LIMIT": "100", "RATE_LIMIT_BURST": "200"},
    ),
    "large-head": Row(
        title="HEAD of a large result",
        prepare=large_head,
        connections=FEW,
        answers=frozenset({"200"}),
        most_polls=2,
        judges_stall=True,
    ),
    "large-304": Row(
        title="304 of a large result",
        prepare=large_unchanged,
        connections=FEW,
        answers=frozenset({"304"}),
        most_polls=2,
        judges_stall=True,
    ),
    "slow-readers": Row(
        title="16 slow readers of large results",
        kind="slow",
        prepare=large_slowly,
        connections=16,
        shrinks=False,
        answers=frozenset({"200", "503"}),
        judges_stall=True,
        memory_mib=320,
        reads_large=True,
    ),
    "waits": Row(
        title="1,000 waits for one job",
        kind="held",
        prepare=waiting("Prefer: wait=45"),
        answers=frozenset({"events"}),
        unit="heartbeat",
        most_ms=2,
        settings=MANY_WAITS,
    ),
    "streams": Row(
        title="1,000 event streams of one job",
        kind="held",
        prepare=waiting("Accept: text/event-stream"),
        answers=frozenset({"200", "events"}),
        unit="heartbeat",
        most_ms=20,
        settings=MANY_WAITS,
    ),
    "watches": Row(
        title="5,000 watches of one job",
        kind="watches",
        prepare=waiting(),
        connections=5000,
        answers=frozenset({"events"}),
        unit="heartbeat",
        on_edge=False,
    ),
    "shapes": Row(
        title="large results of all shapes",
        kind="results",
        prepare=results(*SHAPES),
        connections=1,
        shrinks=False,
        answers=frozenset({"OK", "INVALID_ARGUMENT"}),
        unit="result",
        judges_stall=True,
        on_edge=False,
    ),
    "large-results": Row(
        title="20 large results at once",
        kind="results",
        prepare=results("text"),
        connections=20,
        shrinks=False,
        answers=frozenset({"OK", "RESOURCE_EXHAUSTED"}),
        unit="result",
        judges_stall=True,
        memory_mib=400,
        on_edge=False,
    ),
}
REFERENCES: Final = {connections: f"polls-{connections}" for connections in (FEW, CROWD)}
"""What one abuse is compared with: as many connections of a tenant who polls."""
LOADS: Final = ROWS | {
    name: Row(
        title=f"plain polls, {connections} connections",
        prepare=plain_polls,
        connections=connections,
        answers=frozenset({"202"}),
    )
    for connections, name in REFERENCES.items()
}
NOTHING: Final = "nothing"
