"""What `jobstatus jobs get` shows of a job."""

from harness.stores import job
from jobstatus.cli.output import job_document

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def test_it_shows_who_wrote_last_and_the_trace_of_the_submission() -> None:
    shown = job_document(job(last_writer="gateway.test", traceparent=TRACEPARENT))
    assert (shown["last_writer"], shown["traceparent"]) == ("gateway.test", TRACEPARENT)


def test_it_shows_nothing_where_there_is_none() -> None:
    assert not {"last_writer", "traceparent"} & job_document(job()).keys()
