"""Which traceparents are kept: those of https://www.w3.org/TR/trace-context/, as version 00 has them."""

import pytest
from jobstatus.core.traceparent import valid_traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (VALID, VALID),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-01", VALID),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", VALID),
    ],
)
def test_a_valid_one_is_kept(text: str, kept: str) -> None:
    """A later version begins as this one does, and may go on."""
    assert valid_traceparent(text) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        VALID.upper(),
        f" {VALID}",
        f"{VALID}\n",
        f"{VALID}-more",
        f"{VALID}.",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-01-" + "x" * 600,
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}-{SPAN}-001",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01,{VALID}",
        "x" * 100_000,
    ],
)
def test_another_is_ignored(text: str) -> None:
    assert valid_traceparent(text) is None
