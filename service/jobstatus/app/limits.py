"""The limits of a service's components, as one value with defaults. No operator sets them; tests do."""

from dataclasses import dataclass

from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.auth.virtual_key_cache import LOOKUPS
from jobstatus.console.limits import ConsoleLimits
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.timekeeper import TimeLimits
from jobstatus.core.tracker import TrackerLimits
from jobstatus.rest.limits import RestLimits
from jobstatus.rpc.options import RpcLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """One field for each component that `serving` builds; see the component for the meaning of its limits."""

    tracker: TrackerLimits = TrackerLimits()  # noqa: RUF009  # a frozen value
    time: TimeLimits = TimeLimits()  # noqa: RUF009  # a frozen value
    jwks: JwksLimits = JwksLimits()  # noqa: RUF009  # a frozen value
    lookups: BatchReaderLimits = LOOKUPS
    rest: RestLimits = RestLimits()  # noqa: RUF009  # a frozen value
    rpc: RpcLimits = RpcLimits()  # noqa: RUF009  # a frozen value
    console: ConsoleLimits = ConsoleLimits()  # noqa: RUF009  # a frozen value
    count_jobs_seconds: float = 15.0
    """How often the process that leads counts the jobs of the store."""
