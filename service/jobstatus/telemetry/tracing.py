"""Whether traces are made: decided once, at the start, by OpenTelemetry's own variables.

Where they are not, OpenTelemetry is not imported and nothing of the service is wrapped, so a poll costs the same.
"""

import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jobstatus.telemetry.spans import Spans

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
EXPORTERS: Final = ("otlp", "console")

_log = logging.getLogger(__name__)


def wanted_exporter(environment: Mapping[str, str]) -> str | None:
    """Return the name of the exporter that the variables ask for; None for none.

    By the specification `otlp` is the default. Here that holds only where an endpoint is named.
    """
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if not exporter and any(environment.get(name) for name in ENDPOINTS):
        return "otlp"
    return None if exporter in ("", "none") else exporter


@asynccontextmanager
async def traces(environment: Mapping[str, str] = os.environ) -> "AsyncIterator[Spans | None]":
    """Yield what makes spans; None where no traces are made. Leaving sends what is left, in limited time.

    The service also serves where traces cannot be made: then a line in the log says why.
    """
    spans = _open(environment)
    try:
        yield spans
    finally:
        if spans is not None:
            await spans.close()


def _open(environment: Mapping[str, str]) -> "Spans | None":
    exporter = wanted_exporter(environment)
    if exporter is None:
        return None
    problem = f"OTEL_TRACES_EXPORTER must be one of {', '.join(EXPORTERS)} or none"
    if exporter in EXPORTERS:
        try:
            from jobstatus.telemetry.spans import open_spans  # noqa: PLC0415  # only where it is wanted

            return open_spans(exporter, environment)
        except ModuleNotFoundError as error:
            problem = f"{error.name} is not installed; the extra otel has the SDK and its exporter over gRPC"
        except Exception as error:  # noqa: BLE001  # whatever the SDK makes of the variables, the service serves
            problem = f"OpenTelemetry does not accept its variables ({type(error).__name__})"
    _log.warning("No traces are made.", extra={"event": "traces_unavailable", "problem": problem})
    return None
