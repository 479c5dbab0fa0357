"""The limits of the console: values for `app` to set."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleLimits:
    """Times are in seconds."""

    max_streams: int = 20
    """Pages that may be open at a time."""
    requests_per_second: float = 20.0
    burst: int = 60
    """Requests of all admins together, and how many may come at a time; of strangers, for each address. A stream counts
    once."""
    tick_seconds: float = 0.4
    """The least time between two looks of a stream at what it shows."""
    look_share: float = 0.2
    """The looks of a stream take at most this part of the time, most of which they wait for the store."""
    slowest_tick_seconds: float = 2.0
    """For the sake of which a stream waits no longer than this."""
    count_share: float = 0.01
    """The count of jobs by state takes at most this part of the time."""
    types_share: float = 0.005
    """The count by state and type takes at most this part, because it reads more, and its table may be older."""
    keep_seconds: float = 0.3
    """How long an answer serves other pages that show the same."""
    pulse_seconds: float = 1.0
    """How often figures are collected while a page is open."""
    sample_seconds: float = 5.0
    """The distance of two points of the curves, and how often figures are collected while no page is open."""
    samples: int = 720
    """Points of the curves: an hour."""
    recent_seconds: float = 300.0
    """What percentiles and ratios are about."""
    stale_seconds: float = 20.0
    """A process counts although it does not lead when no count of a process of this machine is younger."""
    quiet_seconds: float = 15.0
    """A stream that has nothing to say says so after this long, so that proxies keep the connection open."""
    stall_seconds: float = 30.0
    """A page that reads nothing for so long is disconnected."""
    page_jobs: int = 50
    max_new: int = 100
    """How many new jobs are counted above a page."""
    grouped_failures: int = 500
    """How many failed jobs, the newest, are grouped by error."""
    seen_jobs: int = 500
    """How many jobs of any state, the newest, tell of workers and virtual keys."""
    held_jobs: int = 1000
    """How many jobs that are processing are told apart by their worker."""
    page_keys: int = 100
    result_bytes: int = 64 * 1024
    """How much of a result is shown."""
