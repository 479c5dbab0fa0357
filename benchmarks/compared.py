"""Polls of the service on every store and of the two references, in turn, in the same rounds.

All are filled with the same jobs, and before anything is measured each has to give the very bytes that are due, and to
refuse whom it should.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from harness import valkey
from harness.http import request
from harness.tokens import AUDIENCE, ISSUER, SECRET

from benchmarks.figures import CPU, Collected, Options, Series, ratios
from benchmarks.load import load, write_requests
from benchmarks.references import fastapi_redis
from benchmarks.servers import Target, behind, python_server, serving, store_url
from benchmarks.workload import (
    KINDS_OF_CREDENTIALS,
    PATH,
    Workload,
    credential_line,
    document,
    is_admin,
    job_id_of,
    seed,
)

BARE: Final = "bare aiohttp"
FASTAPI: Final = "FastAPI + redis-py"
CHEAPER: Final = f"a poll of {FASTAPI} costs as much CPU time as so many"
_DATABASE: Final = 1
"""Of the Valkey server, whose first one belongs to the service."""
_CHECKED: Final = 12
"""Jobs that are checked: two of each kind of credential and state."""


class Turn(NamedTuple):
    """Who is asked with how many polls in flight, how that is called, and with what it is compared."""

    subject: str
    target: Target
    connections: int
    reference: str
    instead: str


async def compare(section: str, workload: Workload, options: Options, *, alone: tuple[str, ...] = ()) -> list[Series]:
    """The figures of all; those of these names also with one poll in flight."""
    requests = write_requests(options.folder / "requests", workload.requests())
    collected = Collected(section)
    async with AsyncExitStack() as stack:
        targets = [await stack.enter_async_context(server) for server in _servers(workload, options)]
        for target in targets:
            await _check(target, workload)
        turns = [_turn(target, options.connections) for target in targets]
        turns += [_turn(target, 1, ", one in flight") for target in targets if target.name in alone]
        for number in options.each_round(f"{section}: asking"):
            for turn in turns:
                found = await load(turn.target, requests, connections=turn.connections, seconds=options.seconds)
                if number:
                    found.add_to(collected, turn.subject)
    made = collected.series({turn.subject: turn.reference for turn in turns if turn.subject != turn.reference})
    cost = {series.subject: series for series in made if series.measure == CPU}
    return [*cost.values(), *_cheaper(cost, turns), *(series for series in made if series.measure != CPU)]


def _turn(target: Target, connections: int, suffix: str = "") -> Turn:
    return Turn(target.name + suffix, target, connections, BARE + suffix, FASTAPI + suffix)


def _cheaper(cost: dict[str, Series], turns: list[Turn]) -> list[Series]:
    """How many polls of each one cost as much as one of FastAPI with as many in flight, round by round."""
    return [
        Series(
            cost[turn.subject].section, turn.subject, CHEAPER, "polls", ratios(cost[turn.instead], cost[turn.subject])
        )
        for turn in turns
        if turn.subject != turn.instead
    ]


def _servers(workload: Workload, options: Options) -> list[AbstractAsyncContextManager[Target]]:
    """In the order in which they take their turns: references first."""
    places = {name: options.folder / name for name in ("bare", "fastapi", *options.stores)}
    for place in places.values():
        place.mkdir()
    ours = [_jobstatus(kind, places[kind], workload, options) for kind in options.stores]
    size = str(workload.result_bytes)
    bare = python_server("bare_aiohttp", "--result-bytes", size, name=BARE, folder=places["bare"])
    return [bare, _fastapi(places["fastapi"], workload, options), *ours]


@asynccontextmanager
async def _jobstatus(kind: str, folder: Path, workload: Workload, options: Options) -> AsyncIterator[Target]:
    store = store_url(kind, folder)
    await seed(store, workload, options)
    async with serving(kind, folder, store) as target:
        yield target


@asynccontextmanager
async def _fastapi(folder: Path, workload: Workload, options: Options) -> AsyncIterator[Target]:
    server = valkey.single()
    url = f"redis://127.0.0.1:{server.port}/{_DATABASE}"
    await fastapi_redis.store(url, (), workload.virtual_keys())
    with options.progress("storing jobs for FastAPI", workload.jobs) as advance:
        for jobs in workload.batches():
            await fastapi_redis.store(url, jobs, ())
            advance(len(jobs))
    variables = dict(zip(fastapi_redis.VARIABLES, (url, SECRET, ISSUER, AUDIENCE), strict=True))
    async with python_server("fastapi_redis", name=FASTAPI, folder=folder, variables=variables) as target:
        yield replace(target, behind=behind("valkey"))
    await fastapi_redis.remove_all(url)


async def _check(target: Target, workload: Workload) -> None:
    """Raise RuntimeError unless it answers what is due."""
    for number in range(min(_CHECKED, workload.jobs)):
        job, credential = workload.job(number), credential_line(number)
        status, body = (200 if job.is_terminal else 202), document(job)
        answer = await request(target.port, PATH + job.job_id, credential)
        if target.name == BARE:
            _expect(target, (answer.status, len(answer.body)), (status, len(body)))
        else:
            _expect(target, (answer.status, answer.body), (status, body))
            await _check_refusals(target, number, workload)


async def _check_refusals(target: Target, number: int, workload: Workload) -> None:
    path, credential = PATH + job_id_of(number), credential_line(number)
    asked = [
        ((path,), 401, "missing_credentials"),
        ((path, f"{credential}x"), 401, "invalid_credentials"),
        ((PATH + job_id_of(workload.jobs), credential), 404, "job_not_found"),
        ((f"{PATH}no.id", credential), 404, "job_not_found"),
    ]
    if not is_admin(number):
        asked.append(((path, credential_line(number + KINDS_OF_CREDENTIALS)), 404, "job_not_found"))
    for (asked_path, *lines), status, code in asked:
        answer = await request(target.port, asked_path, *lines)
        _expect(target, (answer.status, answer.json["error"]["code"]), (status, code))


def _expect(target: Target, found: object, due: object) -> None:
    if found != due:
        raise RuntimeError(f"{target.name} answers {found!r}, not {due!r}")
