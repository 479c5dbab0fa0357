"""Answers the console's questions from the store, for admins only, through the use cases that REST and gRPC use."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from jobstatus.auth.errors import CredentialError, KeysUnavailable, MissingCredential, Reason
from jobstatus.auth.lru_cache import LruCache
from jobstatus.console import filters, rows
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import UNAVAILABLE, Answer, Question, document, refusal
from jobstatus.core import errors
from jobstatus.core.access import Principal
from jobstatus.core.commands import CancelJob, Command, DeleteJob, check_id
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Listing, VirtualKeyStore
from jobstatus.core.tracker import JobTracker
from jobstatus.core.virtual_keys import KEY_PREFIX
from jobstatus.rest.routes import PATHS

NO_TOKEN: Final = refusal(401, "Sign in with an admin's token.")
BAD_TOKEN: Final = refusal(401, "This token is not valid here; sign in with another one.")
EXPIRED_TOKEN: Final = refusal(401, "The token has expired; sign in with a new one.")
NOT_AN_ADMIN: Final = refusal(403, "This is the credential of a virtual key; the console needs an admin's token.")
NO_JOB: Final = refusal(404, "There is no such job, or it has expired.")
NO_KEY: Final = refusal(404, "There is no such virtual key.")
NO_RESULT: Final = refusal(404, "The job has no result.")
NO_ACTIONS: Final = refusal(403, "Actions are off; JOBSTATUS_CONSOLE_ACTIONS=on allows them.")
UNKNOWN: Final = refusal(404, "There is nothing at this path.")

_RESULTS_AT_ONCE: Final = 2
_KEPT_ANSWERS: Final = 100
_CANCELLED: Final = "Cancelled by an operator in the console."


class Authenticates(Protocol):
    async def authenticate(self, authorization: Sequence[str], keys: Sequence[str]) -> Principal:
        """As `Authenticator.authenticate`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the console may do and say. `record` is that of the audit log, without which nothing can be changed."""

    actions: bool
    unscoped_for_all: bool
    record: Callable[..., None] | None
    on_key_change: Callable[[], None]


class ConsoleReader:
    """Answers questions. Equal questions within a moment share an answer, once each asker is known to be an admin."""

    def __init__(
        self,
        *,
        authenticator: Authenticates,
        tracker: JobTracker,
        virtual_keys: VirtualKeyStore,
        clock: Callable[[], int],
        policy: Policy,
        limits: ConsoleLimits,
    ) -> None:
        self._authenticator = authenticator
        self._tracker = tracker
        self._virtual_keys = virtual_keys
        self._clock = clock
        self._policy = policy
        self._limits = limits
        self._results = asyncio.Semaphore(_RESULTS_AT_ONCE)
        self._kept: LruCache[str, tuple[float, asyncio.Future[Answer]]] = LruCache(_KEPT_ANSWERS)
        self._new: LruCache[str, tuple[float, int]] = LruCache(_KEPT_ANSWERS)
        self._reads: Mapping[str, Callable[[dict[str, Any]], Awaitable[Answer]]] = {
            "session": self._session,
            "jobs": self._jobs,
            "rows": self._rows,
            "job": self._job,
            "failures": self._failures,
            "workers": self._workers,
            "keys": self._keys,
        }
        self._acts: Mapping[str, tuple[str, Callable[[dict[str, Any]], Awaitable[Answer]]]] = {
            "result": ("ReadResult", self._result),
            "cancel": ("CancelJob", self._cancel),
            "delete": ("DeleteJob", self._delete),
            "disable": ("DisableVirtualKey", self._disable),
        }

    async def answer_text(self, text: str) -> str:
        """Return the answer to a question, both as text."""
        return (await self.answer(Question.from_text(text))).to_text()

    async def answer(self, question: Question) -> Answer:
        """Return the answer, or a refusal of one sentence. Raises nothing that the store or the core raise."""
        try:
            principal = await self._admin(question.authorization)
            return principal if isinstance(principal, Answer) else await self._answer(question, principal)
        except errors.InvalidField as error:
            return refusal(400, error.message)
        except errors.JobNotFound:
            return NO_JOB
        except (errors.JobStatusError, KeysUnavailable):
            return UNAVAILABLE

    async def _answer(self, question: Question, principal: Principal) -> Answer:
        if question.what in self._acts:
            return await self._act(question, principal)
        return await self._shared(question) if question.what in self._reads else UNKNOWN

    async def _admin(self, authorization: Sequence[str]) -> Principal | Answer:
        if any(KEY_PREFIX in value for value in authorization):
            return NOT_AN_ADMIN  # whose key it is does not matter, so the store is not asked
        try:
            principal = await self._authenticator.authenticate(authorization, ())
        except MissingCredential:
            return NO_TOKEN
        except CredentialError as error:
            return EXPIRED_TOKEN if error.reason is Reason.EXPIRED else BAD_TOKEN
        return principal if principal.is_admin else NOT_AN_ADMIN

    async def _shared(self, question: Question) -> Answer:
        """Return the answer that another page got a moment ago to the same question, or a new one."""
        now = asyncio.get_running_loop().time()
        key = question._replace(authorization=(), peer="").to_text()
        kept = self._kept.get(key)
        if kept is not None and now < kept[0]:
            return await asyncio.shield(kept[1])
        reading = asyncio.ensure_future(self._reads[question.what](question.arguments))
        reading.add_done_callback(_retrieve)
        self._kept.put(key, (now + self._limits.keep_seconds, reading))
        return await asyncio.shield(reading)

    async def _act(self, question: Question, principal: Principal) -> Answer:
        """Do what changes or reveals something, and record it, whatever its outcome."""
        action, act = self._acts[question.what]
        outcome = "INTERNAL"
        try:
            if question.what != "result" and not self._policy.actions:
                outcome = "NOT_ALLOWED"
                return NO_ACTIONS
            answer = await act(question.arguments)
            outcome = "OK" if answer.status == 200 else "NOT_FOUND"
        except errors.JobStatusError as error:
            outcome = error.reason
            if isinstance(error, errors.JobTerminal):
                return refusal(409, error.message)
            raise
        else:
            return answer
        finally:
            self._record(action, principal, question, outcome)

    def _record(self, action: str, principal: Principal, question: Question, outcome: str) -> None:
        if self._policy.record is None:
            return
        issuer, subject = principal.identity or ("", "")
        who = {"issuer": issuer, "subject": subject, "peer": question.peer}
        self._policy.record(action, **who, outcome=outcome, **filters.named(question.arguments), method="console")

    # --- reads ---

    async def _session(self, _: dict[str, Any]) -> Answer:
        return document({"actions": self._policy.actions, "now_ms": self._clock()})

    async def _jobs(self, arguments: dict[str, Any]) -> Answer:
        limit = self._limits.page_jobs
        listing = filters.listing_of(arguments, limit + 1)
        found, next_before = await self._tracker.list_page(listing)
        page = found[:limit]
        if len(found) > limit:
            next_before = (page[-1].created_at_ms, page[-1].job_id)
        return document(
            {
                "jobs": [rows.row_of(job) for job in page],
                "top": filters.place_of(page[0]) if page else None,
                "next": filters.place_text(next_before),
            }
        )

    async def _rows(self, arguments: dict[str, Any]) -> Answer:
        """Return which of the known jobs have changed or gone, and how many jobs there are above the page by now."""
        known: dict[str, int] = arguments["known"]
        jobs, new = await asyncio.gather(
            self._tracker.get_many(list(known), with_results=False), self._count_new(arguments)
        )
        pairs = list(zip(known, jobs, strict=True))
        changed = [job for job_id, job in pairs if isinstance(job, Job) and job.version != known[job_id]]
        return document(
            {
                "rows": [rows.row_of(job) for job in changed],
                "gone": [job_id for job_id, job in pairs if job is None],
                "new": new,
            }
        )

    async def _count_new(self, arguments: dict[str, Any]) -> int:
        """Return how many jobs there are above a page; the number of a moment ago where a listing takes long."""
        loop, key = asyncio.get_running_loop(), json.dumps(arguments | {"known": {}})
        kept = self._new.get(key)
        began = loop.time()
        if kept is not None and began < kept[0]:
            return kept[1]
        new = await self._list_new(arguments)
        self._new.put(key, (loop.time() + (loop.time() - began) / self._limits.look_share, new))
        return new

    async def _list_new(self, arguments: dict[str, Any]) -> int:
        top = filters.place_in(arguments, "top")
        listing = filters.listing_of(arguments | {"page": "", "at": ""}, self._limits.max_new)
        if top is not None:
            since_ms = max(top[0], listing.created_after_ms or 0)
            listing = replace(listing, created_after_ms=since_ms)
        found = await self._tracker.list_jobs(listing)
        return sum(top is None or (job.created_at_ms, job.job_id) > top for job in found)

    async def _job(self, arguments: dict[str, Any]) -> Answer:
        job = await self._tracker.get(_job_id(arguments), with_result=False)
        result_bytes = await self._tracker.result_bytes((job.job_id,)) if job.state is JobState.COMPLETED else None
        return document(
            rows.details_of(
                job,
                result_bytes=result_bytes,
                path=f"{PATHS[job.request_type]}{job.job_id}",
                readers=self._readers(job),
            )
        )

    def _readers(self, job: Job) -> str:
        if job.virtual_key_id is not None:
            return "key"
        return "anyone" if self._policy.unscoped_for_all else "admins"

    async def _failures(self, arguments: dict[str, Any]) -> Answer:
        listing = filters.listing_of(arguments | {"page": "", "at": ""}, self._limits.grouped_failures)
        failed = await self._tracker.list_jobs(replace(listing, states=(JobState.FAILED,)))
        return document({"groups": rows.groups_of(failed), "jobs": len(failed), "limit": listing.limit})

    async def _workers(self, _: dict[str, Any]) -> Answer:
        held = await self._tracker.list_jobs(Listing(limit=self._limits.held_jobs, states=(JobState.PROCESSING,)))
        seen = await self._seen()
        return document(
            {
                "workers": rows.workers_of(held, seen),
                "held": len(held),
                "limit": self._limits.held_jobs,
                "of": len(seen),
            }
        )

    async def _keys(self, arguments: dict[str, Any]) -> Answer:
        limit = self._limits.page_keys
        found = await self._virtual_keys.list_virtual_keys(filters.id_in(arguments, "page"), limit + 1)
        used = rows.last_used_of(await self._seen())
        now_ms = self._clock()
        return document(
            {
                "keys": [rows.key_of(each, used, now_ms) for each in found[:limit]],
                "next": found[limit - 1].virtual_key_id if len(found) > limit else None,
            }
        )

    async def _seen(self) -> list[Job]:
        return await self._tracker.list_jobs(Listing(limit=self._limits.seen_jobs))

    async def _result(self, arguments: dict[str, Any]) -> Answer:
        async with self._results:
            job = await self._tracker.get(_job_id(arguments))
        if job.result is None:
            return NO_RESULT
        shown = job.result[: self._limits.result_bytes].decode("utf-8", "replace")
        return document({"text": shown, "bytes": len(job.result), "cut": len(job.result) > self._limits.result_bytes})

    # --- actions ---

    async def _cancel(self, arguments: dict[str, Any]) -> Answer:
        return await self._apply(CancelJob(job_id=_job_id(arguments), reason=_CANCELLED))

    async def _delete(self, arguments: dict[str, Any]) -> Answer:
        return await self._apply(DeleteJob(job_id=_job_id(arguments)))

    async def _apply(self, command: Command) -> Answer:
        await self._tracker.apply(command)
        return document({})

    async def _disable(self, arguments: dict[str, Any]) -> Answer:
        virtual_key_id = str(arguments.get("virtual_key_id"))
        check_id("virtual_key_id", virtual_key_id)
        try:
            existed = await self._virtual_keys.disable_virtual_key(virtual_key_id, self._clock())
        finally:
            self._policy.on_key_change()
        return document({}) if existed else NO_KEY


def _retrieve(reading: asyncio.Future[Answer]) -> None:
    """Retrieve an error that nobody may wait for any more, so that asyncio does not report it as lost."""
    if not reading.cancelled():
        reading.exception()


def _job_id(arguments: dict[str, Any]) -> str:
    job_id = str(arguments.get("job_id"))
    check_id("job_id", job_id)
    return job_id
