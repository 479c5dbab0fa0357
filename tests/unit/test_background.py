"""Background work that fails: it goes on, and says so once."""

import pytest
from harness.logged import events_logged
from jobstatus.app.background import run_once
from jobstatus.core.errors import StoreUnavailable
from jobstatus.telemetry.metrics import Metrics


@pytest.mark.parametrize(
    ("error", "event"), [(StoreUnavailable(), "chore_failed"), (KeyError("a bug"), "chore_crashed")]
)
async def test_only_the_first_of_consecutive_failures_is_logged(
    caplog: pytest.LogCaptureFixture, error: Exception, event: str
) -> None:
    async def work() -> None:
        raise error

    metrics = Metrics()
    assert not await run_once("sweep", work, metrics)
    assert not await run_once("sweep", work, metrics, should_log=False)
    assert events_logged(caplog) == [event]
