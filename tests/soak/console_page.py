"""The console in a real browser: is each step of a job seen in time, by admins only, by everyone who has to?

    python tests/soak/console_page.py [--stores sqlite postgresql cluster] [--soon 1] [--screenshots docs] [--load]

Needs Chromium and ChromeDriver, which no wheel brings, and npm for axe-core; the script says so where they are missing.

* The printed link signs in once, and leaves no trace in the address. A job is created, started, reported and completed
  over gRPC, and each step is on the page within a second; on each store.
* An admin signs in with an issuer of OpenID Connect, in a window of its own: the page keeps nothing, and asks nobody
  but the issuer's token endpoint.
* Without a token, with a virtual key's and with an expired one the page has a sentence and nothing else. A result that
  is a script is shown as text. Nothing violates the policy of the page, and nothing is requested of another host.
* axe finds nothing serious in any view, in both schemes, nor at 360 pixels, where nothing is wider than the screen.
* A fleet that dies is a red banner within 15 s. `kill -9` of a serving process does not end the page.
* With --load, on each store: with 100,000 jobs and 500 changes a second a page costs the browser less than half of a
  core and 200 MiB, the service at most 3 % of a core, and polls that use a whole core at most 3 % more CPU time than
  without one.

Prints what it saw; exits with an error when it is not that.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
from aiohttp import web
from google.protobuf.duration_pb2 import Duration
from harness.chromium import Browser, browser, missing_programs
from harness.faults import Clock
from harness.identity_provider import provider as identity_provider
from harness.jobs import complete, create, fail, heartbeat, job_error, start
from harness.service import Process, Service
from harness.stores import STORES, change, job
from harness.tokens import AUDIENCE, admin_token, bearer, token, virtual_key_token
from harness.waiting import until
from jobstatus.console.census import WATCHED_SECONDS
from jobstatus.core.job import JobState, RequestType
from jobstatus.stores import open_store

STEP_SECONDS: Final = 20.0
SOON_SECONDS: Final = 1.0
BANNER_SECONDS: Final = 15.0
AXE: Final = ("axe-core", "4.14.1", "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c")
SERIOUS: Final = ("serious", "critical")
VIEWS: Final = ("now", "jobs", "failures", "workers", "keys")
SCRIPT: Final = json.dumps("<img src=x onerror=alert(1)><script>alert(2)</script>").encode()
MAX_PNG_BYTES: Final = 300_000
CHANGES: Final = 500
MOST_OF_SERVICE: Final = 0.03
MOST_OF_BROWSER: Final = 0.5
MOST_MIB: Final = 200
MOST_OF_POLLS: Final = 1.03
FORGOTTEN_SECONDS: Final = WATCHED_SECONDS + 1
"""After this long the service does nothing any more for a page that was closed."""
SETTLED_SECONDS: Final = 5
POLLERS: Final = 4
PIPELINED: Final = 32

WATCH: Final = """
    window.violations = [];
    addEventListener("securitypolicyviolation", (event) =>
      window.violations.push(
        [event.effectiveDirective, event.blockedURI, event.sourceFile, event.lineNumber].join(" ")));"""
SIGN_IN: Final = """
    document.querySelector("[name=token]").value = arguments[0];
    document.querySelector("form").requestSubmit();"""
SEEN: Final = "return document.querySelector(arguments[0])?.innerText ?? '';"
NOTE: Final = """
    const [place, text] = arguments;
    window.shownAt = 0;
    const observer = new MutationObserver(() => {
      if (!document.querySelector(place)?.innerText.includes(text)) return;
      window.shownAt = Date.now();
      observer.disconnect();
    });
    observer.observe(document.body, { subtree: true, childList: true, characterData: true });"""
REQUESTED: Final = """
    return performance.getEntriesByType("resource").map((entry) => new URL(entry.name).origin)
      .filter((origin) => origin !== location.origin);"""
KEPT: Final = "return [localStorage.length, sessionStorage.length, document.cookie.length, location.href];"
WIDER: Final = """
    return [...document.querySelectorAll("body *")].filter((element) => !element.closest(".scroll, nav, .said, .skip"))
      .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
      .map((element) => element.outerHTML);"""
AUDIT: Final = """
    return axe.run(document, { resultTypes: ["violations"] }).then((found) =>
      found.violations.map((each) =>
        [each.impact, each.id, each.nodes.map((node) => node.target.join(" ")).slice(0, 5)]));"""
SHOW: Final = """
    [...document.querySelectorAll("button")].find((each) => each.textContent === "Show the result").click();"""


class Wrong(Exception):
    """The page is not as it must be; the message is one sentence."""


class DevelopmentProcess(Process):
    """`jobstatus serve --dev`."""

    command = ("serve", "--dev")

    @property
    def link(self) -> str:
        """The link that signs in, as it was printed."""
        found = re.findall(r"http://\S+/console/#ticket=\S+", self.log_path.read_text())
        return str(found[-1])


def page_of(process: Process) -> str:
    """The address of the console."""
    return f"http://127.0.0.1:{process.port('ADMIN')}/console/"


@dataclass(slots=True, kw_only=True)
class Delays:
    """How long the page took to show each step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @asynccontextmanager
    async def until_shown(self, step: str, chromium: Browser, text: str, place: str = "tbody") -> AsyncIterator[None]:
        """Do the block, and wait until the page has the text at this place. The page itself notes when it has."""
        await chromium.run(NOTE, place, text)
        yield
        began = time.time()
        await shows(chromium, text, place=place)
        shown_at = float(await chromium.run("return window.shownAt;")) / 1000
        self.seconds[step] = max(0.0, shown_at - began)

    def check(self, soon: float) -> None:
        """Raise Wrong if a step took longer."""
        late = {step: seconds for step, seconds in self.seconds.items() if seconds > soon}
        if late:
            raise Wrong(f"these steps were shown late: {late}")

    def __str__(self) -> str:
        return ", ".join(f"{step} {seconds * 1000:.0f} ms" for step, seconds in self.seconds.items())


async def shows(chromium: Browser, text: str, *, place: str = "main") -> None:
    """Return once the page has the text; Wrong with what it has when it does not."""

    async def does() -> bool:
        return text in await chromium.run(SEEN, place)

    try:
        await until(does, STEP_SECONDS)
    except TimeoutError:
        raise Wrong(f"the page does not show {text!r} but {await chromium.run(SEEN, place)!r}") from None


async def go(chromium: Browser, place: str, text: str) -> None:
    """Go to a view, which has this text."""
    await chromium.run("location.hash = arguments[0];", f"#/{place}")
    await shows(chromium, text)


async def sign_in(chromium: Browser, process: Process) -> None:
    """Open the page anew and paste an admin's token."""
    await chromium.open("about:blank")
    await chromium.open(page_of(process))
    await chromium.run(SIGN_IN, admin_token(sub="ada"))
    await shows(chromium, "Pending")


async def lives(process: DevelopmentProcess, chromium: Browser) -> Delays:
    """One job's life behind the printed link, which is opened once more in vain."""
    delays, link = Delays(), process.link
    async with process.connected() as service:
        await chromium.open(link)
        await shows(chromium, "Pending")
        if (kept := await chromium.run(KEPT)) != [0, 0, 0, page_of(process)]:
            raise Wrong(f"the page keeps something, or its address does: {kept}")
        await go(chromium, "jobs", "No jobs yet")
        async with delays.until_shown("created", chromium, "life-1"):
            await create(service, "life-1")
        async with delays.until_shown("started", chromium, "processing"):
            await start(service, "life-1", lease=Duration(seconds=30))
        async with delays.until_shown("reported", chromium, "42 %"):
            await service.jobs.HeartbeatJob(heartbeat("life-1", attempt=1, progress=0.42))
        async with delays.until_shown("completed", chromium, "completed"):
            await complete(service, "life-1", SCRIPT, attempt=1)
        async with delays.until_shown("counted as new", chromium, "1 new, show", "main"):
            await create(service, "life-2")
        await chromium.press("n")
        await shows(chromium, "life-2")
    await chromium.open("about:blank")
    await chromium.open(link)
    await shows(chromium, "This link was used already")
    return delays


async def is_closed_to_strangers(process: Process, chromium: Browser) -> None:
    """Those without an admin's token see a sentence and the form, and nothing of any job."""
    expired = token(role="admin", exp=int(time.time()) - 3600)
    for given, sentence in (
        (expired, "The token has expired"),
        (virtual_key_token("vk-1"), "needs an admin's token"),
        ("nonsense", "This token is not valid here"),
    ):
        await chromium.open("about:blank")
        await chromium.open(f"{page_of(process)}#/jobs")
        await chromium.run(SIGN_IN, given)
        await shows(chromium, sentence)
        if "life-1" in (seen := await chromium.run(SEEN, "body")):
            raise Wrong(f"the page shows a job to a stranger: {seen!r}")


async def shows_a_script_as_text(process: Process, chromium: Browser) -> None:
    """A result is text, whatever it is."""
    await sign_in(chromium, process)
    await go(chromium, "jobs/life-1", "Show the result")
    await chromium.run(
        "[...document.querySelectorAll('button')].find((b) => b.textContent === 'Show the result').click();"
    )
    await shows(chromium, SCRIPT.decode())
    if await chromium.run("return document.querySelectorAll('main img, main script').length;"):
        raise Wrong("the page made elements of a result")


async def survives_wrong_addresses(process: Process, chromium: Browser) -> None:
    """An address that nobody meant has a sentence, the next one its view; a token that no header holds is refused."""
    await chromium.open("about:blank")
    await chromium.open(page_of(process))
    await chromium.run(SIGN_IN, "a “token”")
    await shows(chromium, "This is no token")
    await sign_in(chromium, process)
    for place, text in (("jobs/%", "job_id"), ("jobs/%ff", "job_id"), ("jobs?state=%ff", "state"), ("jobs", "life-1")):
        await go(chromium, place, text)


CLICK_ISSUER: Final = """
    const button = [...document.querySelectorAll("button:enabled")]
      .find((each) => each.textContent.startsWith("Sign in with"));
    button?.focus();
    return button !== undefined;"""


async def signs_in_with_openid_connect(folder: Path, chromium: Browser) -> None:
    """With a click, by a provider that gives a code for PKCE; then for a second time, after a reload of the page.

    An answer of the issuer that is nothing has a sentence.
    """
    async with identity_provider(clock=Clock()) as issuer:
        admins = {"issuer": issuer.issuer, "audience": AUDIENCE, "algorithm": "RS256", "discovery": True}
        settings = {"ISSUERS": json.dumps([admins]), "CONSOLE_OIDC_ISSUER": issuer.issuer}
        async with Process(folder, CONSOLE="on", CONSOLE_OIDC_CLIENT_ID="console", **settings) as process:
            address = page_of(process)
            issuer.clients = {"console": f"{address}signed-in.html"}
            for _ in range(2):
                await chromium.open("about:blank")
                await chromium.open(address)
                await until(lambda: has_focused_issuer(chromium), STEP_SECONDS)
                await chromium.press("\ue007")
                await shows(chromium, "Pending")
                if (kept := await chromium.run(KEPT)) != [0, 0, 0, address]:
                    raise Wrong(f"the page keeps something, or its address does: {kept}")
                violations, others = await chromium.run("return window.violations;"), await chromium.run(REQUESTED)
                if violations or set(others) != {issuer.url}:
                    raise Wrong(f"the page violates its policy: {violations}, {others}")
                await until(lambda: has_one_window(chromium), STEP_SECONDS)
            if issuer.codes:
                raise Wrong("a code was not used")
            headers = {"Access-Control-Allow-Origin": address.removesuffix("/console/")}
            issuer.answers["/realms/main/token"] = lambda: web.json_response(None, headers=headers)
            await chromium.open("about:blank")
            await chromium.open(address)
            await until(lambda: has_focused_issuer(chromium), STEP_SECONDS)
            await chromium.press("\ue007")
            await shows(chromium, "The issuer gave no token: 200.")


async def has_focused_issuer(chromium: Browser) -> bool:
    return bool(await chromium.run(CLICK_ISSUER))


async def has_one_window(chromium: Browser) -> bool:
    found = await chromium.command("Target.getTargets")
    pages = [each["url"] for each in found["targetInfos"] if each["type"] == "page"]
    return len(pages) == 1


async def check_policy(chromium: Browser) -> None:
    """Raise Wrong if anything violated the page's policy since it was opened, or was asked of another host."""
    violations, others = await chromium.run("return window.violations;"), await chromium.run(REQUESTED)
    if violations or others:
        raise Wrong(f"the page violates its policy: {violations}, {others}")


async def audit(process: Process, chromium: Browser, axe: str, screenshots: Path | None) -> int:
    """Let axe see each view; the number of views that it saw. Raises Wrong for anything serious."""
    seen = 0
    for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light")):
        await chromium.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=860,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        await chromium.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        await sign_in(chromium, process)
        for view in (*VIEWS, "jobs/shown-1"):
            await chromium.run("location.hash = arguments[0];", f"#/{view}")
            await until(lambda: is_still(chromium), STEP_SECONDS)
            if width < 500 and (wider := await chromium.run(WIDER)):
                raise Wrong(f"{view} is wider than the screen: {wider}")
            await check_policy(chromium)
            if screenshots is not None and width > 500 and view == "now":
                keep(screenshots / f"console-{scheme}.png", await chromium.screenshot())
            if screenshots is not None and (width, scheme, view) == (1280, "light", "jobs"):
                keep(screenshots / "console-jobs.png", await chromium.screenshot())
            await chromium.run(axe)
            found = [each for each in await chromium.run(AUDIT) if each[0] in SERIOUS]
            if found:
                raise Wrong(f"axe finds in {view} ({scheme}, {width} pixels): {found}")
            seen += 1
    return seen


async def is_still(chromium: Browser) -> bool:
    """Whether the view has its data."""
    return bool(
        await chromium.run(
            "return document.getElementById('live').dataset.state === 'live'"
            " && document.querySelector('main table tbody tr, main .nothing:not([hidden]), main .facts > *') !== null;"
        )
    )


def keep(path: Path, image: bytes) -> None:
    """Write an image, unless it is too large to be kept."""
    if len(image) > MAX_PNG_BYTES:
        raise Wrong(f"{path} would have {len(image)} bytes")
    path.write_bytes(image)


async def fill(service: Service) -> None:
    """Jobs in all states, of several types, keys and workers."""
    chance = random.Random(1)
    for number in range(1, 81):
        job_id = f"shown-{number}"
        await create(
            service, job_id, request_type=1 + number % 6, virtual_key_id=f"team-{'abc'[number % 3]}", max_attempts=2
        )
        if number % 8 == 0:
            continue
        await start(service, job_id, f"gpu-{number % 5}", lease=Duration(seconds=600))
        if number % 7 == 0:
            await service.jobs.HeartbeatJob(heartbeat(job_id, attempt=1, progress=chance.random(), message="decoding"))
        elif number % 9 == 0:
            error = job_error("The recording is empty." if number % 2 else "The provider has no quota left.")
            error.error.code = "bad_audio" if number % 2 else "quota_exceeded"
            await fail(service, job_id, error, attempt=1, status_code=400 if number % 2 else 429)
        elif number % 6:
            await complete(service, job_id, attempt=1)


async def work(service: Service, name: str, chance: random.Random) -> None:
    """One worker that never ends: jobs are made, run and ended, at a few a second."""
    for number in range(1_000_000):
        job_id = f"{name}-{number}"
        await create(service, job_id, request_type=1 + number % 4)
        await asyncio.sleep(chance.random() * 0.2)
        await start(service, job_id, name, lease=Duration(seconds=600))
        await asyncio.sleep(chance.random() * 0.4)
        if number % 13 == 5:
            await service.jobs.HeartbeatJob(heartbeat(job_id, attempt=1, progress=chance.random(), message="decoding"))
        elif number % 9 == 4:
            error = job_error("The provider has no quota left.")
            error.error.code = "quota_exceeded"
            await fail(service, job_id, error, attempt=1, status_code=429)
        else:
            await complete(service, job_id, attempt=1)


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work in the background."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def tells_of_a_dead_fleet(process: Process, chromium: Browser) -> float:
    """Jobs wait, and the only worker dies while it holds one; how long the page took to say so."""
    async with process.connected() as service:
        for number in range(5):
            await create(service, f"waits-{number}")
        await start(service, "waits-0", "doomed", lease=Duration(seconds=30))
        await sign_in(chromium, process)
        for _ in range(2):
            await asyncio.sleep(9)
            if await banner(chromium):
                raise Wrong("the banner is there while the worker lives")
            await service.jobs.HeartbeatJob(heartbeat("waits-0", attempt=1))
        died = time.perf_counter()

        async def is_told() -> bool:
            return "nothing runs" in await banner(chromium)

        await until(is_told, 2 * BANNER_SECONDS)
        return time.perf_counter() - died


async def banner(chromium: Browser) -> str:
    """The text of the banner, if it is there."""
    return str(await chromium.run("const b = document.getElementById('banner'); return b.hidden ? '' : b.innerText;"))


async def outlives_a_kill(folder: Path, chromium: Browser) -> None:
    """The page goes on after one of two serving processes was killed, with what happens afterwards."""
    async with Process(folder, WORKERS="2", CONSOLE="on") as process:
        async with process.connected() as service:
            await create(service, "before")
            await sign_in(chromium, process)
            await go(chromium, "jobs", "before")
            assert process.child is not None
            for child in psutil.Process(process.child.pid).children()[:1]:
                child.kill()
        async with process.connected() as service:
            await until(lambda: creates(service, "after"), STEP_SECONDS)
            await shows(chromium, "1 new, show")
            await check_policy(chromium)


async def creates(service: Service, job_id: str) -> bool:
    try:
        await create(service, job_id)
    except Exception as error:  # noqa: BLE001  # a connection to the process that was killed
        return "ALREADY" in str(error)
    return True


async def axe_source(folder: Path) -> str:
    """axe-core, from the npm registry, if it is the one that is expected."""
    name, version, digest = AXE
    child = await asyncio.create_subprocess_exec(
        "npm", "pack", "--silent", f"{name}@{version}", cwd=folder, stdout=asyncio.subprocess.PIPE
    )
    packed, _ = await child.communicate()
    with tarfile.open(folder / packed.decode().strip().splitlines()[-1]) as archive:
        script = archive.extractfile("package/axe.min.js")
        source = b"" if script is None else script.read()
    if hashlib.sha256(source).hexdigest() != digest:
        raise Wrong(f"{name} {version} is not what it was: {hashlib.sha256(source).hexdigest()}")
    return source.decode()


# --- what it costs ---


@contextmanager
def measured(pids: Callable[[], list[int]]) -> Iterator[dict[str, float]]:
    """The part of a core that these processes, with all their children, use during the block, and their memory."""
    before, began, found = _cpu(pids()), time.perf_counter(), dict[str, float]()
    yield found
    seconds = time.perf_counter() - began
    after = _cpu(pids())
    found["core"] = sum(used - before.get(pid, used) for pid, used in after.items()) / seconds
    found["MiB"] = sum(psutil.Process(pid).memory_full_info().uss for pid in after) / 1024**2


def _cpu(pids: list[int]) -> dict[int, float]:
    times = {}
    for pid in pids:
        used = psutil.Process(pid).cpu_times()
        times[pid] = used.user + used.system
    return times


def renderers(driver: int) -> list[int]:
    """The processes of the browser that show pages."""
    return [
        child.pid for child in psutil.Process(driver).children(recursive=True) if "--type=renderer" in child.cmdline()
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What the service and the page used while so much was done, each part of a core, and MiB of the page."""

    service: float
    page: float
    page_mib: float
    done_each_second: float


@dataclass(slots=True)
class Done:
    """Counts what was done in the background."""

    number: int = 0


async def costs(url: str, folder: Path, chromium: Browser, options: argparse.Namespace) -> AsyncIterator[str]:
    """What an open page costs on this store: the browser, the service beside CHANGES changes a second, and polls.

    A page is open and closed in turn, so that what else the machine does concerns both. Raises Wrong for what is more
    than it may be, once all has been told.
    """
    await many(url, options.jobs)
    seconds, rounds = options.load, range(options.rounds)
    wrong = []
    async with Process(folder, CONSOLE="on", STORE=url) as process, process.connected() as service:
        async with changing(service, CHANGES) as done:
            for view in ("now", "jobs", "workers"):
                pairs = [await both(process, chromium, view, seconds, done) for _ in rounds]
                cost = cost_of(pairs)
                browser_core, mib = median(page.page for _, page in pairs), max(page.page_mib for _, page in pairs)
                changes = median(page.done_each_second for _, page in pairs)
                yield (
                    f"{view:8} service {cost:6.1%} of a core beside {changes:.0f} changes a second (without a page"
                    f" {median(none.service for none, _ in pairs):.1%}), page {browser_core:.1%} and {mib:.0f} MiB"
                )
                if cost > MOST_OF_SERVICE or browser_core > MOST_OF_BROWSER or mib > MOST_MIB:
                    wrong.append(view)
        await create(service, "polled")
        await complete(service, "polled")
        async with polling(process, "polled") as done:
            pairs = [await both(process, chromium, "now", seconds, done) for _ in rounds]
            ratio = 1 / (1 - cost_of(pairs))
            polls = median(none.done_each_second / none.service for none, _ in pairs)
            yield f"polls    {ratio:.3f} times the CPU time with a page open ({polls:.0f} polls for a second of a core)"
            if ratio > MOST_OF_POLLS:
                wrong.append("polls")
    if wrong:
        raise Wrong(f"these cost too much: {wrong}")


def cost_of(pairs: Sequence[tuple[Block, Block]]) -> float:
    """The part of a core that a page costs the service, beside what as much work takes without one."""
    return median(page.service - none.service * page.done_each_second / none.done_each_second for none, page in pairs)


async def both(process: Process, chromium: Browser, view: str, seconds: float, done: Done) -> tuple[Block, Block]:
    """Measure without a page, and with this view."""
    await chromium.open("about:blank")
    await asyncio.sleep(FORGOTTEN_SECONDS)
    none = await block(process, chromium, seconds, done)
    await sign_in(chromium, process)
    await chromium.run("location.hash = arguments[0];", f"#/{view}")
    await asyncio.sleep(SETTLED_SECONDS)
    return none, await block(process, chromium, seconds, done)


async def block(process: Process, chromium: Browser, seconds: float, done: Done) -> Block:
    child = process.child
    assert child is not None
    before, began = done.number, time.perf_counter()
    with measured(lambda: [child.pid]) as of_service, measured(lambda: renderers(chromium.pid)) as of_page:
        await asyncio.sleep(seconds)
    return Block(
        service=of_service["core"],
        page=of_page["core"],
        page_mib=of_page["MiB"],
        done_each_second=max(1, done.number - before) / (time.perf_counter() - began),
    )


@asynccontextmanager
async def polling(process: Process, job_id: str) -> AsyncIterator[Done]:
    """Poll a job without pause on a few connections, several polls at a time."""
    path = f"/v1/async/audio/transcriptions/{job_id}"
    poll = f"GET {path} HTTP/1.1\r\nHost: test\r\n{bearer(admin_token())}\r\n\r\n".encode() * PIPELINED
    done = Done()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port("HTTP"))
        try:
            while True:
                writer.write(poll)
                answers = b""
                while answers.count(b"HTTP/1.1 200 ") < PIPELINED:
                    if not (piece := await reader.read(1 << 18)):
                        raise Wrong(f"polls were refused: {answers!r}")
                    answers += piece
                done.number += PIPELINED
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        for _ in range(POLLERS):
            await stack.enter_async_context(meanwhile(client()))
        yield done


async def many(url: str, jobs: int) -> None:
    """Store so many jobs of all types, most of them ended, before a service serves them."""
    now_ms, types = int(time.time() * 1000), list(RequestType)
    ended = {"state": JobState.COMPLETED, "due_at_ms": None, "status_code": 200, "attempt": 1, "result": b"{}"}
    async with open_store(url) as store:
        for first in range(0, jobs, 1000):
            batch = []
            for number in range(first, min(jobs, first + 1000)):
                times: dict[str, Any] = {
                    "created_at_ms": now_ms - 10 * (jobs - number),
                    "due_at_ms": now_ms + 86_400_000,
                }
                if number % 20:
                    times |= {"started_at_ms": now_ms, "completed_at_ms": now_ms, "expires_at_ms": now_ms + 86_400_000}
                    times |= {**ended, "worker_id": f"gpu-{number % 40}"}
                batch.append(change(job(f"many-{number}", request_type=types[number % len(types)], **times)))
            await store.commit(batch)


@asynccontextmanager
async def changing(service: Service, each_second: int) -> AsyncIterator[Done]:
    """Jobs are created, started and completed in the background, so many changes a second if the machine can."""
    done = Done()

    async def live(job_id: str) -> None:
        await create(service, job_id)
        await start(service, job_id, "gpu-1")
        await complete(service, job_id)
        done.number += 3

    async def change() -> None:
        loop, number, due = asyncio.get_running_loop(), 0, asyncio.get_running_loop().time()
        while True:
            together = range(number, number := number + each_second // 30)
            await asyncio.gather(*(live(f"changing-{each}") for each in together))
            due = max(due + 0.1, loop.time() - 1)
            await asyncio.sleep(max(0, due - loop.time()))

    async with meanwhile(change()):
        yield done


async def on_each_store(stores: list[str], folder: Path, chromium: Browser, soon: float) -> AsyncIterator[str]:
    for store in stores:
        place = folder / store
        place.mkdir()
        async with DevelopmentProcess(place, STORE=STORES[store](place)) as process:
            delays = await lives(process, chromium)
            await check_policy(chromium)
        delays.check(soon)
        yield f"{store}: each step of a job was seen soon ({delays})"


async def on_one(folder: Path, chromium: Browser, axe: str, screenshots: Path | None) -> AsyncIterator[str]:
    async with DevelopmentProcess(folder) as process, process.connected() as service:
        await lives(process, chromium)
        await is_closed_to_strangers(process, chromium)
        yield "strangers saw a sentence and no job"
        await shows_a_script_as_text(process, chromium)
        await survives_wrong_addresses(process, chromium)
        await check_policy(chromium)
        yield "a script was shown as text, and nothing violated the policy"
        await fill(service)
        chance = random.Random(2)
        async with meanwhile(work(service, "gpu-1", chance)), meanwhile(work(service, "gpu-2", chance)):
            await sign_in(chromium, process)
            await asyncio.sleep(60 if screenshots is not None else 12)
            seen = await audit(process, chromium, axe, screenshots)
        yield f"axe saw {seen} views and found nothing serious"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="*", default=["sqlite", "postgresql", "cluster"], choices=list(STORES))
    parser.add_argument("--soon", type=float, default=SOON_SECONDS, help="how late a step may be seen (%(default)s s)")
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of the page")
    parser.add_argument("--load", type=float, nargs="?", const=15.0, help="measure the costs, each for so many seconds")
    parser.add_argument("--rounds", type=int, default=3, help="with --load: how often each is measured (%(default)s)")
    parser.add_argument("--jobs", type=int, default=100_000, help="with --load: jobs in the store (%(default)s)")
    options = parser.parse_args()
    if missing := missing_programs() or ("" if shutil.which("npm") else "npm cannot be found: install Node.js first"):
        print(missing, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with browser(folder / "profile", "--hide-scrollbars") as chromium:
            await chromium.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            try:
                await run(options, folder, chromium)
            except Wrong as wrong:
                print(f"WRONG: {wrong}", file=sys.stderr)
                return 1
    return 0


async def run(options: argparse.Namespace, folder: Path, chromium: Browser) -> None:
    """Do what was asked, and print what was seen."""
    if options.load:
        for store in options.stores:
            place = folder / f"load-{store}"
            place.mkdir()
            url = STORES[store](place)
            async for line in costs(url, place, chromium, options):
                print(f"{store:10} {line}", flush=True)
        return
    async for line in on_each_store(options.stores, folder, chromium, options.soon):
        print(line, flush=True)
    (folder / "one").mkdir()
    async for line in on_one(folder / "one", chromium, await axe_source(folder), options.screenshots):
        print(line, flush=True)
    for number, step in enumerate((sign_in_step, kill_step, fleet_step)):
        place = folder / f"step-{number}"
        place.mkdir()
        print(await step(place, chromium), flush=True)


async def sign_in_step(folder: Path, chromium: Browser) -> str:
    await signs_in_with_openid_connect(folder, chromium)
    return "an admin signed in with an issuer of OpenID Connect, and nothing was kept"


async def kill_step(folder: Path, chromium: Browser) -> str:
    await outlives_a_kill(folder, chromium)
    return "the page went on after one of two serving processes was killed"


async def fleet_step(folder: Path, chromium: Browser) -> str:
    async with Process(folder, CONSOLE="on") as process:
        seconds = await tells_of_a_dead_fleet(process, chromium)
    if seconds > BANNER_SECONDS:
        raise Wrong(f"a dead fleet was told after {seconds:.1f} s")
    return f"a dead fleet was told after {seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
