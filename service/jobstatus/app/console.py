"""Build the console of one serving process, which answers for itself or through its supervisor."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn

from jobstatus.app.background import run_periodically
from jobstatus.app.clocks import Clocks
from jobstatus.app.limits import ServiceLimits
from jobstatus.app.sign_in import open_id_provider
from jobstatus.auth.authenticator import Authenticator
from jobstatus.console.census import Census
from jobstatus.console.handler import Console
from jobstatus.console.links import SignInLinks
from jobstatus.console.messages import Watch
from jobstatus.console.pulse import Pulse
from jobstatus.console.reader import ConsoleReader, Policy
from jobstatus.core.store import JobCount, Store
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.tracker import JobTracker
from jobstatus.rest.protocol import Handler
from jobstatus.settings import Settings
from jobstatus.telemetry.audit import AuditLog
from jobstatus.telemetry.metrics import Metrics


class ServiceConsole:
    """The parts of the console, which are there from `build` on if the settings ask for it."""

    def __init__(
        self,
        settings: Settings,
        *,
        tracker: JobTracker,
        store: Store,
        sweeper: Sweeper,
        clock: Timekeeper,
        clocks: Clocks,
        metrics: Metrics,
        audit: AuditLog | None,
        links: SignInLinks | None,
        is_child: bool,
        limits: ServiceLimits,
    ) -> None:
        """A child leaves HTTP to its supervisor."""
        self._settings = settings
        self._tracker = tracker
        self._store = store
        self._sweeper = sweeper
        self._clock = clock
        self._clocks = clocks
        self._metrics = metrics
        self._audit = audit
        self._links = links
        self._is_child = is_child
        self._limits = limits.console
        self._jwks = limits.jwks
        self._census: Census | None = None
        self._pulse: Pulse | None = None
        self.answers: Mapping[str, Callable[[str], Awaitable[str]]] = {}
        """What the supervisor may ask."""

    def build(self, authenticator: Authenticator, waiting_polls: Callable[[], int]) -> Handler | None:
        """Build the parts, and return what handles requests."""
        if self._settings.console != "on":
            return None
        census = self._census = Census(
            self._store,
            leads=lambda: self._sweeper.is_leader,
            clock=self._clock,
            monotonic=self._clocks.monotonic,
            jobs=self._metrics.jobs,
            waiters=lambda: waiting_polls() + self._tracker.watcher_count,
            limits=self._limits,
        )
        reader = self._reader(authenticator)
        self.answers = {"console": reader.answer_text, "console_figures": census.figures}
        if self._is_child:
            return None

        async def figures(watch: Watch) -> list[str]:
            return [await census.figures(watch.to_text())]

        monotonic, clock = self._clocks.monotonic, self._clock.ms
        pulse = self._pulse = Pulse(figures, clock=clock, monotonic=monotonic, limits=self._limits)
        console = Console(
            reader.answer,
            pulse,
            clock=clock,
            monotonic=monotonic,
            links=self._links,
            limits=self._limits,
            open_id=open_id_provider(self._settings, monotonic=monotonic, limits=self._jwks),
        )
        return console.handle

    def note(self, count: JobCount | None) -> None:
        """Take over the count for the metrics."""
        if self._census is not None:
            self._census.note(count)

    def tasks(self) -> list[Coroutine[Any, Any, NoReturn]]:
        """Return the background work, to be run from now on."""
        seconds, works = self._limits.pulse_seconds, []
        if self._census is not None:
            works.append(("console_count", self._census.refresh))
        if self._pulse is not None:
            works.append(("console_pulse", self._pulse.refresh))
        return [run_periodically(seconds, chore, work, self._metrics) for chore, work in works]

    def _reader(self, authenticator: Authenticator) -> ConsoleReader:
        policy = Policy(
            actions=self._settings.console_actions == "on",
            unscoped_for_all=self._settings.unscoped_jobs == "any_credential",
            record=None if self._audit is None else self._audit.record,
            on_key_change=authenticator.forget_virtual_keys,
        )
        return ConsoleReader(
            authenticator=authenticator,
            tracker=self._tracker,
            virtual_keys=self._store,
            clock=self._clock.ms,
            policy=policy,
            limits=self._limits,
        )
