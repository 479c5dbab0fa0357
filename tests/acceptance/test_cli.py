"""The command: what it prints, where, and how it ends; installed where pipes, signals or terminals matter."""

import asyncio
import contextlib
import json
import os
import pty
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

import pytest
import trustme
from aiohttp import web
from harness.command import BARE, LIMIT_SECONDS, Ended, assert_sentence, run, run_installed, start
from jobstatus.cli.errors import EPILOG, ExitCode, explain
from jobstatus.client import ServiceFailed, ServiceUnreachable
from jobstatus.core import errors
from jobstatus.rpc.errors import CODES

NOWHERE = "127.0.0.1:1"

COMMANDS: Sequence[Sequence[str]] = (
    (),
    ("serve",),
    *(("jobs", *name) for name in ((), ("create",), ("start",), ("heartbeat",), ("complete",), ("fail",))),
    *(("jobs", name) for name in ("get", "list", "watch", "delete")),
    *(("keys", *name) for name in ((), ("create",), ("list",), ("disable",), ("enable",), ("delete",))),
    *(("token", *name) for name in ((), ("virtual-key",), ("admin",))),
    ("poll",),
)


def lines_of(stream: IO[bytes]) -> "queue.Queue[str]":
    """The stream's lines as they come, "" at its end; it is read to the end, so that the writer never waits."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        with stream:
            for line in stream:
                lines.put(line.decode())
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


@contextmanager
def serving(directory: Path, *, env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """`jobstatus serve --dev` on free ports; the environment in which the other commands find it."""
    addresses = {f"JOBSTATUS_{name}": "127.0.0.1:0" for name in ("HTTP", "GRPC", "ADMIN")}
    settings = {
        "JOBSTATUS_STATE_DIR": str(directory),
        "JOBSTATUS_STORE": f"sqlite:///{directory}/jobs.db",
        "JOBSTATUS_RETRY_AFTER_SECONDS": "1",
        "JOBSTATUS_LOG_FORMAT": "json",
    }
    serve = start("serve", "--dev", env={**addresses, **settings, **env}, stderr=subprocess.PIPE)
    assert serve.stderr is not None
    lines = lines_of(serve.stderr)
    try:
        while not (line := lines.get(timeout=LIMIT_SECONDS)).startswith('{"event": "serving"'):
            assert line, "the service has ended"
        listening = json.loads(line)
        yield {
            "JOBSTATUS_GRPC": listening["grpc"],
            "JOBSTATUS_URL": f"http://{listening['http']}",
            "JOBSTATUS_STATE_DIR": str(directory),
        }
    finally:
        serve.send_signal(signal.SIGTERM)
        assert serve.wait(LIMIT_SECONDS) == 0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serving(tmp_path_factory.mktemp("state"), env={}) as env:
        yield env


def create(env: Mapping[str, str], *options: str, request_type: str = "transcription") -> str:
    created = run("jobs", "create", request_type, *options, env=env)
    assert created.code == 0, created
    return created.out.strip()


def test_every_command_has_help() -> None:
    """--help of each command says what it does, gives the exit codes and ends with 0; -h is the same."""
    for command, option in zip(COMMANDS, ("--help", "-h") * len(COMMANDS), strict=False):
        ended = run(*command, option)
        assert ended.code == 0, command
        assert f"Usage: {' '.join(('jobstatus', *command))}" in ended.out
        assert "Exit codes:" in ended.out


@pytest.mark.parametrize("group", ["", "jobs", "keys", "token", "poll"])
def test_help_gives_an_example(group: str) -> None:
    """A newcomer can paste a line from the help."""
    assert "\n    jobstatus " in run(*group.split(), "--help").out.replace("JOBSTATUS_TOKEN=$(", "").replace(
        "key=$(", ""
    )


def test_the_version_is_told() -> None:
    """--version prints name and version."""
    assert run_installed("--version").out == "jobstatus 0.1.0\n"


def test_the_module_is_the_command() -> None:
    """`python -m jobstatus` does what `jobstatus` does."""
    ended = subprocess.run(
        (sys.executable, "-m", "jobstatus", "--version"), capture_output=True, check=True, timeout=LIMIT_SECONDS
    )
    assert ended.stdout == b"jobstatus 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("nonsense",), "nonsense"),
        (("jobs", "gett", "x"), "gett"),
        (("jobs", "get"), "JOB_ID"),
        (("jobs", "create", "nonsense"), "REQUEST_TYPE"),
        (("jobs", "create", "ocr", "--result-ttl", "5"), "'5' is not a span"),
        (("jobs", "create", "ocr", "--job-id", "a b"), "job_id"),
        (("jobs", "create", "ocr", "--result-ttl", "90d"), "result_ttl"),
        (("jobs", "list", "--created-after", "yesterday"), "yesterday"),
        (("jobs", "complete", "x", "--result", "/none"), "/none"),
        (("jobs", "get", "x", "--tls-ca", "/none"), "/none"),
        (("jobs", "get", "x", "--tls-key", "/dev/null"), "--tls-cert"),
        (("jobs", "heartbeat", "x", "--progress", "2"), "progress"),
        (("jobs", "heartbeat", "x", "--message", "\udcff"), "UTF-8"),
        (("poll", "x"), "JOBSTATUS_TOKEN"),
        (("poll", "x", "--token", "t", "--url", "there"), "there"),
        (("token", "virtual-key", "a b"), "virtual_key_id"),
    ],
)
def test_wrong_usage_is_2_and_names_what_is_wrong(arguments: Sequence[str], word: str) -> None:
    """One sentence, before anything is sent."""
    assert_sentence(run(*arguments, env={"JOBSTATUS_GRPC": NOWHERE}), 2, word)


def test_no_arguments_is_help_and_2() -> None:
    """`jobstatus` alone shows what there is."""
    for arguments in ((), ("jobs",)):
        ended = run(*arguments)
        assert (ended.code, ended.err[:16]) == (2, "Usage: jobstatus")


@pytest.mark.parametrize(
    "arguments",
    [
        ("jobs", "get", "x"),
        ("jobs", "list"),
        ("jobs", "watch", "x"),
        ("keys", "list"),
        ("poll", "x", "--token", "t", "--url", f"http://{NOWHERE}"),
    ],
)
def test_a_server_that_is_down_is_3_at_once(arguments: Sequence[str]) -> None:
    """The sentence says where nothing answers and what to do about it."""
    ended = run(*arguments, env={"JOBSTATUS_GRPC": NOWHERE})
    assert_sentence(ended, 3, NOWHERE, "refused", "jobstatus serve")


def test_a_token_needs_an_issuer(tmp_path: Path) -> None:
    """Without one the sentence says how to get one; a name that is not known, and a wrong setting, are named."""
    assert_sentence(run("token", "admin", cwd=tmp_path), 2, "serve --dev", "JOBSTATUS_JWT_ISSUER")
    assert_sentence(run("token", "admin", "--issuer", "them", cwd=tmp_path), 2, "'them'")
    assert_sentence(run("token", "admin", env={"JOBSTATUS_HTTP": "there"}), 2, "JOBSTATUS_HTTP")
    assert list(tmp_path.iterdir()) == []


def test_a_token_of_a_configured_issuer(tmp_path: Path) -> None:
    """An issuer with a secret mints; one whose key is too weak, or that may not mint this kind, does not."""
    env = {f"JOBSTATUS_JWT_{name}": value for name, value in (("ISSUER", "us"), ("AUDIENCE", "them"))}
    env["JOBSTATUS_JWT_ALGORITHM"] = "HS256"
    minted = run("token", "virtual-key", "team-a", env={**env, "JOBSTATUS_JWT_SECRET": "s" * 32}, cwd=tmp_path)
    assert minted.code == 0
    assert minted.out.count(".") == 2
    assert minted.err == ""
    assert_sentence(run("token", "admin", env={**env, "JOBSTATUS_JWT_SECRET": "weak"}), 2, "us")
    env["JOBSTATUS_JWT_JWKS_FILE"] = __file__
    assert_sentence(run("token", "admin", env=env), 2, "no issuer of the settings has a secret")


def test_the_life_of_a_job(service: dict[str, str], tmp_path: Path) -> None:
    """Created, started, kept alive and completed from a shell; the result comes back byte for byte."""
    job_id = create(
        service, "--job-id", "life", "--virtual-key-id", "team-a", "--result-ttl", "5m", "--provider", "acme",
        "--model-requested", "ear-1", "--max-attempts", "2",
    )  # fmt: skip
    assert job_id == "life"
    started = run("jobs", "start", job_id, "--worker-id", "shell", "--lease", "5m", env=service)
    assert started.out.startswith("life processing, attempt 1 of 2, lease until 2")
    beat = run(
        "jobs", "heartbeat", job_id, "--attempt", "1", "--progress", "0.4", "--message", "a\x1b[31mb", "--json",
        env=service,
    )  # fmt: skip
    job = json.loads(beat.out)
    assert (job["state"], job["progress"], job["message"], job["result_ttl"]) == (
        "processing",
        0.4,
        "a\x1b[31mb",
        "300s",
    )
    assert job["created_at"].endswith("Z")
    assert "a\\x1b[31mb" in run("jobs", "get", job_id, env=service).out
    assert_sentence(run("jobs", "get", job_id, "--result", env=service), 1, "processing")
    assert_sentence(run("jobs", "complete", job_id, env=service, stdin=b"{}"), 1, "--attempt")
    assert_sentence(run("jobs", "complete", job_id, "--attempt", "1", env=service, stdin=b"{"), 2, "JSON")
    result = tmp_path / "result.json"
    result.write_bytes(b'{"text": "hi",\n "n": 1.10000000000000000000001}\n')
    done = run("jobs", "complete", job_id, "--attempt", "1", "--result", str(result), env=service)
    assert done.out.startswith("life completed, readable until 2")
    assert run("jobs", "get", job_id, "--result", env=service).out == result.read_text()
    shown = run("jobs", "get", job_id, "--json", env=service).out
    assert '"n": 1.10000000000000000000001}' in shown
    assert (shown.count("\n"), json.loads(shown)["result"]["text"]) == (1, "hi")
    assert_sentence(run("jobs", "fail", job_id, "--attempt", "1", "--message", "no", env=service), 1, "completed")


def test_jobs_are_listed_and_deleted(service: dict[str, str]) -> None:
    """Filters hold, --limit bounds, columns for people and lines for scripts; a deleted job is gone: 4."""
    ids = [create(service, "--virtual-key-id", "lister", request_type="ocr") for _ in range(3)]
    listed = run(
        "jobs", "list", "--virtual-key-id", "lister", "--created-after", "1h", "--limit", "2", "--json", env=service
    )
    assert {json.loads(line)["job_id"] for line in listed.out.splitlines()} <= set(ids)
    assert len(listed.out.splitlines()) == 2
    table = run(
        "jobs", "list", "--virtual-key-id", "lister", "--request-type", "ocr", "--state", "pending", env=service
    )
    assert [line.split()[1] for line in table.out.splitlines()[1:]] == ["pending"] * 3
    assert (
        len(run("jobs", "list", "--virtual-key-id", "lister", "--state", "failed", env=service).out.splitlines()) == 1
    )
    assert run("jobs", "delete", ids[0], env=service).out == f"{ids[0]} deleted\n"
    for command in ("get", "delete", "watch"):
        assert_sentence(run("jobs", command, ids[0], env=service), 4, "not found", "jobs list")


@pytest.mark.parametrize(("ending", "code"), [(("complete",), 0), (("fail", "--message", "too short"), 1)])
def test_a_watch_follows_until_the_end(service: dict[str, str], ending: Sequence[str], code: int) -> None:
    """A line for each change; 0 when the job completed, 1 when it failed."""
    job_id = create(service)
    watch = start("jobs", "watch", job_id, "--json", env=service, stdout=subprocess.PIPE)
    assert watch.stdout is not None
    lines = lines_of(watch.stdout)
    assert json.loads(lines.get(timeout=LIMIT_SECONDS))["state"] == "pending"
    assert run("jobs", ending[0], job_id, *ending[1:], env=service, stdin=b'"hi"').code == 0
    last = json.loads(lines.get(timeout=LIMIT_SECONDS))
    assert (last["state"], last.get("result")) == (("completed", "hi") if code == 0 else ("failed", None))
    assert watch.wait(LIMIT_SECONDS) == code


def test_ctrl_c_is_130_and_quiet(service: dict[str, str]) -> None:
    """No traceback, whatever was under way."""
    job_id = create(service)
    watch = start("jobs", "watch", job_id, env=service, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watch.stdout is not None
    assert watch.stdout.readline() == f"{job_id} pending\n".encode()
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=LIMIT_SECONDS)
    assert (watch.returncode, err.strip()) == (130, b"")


def test_a_reader_that_goes_away_is_no_error(service: dict[str, str]) -> None:
    """`jobstatus jobs list | head -1` says nothing on standard error."""
    create(service)
    listing = start("jobs", "list", "--json", env=service, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.close()
    assert listing.wait(LIMIT_SECONDS) == ExitCode.OUTPUT_CLOSED
    with listing.stderr as err:
        assert err.read() == b""


def test_keys_are_made_listed_disabled_and_deleted(service: dict[str, str]) -> None:
    """A key is printed once and polls; a second one leaves the first alone; disabled ones are refused: 5."""
    job_id = create(service, "--virtual-key-id", "tenant")
    assert run("jobs", "complete", job_id, env=service, stdin=b'"hi"').code == 0
    made = run("keys", "create", "tenant", "--expires-in", "30d", env=service)
    key = made.out.strip()
    assert key.startswith("sk-bf-")
    assert "not shown again" in made.err
    second = json.loads(run("keys", "create", "tenant", "--json", env=service).out)
    assert len(second["key_sha256"]) == 2
    assert "expires_at" in second
    for each in (key, second["key"]):
        assert run("poll", job_id, env={**service, "JOBSTATUS_TOKEN": each}).out == '"hi"\n'
    (listed,) = [line for line in run("keys", "list", env=service).out.splitlines() if line.startswith("tenant ")]
    assert listed.split()[1:3] == ["enabled", "2"]
    assert run("keys", "disable", "tenant", env=service).out == "tenant disabled\n"
    assert_sentence(run("poll", job_id, "--token", key, env=service), 5, "refused", "jobstatus token")
    assert "is disabled" in run("keys", "create", "tenant", env=service).err
    assert run("keys", "enable", "tenant", env=service).code == 0
    shown = [json.loads(line) for line in run("keys", "list", "--json", env=service).out.splitlines()]
    (tenant,) = [shown for shown in shown if shown["virtual_key_id"] == "tenant"]
    assert (tenant["disabled"], len(tenant["key_sha256"])) == (False, 3)
    assert run("keys", "delete", "tenant", env=service).code == 0
    assert_sentence(run("keys", "delete", "tenant", env=service), 4, "keys list")


def test_a_poll_follows_the_job_and_prints_its_result(service: dict[str, str]) -> None:
    """Changes go to standard error, the result and nothing else to standard output."""
    job_id = create(service, "--virtual-key-id", "team-b")
    token = run("token", "virtual-key", "team-b", "--ttl", "15m", env=service).out.strip()
    poll = start(
        "poll", job_id, env={**service, "JOBSTATUS_TOKEN": token}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert poll.stdout is not None
    assert poll.stderr is not None
    lines = lines_of(poll.stderr)
    assert lines.get(timeout=LIMIT_SECONDS) == f"{job_id} pending\n"
    assert run("jobs", "complete", job_id, env=service, stdin=b'{"n": 1.0e0}').code == 0
    assert poll.wait(LIMIT_SECONDS) == 0
    with poll.stdout as out:
        assert out.read() == b'{"n": 1.0e0}\n'
    assert lines.get(timeout=LIMIT_SECONDS) == ""
    whole = json.loads(run("poll", job_id, "--token", token, "--json", env=service).out)
    assert (whole["status"], whole["result"]) == ("completed", {"n": 1.0})


def test_what_can_go_wrong_with_a_poll(service: dict[str, str]) -> None:
    """A failed job is 1, an unknown one 4, a bad credential 5, a job that does not end in time 3."""
    admin = {**service, "JOBSTATUS_TOKEN": run("token", "admin", env=service).out.strip()}
    failed = create(service)
    assert run("jobs", "fail", failed, "--message", "Too short.", "--code", "short", env=service).code == 0
    assert_sentence(run("poll", failed, env=admin), 1, failed, "Too short (short)")
    told = run("poll", failed, "--json", env=admin)
    assert (told.code, json.loads(told.out)["error"]["error"]["code"]) == (1, "short")
    assert_sentence(run("poll", "unknown", env=admin), 4, "jobs list")
    assert_sentence(run("poll", failed, "--request-type", "ocr", env=admin), 4, "--request-type")
    for token in ("wrong", "sk-bf-wrong", "two words"):
        assert_sentence(run("poll", failed, "--token", token, env=service), 5)
    pending = create(service)
    ended = run("poll", pending, "--timeout", "3s", env=admin)
    assert ended.code == 3
    assert ended.err.splitlines()[-1] == f"jobstatus: time ran out before job {pending} ended: it is pending"


def test_on_a_terminal_the_poll_is_live(service: dict[str, str]) -> None:
    """One line that is drawn anew and gone in the end; standard output still has the result alone."""
    job_id = create(service)
    token = run("token", "admin", env=service).out.strip()
    ours, theirs = pty.openpty()
    poll = start(
        "poll", job_id, "--token", token, env={**service, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    drawn = b""
    while b"pending" not in drawn or b"waiting" not in drawn:
        drawn += os.read(ours, 4096)
    assert run("jobs", "complete", job_id, env=service, stdin=b"1").code == 0
    with contextlib.suppress(OSError):  # how a pty says that the other side has closed
        while data := os.read(ours, 4096):
            drawn += data
    os.close(ours)
    out, _ = poll.communicate(timeout=LIMIT_SECONDS)
    assert (poll.returncode, out) == (0, b"1\n")
    assert b"\x1b[" in drawn
    assert b"polls" in drawn


@asynccontextmanager
async def answering(*answers: web.Response, asked: asyncio.Event | None = None) -> AsyncIterator[str]:
    """A server that gives these answers, one after the other, the last one again and again; `asked` is set by then."""
    left = list(answers)

    async def answer(_: web.BaseRequest) -> web.Response:
        if asked is not None:
            asked.set()
        given = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(status=given.status, body=given.body, headers=given.headers)

    server = web.Server(answer)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(code: int, document: object = None, **headers: str) -> web.Response:
    return web.json_response(document, status=code, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def poll_at(url: str, *options: str) -> Ended:
    return await asyncio.to_thread(run, "poll", "x", "--token", "t", "--url", url, *options)


async def test_a_poll_waits_for_a_service_that_cannot_answer_now() -> None:
    """503 and 429 are asked again after Retry-After, in either of its forms, and say so once."""
    async with answering(
        answer(503, Retry_After="0"),
        answer(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        answer(202, {"status": "processing"}, Retry_After="0", Job_Progress="0.42"),
        answer(200, {"id": "x", "status": "completed", "result": [1, {"result": 2}]}),
    ) as url:
        ended = await poll_at(url)
    assert (ended.code, ended.out) == (0, '[1, {"result": 2}]\n')
    first, second = ended.err.splitlines()
    assert "cannot answer" in first
    assert second == "x processing 42%"


async def test_a_poll_does_not_take_strangers_for_the_service() -> None:
    """Redirects are not followed, and what is not the contract's answer is an error: 1."""
    for strange in (answer(302, Location="http://127.0.0.1:1/"), answer(200, ["html"]), answer(500)):
        async with answering(strange) as url:
            assert_sentence(await poll_at(url), 1, "--url", str(strange.status))


async def test_a_poll_survives_a_stumble_but_not_for_ever() -> None:
    """A service that has answered is waited for when it goes away, as long as --timeout lets us."""
    asked = asyncio.Event()
    async with answering(answer(202, {"status": "pending"}, Retry_After="1"), asked=asked) as url:
        polling = asyncio.create_task(poll_at(url, "--timeout", "3s"))
        await asyncio.wait_for(asked.wait(), LIMIT_SECONDS)
    ended = await polling
    assert ended.code == 3
    assert ended.err.splitlines()[0] == "x pending"
    assert "it is pending" in ended.err


def test_gRPC_with_client_certificates(tmp_path: Path) -> None:  # noqa: N802 (its name)
    """With the right files commands work; without them, or with others' certificates, they say 3."""
    ours, theirs = trustme.CA(), trustme.CA()
    for name, ca in (("ours", ours), ("theirs", theirs)):
        ca.cert_pem.write_to_path(tmp_path / f"{name}.ca")
        certificate = ca.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.cert")
    tls = {"CERT": "ours.cert", "KEY": "ours.key", "CLIENT_CA": "ours.ca"}
    settings = {f"JOBSTATUS_GRPC_TLS_{name}": str(tmp_path / file) for name, file in tls.items()}
    with serving(tmp_path, env=settings) as env:
        for name, code in (("ours", 0), ("theirs", 3)):
            files = {"CA": "ours.ca", "CERT": f"{name}.cert", "KEY": f"{name}.key"}
            client = {f"JOBSTATUS_CLIENT_TLS_{kind}": str(tmp_path / file) for kind, file in files.items()}
            ended = run("jobs", "list", env={**env, **client})
            assert (ended.code, ended.err.count("\n")) == (code, 0 if code == 0 else 1), ended
        files = {"CA": "theirs.ca", "CERT": "ours.cert", "KEY": "ours.key"}
        client = {f"JOBSTATUS_CLIENT_TLS_{kind}": str(tmp_path / file) for kind, file in files.items()}
        assert_sentence(run("jobs", "list", env={**env, **client}), 3)
        assert_sentence(run("jobs", "list", env=env), 3)


WORKER = """
import asyncio, sys
from datetime import timedelta
from jobstatus.client import JobStatusClient

async def main():
    async with JobStatusClient(sys.argv[1]) as client:
        async with client.run_job(sys.argv[2], lease=timedelta(seconds=1)) as run:
            print("started", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            run.complete({"text": "too late"})

try:
    asyncio.run(main())
except Exception as error:
    print(type(error).__name__, type(error.__cause__).__name__, flush=True)
"""


def test_a_worker_that_is_stopped_longer_than_its_lease_cannot_complete(service: dict[str, str]) -> None:
    """The job fails while the worker is stopped; when it goes on it hears LeaseLost, and the job stays failed."""
    job_id = create(service)
    worker = subprocess.Popen(
        (sys.executable, "-c", WORKER, service["JOBSTATUS_GRPC"], job_id),
        env=BARE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"started\n"
    worker.send_signal(signal.SIGSTOP)
    try:
        watched = run("jobs", "watch", job_id, env=service)
    finally:
        worker.send_signal(signal.SIGCONT)
        out, _ = worker.communicate(b"\n", timeout=LIMIT_SECONDS)
    assert watched.code == 1
    assert out == b"LeaseLost JobTerminal\n"
    assert "lease_expired" in run("jobs", "get", job_id, env=service).out


@pytest.mark.parametrize("leaf", [*CODES, ServiceFailed, ServiceUnreachable])
def test_every_error_has_an_exit_code_of_the_table(leaf: type[errors.JobStatusError]) -> None:
    """A leaf that is added without one is noticed here, and each code is explained in --help."""
    code, sentence = explain(leaf())
    assert code is not ExitCode.FINE
    assert f"\n  {code:d} " in EPILOG
    assert not sentence.endswith(".")
