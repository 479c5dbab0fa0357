"""`--check`: what would be served is said, what is wrong is said in one sentence, and nothing is changed."""

import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw
import pytest
from harness import valkey
from harness.certificates import Authorities
from harness.command import Ended, assert_sentence, run
from harness.identity_provider import provider
from harness.postgresql import server
from harness.service import service_here
from harness.stores import change, job
from harness.tokens import AUDIENCE, ISSUER, SECRET
from jobstatus.app.check import check_edge_start, check_service
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.stores import StoreConfigError, describe_store, open_store
from jobstatus.stores.sqlite import schema
from jobstatus.telemetry.audit import AuditLog

TOKENS: Final = {
    "JOBSTATUS_JWT_ISSUER": ISSUER,
    "JOBSTATUS_JWT_AUDIENCE": AUDIENCE,
    "JOBSTATUS_JWT_ALGORITHM": "HS256",
    "JOBSTATUS_JWT_SECRET": SECRET,
}


@pytest.fixture(autouse=True)
def root_logger_restored() -> Iterator[None]:
    """Put back what the command sets up for the whole process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(folder: Path, *options: str, command: str = "serve", **environment: str) -> Ended:
    return run(command, "--check", *options, env={**TOKENS, **environment}, cwd=folder)


# --- the command ---


def test_what_would_be_served_is_said(tmp_path: Path) -> None:
    """Addresses, the store, and whose tokens; nothing is made."""
    ended = check(tmp_path, "--http", "127.0.0.1:1", "--store", "sqlite:///some/jobs.db", "--workers", "3")
    assert (ended.code, ended.err) == (0, "")
    lines = [line.split(maxsplit=1) for line in ended.out.splitlines()[1:]]
    assert lines == [
        ["REST", "127.0.0.1:1"],
        ["gRPC", "127.0.0.1:50051, without TLS"],
        ["admin", "127.0.0.1:9090"],
        ["processes", "3"],
        ["store", f"the SQLite file {tmp_path}/some/jobs.db, which would be created"],
        ["tokens", f"of {ISSUER} for {AUDIENCE}: HS256, a secret"],
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_check_of_a_trial_makes_no_secret(tmp_path: Path) -> None:
    ended = run("serve", "--check", "--dev", env={}, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "of jobstatus-dev for jobstatus: HS256, a secret" in ended.out
    assert "The secret of --dev would be created in var/." in ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["nowhere/audit.log", "config/audit.log", "."])
def test_an_audit_log_is_refused_as_at_a_start(tmp_path: Path, path: str) -> None:
    """Its folder is missing or is none, or a folder stands in its place."""
    (tmp_path / "config").touch()
    ended = check(tmp_path, JOBSTATUS_AUDIT_LOG=path)
    assert (ended.code, ended.out) == (2, "")
    with pytest.raises(OSError, match="JOBSTATUS_AUDIT_LOG") as refused, AuditLog(tmp_path / path, clock=time.time):
        pass
    assert ended.err == f"jobstatus: {refused.value}\n".replace(f"{tmp_path / path}", path)


def test_an_audit_log_is_not_made(tmp_path: Path) -> None:
    ended = check(tmp_path, JOBSTATUS_AUDIT_LOG="audit.log")
    assert (ended.code, ended.err) == (0, "")
    assert "  audit log  audit.log\n" in ended.out
    assert list(tmp_path.iterdir()) == []


def test_an_edge_says_whether_its_service_answers(tmp_path: Path) -> None:
    """It starts without it, so the check succeeds."""
    ended = check(tmp_path, "--upstream", "127.0.0.1:1", command="edge")
    assert (ended.code, ended.err) == (0, "")
    assert "127.0.0.1:1, without TLS; it does not answer now" in ended.out


WRONG: Final[dict[str, tuple[dict[str, str], str]]] = {
    "a setting": ({"JOBSTATUS_WORKERS": "0"}, "JOBSTATUS_WORKERS must be at least 1"),
    "settings together": ({"JOBSTATUS_GRPC": "0.0.0.0:1"}, "JOBSTATUS_GRPC=0.0.0.0:1 can be reached"),
    "a key": ({"JOBSTATUS_JWT_SECRET": "hunter2"}, "the secret has 7 bytes"),
    "a store that there is not": ({"JOBSTATUS_STORE": "mysql://u:hunter2@h/j"}, "the store URL"),
    "a store that does not answer": ({"JOBSTATUS_STORE": "postgresql://u:hunter2@127.0.0.1:1/j"}, "cannot connect"),
    "a server that does not answer": ({"JOBSTATUS_STORE": "redis://u:hunter2@127.0.0.1:1"}, "no server answers"),
    "a folder that is none": ({"JOBSTATUS_STORE": "sqlite:////dev/null/jobs.db"}, "/dev/null"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_sentence(what: str, tmp_path: Path) -> None:
    """The one of a start, with its exit code; no secret is in it."""
    environment, words = WRONG[what]
    ended = check(tmp_path, **environment)
    assert_sentence(ended, 2, words)
    assert "hunter2" not in ended.err


def test_a_certificate_that_cannot_be_used_is_wrong(tmp_path: Path) -> None:
    tls = Authorities().settings(tmp_path)
    environment = {f"JOBSTATUS_{name.upper()}": str(path) for name, path in tls.items()}
    ended = check(tmp_path, **environment)
    assert "127.0.0.1:50051, with TLS by" in ended.out
    assert "; clients: any with a certificate" in ended.out
    tls["grpc_tls_key"].write_text("no key")
    assert_sentence(check(tmp_path, **environment), 2, "the TLS files for gRPC cannot be used")


def test_a_misspelt_variable_is_told(tmp_path: Path) -> None:
    """In the log, as at a start."""
    ended = check(tmp_path, JOBSTATUS_HTPP="x", JOBSTATUS_LOG_FORMAT="json", JOBSTATUS_STORE="memory://")
    assert ended.code == 0
    assert json.loads(ended.err)["did_you_mean"] == "JOBSTATUS_HTTP"


# --- issuers and services ---


async def test_an_identity_provider_is_asked() -> None:
    """One that is away is said, and is no error."""
    async with provider("Google") as running:
        running.publish("first")
        issuer = IssuerSettings(issuer=running.issuer, audience="a", algorithm="RS256", jwks_url=running.jwks_url)
        line = f"of {running.issuer} for a: RS256, keys from {running.jwks_url}"
        for is_away, expected in ((False, line), (True, f"{line}, which cannot be fetched now")):
            running.is_away = is_away
            found = await check_service(Settings(store="memory://"), (issuer,))
            assert found[-1].endswith(expected)


async def test_a_service_that_answers_its_edge_is_said() -> None:
    async with service_here() as service:
        settings = Settings(upstream=f"127.0.0.1:{service.grpc_port}")
        assert "without TLS; it answers" in "\n".join(await check_edge_start(settings, ()))


# --- stores ---


async def filled(url: str) -> None:
    async with open_store(url) as store:
        assert await store.commit([change(job())]) == {}


async def test_a_file_is_described_and_not_changed(tmp_path: Path) -> None:
    """Neither one that is at rest nor one that a service has open, whose newest changes are in the log."""
    path = tmp_path / "jobs.db"
    url = f"sqlite:///{path}"
    await filled(url)
    before = lasting(tmp_path)
    assert "(schema 1)" in await describe_store(url)
    assert lasting(tmp_path) == before
    async with open_store(url) as store:
        await store.commit([change(job(job_id="job-2"))])
        open_files = lasting(tmp_path)
        assert "(schema 1)" in await describe_store(url)
        assert lasting(tmp_path) == open_files
        assert len(await store.read_jobs(["job-1", "job-2"], with_results=True)) == 2


def lasting(folder: Path) -> dict[str, bytes]:
    """The files of a database, without the one of shared memory, where readers leave marks."""
    return {name: content for name, content in contents(folder).items() if not name.endswith("-shm")}


async def test_a_file_to_be_migrated_is_said(tmp_path: Path) -> None:
    """An empty one and an older one; neither is touched."""
    path = tmp_path / "jobs.db"
    path.touch()
    assert (await describe_store(f"sqlite:///{path}")).endswith("which would be given its tables")
    assert path.read_bytes() == b""


@pytest.mark.parametrize("what", ["strange", "newer", "damaged", "text"])
async def test_a_file_that_a_start_refuses_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    if what == "text":
        path.write_text("no database, but long enough to be one: " * 100)
    else:
        await filled(f"sqlite:///{path}")
        with apsw.Connection(str(path)) as connection:
            connection.execute(
                {
                    "strange": "PRAGMA application_id = 7",
                    "newer": f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}",
                    "damaged": "SELECT 1",
                }[what]
            )
        connection.close()
    if what == "damaged":
        data = bytearray(path.read_bytes())
        data[4096 * 3 : 4096 * 4] = os.urandom(4096)
        path.write_bytes(data)
    with pytest.raises(StoreConfigError, match=r"another program|newer JobStatus|damaged"):
        await describe_store(f"sqlite:///{path}")


async def test_a_database_is_described_and_not_changed() -> None:
    """Without its schema, with it, and with one of a newer version."""
    name = server().database()
    url = server().url(name)
    assert (await describe_store(url)).endswith("where the schema jobstatus would be created")
    assert server().execute("SELECT to_regnamespace('jobstatus')::text", name) == [(None,)]
    await filled(url)
    assert (await describe_store(url)).endswith("(schema 1)")
    server().execute("UPDATE jobstatus.schema_version SET version = 0", name)
    assert (await describe_store(url)).endswith("where the schema jobstatus would be created")
    server().execute("UPDATE jobstatus.schema_version SET version = 99", name)
    with pytest.raises(StoreConfigError, match="newer JobStatus"):
        await describe_store(url)


async def test_a_role_without_rights_is_refused() -> None:
    """Whether the schema is there or would have to be made."""
    name = server().database()
    server().execute(f'CREATE ROLE "poor-{name}" LOGIN', name)
    url = server().url(name).replace("//jobstatus@", f"//poor-{name}@")
    with pytest.raises(StoreConfigError, match="lacks rights"):
        await describe_store(url)
    await filled(server().url(name))
    with pytest.raises(StoreConfigError, match="lacks rights"):
        await describe_store(url)


async def test_servers_are_described() -> None:
    url = valkey.single().url()
    assert "the Redis or Valkey servers at 127.0.0.1:" in await describe_store(url)


async def test_memory_is_described() -> None:
    described: Any = await describe_store("memory://")
    assert described == "the memory of the process: jobs are lost when it ends"
