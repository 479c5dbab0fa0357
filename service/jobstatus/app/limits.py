"""The limits of a service's components, as one value with defaults."""

from dataclasses import dataclass, field

from jobstatus.rest.limits import RestLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """One field for each component; see the component for the meaning of its limits."""

    rest: RestLimits = field(default_factory=RestLimits)
