"""Settings come from a TOML file and from variables, which win."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

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
from jobstatus.settings.sources import overridden
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


@pytest.mark.parametrize("check", [check_servable, check_edge])
def test_a_burst_without_a_rate_is_refused(check: Callable[..., None]) -> None:
    """It would limit nothing, against what its operator expects."""
    with pytest.raises(SettingsError, match="JOBSTATUS_RATE_LIMIT_BURST needs JOBSTATUS_RATE_LIMIT"):
        check(Settings(jwt="off", upstream="127.0.0.1:1", rate_limit_burst=5), ())
    check(Settings(jwt="off", upstream="127.0.0.1:1", rate_limit=5, rate_limit_burst=5), ())


# --- words ---

LITERALS: Final = (
    *('"?"', '""', "-1", "3.5", "1e99", "nan", "true", "[]", "[1]", '["?"]', "[[]]", "{}", "{a = 1}", "1979-05-27"),
    *("07:32:00", "99999999999999999999999", '"1e99"', '"-1"', '"0"'),
)
"""Values in TOML that some setting or other cannot have."""
NOT_OURS: Final = re.compile(
    r"(?i:input should|value error)|Field required|valid (?!JSON|TOML)|unable|instance|should (be|have|match)"
    r"|pydantic|<|None|int\b|str\b|bool\b|dict|tuple|frozenset|cannot be used"
)
ISSUER: Final = {"issuer": '"i"', "audience": '"a"', "algorithm": '"HS256"', "secret": f'"{"s" * 32}"'}


def sentence_for(config: Path, text: str) -> str:
    """What is said about this file; empty when nothing is wrong with it."""
    config.write_text(text)
    try:
        load_settings({}, {"config": str(config)}).accepted_issuers()
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_wrong_value_is_told_in_our_words(name: str, tmp_path: Path) -> None:
    """The sentence begins with the variable, whatever the value is."""
    sentences = {literal: sentence_for(tmp_path / "c", f"{name} = {literal}\n") for literal in LITERALS}
    told = {literal: sentence for literal, sentence in sentences.items() if sentence}
    assert told
    assert {literal: sentence for literal, sentence in told.items() if NOT_OURS.search(sentence)} == {}
    variables = f"JOBSTATUS_{name.upper()}", "JOBSTATUS_JWT_"  # one variable of an issuer needs the others
    assert all(sentence.startswith(variables) for sentence in told.values())


@pytest.mark.parametrize("name", IssuerSettings.model_fields)
def test_a_wrong_value_of_an_issuer_is_told_in_our_words(name: str, tmp_path: Path) -> None:
    for literal in LITERALS:
        entry = "\n".join(f"{key} = {value}" for key, value in (ISSUER | {name: literal}).items())
        sentence = sentence_for(tmp_path / "c", f"[[issuers]]\n{entry}\n")
        assert not NOT_OURS.search(sentence), (literal, sentence)
        assert not sentence or sentence.startswith(("JOBSTATUS_ISSUERS.0", "the settings have no issuers.0.")), sentence


@pytest.mark.parametrize("name", ["config", "grpc_tls_cert", "jwt_secret_file"])
def test_a_path_that_cannot_be_looked_up_is_told_with_its_setting(name: str) -> None:
    """The system refuses to say whether there is a file, as it does below a folder that may not be entered."""
    with pytest.raises(SettingsError, match=f"^JOBSTATUS_{name.upper()} names "):
        load_settings({f"JOBSTATUS_{name.upper()}": "x" * 5000})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("workers", "many", "JOBSTATUS_WORKERS must be a whole number"),
        ("workers", "0", "JOBSTATUS_WORKERS must be at least 1"),
        ("workers", "65", "JOBSTATUS_WORKERS must be at most 64"),
        ("rate_limit", "1000001", "JOBSTATUS_RATE_LIMIT must be at most 1000000"),
        ("keepalive_seconds", "long", "JOBSTATUS_KEEPALIVE_SECONDS must be a number"),
        ("pending_timeout_seconds", "0", "JOBSTATUS_PENDING_TIMEOUT_SECONDS must be above 0"),
        ("grpc_insecure", "perhaps", "JOBSTATUS_GRPC_INSECURE must be true or false"),
        ("jwt", "maybe", "JOBSTATUS_JWT must be 'on' or 'off'"),
        ("http", "8080", "JOBSTATUS_HTTP must be HOST:PORT, such as 127.0.0.1:8080"),
        ("grpc_tls_cert", "/nowhere", "JOBSTATUS_GRPC_TLS_CERT names no file (/nowhere)"),
        ("issuers", "{}", "JOBSTATUS_ISSUERS must be a list"),
        ("issuers", "[{}]", "JOBSTATUS_ISSUERS.0.issuer is missing"),
        ("issuers", "[1]", "JOBSTATUS_ISSUERS.0 must be a table of keys and values"),
        ("issuers", '[{"isuer": 1}]', "JOBSTATUS_ISSUERS.0.issuer is missing"),
        ("jwt_issuer", "i", "JOBSTATUS_JWT_AUDIENCE is missing"),
    ],
)
def test_a_sentence_says_what_a_value_must_be(name: str, value: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({f"JOBSTATUS_{name.upper()}": value}).accepted_issuers()
    assert str(caught.value) == sentence


# --- options ---


def test_an_option_wins_over_a_variable() -> None:
    """Its sentence names the option, not a variable that nobody has set."""
    environment = {"JOBSTATUS_HTTP": "127.0.0.1:1", "JOBSTATUS_GRPC": "127.0.0.1:2"}
    settings = load_settings(environment, {"http": "[::1]:3"})
    assert (settings.http, settings.grpc) == (Address("::1", 3), Address("127.0.0.1", 2))
    with pytest.raises(SettingsError, match=r"^--http must be HOST:PORT"):
        load_settings(environment, {"http": "3"})


def test_the_option_of_the_file_wins_over_its_variable(tmp_path: Path) -> None:
    file = tmp_path / "jobstatus.toml"
    file.write_text("workers = 3\n")
    assert load_settings({"JOBSTATUS_CONFIG": "/nowhere"}, {"config": str(file)}).workers == 3
    with pytest.raises(SettingsError, match=r"^--config names no file \(/nowhere\)"):
        load_settings({"JOBSTATUS_CONFIG": str(file)}, {"config": "/nowhere"})


def test_a_child_is_given_options_as_variables(tmp_path: Path) -> None:
    """What an option replaces is not among them, in any case of letters."""
    secret = tmp_path / "store"
    secret.write_text("memory://")
    environment = {"jobstatus_store_file": str(secret), "JOBSTATUS_http": "127.0.0.1:1", "PATH": "/bin"}
    options = {"store": "sqlite:///a.db", "http": "127.0.0.1:2", "workers": "2"}
    given_to_child = overridden(environment, options)
    assert given_to_child == {
        "PATH": "/bin",
        "JOBSTATUS_STORE": "sqlite:///a.db",
        "JOBSTATUS_HTTP": "127.0.0.1:2",
        "JOBSTATUS_WORKERS": "2",
    }
    assert load_settings(given_to_child) == load_settings(environment, options)


# --- secrets in files ---

SECRET: Final = "0123456789abcdef0123456789abcdef"
URL: Final = "postgresql://jobstatus:pa55word@db/jobstatus"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_secrets_come_from_files(end: str, tmp_path: Path) -> None:
    """A newline at the end is not part of one; other white space is."""
    (tmp_path / "secret").write_bytes(f"{SECRET} {end}".encode())
    (tmp_path / "store").write_bytes(f"{URL}{end}".encode())
    settings = load_settings(
        {
            "JOBSTATUS_STORE_FILE": str(tmp_path / "store"),
            "JOBSTATUS_JWT_SECRET_FILE": str(tmp_path / "secret"),
            "JOBSTATUS_JWT_ISSUER": "i",
            "JOBSTATUS_JWT_AUDIENCE": "a",
            "JOBSTATUS_JWT_ALGORITHM": "HS256",
        }
    )
    (issuer,) = settings.accepted_issuers()
    assert (settings.store, issuer.config().secret) == (URL, f"{SECRET} ")


def test_the_secret_of_an_entry_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    entry = {"issuer": "i", "audience": "a", "algorithm": "HS256", "secret_file": str(tmp_path / "secret")}
    (issuer,) = load_settings({"JOBSTATUS_ISSUERS": json.dumps([entry])}).issuers
    assert issuer.config().secret == SECRET
    with pytest.raises(SettingsError, match=r"^JOBSTATUS_ISSUERS\.0 secret and secret_file are both set"):
        load_settings({"JOBSTATUS_ISSUERS": json.dumps([entry | {"secret": SECRET}])})


@pytest.mark.parametrize("name", ["STORE", "JWT_SECRET"])
def test_a_secret_and_its_file_exclude_each_other(name: str, tmp_path: Path) -> None:
    """Within one source; the variables replace what the file says, be it the secret or where it is."""
    (tmp_path / "secret").write_text(SECRET)
    file, variable = {f"JOBSTATUS_{name}_FILE": str(tmp_path / "secret")}, {f"JOBSTATUS_{name}": URL}
    with pytest.raises(SettingsError, match=rf"^JOBSTATUS_{name} and JOBSTATUS_{name}_FILE are both set") as caught:
        load_settings(file | variable)
    assert URL not in str(caught.value)
    config = tmp_path / "jobstatus.toml"
    for text, given, expected in (
        (f'{name.lower()} = "{URL}"', file, SECRET),
        (f'{name.lower()}_file = "/nowhere"', variable, URL),
    ):
        config.write_text(text)
        found = getattr(load_settings(given, {"config": str(config)}), name.lower())
        assert (found if name == "STORE" else found.get_secret_value()) == expected


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, r"names no file"),
        (b"", r"names an empty file"),
        (b"\n", r"names an empty file"),
        (b"secret\xff", r"names a file that is not text in UTF-8"),
        (b"s" * 70_000, r"names a file of more than 65536 bytes"),
    ],
)
def test_a_file_without_a_secret_is_refused(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    """The sentence names the variable and the file, and quotes nothing of it."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^JOBSTATUS_JWT_SECRET_FILE {sentence} \({path}\)$"):
        load_settings({"JOBSTATUS_JWT_SECRET_FILE": str(path)})
