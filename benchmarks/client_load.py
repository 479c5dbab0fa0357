"""The load generator of `benchmarks.against`, run with the environment of either checkout: `-m benchmarks.client_load`.

So many callers of one JobStatusClient, each of which completes its jobs one after the other. It makes the jobs, says
that it is ready, waits for a line, calls, and prints its report as a line of JSON. It knows only what every version of
`jobstatus.client` has.
"""

import argparse
import asyncio
import json
import secrets
import sys
import time
from statistics import median

from jobstatus.client import JobStatusClient, RequestType

RESULT = b'{"text":"' + b"x" * 1003 + b'"}'
_AT_A_TIME = 200


async def create(client: JobStatusClient, job_ids: list[str]) -> None:
    for first in range(0, len(job_ids), _AT_A_TIME):
        created = (
            client.create_job(request_type=RequestType.OCR, job_id=job_id) for job_id in job_ids[first:][:_AT_A_TIME]
        )
        await asyncio.gather(*created)


async def complete(client: JobStatusClient, job_ids: list[str]) -> list[float]:
    """The seconds that each took."""
    seconds = []
    for job_id in job_ids:
        called_at = time.perf_counter()
        await client.complete_job(job_id, RESULT)
        seconds.append(time.perf_counter() - called_at)
    return seconds


async def generate(target: str, callers: int, writes: int) -> None:
    prefix = secrets.token_hex(14)
    shares = [[f"{prefix}-{caller}-{number}" for number in range(writes)] for caller in range(callers)]
    async with JobStatusClient(target) as client:
        await create(client, [job_id for share in shares for job_id in share])
        print(json.dumps({"ready": callers * writes}), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        taken = await asyncio.gather(*(complete(client, share) for share in shares))
    seconds = [one for share in taken for one in share]
    print(json.dumps({"p50_ms": median(seconds) * 1e3}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("callers", type=int)
    parser.add_argument("writes", type=int, help="of each caller")
    options = parser.parse_args()
    asyncio.run(generate(options.target, options.callers, options.writes))


if __name__ == "__main__":
    main()
