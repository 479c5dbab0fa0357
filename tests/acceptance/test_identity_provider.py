"""The installed command with an identity provider that is set by variables alone, over TLS with a private authority."""

import asyncio
from pathlib import Path
from typing import Final

from harness.certificates import Authorities
from harness.identity_provider import provider
from harness.jobs import create
from harness.service import INSTALLED, EdgeProcess, Process
from harness.tokens import bearer
from harness.waiting import until
from harness.workers import WORKERS

POLLS: Final = 16


async def test_children_and_edges_fetch_for_themselves(tmp_path: Path) -> None:
    """Each process knows the tokens after one fetch of its own, whichever a connection lands on."""
    authorities = Authorities()
    authority = tmp_path / "authority.pem"
    authorities.ours.cert_pem.write_to_path(str(authority))
    async with provider(tls=authorities.server("localhost")) as running:
        issuer = {"JWT_ISSUER": running.issuer, "JWT_ALGORITHM": "RS256", "JWT_SECRET": "", "JWT_DISCOVERY": "true"}
        process = Process(tmp_path, WORKERS=str(WORKERS), **issuer)
        process.environment["SSL_CERT_FILE"] = str(authority)
        async with process, process.connected() as service:
            await create(service, "job-1")
            token = bearer(running.token("first"))
            answers = await asyncio.gather(*(service.poll("job-1", token) for _ in range(POLLS)))
            assert {answer.status for answer in answers} == {202}
            refused = await service.poll("job-1", bearer(running.unknown("first")))
            assert refused.status == 401
            edge = EdgeProcess(tmp_path, service, **issuer)
            edge.start_command = INSTALLED  # aiohttp reads SSL_CERT_FILE at its import
            edge.environment["SSL_CERT_FILE"] = str(authority)
            async with edge:
                front = service.behind(edge.port("HTTP"), edge.port("ADMIN"))
                assert (await front.poll("job-1", token)).status == 202
            await until(lambda: len(running.fetched_at) >= WORKERS + 1)
            assert len(running.fetched_at) < POLLS  # a slow one is repeated, but none is for a poll
