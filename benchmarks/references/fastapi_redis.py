"""What a user would write instead: FastAPI on uvicorn, PyJWT, and redis-py with hiredis upon one server.

It answers polls of transcriptions by the same contract and with the same checks as the service: one credential of three
kinds, tokens verified with issuer, audience, expiry and one algorithm, virtual keys looked up by their SHA-256 and
refused when they are disabled, and the id's grammar, request type, owner and expiry of the job. A job is a hash with
the document ready made, and a poll is one round trip.
"""

import asyncio
import hashlib
import os
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, cast

import jwt
import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from jobstatus.core.job import Job
from jobstatus.core.virtual_keys import VirtualKey
from redis.asyncio import Redis

from benchmarks.workload import PATH, document

VARIABLES: Final = ("REDIS_URL", "JWT_SECRET", "JWT_ISSUER", "JWT_AUDIENCE")
JOB_FIELDS: Final = ("request_type", "virtual_key_id", "created_at_ms", "expires_at_ms", "body")
VIRTUAL_KEY_FIELDS: Final = ("virtual_key_id", "disabled")
HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
CHALLENGE: Final = 'Bearer realm="jobstatus"'
Values = list[bytes | None]
Fields = dict[Any, Any]

is_id: Final = re.compile("[A-Za-z0-9_-]{1,128}").fullmatch
is_request_id: Final = re.compile("[A-Za-z0-9._-]{1,128}").fullmatch


class Refused(Exception):
    """The poll is refused: the HTTP status, and type, code and message of the error document."""

    def __init__(self, status: int, kind: str, code: str, message: str, **headers: str) -> None:
        super().__init__(code)
        self.status = status
        self.error = {"type": kind, "code": code, "message": message}
        self.headers = headers


class MissingCredentials(Refused):
    def __init__(self) -> None:
        challenge = {"WWW-Authenticate": CHALLENGE}
        super().__init__(401, "authentication_error", "missing_credentials", "Credentials are required", **challenge)


class InvalidCredentials(Refused):
    def __init__(self) -> None:
        challenge = {"WWW-Authenticate": f'{CHALLENGE}, error="invalid_token"'}
        super().__init__(401, "authentication_error", "invalid_credentials", "The credentials are invalid", **challenge)


class JobNotFound(Refused):
    def __init__(self) -> None:
        super().__init__(404, "not_found", "job_not_found", "Job not found or expired")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a virtual key by its id, or by the record that knows it, which says whether it is disabled.

    An admin has neither.
    """

    virtual_key_id: str | None
    record: str | None


def request_id_of(request: Request) -> str:
    given = request.headers.get("x-request-id")
    return given if given is not None and is_request_id(given) else uuid.uuid4().hex


def credential_of(request: Request) -> str:
    """The one credential of the request."""
    authorization, keys = request.headers.getlist("authorization"), request.headers.getlist("x-bf-vk")
    if len(authorization) + len(keys) > 1:
        raise InvalidCredentials
    if keys:
        if not keys[0].startswith("sk-bf-"):
            raise InvalidCredentials
        return keys[0]
    scheme, _, credential = authorization[0].partition(" ") if authorization else ("", "", "")
    if scheme.lower() != "bearer" or not credential:
        raise MissingCredentials
    return credential


async def caller_of(request: Request) -> Caller:
    """Who asks, as far as the credential alone tells."""
    credential = credential_of(request)
    if credential.startswith("sk-bf-"):
        return Caller(None, f"key:{hashlib.sha256(credential.encode()).hexdigest()}")
    _, secret, issuer, audience = request.app.state.variables
    try:
        claims = jwt.decode(
            credential,
            secret,
            algorithms=["HS256"],
            issuer=issuer,
            audience=audience,
            options={"require": ["exp", "iss", "aud"]},
        )
    except jwt.InvalidTokenError as error:
        raise InvalidCredentials from error
    virtual_key_id, role = claims.get("virtual_key_id"), claims.get("role")
    if virtual_key_id is None and role == "admin":
        return Caller(None, None)
    if role is not None or not isinstance(virtual_key_id, str) or not is_id(virtual_key_id):
        raise InvalidCredentials
    return Caller(virtual_key_id, f"virtual-key:{virtual_key_id}")


async def poll(job_id: str, request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
    """202 for a job that goes on, 200 for one that has ended."""
    job, virtual_key = await read(request.app.state.redis, job_id, caller.record)
    asking = caller.virtual_key_id
    if caller.record is not None:
        registered, disabled = virtual_key
        if asking is None and registered is not None:
            asking = registered.decode()
        if asking is None or disabled == b"1":
            raise InvalidCredentials
    request_type, owner, created_at_ms, expires_at_ms, body = job
    now_ms = time.time() * 1000
    if (
        body is None
        or created_at_ms is None
        or request_type != b"transcription"
        or (asking is not None and owner != asking.encode())
        or (expires_at_ms is not None and int(expires_at_ms) <= now_ms)
        or not is_id(job_id)
    ):
        raise JobNotFound
    headers = HEADERS | {"X-Request-Id": request_id_of(request)}
    if expires_at_ms is not None:
        return Response(body, 200, headers, "application/json")
    retry_after = min(30, max(2, int((now_ms - int(created_at_ms)) / 10_000)))
    return Response(body, 202, headers | {"Retry-After": str(retry_after)}, "application/json")


async def read(redis: Redis, job_id: str, record: str | None) -> tuple[Values, Values]:
    """The job, and the virtual key where one asks, in one round trip."""
    if record is None:
        return cast("Values", await redis.hmget(f"job:{job_id}", JOB_FIELDS)), []
    pipeline = redis.pipeline(transaction=False)
    pipeline.hmget(f"job:{job_id}", JOB_FIELDS)
    pipeline.hmget(record, VIRTUAL_KEY_FIELDS)
    job, virtual_key = await pipeline.execute()
    return job, virtual_key


async def refusal(request: Request, error: Exception) -> Response:
    """The contract's error document."""
    assert isinstance(error, Refused)
    request_id = request_id_of(request)
    content = {
        "event_id": request_id,
        "is_bifrost_error": False,
        "status_code": error.status,
        "error": error.error,
        "extra_fields": {},
    }
    return JSONResponse(content, error.status, HEADERS | {"X-Request-Id": request_id} | error.headers)


def application(variables: Sequence[str]) -> FastAPI:
    """All of it; the variables' values in the order of VARIABLES."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.variables = variables
        async with Redis.from_url(variables[0]) as app.state.redis:
            yield

    app = FastAPI(lifespan=lifespan)
    app.add_api_route(PATH + "{job_id}", poll, methods=["GET", "HEAD"])
    app.add_exception_handler(Refused, refusal)
    return app


async def store(url: str, jobs: Iterable[Job], virtual_keys: Iterable[VirtualKey]) -> None:
    """Keep these as the polls want them."""
    async with Redis.from_url(url) as redis, redis.pipeline(transaction=False) as pipeline:
        for job in jobs:
            values = (job.request_type.value, job.virtual_key_id, job.created_at_ms, job.expires_at_ms, document(job))
            fields: Fields = {name: value for name, value in zip(JOB_FIELDS, values, strict=True) if value is not None}
            pipeline.hset(f"job:{job.job_id}", mapping=fields)
        for virtual_key in virtual_keys:
            known = (virtual_key.virtual_key_id, int(virtual_key.disabled))
            kept: Fields = dict(zip(VIRTUAL_KEY_FIELDS, known, strict=True))
            pipeline.hset(f"virtual-key:{virtual_key.virtual_key_id}", mapping=kept)
            for digest in virtual_key.key_sha256:
                pipeline.hset(f"key:{digest.hex()}", mapping=kept)
        await pipeline.execute()


async def remove_all(url: str) -> None:
    """Make room."""
    async with Redis.from_url(url) as redis:
        await redis.flushdb()


async def serve() -> None:
    """Print the port, and serve."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    app = application([os.environ[name] for name in VARIABLES])
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", access_log=False, log_level="warning", server_header=False
    )
    await uvicorn.Server(config).serve([listener])


if __name__ == "__main__":
    import uvloop

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
