"""A rolling restart of two replicas behind a real proxy, amid polls and writes: is any of them lost?

    python tests/soak/rolling.py [--polls 200] [--writes 100] [--only haproxy nginx]

One replica after the other gets SIGTERM, as from a kubelet, and starts anew when it has ended; the next one follows
when the first has been ready for as long as the chart's probe needs. The stop delay, the readiness probe (HAProxy's
check) and the time until SIGKILL are those of the chart. Polls and writes go through the proxy, with the files of
docs/proxies, at a steady rate and over connections that are kept. Calls are never tried again. Exits with 0 when none
was lost. nginx can be tried too, but has no checks, as a Service of Kubernetes has: it goes on sending to a replica
that stops, and a call that is on its way just when gRPC closes is lost (docs/proxies.md).
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import aiohttp
import uvloop
import yaml
from harness.jobs import complete, create
from harness.ports import reserve
from harness.proxies import HOSTS, PROXIES, Ports, Proxy, running
from harness.service import Process
from harness.tokens import admin_token
from harness.verdict import verdict
from harness.waiting import until
from rich.console import Console
from rich.table import Table
from soak.stops import Form, replicas, writing

CHART: Final = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "jobstatus"
CONNECTIONS: Final = 50
POLL_SECONDS: Final = 10.0
PATH: Final = "/v1/async/audio/transcriptions/kept"
SETTLE_SECONDS: Final = 2.0
"""How long all is quiet before the first stop and after the last start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What the chart sets, in seconds where it is a time."""

    stop_delay: int
    grace: int
    probe_path: str
    probe_period: int
    probe_failures: int

    @classmethod
    def of_chart(cls) -> "Times":
        """Read them from the chart's files."""
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        helpers = (CHART / "templates" / "_helpers.tpl").read_text()
        probe = helpers.partition("readinessProbe:")[2].partition("livenessProbe:")[0]
        grace = re.search(r"terminationGracePeriodSeconds: {{ add \.stopDelaySeconds (\d+)", helpers)
        period, failures = (re.search(rf"{name}: (\d+)", probe) for name in ("periodSeconds", "failureThreshold"))
        assert grace
        assert period
        assert failures
        return cls(
            stop_delay=values["stopDelaySeconds"],
            grace=values["stopDelaySeconds"] + int(grace[1]),
            probe_path=values["probes"]["readinessPath"],
            probe_period=int(period[1]),
            probe_failures=int(failures[1]),
        )

    def put_in(self, text: str) -> str:
        """Return HAProxy's file with a check like the kubelet's."""
        text = text.replace("GET /healthz", f"GET {self.probe_path}")
        return text.replace("inter 1s fall 2 rise 1", f"inter {self.probe_period}s fall {self.probe_failures} rise 1")


@dataclass(slots=True)
class Polls:
    """How many polls there were, and how those ended that failed."""

    sent: int = 0
    lost: Counter[str] = field(default_factory=Counter)

    async def one(self, client: aiohttp.ClientSession) -> None:
        """Poll once."""
        self.sent += 1
        try:
            async with client.get(PATH) as answer:
                await answer.read()
        except (OSError, TimeoutError, aiohttp.ClientError) as error:
            self.lost[repr(error)] += 1
            return
        if answer.status != 200:
            self.lost[str(answer.status)] += 1


@asynccontextmanager
async def polling(polls: Polls, port: int, rate: float) -> AsyncIterator[None]:
    """Poll at a steady rate meanwhile, however long the answers take."""

    async def start(group: asyncio.TaskGroup, client: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        while True:
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            group.create_task(polls.one(client))
            number += 1

    kept = aiohttp.TCPConnector(limit=CONNECTIONS)
    session = aiohttp.ClientSession(
        f"http://127.0.0.1:{port}",
        connector=kept,
        headers={"Authorization": f"Bearer {admin_token()}"},
        timeout=aiohttp.ClientTimeout(POLL_SECONDS),
    )
    async with session as client, asyncio.TaskGroup() as group:
        clock = group.create_task(start(group, client))
        yield
        clock.cancel()


async def is_ready(host: str, port: int, path: str) -> bool:
    """Return whether the probe succeeds."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    writer.close()
    return b" 200 " in status


async def restart(process: Process, times: Times, form: Form) -> None:
    """Stop as a kubelet does, start anew, and wait until the probe has succeeded."""
    process.send(signal.SIGTERM)
    try:
        code = await process.ended(times.grace)
    except TimeoutError:
        form.lost["a replica had to be killed"] += 1
        return
    if code:
        form.lost[f"a replica ended with {code}"] += 1
    await process.start()
    await until(lambda: is_ready(HOSTS[process.folder.name], process.port("ADMIN"), times.probe_path))
    await asyncio.sleep(times.probe_period * times.probe_failures)


async def run(proxies: Sequence[Proxy], folder: Path, times: Times, given: Any) -> list[tuple[Form, Polls]]:
    """Return what became of polls and writes, for each proxy."""
    async with replicas(folder, STOP_DELAY_SECONDS=str(times.stop_delay)) as (processes, places):
        async with processes[0].connected() as service:
            await create(service, "kept")
            await complete(service, "kept")
        found = []
        for proxy in proxies:
            rest, calls = (reserve(hosts=[*HOSTS.values()]) for _ in range(2))
            ports = Ports(**places, rest=rest, rpc=calls)
            form, polls = Form(proxy.described(), [f"127.0.0.1:{calls}"]), Polls()
            async with (
                running(proxy, folder / proxy.file, ports, times.put_in),
                writing(form, given.writes),
                polling(polls, rest, given.polls),
            ):
                await asyncio.sleep(SETTLE_SECONDS)
                for process in processes:
                    await restart(process, times, form)
                await asyncio.sleep(SETTLE_SECONDS)
            found.append((form, polls))
    return found


def main() -> int:
    known = {proxy.name.lower(): proxy for proxy in PROXIES if proxy.name in ("HAProxy", "nginx")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--polls", type=float, default=200, help="polls a second (%(default)s)")
    parser.add_argument("--writes", type=float, default=100, help="writes a second (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=[*known], default=["haproxy"], help="which proxies")
    given = parser.parse_args()
    wanted = [proxy for name, proxy in known.items() if name in given.only]
    installed = [proxy for proxy in wanted if proxy.program is not None]
    console, times = Console(), Times.of_chart()
    loop = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder, loop as runner:
        Path(folder).chmod(0o755)  # a proxy's processes may be another user's
        found = runner.run(run(installed, Path(folder), times, given))
    if missing := [proxy.name for proxy in wanted if proxy not in installed]:
        console.print(f"Not installed: {', '.join(missing)}.")
    table = Table("proxy", "polls", "lost", "writes", "lost")
    problems = []
    for form, polls in found:
        table.add_row(form.name, f"{polls.sent:,}", str(polls.lost.total()), f"{form.writes:,}", str(form.lost.total()))
        problems += [f"{form.name}, polls: {count} times {how}" for how, count in polls.lost.items()]
        problems += [f"{form.name}, writes: {count} times {how}" for how, count in form.lost.items()]
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())
