"""gRPC ignores an option that it does not know without a word, so each name that we set is looked up in gRPC."""

import re
from pathlib import Path

import grpc
import pytest

ROOT = Path(__file__).resolve().parents[2]
SET = sorted(
    {
        name
        for folder in ("service", "benchmarks", "examples", "tests")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r'\("(grpc\.[a-z0-9_.]+)",', path.read_text(encoding="utf-8"))
    }
)


@pytest.fixture(scope="module")
def library() -> bytes:
    """The bytes of the installed gRPC, in which each name is a C string."""
    (path,) = (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")
    return path.read_bytes()


def test_options_are_found() -> None:
    """The search finds the options of the server and of the client."""
    assert {"grpc.max_connection_age_ms", "grpc.keepalive_time_ms", "grpc.enable_http_proxy"} <= set(SET)


@pytest.mark.parametrize("name", SET)
def test_grpc_knows_each_option(library: bytes, name: str) -> None:
    """Each name stands in gRPC's library as a whole string."""
    assert name.encode() + b"\0" in library


def test_a_wrong_name_is_not_found(library: bytes) -> None:
    """A name that gRPC does not know is told apart, although it differs in one word."""
    wrong = "grpc.http2." + "min_recv_ping_interval_without_data_ms"
    assert wrong.encode() + b"\0" not in library
