"""`jobstatus poll`: poll one job, and turn its last answer into output and an exit code."""

import asyncio
import ipaddress
from datetime import timedelta
from urllib.parse import quote
from urllib.request import getproxies_environment, proxy_bypass

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
    error, live on a terminal. If the job failed, the exit code is 1. Once the service has answered, errors of it and of
    what stands before it are waited out for a minute. http_proxy, https_proxy, all_proxy and no_proxy are honoured.

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
    match answer.document["status"]:
        case "completed":
            if not as_json:
                emit(answer.result + b"\n")
        case "failed":
            raise CommandError(_failure(job_id, answer), ExitCode.REFUSED)
        case other:
            problem = f"job {job_id} has ended, in the status {other}, which this version does not know"
            raise CommandError(visible(problem), ExitCode.UNAVAILABLE)
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
                aiohttp.ClientSession(headers=headers, proxy=_proxy_for(address)) as session,
            ):
                return await PollLoop(session, address, display).poll_until_end()
        except TimeoutError:
            state = f"it is {display.status}" if display.status else "nothing is known of it"
            raise CommandError(f"time ran out before job {job_id} ended: {state}", ExitCode.UNAVAILABLE) from None


def _proxy_for(address: URL) -> URL | None:
    """Return the proxy that the environment names for the address, as curl and gRPC find it; None for loopback.

    aiohttp's own `trust_env` also reads ~/.netrc, whose credentials it refuses to combine with ours.
    """
    proxies = getproxies_environment()
    named = proxies.get(address.scheme) or proxies.get("all")
    if not named or proxy_bypass(address.host_port_subcomponent or "") or _is_loopback(address.host or ""):
        return None
    try:
        proxy = URL(named if "://" in named else f"http://{named}")
    except ValueError:
        proxy = URL()
    if proxy.scheme not in ("http", "https") or not proxy.host:
        raise click.UsageError(f"the proxy for {address.scheme}:// in the environment is not an http:// address")
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _failure(job_id: str, answer: PollResponse) -> str:
    inner = answer.error.get("error")
    fields = inner if isinstance(inner, dict) else {}
    kind = "/".join(str(fields[name]) for name in ("type", "code") if name in fields)
    text = visible(f"job {job_id} failed: {fields.get('message', '')}").rstrip(".")
    return f"{text} ({visible(kind)})" if kind else text
