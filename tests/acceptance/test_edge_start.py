"""How `jobstatus edge` says that it cannot start, and why its service cannot be asked."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import pytest
from harness.certificates import Authorities
from harness.service import COMMAND, EdgeProcess, Process
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
    "TLS files that are none": (dict.fromkeys(TLS, "{pem}"), "JOBSTATUS_UPSTREAM"),
    "no issuer": (dict.fromkeys(("JWT_ISSUER", "JWT_AUDIENCE", "JWT_ALGORITHM", "JWT_SECRET"), ""), "JOBSTATUS_JWT"),
    "a port that is taken": ({"HTTP": "127.0.0.1:{taken}"}, "in use"),
}


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("what", WRONG)
async def test_a_wrong_setting_is_named(tmp_path: Path, taken_port: int, what: str) -> None:
    """It ends with exit code 2 and one sentence that names the setting, and repeats no secret."""
    pem = tmp_path / "not.pem"
    pem.write_text("not a certificate")
    settings, named = WRONG[what]
    given = {name: value.format(pem=pem, taken=taken_port) for name, value in settings.items()}
    environment = Process(tmp_path, **{"UPSTREAM": "127.0.0.1:1", **given}).environment
    del environment["JOBSTATUS_STORE"]
    child = await asyncio.create_subprocess_exec(
        COMMAND, "edge", env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            out, err = await child.communicate()
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    assert (child.returncode, out) == (2, b""), err
    lines = [line for line in err.decode().splitlines() if not line.startswith("{")]  # the rest is the log
    assert len(lines) == 1, err
    assert lines[0].startswith("jobstatus: ")
    assert named in lines[0]
    assert SECRET not in err.decode()


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
