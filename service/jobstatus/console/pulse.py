"""Collects the figures of all processes of this machine, and makes of them what the console shows first.

It is done once for all pages. While none is open it is done less often, for the curves alone.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobstatus.console.cause import likely_cause
from jobstatus.console.history import Curves, Growth, Percentiles, Point, Recent, ended_of, failures_of, percentiles
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import AskFigures, Watch

RATE_SECONDS = 60.0
"""What rates are about."""
OF_WORKERS = ("queued.", "ended.completed", "ended.failed")
"""What only workers cause."""


class Pulse:
    """Call `refresh` every `pulse_seconds`."""

    def __init__(
        self, ask: AskFigures, *, clock: Callable[[], int], monotonic: Callable[[], float], limits: ConsoleLimits
    ) -> None:
        """`clock` returns ms since the epoch, `monotonic` seconds that never step."""
        self._ask = ask
        self._clock = clock
        self._monotonic = monotonic
        self._limits = limits
        self._growth = Growth()
        self._recent = Recent(limits.recent_seconds)
        self._since_sample: Counter[str] = Counter()
        self._sampled_at = self._refreshed_at = float("-inf")
        self._heard_ms: int | None = None
        self._waiters = 0
        self._began_ms = clock()
        self._count: Mapping[str, Any] = {}
        self._types: Mapping[str, Any] = {}
        self.curves = Curves(limits.samples)
        self.open_pages = 0
        """How many pages are open."""
        self.now = json.dumps({"at_ms": self._began_ms})
        """What the page shows first, as JSON."""

    async def refresh(self) -> None:
        """Collect figures if it is time for that."""
        now = self._monotonic()
        if not self.open_pages and now - self._refreshed_at < self._limits.sample_seconds:
            return
        self._refreshed_at = now
        watch = Watch(is_open=self.open_pages > 0, is_alone=self.open_pages > 0 and self._is_stale())
        found = [json.loads(text) for text in await self._ask(watch)]
        self._take(found, self._monotonic())
        self.now = json.dumps(self._shown(len(found)), separators=(",", ":"))

    def _is_stale(self) -> bool:
        age_ms = self._clock() - int(self._count.get("at_ms", 0))
        return age_ms > self._limits.stale_seconds * 1000

    def _take(self, found: Sequence[Mapping[str, Any]], now: float) -> None:
        grown = self._growth.since_last({figures["process"]: figures["jobs"] for figures in found})
        self._recent.add(now, grown)
        self._since_sample.update(grown)
        self._count = max((each["count"] for each in found if each["count"]), key=_age, default=self._count)
        self._types = max((each["types"] for each in found if each["types"]), key=_age, default=self._types)
        self._waiters = sum(each["waiters"] for each in found)
        heard = [self._heard_ms, self._count.get("heard_ms")]
        if any(name.startswith(OF_WORKERS) for name in grown):
            heard.append(self._clock())
        self._heard_ms = max((at_ms for at_ms in heard if at_ms is not None), default=None)
        if now - self._sampled_at >= self._limits.sample_seconds:
            self._sample(now)

    def _sample(self, now: float) -> None:
        seconds = max(1e-9, now - self._sampled_at)
        ended, grown = ended_of(self._since_sample), self._since_sample
        lately, _ = self._recent.total(now, RATE_SECONDS)
        queued, run = percentiles(lately, "queued"), percentiles(lately, "run")
        by_state = self._count.get("by_state", {})
        self.curves.add(
            Point(
                at_ms=self._clock(),
                pending=by_state.get("pending"),
                processing=by_state.get("processing"),
                created=_rate(grown["created"], seconds),
                completed=_rate(ended.get("completed", 0), seconds),
                failed=_rate(failures_of(ended), seconds),
                queued_p50=queued and queued.p50,
                queued_p99=queued and queued.p99,
                run_p50=run and run.p50,
                run_p99=run and run.p99,
            )
        )
        self._sampled_at = now
        self._since_sample = Counter()

    def _shown(self, processes: int) -> dict[str, Any]:
        now, count = self._monotonic(), self._count
        recent, _ = self._recent.total(now, self._limits.recent_seconds)
        lately, seconds = self._recent.total(now, RATE_SECONDS)
        by_state = count.get("by_state", {})
        cause = likely_cause(
            self._clock(),
            pending=by_state.get("pending", 0),
            oldest_created_ms=count.get("oldest_created_ms"),
            heard_ms=self._heard_ms,
            on_time_until_ms=count.get("on_time_until_ms"),
            unleased=count.get("unleased", 0),
        )
        return {
            "at_ms": self._clock(),
            "began_ms": self._began_ms,
            "count": count,
            "types": self._types,
            "created_rate": _rate(lately["created"], seconds),
            "ended_rate": _rate(sum(ended_of(lately).values()), seconds),
            "ended": ended_of(recent),
            "failures": failures_of(ended_of(recent)),
            "queued": _times(percentiles(recent, "queued")),
            "run": _times(percentiles(recent, "run")),
            "waiters": self._waiters,
            "heard_ms": self._heard_ms,
            "processes": processes,
            "cause": cause,
        }


def _age(counted: Mapping[str, Any]) -> int:
    return int(counted["at_ms"])


def _rate(number: int, seconds: float) -> float:
    return round(number / seconds, 3) if seconds >= 1 else float(number)


def _times(found: Percentiles | None) -> dict[str, float] | None:
    return None if found is None else {"p50": round(found.p50, 3), "p99": round(found.p99, 3), "jobs": found.jobs}
