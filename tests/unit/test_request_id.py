"""Which request ids of callers are taken over: those that are harmless to repeat in answers and in the log."""

import re
from typing import Final

import pytest
from harness.tokens import virtual_key_token
from jobstatus.rest.headers import request_id_of

TAKEN: Final = (
    "a",
    "poll-7.3",
    "ad9e86d9fdc33b9c6343c23008332db6",
    "5f2b1c9a-4d3e-4f60-a1b2-c3d4e5f60718",
    "01JDQ3E8K7Z6T2N9VQX4B5M1RY",
    "Root_1.67891233.abcdef012345678912345678",
    "monkey.1",
    "key-of-the-region-eu-west.1",
    "eyes.1",
    "eyJhbGciOiJIUzI1NiJ9",
    "x" * 128,
)
SHORT_TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYWRtaW4ifQ.lQ-2Zr3ydz1Vw5hKu4Gm7wZbM0Vn3dHkV0n2yO8cJqE"


@pytest.mark.parametrize("given", TAKEN)
def test_a_request_id_is_taken_over(given: str) -> None:
    assert request_id_of(given) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "x" * 129,
        "a b",
        "a\r\nb",
        "ü",
        "a\udcff",
        "sk-bf-key-of-vk-1",
        "sk-bf-",
        "request.sk-bf-key-of-vk-1",
        SHORT_TOKEN,
        SHORT_TOKEN[:40],
        f"jwt.{SHORT_TOKEN}",
        f"Bearer_{SHORT_TOKEN}",
        "eyAiYWxnIjogIkhTMjU2IiB9.e30.c2ln",
        "ewogICJhbGciOiAiSFMyNTYiCn0.e30.c2ln",
        virtual_key_token("vk-1")[:128],
    ],
)
def test_what_may_be_a_credential_or_do_harm_gets_a_new_one(given: str | None) -> None:
    """A client that mixes its headers up must not find its key in answers, nor its operator in the log."""
    found = request_id_of(given)
    assert re.fullmatch("[0-9a-f]{32}", found)
    assert found != request_id_of(given)
