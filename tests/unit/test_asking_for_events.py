"""Who is sent events rather than JSON, what they have seen, and what an event looks like."""

import pytest
from jobstatus.core.poll import Poll
from jobstatus.rest import event_stream, headers
from jobstatus.rest.responses import MAX_BYTES


@pytest.mark.parametrize(
    ("accept", "events"),
    [
        (["text/event-stream"], True),
        (["Text/Event-Stream"], True),
        (["text/event-stream, */*"], True),
        (["text/event-stream;charset=utf-8"], True),
        (["text/event-stream ; q=0.5"], True),
        (["text/event-stream;q=1.000"], True),
        (["text/event-stream, application/json;q=0.9"], True),
        (["application/json; q=0.1 , text/event-stream; q=0.2"], True),
        (["application/json;q=0", "text/event-stream"], True),
        (["text/html", "text/event-stream"], True),
        (['text/event-stream;x=", application/json"'], True),
        (['text/html;x="a, text/event-stream"'], False),
        (['text/event-stream;x=";q=0"'], True),
        (['text/event-stream;x="\\";q=0"'], True),
        (["text/event-stream;q=0"], False),
        (["text/event-stream;q=0.000"], False),
        (["text/event-stream;q=2"], False),
        (["text/event-stream;q=0.1234"], False),
        (["text/event-stream;q=nan"], False),
        (["text/event-stream;q=-1"], False),
        (["text/event-stream;q="], False),
        (["text/event-stream, application/json"], False),
        (["application/json, text/event-stream;q=0.9"], False),
        (["text/event-stream;q=0.5", "application/json"], False),
        (["*/*"], False),
        (["text/*"], False),
        (["text/event-streams"], False),
        (["x-text/event-stream"], False),
        (["application/octet-stream"], False),
        ([""], False),
        ([",;q=1,"], False),
        ([], False),
    ],
)
def test_events_are_for_who_names_and_prefers_them(accept: list[str], events: bool) -> None:
    """By weight, as RFC 9110 says; what cannot be read, or takes anything, is no wish for events."""
    assert headers.prefers_events(accept) == events


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"{}", b"data: {}\n"),
        (b"[\n1]", b"data: [\ndata: 1]\n"),
        (b"[\r\n\r1]", b"data: [\ndata: \ndata: 1]\n"),
        ("\u2028\x85\x0b\x0c".encode(), b"data: " + "\u2028\x85\x0b\x0c".encode() + b"\n"),
    ],
)
def test_an_event_has_a_line_for_each_of_its_document(body: bytes, data: bytes) -> None:
    """Whatever ends a line in an event stream ends one of data, and nothing else does."""
    whole = b"".join(event_stream.event(Poll(True, 26, 7, None, body)))
    assert whole == b"event: status\nid: 1a-7\n" + data + b"\n"


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
@pytest.mark.parametrize("offset", range(-3, 3))
def test_pieces_of_an_event_do_not_tear_the_end_of_a_line(end: bytes, offset: int) -> None:
    """Wherever it falls, one end of a line is one; and no piece is much larger than the others."""
    lines = [b"x" * (MAX_BYTES + offset), b"y" * (MAX_BYTES - len(end)), b"z"]
    pieces = list(event_stream.event(Poll(True, 0, 1, None, end.join(lines))))
    assert b"".join(pieces) == b"event: status\nid: 0-1\n" + b"".join(b"data: %b\n" % line for line in lines) + b"\n"
    assert max(map(len, pieces)) <= MAX_BYTES + 20
