"""Which calls are recorded in the audit log, and what of them: who called, from where, on what, and how it ended.

Recorded are the calls by which an operator or a gateway changes what others rely on, and, where it is wanted, every
write of a job. Heartbeats are not, because there are too many, and neither are reads, because edges poll by them.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.message import Message

from jobstatus.core.commands import MAX_NAME_CHARS
from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import is_valid_id
from jobstatus.rpc.errors import INTERNAL
from jobstatus.rpc.intake import Context

Record: TypeAlias = Callable[..., None]
"""Takes the name of the action and its facts, as `telemetry.audit.AuditLog.record`."""
Facts: TypeAlias = dict[str, Any]
DONE: Final = "OK"
UNKNOWN: Final = "CANCELLED"
"""The client went away, so whether it was done is not known."""
_NO_ID: Final = "(not an id)"
_BATCH: Final = "BatchWrite"


def _virtual_key(request: Any, _: Any) -> Facts:
    return {"virtual_key_id": _id(request.virtual_key_id)}


def _put_virtual_key(request: Any, _: Any) -> Facts:
    return {**_virtual_key(request, _), "disabled": request.disabled, "keys": len(request.key_sha256)}


def _job(request: Any, _: Any) -> Facts:
    return {"job_id": _id(request.job_id)}


def _created(request: Any, answer: Any) -> Facts:
    """The service chooses the id where the request has none."""
    return _job(request if request.HasField("job_id") or answer is None else answer.job, answer)


def _started(request: Any, answer: Any) -> Facts:
    return {**_job(request, answer), "worker_id": _id(request.worker_id)}


def _ended(request: Any, answer: Any) -> Facts:
    return {**_job(request, answer), **({"attempt": request.attempt} if request.HasField("attempt") else {})}


_FACTS: Final[Mapping[str, Callable[[Any, Any], Facts]]] = {
    "PutVirtualKey": _put_virtual_key,
    "DeleteVirtualKey": _virtual_key,
    "DeleteJob": _job,
    "CancelJob": _job,
    "CreateJob": _created,
    "StartJob": _started,
    "CompleteJob": _ended,
    "FailJob": _ended,
}
"""What is recorded of a request and its answer; of an operation in a batch likewise. The answer is None if there is
none."""
WRITES: Final = frozenset(_FACTS)
CHANGES: Final = frozenset({"PutVirtualKey", "DeleteVirtualKey", "DeleteJob", "CancelJob"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallAudit:
    """Records the calls of these methods, alone or in a batch."""

    record: Record
    methods: frozenset[str] = CHANGES

    def concerns(self, method: str) -> bool:
        """Return whether calls of this method are to be given to `note`."""
        return method == _BATCH or method in self.methods

    def note(
        self, context: Context, method: str, *, request: Message | None, outcome: str, response: Message | None = None
    ) -> None:
        """Record a call. `request` is None if the client may not make it, so that it was not read."""
        who = {"client": client_names(context), "peer": context.peer()}
        if method == _BATCH:
            for name, of_one, facts in self._operations(request, outcome, response):
                self.record(name, **who, outcome=of_one, **facts, method=method)
        else:
            self.record(
                method, **who, outcome=outcome, **({} if request is None else _FACTS[method](request, response))
            )

    def _operations(self, request: Any, outcome: str, response: Any) -> Iterator[tuple[str, str, Facts]]:
        """Yield method, outcome and facts of each operation in a batch."""
        for index, operation in enumerate(() if request is None else request.operation):
            kind = operation.WhichOneof("operation") or ""
            method = kind.title().replace("_", "")
            if method in self.methods:
                answer = None if response is None else response.result[index]
                refusal = "" if answer is None else answer.error.reason
                yield method, refusal or outcome, _FACTS[method](getattr(operation, kind), answer)


def client_names(context: Context) -> list[str]:
    """Return the names in the client's certificate, of which there are none without TLS."""
    return sorted({name.decode("utf-8", "replace") for name in context.peer_identities() or () if name})


def client_name(context: Context) -> str | None:
    """Return the names in the client's certificate as a text that every store can keep; None without TLS."""
    names = ", ".join(client_names(context))
    storable = names if names.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in names)
    return storable[:MAX_NAME_CHARS] or None


def outcome_of(error: BaseException) -> str:
    """Return the word by which the caller knows the error."""
    if isinstance(error, asyncio.CancelledError):
        return UNKNOWN
    return error.reason if isinstance(error, JobStatusError) else INTERNAL


def _id(text: str) -> str:
    return text if is_valid_id(text) else _NO_ID
