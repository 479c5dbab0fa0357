"""Requests that must be refused: for a field outside its bounds, or for a result that is not JSON."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

from harness.jobs import creation, job_error

BAD_IDS: Final = ("", " ", "a b", "a/b", "a.b", "j1\n", "\r\n", "j\0", "é", "../x", "a" * 129, "a" * 10_000)
"""No id of a job, a virtual key or a worker."""
NAN: Final = float("nan")
INFINITY: Final = float("inf")
_BIG: Final = 2**63 - 1
_SMALL: Final = -(2**63)
_BAD_SPANS: Final = (
    Duration(),
    Duration(seconds=-1),
    Duration(nanos=999_999_999),
    Duration(seconds=_BIG),
    Duration(seconds=_SMALL),
    Duration(seconds=2, nanos=2**31 - 1),
    Duration(seconds=2, nanos=-1),
    Duration(seconds=-2, nanos=1),
)
_BAD_TIMES: Final = (
    Timestamp(seconds=_BIG),
    Timestamp(seconds=_SMALL),
    Timestamp(nanos=-1),
    Timestamp(nanos=1_000_000_000),
    Timestamp(seconds=253_402_300_800),
)
_BAD_CODES: Final = (0, 99, 600, -1, 2**31 - 1, -(2**31))
_BAD_ENUMS: Final = (0, 77, -1, 2**31 - 1)
_TTL_TOO_LONG: Final = Duration(seconds=30 * 24 * 3600, nanos=1_000_000)
_LEASE_TOO_LONG: Final = Duration(seconds=24 * 3600, nanos=1_000_000)
_DIGEST: Final = bytes(32)


def _start(**fields: Any) -> pb.StartJobRequest:
    return pb.StartJobRequest(**{"job_id": "pending", "worker_id": "worker-1", **fields})


def _heartbeat(**fields: Any) -> pb.HeartbeatJobRequest:
    return pb.HeartbeatJobRequest(**{"job_id": "processing", **fields})


def _complete(**fields: Any) -> pb.CompleteJobRequest:
    return pb.CompleteJobRequest(**{"job_id": "processing", "result": b"{}", **fields})


def _fail(**fields: Any) -> pb.FailJobRequest:
    return pb.FailJobRequest(**{"job_id": "processing", "error": job_error(), **fields})


def _cancel(**fields: Any) -> pb.CancelJobRequest:
    return pb.CancelJobRequest(**{"job_id": "processing", **fields})


def _put(**fields: Any) -> vk_pb.PutVirtualKeyRequest:
    return vk_pb.PutVirtualKeyRequest(**{"virtual_key_id": "vk-1", **fields})


def _inner(**fields: str) -> pb.JobError:
    return pb.JobError(error=pb.ErrorField(**{"message": "m", **fields}))


def _each(make: Any, field: str, values: Sequence[Any]) -> list[tuple[str, Message]]:
    """For each value a request with the field set so; the field is the one that has to be named."""
    return [(field, make(**{field: value})) for value in values]


def _invalid() -> Iterator[tuple[str, Message]]:
    for request in (
        pb.StartJobRequest,
        pb.HeartbeatJobRequest,
        pb.CompleteJobRequest,
        pb.CancelJobRequest,
        pb.GetJobRequest,
        pb.WatchJobRequest,
        pb.DeleteJobRequest,
        vk_pb.PutVirtualKeyRequest,
        vk_pb.GetVirtualKeyRequest,
        vk_pb.DeleteVirtualKeyRequest,
    ):
        field = request.DESCRIPTOR.fields[0].name
        yield field, request()
        yield from _each(request, field, BAD_IDS)
    yield "error", pb.FailJobRequest()
    yield from _each(_fail, "job_id", BAD_IDS)
    yield from _each(creation, "job_id", BAD_IDS)
    yield from _each(_start, "worker_id", BAD_IDS)
    for field, values in {
        "virtual_key_id": BAD_IDS,
        "request_type": _BAD_ENUMS,
        "result_ttl": (*_BAD_SPANS, _TTL_TOO_LONG),
        "provider": ("p" * 257, "p\0"),
        "model_requested": ("m" * 257, "m\0"),
        "max_attempts": (0, -1, 1001, 2**31 - 1, -(2**31)),
    }.items():
        yield from _each(lambda **fields: creation("new", **fields), field, values)
    yield "request_type", pb.CreateJobRequest()
    yield from _each(_start, "lease", (*_BAD_SPANS, _LEASE_TOO_LONG))
    yield from _each(_heartbeat, "attempt", (-1, -(2**31)))
    yield from _each(_heartbeat, "progress", (-0.001, 1.001, 101, -1, NAN, INFINITY, -INFINITY))
    yield from _each(_heartbeat, "message", ("m" * 1025, "m\0"))
    yield from _each(_complete, "attempt", (-1,))
    yield from _each(_complete, "status_code", _BAD_CODES)
    yield from _each(_fail, "attempt", (-1,))
    yield from _each(_fail, "status_code", _BAD_CODES)
    yield "error", pb.FailJobRequest(job_id="processing")
    yield "error.error", _fail(error=pb.JobError())
    yield "error.error", _fail(error=pb.JobError(type="t"))
    for code in _BAD_CODES:
        yield "error.status_code", _fail(error=job_error(status_code=code))
    for name in ("type", "code", "message", "param", "event_id", "error"):
        yield f"error.error.{name}", _fail(error=_inner(**{name: "x\0"}))
        yield f"error.error.{name}", _fail(error=_inner(**{name: "x" * 65_537}))
    yield "error", _fail(error=_inner(message="x" * 40_000, param="x" * 40_000))
    yield "error", _fail(error=_inner(message="ä" * 33_000))
    for member in pb.ErrorExtraFields.DESCRIPTOR.fields:
        extra_fields = pb.ErrorExtraFields(**{member.name: "x\0"})
        yield f"error.extra_fields.{member.name}", _fail(error=job_error(extra_fields=extra_fields))
    split = pb.ErrorExtraFields(original_model_requested="x" * 32_768, resolved_model_used="x" * 32_768)
    yield "error", _fail(error=job_error("m", extra_fields=split))
    yield from _each(_cancel, "reason", ("r" * 1025, "r\0", "\0"))
    yield from _each(pb.BatchGetJobsRequest, "job_ids", ([], ["j1"] * 1001, ["j1", ""], ["j 1"]))
    yield "operation", pb.BatchWriteRequest()
    yield "operation", pb.BatchWriteRequest(operation=[pb.Operation()] * 1001)
    yield from _each(pb.ListJobsRequest, "states", [[number] for number in _BAD_ENUMS] + [[1, 0]])
    yield from _each(pb.ListJobsRequest, "request_type", _BAD_ENUMS)
    yield from _each(pb.ListJobsRequest, "virtual_key_id", BAD_IDS)
    yield from _each(pb.ListJobsRequest, "created_after", _BAD_TIMES)
    yield from _each(pb.ListJobsRequest, "created_before", _BAD_TIMES)
    yield from _each(pb.ListJobsRequest, "worker_id", BAD_IDS)
    yield from _each(pb.ListJobsRequest, "error_code", ("", "c" * 1025))
    yield from _each(pb.ListJobsRequest, "status_code", _BAD_CODES)
    yield from _each(pb.ListJobsRequest, "page_size", (-1, -(2**31)))
    yield from _each(vk_pb.ListVirtualKeysRequest, "page_size", (-1,))
    yield from _each(vk_pb.ListVirtualKeysRequest, "page_token", BAD_IDS[1:])
    yield from _each(_put, "key_sha256", ([b""], [bytes(31)], [bytes(33)], [_DIGEST, _DIGEST], [_DIGEST, b"x"]))
    yield from _each(_put, "key_sha256", [[number.to_bytes(32) for number in range(101)]])
    yield from _each(_put, "expires_at", _BAD_TIMES)


def _named(rows: Iterator[tuple[str, Message]]) -> dict[str, tuple[str, Message]]:
    return {
        f"{number} {type(request).__name__.removesuffix('Request')} {field}": (field, request)
        for number, (field, request) in enumerate(rows)
    }


INVALID: Final = _named(_invalid())
"""By a name: the field that the refusal has to name, and the request. They expect the jobs `pending`, `processing`."""

NO_JSON: Final = {
    "G6 empty": b"",
    "G6 space": b" ",
    "G6 two values": b"{}x",
    "G6 two objects": b"{}{}",
    "G6 open": b"{",
    "G6 quotes": b"'a'",
    "G6 a word": b"hello",
    "G6 control character": b'"a\nb"',
    "G6 NUL": b'"\0"',
    "G6 NUL behind": b"{}\0",
    "G6 trailing comma": b"[1,]",
    "G6 comment": b"{}//",
    "G6 leading zero": b"01",
    "G6 plus": b"+1",
    "G6 hexadecimal": b"0x1",
    "G6 dot": b"1.",
    "G6 escape": rb'"\x41"',
    "G6 Arabic digits": "\u0661".encode(),
    "G6 no-break space": "\u00a0{}".encode(),
    "G7 no UTF-8": b'"\xff"',
    "G7 Latin-1": '"ä"'.encode("latin-1"),
    "G7 overlong": b'"\xc0\xaf"',
    "G7 surrogate": b'"\xed\xa0\x80"',
    "G7 UTF-16": '{"a":1}'.encode("utf-16"),
    "G7 UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "G7 UTF-32": '{"a":1}'.encode("utf-32-be"),
    "G7 byte order mark": b"\xef\xbb\xbf{}",
    "G8 NaN": b"NaN",
    "G8 Infinity": b"[Infinity]",
    "G8 -Infinity": b'{"a":-Infinity}',
    "G8 1e999": b"1e999",
    "G8 -1e999": b"[[-1e999]]",
    "integer beyond a double": b"[1" + b"0" * 309 + b"]",
    "lone surrogate": rb'{"text":"\ud83c"}',
    "101 levels": b"[" * 101 + b"]" * 101,
    "G9 equal keys": b'{"a":1,"a":1}',
    "G9 equal keys, deep": b'[{"b":{"a":1,"b":2,"a":3}}]',
    "G9 equal keys, escaped": rb'{"a":1,"\u0061":2}',
    "nested too deeply": b"[" * 100_000 + b"]" * 100_000,
}
"""Results that are not JSON, or are read differently by different readers."""
