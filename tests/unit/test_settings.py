"""Settings come from a TOML file and from variables, which win."""

from pathlib import Path

import pytest
from jobstatus.settings import Address, Settings, SettingsError, load_settings


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
