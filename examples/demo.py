"""Show the whole path once: serve, have a worker transcribe a recording, poll over REST until the answer is 200.

Each program runs in its own process, as a user would run it, on free ports and in a temporary folder.
"""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import tempfile
import textwrap
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn


def report_stop(*_: object) -> NoReturn:
    print("The demo was stopped; nothing is left running.", file=sys.stderr)
    raise SystemExit(130)


signal.signal(signal.SIGINT, report_stop)  # until `main`, because the imports below take a moment

import aiohttp  # noqa: E402
from jobstatus.client import JobStatusClient, JobStatusError, RequestType  # noqa: E402
from transcription_worker.recognise import CAN_RECOGNISE  # noqa: E402

JOBSTATUS: Final = Path(sys.executable).with_name("jobstatus")
WORKER: Final = Path(__file__).parent / "transcription_worker"
VIRTUAL_KEY_ID: Final = "vk-demo"
SHOWN_HEADERS: Final = ("Retry-After", "Job-Progress")

START_SECONDS: Final = 30
JOB_SECONDS: Final = 60
STOP_SECONDS: Final = 20


class DemoFailed(Exception):
    """The demo cannot go on. The text is a sentence that says why."""


def say(text: str) -> None:
    print(text, flush=True)


def free_addresses(count: int) -> list[str]:
    """Return addresses on the loopback interface on which no process listens. They are not reserved."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [f"127.0.0.1:{listener.getsockname()[1]}" for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


async def demo() -> None:
    """Run the demo. Raise DemoFailed unless a poll returned the text and the service ended with exit code 0."""
    http, grpc, admin = free_addresses(3)
    with tempfile.TemporaryDirectory(prefix="jobstatus-demo-") as folder:
        others = {name: value for name, value in os.environ.items() if not name.startswith("JOBSTATUS_")}
        env = others | {
            "JOBSTATUS_HTTP": http,
            "JOBSTATUS_GRPC": grpc,
            "JOBSTATUS_ADMIN": admin,
            "JOBSTATUS_STORE": f"sqlite:///{folder}/jobstatus.db",
            "JOBSTATUS_STATE_DIR": folder,
            "JOBSTATUS_RETRY_AFTER_SECONDS": "1",
        }
        say(f"The service starts: jobstatus serve --dev\n  REST on {http}, gRPC on {grpc}, its files in {folder}")
        async with service(env, Path(folder, "server.log"), f"http://{admin}/readyz"):
            try:
                async with asyncio.timeout(JOB_SECONDS):
                    await run_job(env, http, grpc)
            except TimeoutError:
                raise DemoFailed(f"The job and its worker had not ended within {JOB_SECONDS} seconds.") from None
        say("\nThe service was asked to stop (SIGTERM), and ended with exit code 0.")


@asynccontextmanager
async def service(env: dict[str, str], log: Path, ready_url: str) -> AsyncIterator[None]:
    """Run the service: ready inside the block, and stopped by SIGTERM after it, also after an error."""
    with log.open("wb") as output:
        # In its own session, so that Ctrl-C reaches this program only, which then stops the service.
        server = await asyncio.create_subprocess_exec(
            *(JOBSTATUS, "serve", "--dev"), env=env, stdout=output, stderr=STDOUT, start_new_session=True
        )
    try:
        await until_ready(server, ready_url)
        yield
    except Exception:
        await stop(server)
        show(log)
        raise
    finally:
        code = await stop(server)
    if code != 0:
        show(log)
        raise DemoFailed(f"The service ended with exit code {code} instead of 0.")


def show(log: Path) -> None:
    say(f"\nThe service's log:\n{log.read_text(errors='replace')}")


async def until_ready(server: Process, url: str) -> None:
    """Return once the service says that it is ready."""
    try:
        async with asyncio.timeout(START_SECONDS), aiohttp.ClientSession() as http:
            while not await is_ready(http, url):
                if server.returncode is not None:
                    raise DemoFailed(f"The service ended while starting, with exit code {server.returncode}.")
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise DemoFailed(f"The service was not ready within {START_SECONDS} seconds.") from None


async def is_ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


async def stop(process: Process) -> int:
    """Ask the process to end, kill it if it does not, and return its exit code."""
    if process.returncode is None:
        process.terminate()
    try:
        return await asyncio.wait_for(process.wait(), STOP_SECONDS)
    except TimeoutError:
        process.kill()
        return await process.wait()


async def run_job(env: dict[str, str], http: str, grpc: str) -> None:
    """Create a job, poll it once, start a worker, and poll until the job has ended."""
    say("\nThe job is recorded over gRPC, as the gateway that accepts the upload would do it: CreateJob")
    async with JobStatusClient(grpc) as client:
        job = await client.create_job(
            request_type=RequestType.TRANSCRIPTION,
            virtual_key_id=VIRTUAL_KEY_ID,
            provider="pocketsphinx" if CAN_RECOGNISE else "measure",
            model_requested="en-us" if CAN_RECOGNISE else "loudness",
        )
    say(f"  job {job.job_id}, for the holders of {VIRTUAL_KEY_ID}")
    say(f"\nA holder gets a token: jobstatus token virtual-key {VIRTUAL_KEY_ID}")
    token = await mint_token(env)
    url = f"http://{http}/v1/async/audio/transcriptions/{job.job_id}"
    say(f"  {token[:16]}...\n\nThe holder polls:\n  GET {url}\n  Authorization: Bearer {token[:16]}...")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        status, wait_seconds, body = await poll(session, url)
        if status != 202:
            raise DemoFailed(f"The first poll was answered with {status} instead of 202.")
        async with worker(env, grpc, job.job_id) as process:
            while status == 202 and not process.returncode:
                await asyncio.sleep(wait_seconds)
                status, wait_seconds, body = await poll(session, url)
    if status != 200 or body["status"] != "completed":
        raise DemoFailed("The job did not complete.")
    say(f"\n{'The recording says' if CAN_RECOGNISE else 'The recording has'}: {body['result']['text']!r}")


async def mint_token(env: dict[str, str]) -> str:
    minting = await asyncio.create_subprocess_exec(
        *(JOBSTATUS, "token", "virtual-key", VIRTUAL_KEY_ID), env=env, stdout=PIPE
    )
    output, _ = await minting.communicate()
    if minting.returncode != 0:
        raise DemoFailed("No token was minted.")
    return output.decode().strip()


@asynccontextmanager
async def worker(env: dict[str, str], grpc: str, job_id: str) -> AsyncIterator[Process]:
    """Run the example's worker on its recording; wait for its end after the block."""
    if not CAN_RECOGNISE:
        say("\nPocketSphinx is not installed, so the worker measures the recording instead of transcribing it.")
    script, recording = WORKER / "worker.py", WORKER / "recording.wav"
    say(f"\nA worker takes the job: {script.name} {job_id} {recording.name}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, script, "--grpc", grpc, job_id, recording), env=env, start_new_session=True
    )
    try:
        yield process
        code = await process.wait()
    finally:
        await stop(process)
    if code != 0:
        raise DemoFailed(f"The worker ended with exit code {code}.")


async def poll(session: aiohttp.ClientSession, url: str) -> tuple[int, float, dict[str, Any]]:
    """Poll once and print the answer. Return its status, the seconds to wait and its body."""
    async with session.get(url) as response:
        body = await response.json()
        shown = [f"{name}: {response.headers[name]}" for name in SHOWN_HEADERS if name in response.headers]
        lines = [f"HTTP/1.1 {response.status} {response.reason}", *shown, pretty(body)]
        say("\n" + textwrap.indent("\n".join(lines), "  "))
        return response.status, float(response.headers.get("Retry-After", 0)), body


def pretty(body: object) -> str:
    """Return indented JSON, with each object in a list on one line."""
    return re.sub(
        r"(?m)^( +)\{\s+([^{}]+?)\s+\}",
        lambda item: f"{item[1]}{{ {' '.join(item[2].split())} }}",
        json.dumps(body, indent=2),
    )


async def stoppable_demo() -> None:
    """Run the demo so that SIGTERM stops it in order, as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        with suppress(NotImplementedError):  # Windows has no such handlers
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await demo()


def main() -> int:
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio.run replaces by a cancellation
        asyncio.run(stoppable_demo())
    except (DemoFailed, JobStatusError, aiohttp.ClientError, OSError) as error:
        print(f"The demo failed: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        report_stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
