"""`jobstatus poll`: poll one job, and turn its last answer into output and an exit code."""

import asyncio
import json
from datetime import timedelta
from urllib.parse import quote

import aiohttp
import click
from yarl import URL

from jobstatus.cli.errors import EPILOG, CommandError, ExitCode
from jobstatus.cli.output import emit, one_line, visible
from jobstatus.cli.params import REQUEST_TYPE, SPAN
from jobstatus.cli.poll_display import open_display
from jobstatus.cli.polling import PollLoop, PollResponse
from jobstatus.core.job import RequestType
from jobstatus.rest.routes import PATHS


@click.command(name="poll", epilog=EPILOG)
@click.argument("job_id")
@click.option(
    "--token",
    envvar="JOBSTATUS_TOKEN",
    show_envvar=True,
    required=True,
    help="A JWT or an sk-bf- key. Use the variable to keep it out of the list of processes.",
)
@click.option("--request-type", type=REQUEST_TYPE, default="transcription", help="The request type of the job.")
@click.option(
    "--url",
    envvar="JOBSTATUS_URL",
    show_envvar=True,
    default="http://127.0.0.1:8080",
    help="The address of the service for REST.",
)
@click.option("--timeout", type=SPAN, help="How long to poll. Until the job ends if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer instead of the result.")
def command(*, job_id: str, token: str, request_type: str, url: str, timeout: timedelta | None, as_json: bool) -> int:
    """Poll a job over REST until it ends, and print its result.

    Where the service lets polls wait, the result is printed as soon as the job ends. Progress is printed to standard
    error, live on a terminal. If the job failed, the exit code is 1.

    \b
    Example:
      JOBSTATUS_TOKEN=$(jobstatus token virtual-key team-a) jobstatus poll demo > result.json
    """
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise CommandError("the token has characters that no credential has", ExitCode.CREDENTIAL)
    address = _address(url, RequestType(request_type), job_id)
    answer = asyncio.run(_poll(address, token, job_id, None if timeout is None else timeout.total_seconds()))
    if as_json:
        emit(one_line(answer.body) + b"\n")
    if answer.document.get("status") != "completed":
        raise CommandError(_failure(job_id, answer), ExitCode.REFUSED)
    if not as_json:
        emit(member(answer.body.decode(), "result").encode() + b"\n")
    return ExitCode.FINE


def _address(url: str, request_type: RequestType, job_id: str) -> URL:
    try:
        base = URL(url)
    except ValueError:
        base = URL()
    if base.scheme not in ("http", "https") or not base.host:
        raise click.BadParameter(f"{url!r} is not an http:// or https:// address", param_hint="--url")
    return URL(url.rstrip("/") + PATHS[request_type] + quote(job_id, safe=""), encoded=True)


async def _poll(address: URL, token: str, job_id: str, limit_seconds: float | None) -> PollResponse:
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
    with open_display(job_id) as display:
        try:
            async with (
                asyncio.timeout(limit_seconds),
                aiohttp.ClientSession(headers=headers) as session,
            ):
                return await PollLoop(session, address, display).poll_until_end()
        except TimeoutError:
            state = f"it is {display.status}" if display.status else "nothing is known of it"
            raise CommandError(f"time ran out before job {job_id} ended: {state}", ExitCode.UNAVAILABLE) from None


def _failure(job_id: str, answer: PollResponse) -> str:
    error = answer.document.get("error")
    inner = error.get("error") if isinstance(error, dict) else None
    fields = inner if isinstance(inner, dict) else {}
    kind = "/".join(str(fields[name]) for name in ("type", "code") if name in fields)
    text = visible(f"job {job_id} failed: {fields.get('message', '')}").rstrip(".")
    return f"{text} ({visible(kind)})" if kind else text


def member(text: str, name: str) -> str:
    """Return the text of one member of a JSON object, exactly as it stands there; "null" when there is none.

    Parsing and encoding it again would change numbers that a float cannot hold.
    """
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        start = _skip(text, at)
        _, at = decoder.raw_decode(text, start)
        if key == name:
            return text[start:at]
        at = _skip(text, at)
    return "null"


def _skip(text: str, at: int) -> int:
    """Return the position after white space and separators."""
    while text[at] in " \t\r\n,:":
        at += 1
    return at
