"""gRPC ignores an option that it does not know without a word, so each name that we quote is looked up in gRPC."""

import re
from pathlib import Path

import grpc
import pytest
from jobstatus.rpc.options import RpcLimits, server_options

ROOT = Path(__file__).resolve().parents[2]
OPTION = re.compile(r"""["'`](grpc\.(?!aio\b|health\b|reflection\b)[a-z0-9_.]*[a-z0-9])["'`]""")
"""A quoted name that begins with `grpc.`; `grpc.aio` is a module, and the other two are packages of protos."""
SUFFIXES = (".md", ".py", ".sh", ".toml", ".yaml")


def options_in(text: str) -> set[str]:
    """Return the names of gRPC's options that the text quotes, in quotes or back quotes."""
    return set(OPTION.findall(text))


def texts(folder: str) -> list[tuple[Path, str]]:
    """Return the sources and documents of a folder of the repository."""
    paths = (path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
    return [(path, path.read_text(encoding="utf-8")) for path in paths]


FOLDERS = ("service", "benchmarks", "examples", "tests", "docs", "findings", "protos")
NAMES = sorted(set().union(*(options_in(text) for folder in FOLDERS for _, text in texts(folder))))


@pytest.fixture(scope="module")
def library() -> bytes:
    """The bytes of the installed gRPC, in which each name is a C string."""
    (path,) = (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")
    return path.read_bytes()


def test_options_are_found_however_they_are_written() -> None:
    """As a pair, as a key, by themselves and in prose; modules and services of gRPC are no options."""
    for text in (
        '("grpc.service_config", 1)',
        "{'grpc.service_config': 1}",
        'NAME = "grpc.service_config"',
        "Raise `grpc.service_config`.",
        '["grpc.service_config"]',
    ):
        assert options_in(text) == {"grpc.service_config"}
    for text in ("`grpc.aio`", '"grpc.health.v1.Health"', "`grpc.reflection.v1`", "import grpc.service_config"):
        assert options_in(text) == set()
    assert {"grpc.max_connection_age_ms", "grpc.service_config", "grpc.ssl_target_name_override"} <= set(NAMES)


def test_the_servers_options_are_written_once() -> None:
    """The service and its double take them from one place, so that a test by the double meets the same limits."""
    for name, _ in server_options(1, RpcLimits(), shared=False):
        servers = [path.name for path, text in texts("service/jobstatus") if name in options_in(text)]
        assert set(servers) - {"channel.py"} == {"options.py"}, name


@pytest.mark.parametrize("name", NAMES)
def test_grpc_knows_each_option(library: bytes, name: str) -> None:
    """Each name stands in gRPC's library as a whole string."""
    assert name.encode() + b"\0" in library


def test_a_wrong_name_is_not_found(library: bytes) -> None:
    """A name that gRPC does not know is told apart, although it differs in one word."""
    wrong = "grpc.http2." + "min_recv_ping_interval_without_data_ms"
    assert wrong.encode() + b"\0" not in library
