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

import aiohttp
import jobstatus.client
import pytest
import trustme
from aiohttp import web
from harness.command import BARE, COMMAND, LIMIT_SECONDS, Ended, assert_sentence, run, run_installed, start
from jobstatus.cli.errors import EPILOG, CommandError, ExitCode, explain
from jobstatus.cli.poll_display import PlainDisplay
from jobstatus.cli.polling import PollLoop
from jobstatus.core import errors
from yarl import URL

NOWHERE = "127.0.0.1:1"
LEAVES = [
    value
    for value in (getattr(jobstatus.client, name) for name in jobstatus.client.__all__)
    if isinstance(value, type) and issubclass(value, errors.JobStatusError) and value is not errors.JobStatusError
]
"""Every error that the client's calls raise."""
PROXY_VARIABLES = tuple(
    name for kind in ("http", "https", "all", "no") for name in (f"{kind}_proxy", f"{kind}_PROXY".upper())
)

COMMANDS: Sequence[Sequence[str]] = (
    (),
    ("serve",),
    *(("jobs", *name) for name in ((), ("create",), ("start",), ("heartbeat",), ("complete",), ("fail",))),
    *(("jobs", name) for name in ("cancel", "get", "list", "watch", "delete")),
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
        (("jobs", "cancel"), "JOB_ID"),
        (("jobs", "cancel", "x", "--reason", "r" * 1025), "reason"),
        (("poll", "x"), "JOBSTATUS_TOKEN"),
        (("poll", "x", "--token", "t", "--url", "there"), "there"),
        (("token", "virtual-key", "a b"), "virtual_key_id"),
    ],
)
def test_wrong_usage_is_2_and_names_what_is_wrong(arguments: Sequence[str], word: str) -> None:
    """One sentence, before anything is sent."""
    assert_sentence(run(*arguments, env={"JOBSTATUS_GRPC": NOWHERE}), 2, word)


def test_where_the_service_is_has_a_variable_of_its_own() -> None:
    """It wins over that of the service's own address, which is read without it; an address needs a port."""
    for environment in (
        {"JOBSTATUS_TARGET": NOWHERE, "JOBSTATUS_GRPC": "0.0.0.0"},
        {"JOBSTATUS_GRPC": NOWHERE},
    ):
        assert_sentence(run("jobs", "list", env=environment), 3, NOWHERE)
    assert_sentence(run("jobs", "list", "--grpc", "localhost", env={}), 2, "must be HOST:PORT")


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


def test_a_job_is_cancelled(service: dict[str, str]) -> None:
    """Without its attempt, and as often as one likes; its worker is refused: 1. One that has ended stays: 1."""
    job_id = create(service)
    assert run("jobs", "start", job_id, "--worker-id", "shell", "--lease", "5m", env=service).code == 0
    cancelled = run("jobs", "cancel", job_id, "--reason", "Not needed.", env=service)
    assert cancelled.code == 0
    assert cancelled.out.startswith(f"{job_id} failed, Not needed. (cancelled/cancelled_by_client), readable until 2")
    again = json.loads(run("jobs", "cancel", job_id, "--json", env=service).out)
    assert (again["state"], again["status_code"], again["error"]["error"]) == (
        "failed",
        499,
        {"type": "cancelled", "code": "cancelled_by_client", "message": "Not needed."},
    )
    assert_sentence(run("jobs", "heartbeat", job_id, "--attempt", "1", env=service), 1, "cancelled")
    done = create(service)
    assert run("jobs", "complete", done, env=service, stdin=b"1").code == 0
    assert_sentence(run("jobs", "cancel", done, env=service), 1, "completed")
    assert_sentence(run("jobs", "cancel", "unknown", env=service), 4, "jobs list")


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


@pytest.mark.parametrize(
    ("redirection", "words"), [(">&-", "is closed"), (">/dev/full", "No space left"), ("</dev/null >&0", "Bad file")]
)
def test_output_that_cannot_be_written_is_an_error(service: dict[str, str], redirection: str, words: str) -> None:
    """One sentence and 141, whatever standard output is."""
    create(service)
    shell = ("/bin/sh", "-c", f"exec {COMMAND} jobs list --json {redirection}")
    ended = subprocess.run(shell, env={**BARE, **service}, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    assert_sentence(Ended(ended.returncode, "", ended.stderr.decode()), ExitCode.OUTPUT_CLOSED, words)


def test_other_streams_may_be_closed(service: dict[str, str]) -> None:
    """Without standard error there are no notes; without standard input there is no result to complete with."""
    job_id = create(service)
    token = run("token", "admin", env=service).out.strip()
    for redirection, code in (("<&-", 2), ("2>&-", 0)):
        shell = f"echo 1 | {{ {COMMAND} jobs complete {job_id} {redirection}; }}"
        ended = subprocess.run(
            ("/bin/sh", "-c", shell), env={**BARE, **service}, capture_output=True, timeout=LIMIT_SECONDS, check=False
        )
        assert ended.returncode == code, ended
        assert b"Traceback" not in ended.stderr
    poll = ("/bin/sh", "-c", f"exec {COMMAND} poll {job_id} --token {token} 2>&-")
    ended = subprocess.run(poll, env={**BARE, **service}, capture_output=True, timeout=LIMIT_SECONDS, check=False)
    assert (ended.returncode, ended.stdout) == (0, b"1\n")


def test_one_interruption_ends_reading_at_a_terminal(service: dict[str, str]) -> None:
    """Ctrl-C while the result is typed ends the command: 130."""
    job_id = create(service)
    ours, theirs = pty.openpty()
    typing = start("jobs", "complete", job_id, env=service, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    assert typing.stderr is not None
    assert "Ctrl-D" in lines_of(typing.stderr).get(timeout=LIMIT_SECONDS)
    typing.send_signal(signal.SIGINT)
    assert typing.wait(LIMIT_SECONDS) == ExitCode.INTERRUPTED
    os.close(ours)


def test_a_list_says_when_there_are_more(service: dict[str, str]) -> None:
    """On standard error, so that scripts read jobs alone."""
    for number in range(3):
        create(service, "--virtual-key-id", "many", "--provider", str(number))
    mine = ("jobs", "list", "--virtual-key-id", "many", "--limit")
    for options in ((), ("--json",)):
        for limit, lines, is_cut in ((2, 2, True), (3, 3, False), (4, 3, False)):
            ended = run(*mine, str(limit), *options, env=service)
            assert len(ended.out.splitlines()) == lines + (not options)
            assert ("There are more" in ended.err) is is_cut


def test_keys_that_have_expired_are_shown_as_such(service: dict[str, str]) -> None:
    """In lists, and when a further key is made that does not work either."""
    assert run("keys", "create", "late", "--expires-in", "0.001s", env=service).code == 0
    made = run("keys", "create", "late", env=service)
    assert "late has expired" in made.err
    assert "--expires-in" in made.err
    assert listed_state("late", service) == "expired"
    assert "late has expired" in run("keys", "enable", "late", env=service).err
    run("keys", "disable", "late", env=service)
    assert listed_state("late", service) == "disabled,expired"
    run("keys", "enable", "late", env=service)
    assert "expired" not in run("keys", "create", "late", "--expires-in", "1h", env=service).err
    assert listed_state("late", service) == "enabled"


def listed_state(virtual_key_id: str, service: dict[str, str]) -> str:
    """The second column of `keys list`."""
    lines = run("keys", "list", env=service).out.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{virtual_key_id} ")]
    return line.split()[1]


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


STUMBLES: Sequence[web.Response] = (
    *(answer(code, Retry_After="0") for code in (408, 425, 429, 500, 520, 522, 599)),
    *(web.Response(status=code, body=b"<html>", headers={"Retry-After": "0"}) for code in (200, 202, 302, 403, 404)),
    answer(200, {"status": "maintenance"}, Retry_After="0"),
    answer(202, {"status": 1, "id": "x"}, Retry_After="0"),
    answer(400, {"message": "of a gateway"}, Retry_After="0"),
)


@pytest.mark.parametrize("stumbles", [STUMBLES[:5], STUMBLES[5:10], STUMBLES[10:]])
async def test_a_poll_that_has_seen_the_job_waits_out_what_comes_between(stumbles: Sequence[web.Response]) -> None:
    """Errors that pass, and answers of whatever stands before the service, do not end a poll."""
    pending = answer(202, {"id": "x", "status": "pending"}, Retry_After="0")
    turns = [given for stumble in stumbles for given in (stumble, pending)]
    async with answering(pending, *turns, answer(200, {"id": "x", "status": "completed", "result": 1})) as url:
        ended = await poll_at(url)
    assert (ended.code, ended.out) == (0, "1\n"), ended
    assert "trying again" in ended.err


@pytest.mark.parametrize("stumble", [STUMBLES[3], *STUMBLES[7:]])
async def test_what_does_not_pass_ends_a_poll_that_has_seen_the_job(stumble: web.Response) -> None:
    """With 3, because 1 would mean that the job has failed."""
    pending = answer(202, {"id": "x", "status": "pending"}, Retry_After="0")
    async with answering(pending, stumble) as url, aiohttp.ClientSession() as session:
        loop = PollLoop(session, URL(url) / "x", PlainDisplay("x"), patience_seconds=0)
        with pytest.raises(CommandError) as ended:
            await loop.poll_until_end()
    assert ended.value.code == ExitCode.UNAVAILABLE


async def test_a_poll_that_has_seen_the_job_ends_with_a_refusal_of_the_service() -> None:
    """The contract's own 401 and 404 say that waiting does not help."""
    for code, expected in ((401, 5), (404, 4)):
        refusal = answer(code, {"error": {"message": "No."}})
        async with answering(answer(202, {"status": "pending"}, Retry_After="0"), refusal) as url:
            assert (await poll_at(url)).code == expected


async def test_a_poll_names_a_status_that_it_does_not_know() -> None:
    """While the job is under way it goes on, and an unknown end is 3, because it is neither of the known ones."""
    under_way = answer(202, {"id": "x", "status": "paused"}, Retry_After="0")
    async with answering(under_way, answer(200, {"id": "x", "status": "cancelled\x1b"})) as url:
        ended = await poll_at(url)
    assert (ended.code, ended.out) == (3, "")
    assert ended.err.splitlines() == [
        "x paused",
        r"jobstatus: job x has ended, in the status cancelled\x1b, which this version does not know",
    ]


async def test_a_poll_prints_any_result() -> None:
    """Long numbers, deep nesting and halves of pairs, which earlier versions accepted, come out as they are."""
    for result in (b"1" * 5000, b"[" * 5000 + b"]" * 5000, rb'"\ud83c"', b"1e999"):
        document = b'{"id":"x","status":"completed","result":%b\n}' % result
        async with answering(web.Response(body=document)) as url:
            assert (await poll_at(url)).out.encode() == result + b"\n"
            assert (await poll_at(url, "--json")).out.encode() == document.replace(b"\n", b" ") + b"\n"


@pytest.mark.parametrize(
    ("variables", "url", "is_asked"),
    [
        ({"http_proxy": "http://user:word@PROXY"}, "http://jobs.example.test", True),
        ({"HTTP_PROXY": "PROXY"}, "http://jobs.example.test:81", True),
        ({"all_proxy": "http://PROXY"}, "http://jobs.example.test", True),
        ({"https_proxy": "http://PROXY"}, "http://jobs.invalid", False),
        ({"http_proxy": "http://PROXY", "no_proxy": "other,.invalid"}, "http://jobs.invalid", False),
        ({"http_proxy": "http://PROXY"}, f"http://{NOWHERE}", False),
    ],
)
async def test_a_poll_goes_through_the_proxy_of_the_environment(
    variables: Mapping[str, str], url: str, *, is_asked: bool
) -> None:
    """As with curl; this machine is asked without it."""
    asked = asyncio.Event()
    async with answering(answer(200, {"status": "completed", "result": 1}), asked=asked) as proxy:
        address = proxy.removeprefix("http://")
        env = dict.fromkeys(PROXY_VARIABLES) | {name: to.replace("PROXY", address) for name, to in variables.items()}
        ended = await asyncio.to_thread(run, "poll", "x", "--token", "t", "--url", url, env=env)
    assert (ended.code, ended.out, asked.is_set()) == ((0, "1\n", True) if is_asked else (3, "", False)), ended


def test_a_proxy_of_another_kind_is_named() -> None:
    """SOCKS is not spoken; what is in the variable, such as a password, is not shown."""
    env = dict.fromkeys(PROXY_VARIABLES) | {"all_proxy": "socks5://user:word@127.0.0.1"}
    ended = run("poll", "x", "--token", "t", "--url", "http://jobs.invalid", env=env)
    assert_sentence(ended, 2, "proxy for http://")
    assert "word" not in ended.err


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


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_error_has_an_exit_code_of_the_table(leaf: type[errors.JobStatusError]) -> None:
    """A leaf that is added without one is noticed here, and each code is explained in --help."""
    code, sentence = explain(leaf())
    assert code is not ExitCode.FINE
    assert f"\n  {code:d} " in EPILOG
    assert not sentence.endswith(".")
