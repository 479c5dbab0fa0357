"""What the console shows of jobs is bounded, whatever they contain."""

import json
from typing import Final

from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import document
from jobstatus.console.rows import groups_of
from jobstatus.core.job import ErrorField, Job, JobError, JobState, RequestType
from jobstatus.rpc.job_status import MAX_CODE_CHARACTERS

LINE_BYTES: Final = 16 * 1024**2
"""Of the channel between a child and its supervisor. A longer line would end it, and the child."""


def failed(number: int) -> Job:
    """Return a job whose error is as large in JSON as may be, and unlike that of any other."""
    code = f"{number:03}".ljust(MAX_CODE_CHARACTERS, "\U0001f600")
    error = JobError(error=ErrorField(type="e", code=code, message="\U0001f600" * 1000))
    job_id = f"{number}".rjust(128, "j")
    job = Job(job_id, RequestType.OCR, JobState.FAILED, 3, None, None, None, 1, 1000, 1)
    return job._replace(completed_at_ms=2, expires_at_ms=1002, status_code=500, error=error)


def test_the_largest_groups_of_failures_fit_into_a_line_of_a_child() -> None:
    """Under a supervisor the answer is JSON within JSON."""
    groups = groups_of(failed(number) for number in range(ConsoleLimits().grouped_failures))
    assert len(groups) == ConsoleLimits().grouped_failures
    assert len(json.dumps([1, document({"groups": groups}).to_text()])) < LINE_BYTES
