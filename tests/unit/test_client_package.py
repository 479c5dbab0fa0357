"""What a worker's author imports and installs: one package, which loads no part of the service."""

import subprocess
import sys
from typing import Final

import jobstatus.client
import pytest
from jobstatus.rpc.errors import CODES

SERVER_PACKAGES: Final = (
    "aiohttp",
    "apsw",
    "click",
    "cryptography",
    "grpc_health",
    "grpc_reflection",
    "jwt",
    "prometheus_client",
    "pydantic",
    "rich",
    "structlog",
    "uvloop",
)
SEEN_BY_CLIENTS: Final = (
    jobstatus.client.AnswerTooLarge,
    jobstatus.client.JobCancelled,
    jobstatus.client.ServiceFailed,
    jobstatus.client.ServiceUnreachable,
)
"""Errors that the service does not raise by these names."""
WITHOUT_SERVER_PACKAGES: Final = f"""
import sys

class Refuser:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {SERVER_PACKAGES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuser())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python where no package of the service can be imported."""
    command = [sys.executable, "-c", WITHOUT_SERVER_PACKAGES + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_client_loads_no_package_of_the_service() -> None:
    """Importing it, and making a client and a job's write, needs only what `pip install .` installs."""
    done = run(
        "from jobstatus.client import *; JobStatusClient('127.0.0.1:1'); CreateJob(job_id='j', request_type='ocr')"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_double_of_the_service_needs_no_package_of_the_service() -> None:
    """A worker's author tests with what the worker installs: a run from its start to its end, as threads do it."""
    done = run(
        """
from jobstatus.client import *
from jobstatus.testing import BlockingServiceDouble

with BlockingServiceDouble() as service, BlockingJobStatusClient(service.target) as client:
    job_id = client.create_job(request_type=RequestType.OCR).job_id
    with client.run_job(job_id) as run:
        run.complete({})
    print(client.get_job(job_id).state)
"""
    )
    assert (done.returncode, done.stdout) == (0, "completed\n"), done.stderr


def test_the_command_without_the_service_says_what_to_install() -> None:
    """One sentence instead of a traceback, whatever is asked of it."""
    for arguments in ((), ("--version",), ("serve", "--dev"), ("jobs", "list")):
        done = run("from jobstatus.cli import main; main()", *arguments)
        assert done.returncode == 2
        assert done.stderr == (
            "jobstatus: the command needs the service's packages: pip install '.[server]' in the checkout"
            " (click is missing)\n"
        )


def test_the_client_exports_every_error_of_the_contract() -> None:
    """A caller imports from one place what its calls raise."""
    exported = {getattr(jobstatus.client, name) for name in jobstatus.client.__all__}
    assert set(CODES) <= exported
    assert set(CODES) | set(SEEN_BY_CLIENTS) == {
        each
        for each in exported
        if isinstance(each, type)
        and issubclass(each, jobstatus.client.JobStatusError)
        and each is not jobstatus.client.JobStatusError
    }


def test_each_exported_name_is_what_its_module_has() -> None:
    """The names are imported when they are used, from where the type checker is told that they are."""
    for name in jobstatus.client.__all__:
        exported = getattr(jobstatus.client, name)
        assert getattr(sys.modules[getattr(exported, "__module__", "jobstatus.client")], name, exported) is exported
        assert name in dir(jobstatus.client)
    assert {*jobstatus.client._MODULE_OF} == {*jobstatus.client.__all__}
    with pytest.raises(AttributeError):
        _ = jobstatus.client.Nothing
