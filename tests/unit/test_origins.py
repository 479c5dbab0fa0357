"""Origins: which spellings an operator may give, and whom they let read."""

import re

import pytest
from jobstatus.rest.cors import Cors, checked_origin
from jobstatus.settings import Settings, SettingsError, load_settings

NAMED = "https://app.example.com"
EXPOSED = "Retry-After, ETag, Job-Progress, X-Request-Id, Preference-Applied"


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        (NAMED, NAMED),
        ("HTTPS://App.Example.com", NAMED),
        ("https://app.example.com:443", NAMED),
        ("http://localhost:80", "http://localhost"),
        ("https://app.example.com:80", "https://app.example.com:80"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_is_kept_as_browsers_spell_it(given: str, origin: str) -> None:
    """In small letters and without the port that the scheme implies, or it would never match."""
    assert checked_origin(given) == origin


@pytest.mark.parametrize(
    "given",
    [
        "*",
        "null",
        "app.example.com",
        "https://",
        "https://*",
        "https://*.com",
        "https://a*.example.com",
        "https://app.*.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://user@app.example.com",
        "https://app.example.com:port",
        "https://bücher.example",
        "https://a.example b.example",
        "https://app.example.com\n",
    ],
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(given))):
        checked_origin(given)


def test_the_setting_is_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Separated by commas; the sentence about a wrong one names the variable."""
    monkeypatch.setenv("JOBSTATUS_CORS_ORIGINS", "https://app.example.com, https://*.Example.com")
    assert load_settings() == Settings(cors_origins=frozenset({NAMED, "https://*.example.com"}))
    monkeypatch.setenv("JOBSTATUS_CORS_ORIGINS", "https://app.example.com, *")
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_CORS_ORIGINS has '\*', which is not an origin"):
        load_settings()


@pytest.mark.parametrize(
    ("pattern", "origin", "is_allowed"),
    [
        (NAMED, NAMED, True),
        (NAMED, "http://app.example.com", False),
        (NAMED, "https://app.example.com:8443", False),
        (NAMED, "https://app.example.com.evil.example", False),
        (NAMED, "https://appXexample.com", False),
        (NAMED, "https://app.example.com\r\nX: y", False),
        (NAMED, "null", False),
        (NAMED, "", False),
        (NAMED, "*", False),
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b-1.example.com", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://.example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com", "https://evil.example/.example.com", False),
        ("https://*.example.com", "https://evil.example\n.example.com", False),
        ("https://*.example.com", "https://*.example.com", False),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
    ],
)
def test_an_origin_reads_only_where_it_is_named(pattern: str, origin: str, is_allowed: bool) -> None:
    """Answer and preflight agree; only an allowed origin is ever repeated."""
    cors = Cors({pattern, "https://other.example"})
    allowing = f"Access-Control-Allow-Origin: {origin}\r\nAccess-Control-Expose-Headers: {EXPOSED}\r\n"
    assert cors.lines(origin) == (allowing if is_allowed else "") + "Vary: Origin\r\n"
    assert bool(cors.preflight_lines(origin, None)) == is_allowed


def test_without_origins_nothing_is_said() -> None:
    """Not even to an empty origin."""
    cors = Cors(())
    assert not cors.is_on
    assert [cors.lines(NAMED), cors.lines(""), cors.lines(None), cors.preflight_lines("", None)] == [""] * 4


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (None, ""),
        ("authorization,prefer", ""),
        ("authorization,x-stainless-lang, traceparent", ", x-stainless-lang, traceparent"),
        ("*", ""),
        ("x-a\r\nset-cookie: b", ""),
        ("x-a,,x-b", ""),
        ("", ""),
    ],
)
def test_a_page_may_send_what_the_service_reads_and_what_else_it_asks_for(asked: str | None, more: str) -> None:
    """Libraries add headers of their own, which the service ignores; what is no name is not repeated."""
    ours = (
        "Accept, Authorization, If-Match, If-None-Match, Last-Event-ID, Prefer, X-Request-Id, x-api-key, x-bf-vk,"
        " x-goog-api-key"
    )
    lines = Cors({NAMED}).preflight_lines(NAMED, asked).splitlines()
    assert lines == [
        f"Access-Control-Allow-Origin: {NAMED}",
        "Access-Control-Allow-Methods: GET, HEAD",
        f"Access-Control-Allow-Headers: {ours}{more}",
        "Access-Control-Max-Age: 7200",
        "Vary: Origin, Access-Control-Request-Headers",
    ]
