"""Whose turn a request is to wait for is found in its bytes, before it is parsed."""

import pytest
from jobstatus.rest.headers import MAX_SEARCHED_BYTES, credentials_in

REQUEST = b"GET / HTTP/1.1\r\nHost: test\r\n%s\r\n"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (b"", ([], [])),
        (b"Authorization: Bearer a.b.c\r\n", (["Bearer a.b.c"], [])),
        (b"AUTHORIZATION:Bearer a\r\nauthorization: \t Bearer b\r\n", (["Bearer a", "Bearer b"], [])),
        (
            b"X-Api-Key: sk-bf-1\r\nx-goog-api-key: sk-bf-2\r\nx-bf-vk: sk-bf-3\r\n",
            ([], ["sk-bf-1", "sk-bf-2", "sk-bf-3"]),
        ),
        (b"X-Authorization: Bearer a\r\nProxy-Authorization: Bearer b\r\n", ([], [])),
        (b"Authorization: Bearer \xff\r\n", (["Bearer \xff"], [])),
        (b"Authorization: Bearer a\r\n\r\nGET / HTTP/1.1\r\nAuthorization: Bearer b\r\n", (["Bearer a"], [])),
        (b"X-Pad: %s\r\nAuthorization: Bearer a\r\n" % (b"x" * MAX_SEARCHED_BYTES), ([], [])),
    ],
    ids=["none", "token", "two", "keys", "other headers", "raw bytes", "of the next one", "too far"],
)
def test_the_credentials_of_a_request_are_found_in_its_bytes(lines: bytes, found: object) -> None:
    """As the parser would find them, within the first bytes."""
    assert credentials_in(REQUEST % lines) == found


def test_what_is_no_request_has_no_credentials() -> None:
    """Such as a part of one, or nothing."""
    assert [credentials_in(data) for data in (b"", b"\r\n", b"Bearer a\r\n", b"\xff" * 100)] == [([], [])] * 4
