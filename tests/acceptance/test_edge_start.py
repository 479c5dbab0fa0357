"""How `jobstatus edge` says that it cannot start, and why its service cannot be asked."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
from harness import forking
from harness.certificates import Authorities
from harness.command import assert_sentence, run_in_time
from harness.service import EdgeProcess, Process
from harness.tokens import SECRET, bearer, virtual_key_token

TLS: Final = ("UPSTREAM_TLS_CA", "UPSTREAM_TLS_CERT", "UPSTREAM_TLS_KEY")
WRONG: Final[dict[str, tuple[dict[str, str], str]]] = {
    "no service": ({"UPSTREAM": ""}, "JOBSTATUS_UPSTREAM"),
    "a service without a port": ({"UPSTREAM": "localhost"}, "JOBSTATUS_UPSTREAM"),
    "another machine without TLS": ({"UPSTREAM": "192.0.2.1:50051"}, "JOBSTATUS_UPSTREAM_TLS_CA"),
    "another machine by name": ({"UPSTREAM": "inside.test:50051"}, "JOBSTATUS_UPSTREAM_INSECURE"),
    "a name that only begins like this machine": ({"UPSTREAM": "127.0.0.1.test:50051"}, "JOBSTATUS_UPSTREAM_TLS_CA"),
    "a part of the TLS files": ({"UPSTREAM_TLS_CA": "{pem}"}, "JOBSTATUS_UPSTREAM_TLS_CA"),
    "a TLS file that is not there": (dict.fromkeys(TLS, "/nowhere.pem"), "JOBSTATUS_UPSTREAM_TLS_"),
    "no issuer": (dict.fromkeys(("JWT_ISSUER", "JWT_AUDIENCE", "JWT_ALGORITHM", "JWT_SECRET"), ""), "JOBSTATUS_JWT"),
}
"""Settings that are refused when they are read."""
UNUSABLE: Final[dict[str, tuple[dict[str, str], str]]] = {
    "TLS files that are none": (dict.fromkeys(TLS, "{pem}"), "JOBSTATUS_UPSTREAM"),
    "a port that is taken": ({"HTTP": "127.0.0.1:{taken}"}, "in use"),
}
"""Settings that are refused when they are used, after the log is set up, which only a process of its own may do."""


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def edge_upon(folder: Path, settings: dict[str, str], taken_port: int = 0) -> Process:
    """An edge with these settings, to be started."""
    pem = folder / "not.pem"
    pem.write_text("not a certificate")
    given = {name: value.format(pem=pem, taken=taken_port) for name, value in settings.items()}
    process = Process(folder, **{"UPSTREAM": "127.0.0.1:1", **given})
    del process.environment["JOBSTATUS_STORE"]
    return process


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_is_named(tmp_path: Path, what: str) -> None:
    """It ends with exit code 2 and one sentence that names the setting, and repeats no secret."""
    settings, named = WRONG[what]
    ended = run_in_time("edge", env=edge_upon(tmp_path, settings).settings, cwd=tmp_path)
    assert_sentence(ended, 2, named)
    assert SECRET not in ended.err


@pytest.mark.parametrize("what", UNUSABLE)
async def test_an_unusable_setting_is_named(tmp_path: Path, taken_port: int, what: str) -> None:
    """So does a start that finds out later."""
    settings, named = UNUSABLE[what]
    ended = await forking.run("edge", env=edge_upon(tmp_path, settings, taken_port).environment, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, ""), ended
    lines = [line for line in ended.err.splitlines() if not line.startswith("{")]  # the rest is the log
    assert len(lines) == 1, ended
    assert lines[0].startswith("jobstatus: ")
    assert named in lines[0]
    assert SECRET not in ended.err


async def test_the_log_says_why_the_service_cannot_be_asked(tmp_path: Path) -> None:
    """An edge that cannot agree on TLS with its service says so in its log, with the address and no secret."""
    authorities = Authorities()
    files = {name.upper(): str(path) for name, path in authorities.upstream_settings(tmp_path, "edge").items()}
    async with (
        Process(tmp_path) as process,
        process.connected() as service,
        EdgeProcess(tmp_path, service, **files) as edge,
    ):
        front = service.behind(edge.port("HTTP"), edge.port("ADMIN"))
        assert (await front.poll("job-1", bearer(virtual_key_token("vk-1")))).status == 503
        lines = [json.loads(line) for line in edge.log_path.read_text().splitlines() if line.startswith("{")]
        failures = [line for line in lines if line["event"] == "chore_failed"]
        reasons = [line["problem"] for line in failures if line["chore"] == "refresh_credentials"]
        assert any("andshake" in reason for reason in reasons), reasons
        assert all(f"127.0.0.1:{service.grpc_port}" in reason for reason in reasons), reasons
        assert SECRET not in edge.log_path.read_text()
