"""What a call carries besides its message."""

from typing import Final

from jobstatus.core.traceparent import valid_traceparent
from jobstatus.rpc.intake import Context

CREATING_METHODS: Final = frozenset({"CreateJob", "BatchWrite"})
"""The calls that may create jobs, which keep the traceparent of the call."""
TRACEPARENT_KEY: Final = "traceparent"


def traceparent_in(context: Context) -> str | None:
    """Return the traceparent in the call's metadata; None where there is no valid one. gRPC keeps one of several."""
    found = next((value for key, value in context.invocation_metadata() or () if key == TRACEPARENT_KEY), "")
    return valid_traceparent(str(found))
