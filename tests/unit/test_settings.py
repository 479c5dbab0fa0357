"""Settings come from a TOML file and from variables, which win."""

from collections.abc import Callable
from pathlib import Path

import pytest
from jobstatus.settings import (
    Address,
    IssuerSettings,
    Settings,
    SettingsError,
    check_edge,
    check_servable,
    load_settings,
)
from pydantic import SecretStr


def test_a_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In any case of letters; an empty one counts as not set, and what neither sets has its default."""
    file = tmp_path / "jobstatus.toml"
    file.write_text('http = "127.0.0.1:1"\ngrpc = "127.0.0.1:2"\nworkers = 3\ngrpc_allowed_clients = ["a"]\n')
    monkeypatch.setenv("JOBSTATUS_CONFIG", str(file))
    monkeypatch.setenv("JOBSTATUS_HTTP", "127.0.0.1:11")
    monkeypatch.setenv("jobstatus_workers", "4")
    monkeypatch.setenv("JOBSTATUS_GRPC", "")
    settings = load_settings()
    assert settings == Settings(
        http=Address("127.0.0.1", 11), grpc=Address("127.0.0.1", 2), workers=4, grpc_allowed_clients=frozenset("a")
    )


def test_issuers_come_from_a_variable_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not JSON, the sentence names the variable and does not repeat its value, which may hold a secret."""
    issuer = '[{"issuer": "i", "audience": "a", "algorithm": "HS256", "secret": "0123456789"}]'
    monkeypatch.setenv("JOBSTATUS_ISSUERS", issuer)
    (read,) = load_settings().issuers
    assert (read.issuer, read.audience) == ("i", "a")
    monkeypatch.setenv("JOBSTATUS_ISSUERS", issuer[:-1])
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_ISSUERS is not valid JSON: ") as caught:
        load_settings()
    assert "0123456789" not in str(caught.value)


def test_a_file_that_is_not_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether its text or its encoding is wrong; so is a file that is not there."""
    file = tmp_path / "jobstatus.toml"
    monkeypatch.setenv("JOBSTATUS_CONFIG", str(file))
    with pytest.raises(SettingsError, match="names no file"):
        load_settings()
    for content in (b"workers = ", b'store = "\xff"'):
        file.write_bytes(content)
        with pytest.raises(SettingsError, match="is not valid TOML"):
            load_settings()


def test_an_identity_provider_is_set_by_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the URL of its keys or by its description; the types of its tokens are a list."""
    monkeypatch.setenv("JOBSTATUS_JWT_ISSUER", "https://login.example.com")
    monkeypatch.setenv("JOBSTATUS_JWT_AUDIENCE", "jobstatus")
    monkeypatch.setenv("JOBSTATUS_JWT_ALGORITHM", "PS384")
    monkeypatch.setenv("JOBSTATUS_JWT_JWKS_URL", "https://login.example.com/keys")
    monkeypatch.setenv("JOBSTATUS_JWT_TOKEN_TYPES", "at+jwt, JWT")
    (issuer,) = load_settings().accepted_issuers()
    config = issuer.config()
    assert (config.jwks_url, config.discovery, config.algorithm) == ("https://login.example.com/keys", False, "PS384")
    assert config.token_types == {"at+jwt", "JWT"}
    monkeypatch.setenv("JOBSTATUS_JWT_JWKS_URL", "")
    monkeypatch.setenv("JOBSTATUS_JWT_DISCOVERY", "true")
    (issuer,) = load_settings().accepted_issuers()
    assert (issuer.config().jwks_url, issuer.config().is_remote) == (None, True)
    monkeypatch.setenv("JOBSTATUS_JWT_TOKEN_TYPES", "dpop+jwt")
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_JWT_TOKEN_TYPES"):
        load_settings().accepted_issuers()


@pytest.mark.parametrize(
    ("http", "given", "each"),
    [
        ("127.0.0.1:8080", None, 0),
        ("[::1]:8080", None, 0),
        ("0.0.0.0:8080", None, 1000),
        ("[::]:8080", None, 1000),
        ("0.0.0.0:8080", 0, 0),
        ("127.0.0.1:8080", 5, 5),
    ],
)
def test_connections_of_one_address_are_limited_where_strangers_connect(
    http: str, given: int | None, each: int
) -> None:
    """On a loopback address the one who connects is a proxy of this machine; a setting counts everywhere."""
    assert Settings(http=http, max_connections_each=given).connections_each == each  # type: ignore[arg-type]


@pytest.mark.parametrize("check", [check_servable, check_edge])
def test_one_kind_of_credential_must_be_accepted(check: Callable[..., None]) -> None:
    """With neither tokens nor keys nobody could poll; each alone is enough."""
    issuer = IssuerSettings(issuer="i", audience="a", algorithm="HS256", secret=SecretStr("0" * 32))
    check(Settings(upstream="127.0.0.1:1", jwt="off"), ())
    check(Settings(upstream="127.0.0.1:1", virtual_keys="off"), (issuer,))
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_JWT and JOBSTATUS_VIRTUAL_KEYS are both off"):
        check(Settings(upstream="127.0.0.1:1", jwt="off", virtual_keys="off"), ())


def test_all_writes_are_recorded_only_in_an_audit_log(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="JOBSTATUS_AUDIT_WRITES needs JOBSTATUS_AUDIT_LOG"):
        check_servable(Settings(jwt="off", audit_writes=True), ())
    check_servable(Settings(jwt="off", audit_writes=True, audit_log=tmp_path / "audit.log"), ())
