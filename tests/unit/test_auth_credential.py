"""The credential headers, as they arrive from strangers."""

import weakref
from collections.abc import Callable
from typing import Final, TypeAlias

import pytest
from jobstatus.auth.credential import MAX_SHOWN_CHARS, read_credential, shown
from jobstatus.auth.errors import CredentialError, InvalidCredential, MissingCredential, Reason

Headers: TypeAlias = tuple[list[str], list[str]]
TOKEN: Final = "eyJhbGciOiJIUzI1NiJ9.e30.c2VjcmV0"
"""Has a token's form; nobody signed it."""
OTHER_TOKEN: Final = TOKEN + "AA"


class Request:
    """What a refusal has been made of."""


def test_what_repeats_a_refusal_holds_nothing_of_the_request() -> None:
    """It is kept for as long as a connection; a traceback would keep all frames, with the credentials."""

    def refuse(request: Request) -> Callable[[], CredentialError]:
        try:
            read_credential([str(request)], [])
        except CredentialError as error:
            return error.again()
        raise AssertionError

    request = Request()
    is_there = weakref.ref(request)
    again = refuse(request)
    del request
    assert is_there() is None
    assert (type(again()), again().reason) == (MissingCredential, Reason.UNSUPPORTED_SCHEME)
    assert again() is not again()


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_scheme_is_case_insensitive(scheme: str) -> None:
    """The scheme counts in any case, the credential comes out as it went in."""
    assert read_credential([f"{scheme} aBc.d-_f"], []) == "aBc.d-_f"


def test_virtual_key_header_takes_a_virtual_key() -> None:
    """A key in x-bf-vk needs no scheme."""
    assert read_credential([], ["sk-bf-abc"]) == "sk-bf-abc"


@pytest.mark.parametrize("spaces", [1, 2, 30])
def test_spaces_after_the_scheme_are_one(spaces: int) -> None:
    """RFC 9110, section 11.4: one or more spaces follow the scheme."""
    assert read_credential([f"Bearer{' ' * spaces}abc"], []) == "abc"


@pytest.mark.parametrize(
    ("authorization", "keys", "credential"),
    [
        (["Bearer sk-bf-abc"], ["sk-bf-abc"], "sk-bf-abc"),
        ([], ["sk-bf-abc", "sk-bf-abc", "sk-bf-abc"], "sk-bf-abc"),
        (["Bearer sk-bf-abc", "bearer  sk-bf-abc"], [], "sk-bf-abc"),
        ([f"Bearer {TOKEN}", f"Bearer {TOKEN}"], [], TOKEN),
        (["Basic dXNlcjpwYXNzd29yZA=="], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer dummy-key"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer sk-1234"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer SG.abc.def"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer eyJhbGciOiJkaXIifQ..AA.AA.AA"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer gr\u00fc\u00dfe"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer a b"], ["sk-bf-abc"], "sk-bf-abc"),
        (["Bearer"], ["sk-bf-abc"], "sk-bf-abc"),
        ([""], ["sk-bf-abc"], "sk-bf-abc"),
        ([], ["", "dummy-key", "sk-bf-abc"], "sk-bf-abc"),
        ([f"Bearer {TOKEN}"], ["dummy-key"], TOKEN),
        (["Basic abc", f"Bearer {TOKEN}"], [""], TOKEN),
    ],
)
def test_what_cannot_be_ours_is_passed_over(authorization: list[str], keys: list[str], credential: str) -> None:
    """The same credential twice is one, and a placeholder or another scheme beside one does no harm."""
    assert read_credential(authorization, keys) == credential


@pytest.mark.parametrize(
    ("authorization", "virtual_key"),
    [
        ([], []),
        ([""], []),
        ([" "], []),
        (["Bearer"], []),
        (["bearer"], []),
        (["Bearer "], []),
        (["Bearer      "], []),
        (["Basic dXNlcjpwYXNzd29yZA=="], []),
        (["Negotiate abc"], []),
        (["sk-bf-abc"], []),
        (["Bearersk-bf-abc"], []),
        ([], [""]),
        ([], ["   "]),
        (["", ""], []),
        (["Basic abc", ""], [""]),
    ],
)
def test_nothing_usable_is_missing(authorization: list[str], virtual_key: list[str]) -> None:
    """No credential, an empty one and another scheme's are all nothing sent, not something bad sent."""
    with pytest.raises(MissingCredential):
        read_credential(authorization, virtual_key)


@pytest.mark.parametrize(
    ("authorization", "virtual_key", "reason"),
    [
        ([f"Bearer {TOKEN}"], ["sk-bf-abc"], Reason.SEVERAL_CREDENTIALS),
        ([f"Bearer {TOKEN}", f"Bearer {OTHER_TOKEN}"], [], Reason.SEVERAL_CREDENTIALS),
        (["Bearer sk-bf-abc"], ["sk-bf-abd"], Reason.SEVERAL_CREDENTIALS),
        (["Basic abc"], ["sk-bf-abc", "dummy-key", "sk-bf-ABC"], Reason.SEVERAL_CREDENTIALS),
        ([], ["sk-bf-abc", "sk-bf-abc "], Reason.SEVERAL_CREDENTIALS),
        ([], ["dummy-key", "sk-bf-\u00e9"], Reason.NOT_ASCII),
        (["Basic abc"], ["dummy-key"], Reason.NOT_A_VIRTUAL_KEY),
        (["Bearer a b"], [], Reason.INNER_SPACE),
        (["Bearer  a b"], [], Reason.INNER_SPACE),
        (["Bearer a "], [], Reason.INNER_SPACE),
        ([], ["sk-bf-a b"], Reason.INNER_SPACE),
        ([], ["SK-BF-abc"], Reason.NOT_A_VIRTUAL_KEY),
        ([], ["abc"], Reason.NOT_A_VIRTUAL_KEY),
        ([], [" sk-bf-abc"], Reason.NOT_A_VIRTUAL_KEY),
        ([], ["Bearer sk-bf-abc"], Reason.NOT_A_VIRTUAL_KEY),
    ],
)
def test_bad_form_is_invalid(authorization: list[str], virtual_key: list[str], reason: Reason) -> None:
    """Two credentials, spaces inside one, and something else in the place of a virtual key are refused."""
    with pytest.raises(InvalidCredential) as refused:
        read_credential(authorization, virtual_key)
    assert refused.value.reason == reason


@pytest.mark.parametrize("text", ["\udc80", "\u00e9", "\u0131", "\U0001f511"])
def test_other_than_ascii_is_invalid(text: str) -> None:
    """Raw bytes above 0x7F, which arrive as lone surrogates, are refused before anything encodes or compares them."""
    requests: list[Headers] = [([f"Bearer abc{text}"], []), ([f"Bearer sk-bf-{text}"], []), ([], [f"sk-bf-{text}"])]
    for headers in requests:
        with pytest.raises(InvalidCredential) as refused:
            read_credential(*headers)
        assert refused.value.reason == Reason.NOT_ASCII


@pytest.mark.parametrize("extra", [1, 1024 * 1024])
def test_length_is_bounded(extra: int) -> None:
    """A credential of exactly 4 KiB is read, a longer one is not looked at."""
    longest = "sk-bf-".ljust(4096, "x")
    assert read_credential([f"Bearer {longest}"], []) == read_credential([], [longest]) == longest
    longer = longest + "x" * extra
    requests: list[Headers] = [([f"Bearer {longer}"], []), ([], [longer])]
    for headers in requests:
        with pytest.raises(InvalidCredential) as refused:
            read_credential(*headers)
        assert refused.value.reason == Reason.TOO_LONG


def test_what_is_too_long_is_passed_over_beside_a_credential() -> None:
    """It cannot be ours, so its header is not decoded to find that out; alone it is refused for its length."""
    longer = f"{TOKEN}{'A' * 4096}"
    assert read_credential([f"Bearer {longer}"], ["sk-bf-abc"]) == "sk-bf-abc"
    assert read_credential([f"Bearer {longer}", f"Bearer {TOKEN}"], []) == TOKEN
    with pytest.raises(InvalidCredential) as refused:
        read_credential([f"Bearer {longer}"], ["dummy-key"])
    assert refused.value.reason == Reason.TOO_LONG


def test_refusals_hold_no_credential() -> None:
    """What is refused is nowhere in the error: not in its text, its arguments or its attributes."""
    two_tokens = [f"Bearer {TOKEN}", f"Bearer {OTHER_TOKEN}"]
    for authorization in ["Basic c2VjcmV0"], ["Bearer c2VjcmV0 "], two_tokens, ["Bearer c2VjcmV0\udc80"]:
        with pytest.raises(CredentialError) as refused:
            read_credential(authorization, [])
        assert "c2VjcmV0" not in f"{refused.value!r} {refused.value} {refused.value.args} {vars(refused.value)}"


@pytest.mark.parametrize(
    ("text", "logged"),
    [
        ("https://issuer.example/realm", "https://issuer.example/realm"),
        ("", ""),
        ("a\r\nb\x1b[31m\u202ec\ud800", "a\ufffd\ufffdb\ufffd[31m\ufffdc\ufffd"),
        ("x" * 4000, "x" * MAX_SHOWN_CHARS),
        ("x" * 200 + "sk-bf-abc", "(may be a credential)"),
        (TOKEN, "(may be a credential)"),
    ],
)
def test_a_strangers_text_is_made_fit_for_the_log(text: str, logged: str) -> None:
    """It is short, forges no line, paints no terminal, and is no credential that was put in a wrong place."""
    assert shown(text) == logged
