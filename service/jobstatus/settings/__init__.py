"""The settings of an operator, checked before anything starts; `sources` says where they come from.

A wrong setting raises SettingsError with one sentence that names it and never repeats a secret.
"""

import ipaddress
import math
import os
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from jobstatus.auth.issuer_config import IssuerConfig, Kind
from jobstatus.auth.key_urls import is_trustworthy
from jobstatus.auth.tls_files import TlsFiles
from jobstatus.rest.cors import checked_origin
from jobstatus.settings.errors import SettingsError, settings_error
from jobstatus.settings.sources import CONFIG, PREFIX, SECRETS, problem_with, read_secret, read_values, variable

__all__ = ["Address", "IssuerSettings", "Settings", "SettingsError", "load_settings"]

DEVELOPMENT_ISSUER: Final = "jobstatus-dev"
_DEVELOPMENT_KEY_FILE: Final = "development-secret"
_CLIENT_VARIABLES: Final = {"TARGET", "URL", "TOKEN", "CLIENT_TLS_CA", "CLIENT_TLS_CERT", "CLIENT_TLS_KEY"}
_DAY: Final = 24 * 60 * 60
CONNECTIONS_EACH: Final = 1_000
"""REST connections of one address, unless the settings say otherwise."""

LEAST_BURST: Final = 10
"""Polls of one virtual key at a time, where their rate is limited, unless the settings say otherwise."""


class Address(NamedTuple):
    """Where to listen. Port 0 asks for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_address(value: Any) -> Address:
    """Return the address that a text means. Raises ValueError."""
    if isinstance(value, Address):
        return value
    host, colon, port = str(value).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError("must be HOST:PORT, such as 127.0.0.1:8080")
    return Address(host, int(port))


def _existing_file(path: Path) -> Path:
    if problem := problem_with(path):
        raise ValueError(problem)
    return path


def _names(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


def _origins(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(checked_origin, names))


ListenAddress = Annotated[Address, BeforeValidator(parse_address)]
Names = Annotated[frozenset[str], BeforeValidator(_names)]
Origins = Annotated[frozenset[str], BeforeValidator(_names), AfterValidator(_origins)]
ExistingFile = Annotated[Path, AfterValidator(_existing_file)]
Seconds = Annotated[float, Field(gt=0, le=365 * _DAY)]


Algorithm = Literal[
    "HS256",
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
    "Ed448",
]
TokenTypes = Annotated[frozenset[Literal["JWT", "at+jwt"]], BeforeValidator(_names)]


class IssuerSettings(BaseModel):
    """One entry of `[[issuers]]`: an issuer of tokens, its key, and what its tokens may do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    algorithm: Algorithm
    secret: SecretStr | None = None
    secret_file: Path | None = None
    public_key_file: ExistingFile | None = None
    jwks_file: ExistingFile | None = None
    jwks_url: str | None = None
    discovery: bool = False
    private_key_file: ExistingFile | None = None
    key_id: str | None = None
    token_types: TokenTypes = Field(default=frozenset({"JWT"}), min_length=1)
    kinds: frozenset[Kind] = Field(default=frozenset(Kind), min_length=1)
    virtual_key_claim: str = Field(default="virtual_key_id", min_length=1)
    role_claim: str = Field(default="role", min_length=1)
    admin_role: str = Field(default="admin", min_length=1)
    max_lifetime_seconds: int = Field(default=30 * _DAY, gt=0)
    leeway_seconds: int = Field(default=10, ge=0, le=300)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_file(cls, values: Any) -> Any:
        return _with_secret(values, "secret", "secret_file", str)

    def config(self) -> IssuerConfig:
        """Return what `auth` needs. Only `jobstatus token` uses the private key."""
        values = self.model_dump(exclude={"private_key_file", "secret", "secret_file"})
        return IssuerConfig(**values, secret=self.secret.get_secret_value() if self.secret else None)


class Settings(BaseModel):
    """All settings. A field's name is that of its variable without JOBSTATUS_, in lower case."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    http: ListenAddress = Address("127.0.0.1", 8080)
    grpc: ListenAddress = Address("127.0.0.1", 50051)
    admin: ListenAddress = Address("127.0.0.1", 9090)
    store: str = Field(default="sqlite:///var/jobstatus.db", repr=False)
    store_file: Path | None = None
    redis_replicas: int | None = Field(default=None, ge=0, le=5)
    state_dir: Path = Path("var")

    virtual_keys: Literal["on", "off"] = "on"
    jwt: Literal["on", "off"] = "on"
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_algorithm: str | None = None
    jwt_secret: SecretStr | None = None
    jwt_secret_file: Path | None = None
    jwt_public_key_file: Path | None = None
    jwt_jwks_file: Path | None = None
    jwt_jwks_url: str | None = None
    jwt_discovery: bool | None = None
    jwt_private_key_file: Path | None = None
    jwt_key_id: str | None = None
    jwt_token_types: str | None = None
    issuers: tuple[IssuerSettings, ...] = ()
    jwks_keep_seconds: float = Field(default=_DAY, ge=0, le=365 * _DAY)
    unscoped_jobs: Literal["admin_only", "any_credential"] = "admin_only"

    grpc_insecure: bool = False
    grpc_tls_cert: ExistingFile | None = None
    grpc_tls_key: ExistingFile | None = None
    grpc_tls_client_ca: ExistingFile | None = None
    grpc_allowed_clients: Names = frozenset()
    grpc_edge_clients: Names = frozenset()
    grpc_reflection: bool = False

    upstream: str | None = None
    upstream_tls_ca: ExistingFile | None = None
    upstream_tls_cert: ExistingFile | None = None
    upstream_tls_key: ExistingFile | None = None
    upstream_insecure: bool = False
    upstream_balancing: Literal["round_robin", "pick_first"] = "round_robin"

    workers: int = Field(default=1, ge=1, le=64)
    max_result_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, le=256 * 1024 * 1024)
    pending_timeout_seconds: Seconds = _DAY
    processing_timeout_seconds: Seconds = _DAY
    sweep_interval_seconds: float = Field(default=1, ge=0.05, le=60)
    change_notices: bool = True
    retry_after_seconds: int = Field(default=2, ge=1, le=30)
    max_wait_seconds: int = Field(default=45, ge=1, le=3600)
    keepalive_seconds: float = Field(default=650, ge=0.1, le=_DAY)
    cors_origins: Origins = frozenset()
    max_connections: int = Field(default=10_000, ge=1)
    max_connections_each: int | None = Field(default=None, ge=0)
    max_watchers: int = Field(default=10_000, ge=1)
    max_waiting_polls: int = Field(default=10_000, ge=0)
    max_waiting_polls_each: int = Field(default=100, ge=0)
    rate_limit: float | None = Field(default=None, ge=1, le=1_000_000)
    rate_limit_burst: int | None = Field(default=None, ge=2, le=1_000_000)
    stop_delay_seconds: float = Field(default=0, ge=0, le=300)
    console: Literal["on", "off"] | None = None
    console_actions: Literal["on", "off"] = "off"
    console_oidc_issuer: str | None = None
    console_oidc_client_id: str | None = Field(default=None, min_length=1)
    console_oidc_scope: str = Field(default="openid", min_length=1)
    console_oidc_audience: str | None = Field(default=None, min_length=1)
    audit_log: Path | None = None
    audit_writes: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "pretty"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: Any) -> Any:
        for secret, file in SECRETS.items():
            values = _with_secret(values, secret, file, variable)
        return values

    @property
    def grpc_tls(self) -> TlsFiles | None:
        """The files for TLS of the gRPC port, None without TLS."""
        return _tls_files(self.grpc_tls_client_ca, self.grpc_tls_cert, self.grpc_tls_key)

    @property
    def upstream_tls(self) -> TlsFiles | None:
        """The files for TLS to the service behind an edge, None without TLS."""
        return _tls_files(self.upstream_tls_ca, self.upstream_tls_cert, self.upstream_tls_key)

    @property
    def connections_each(self) -> int:
        """Return how many REST connections one address may have; 0 if it may have any number.

        Whoever connects to a loopback address is a program of this machine, most often the proxy of all clients.
        """
        if self.max_connections_each is not None:
            return self.max_connections_each
        return 0 if self.http.is_loopback else CONNECTIONS_EACH

    @property
    def burst(self) -> int:
        """Return how many polls of one virtual key may come at a time, where their rate is limited."""
        return self.rate_limit_burst or max(LEAST_BURST, math.ceil(2 * (self.rate_limit or 0)))

    def accepted_issuers(self) -> tuple[IssuerSettings, ...]:
        """Return the issuers of the file and the one of the JOBSTATUS_JWT_* variables. Raises SettingsError."""
        fields = (
            "issuer",
            "audience",
            "algorithm",
            "secret",
            "public_key_file",
            "jwks_file",
            "jwks_url",
            "discovery",
            "private_key_file",
            "key_id",
            "token_types",
        )
        given = {field: value for field in fields if (value := getattr(self, f"jwt_{field}")) is not None}
        if not given:
            return self.issuers
        try:
            return (*self.issuers, IssuerSettings(**given))
        except ValidationError as error:
            raise settings_error(error, lambda name: variable(f"jwt_{name}")) from None


def load_settings(environment: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of this environment (None: the process's) and these options. Raises SettingsError."""
    options = options or {}
    values = read_values(os.environ if environment is None else environment, options, Settings.model_fields)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise settings_error(error, partial(_name, options)) from None


def _tls_files(ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles | None:
    return TlsFiles(ca=ca, certificate=certificate, key=key) if ca and certificate and key else None


def _name(options: Mapping[str, str], name: str) -> str:
    """Return what the operator calls a setting: the option if it was given, else the variable."""
    return f"--{name}" if name in options else variable(name)


def _with_secret(values: Any, secret: str, file: str, name_of: Callable[[str], str]) -> Any:
    """Return the values with the secret of the file that they name, if they name one. Raises SettingsError."""
    path = values.get(file) if isinstance(values, dict) else None
    if not path or not isinstance(path, str | Path):  # what is no path is refused like any wrong value
        return values
    if values.get(secret):
        raise SettingsError(f"{name_of(secret)} and {name_of(file)} are both set: set one of them")
    return values | {secret: read_secret(Path(path), name_of(file))}


def check_servable(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> None:
    """Raise SettingsError for settings that are each valid but not together."""
    _check_issuers(settings, issuers, "serve --dev")
    _check_rate_limit(settings)
    if settings.workers > 1 and settings.store.startswith("memory:"):
        raise SettingsError(
            f"{PREFIX}STORE=memory:// is for one process, since each has a memory of its own: choose another store, or"
            f" {PREFIX}WORKERS=1"
        )
    if settings.audit_writes and settings.audit_log is None:
        raise SettingsError(f"{PREFIX}AUDIT_WRITES needs {PREFIX}AUDIT_LOG")
    if settings.console_actions == "on" and settings.audit_log is None:
        raise SettingsError(f"{PREFIX}CONSOLE_ACTIONS needs {PREFIX}AUDIT_LOG, which records each action")
    _check_console_oidc(settings, issuers)
    tls = (settings.grpc_tls_cert, settings.grpc_tls_key, settings.grpc_tls_client_ca)
    if any(tls) and not all(tls):
        raise SettingsError(f"{PREFIX}GRPC_TLS_CERT, _TLS_KEY and _TLS_CLIENT_CA belong together: set all three")
    for name in ("GRPC_ALLOWED_CLIENTS", "GRPC_EDGE_CLIENTS"):
        if getattr(settings, name.lower()) and not all(tls):
            raise SettingsError(f"{PREFIX}{name} needs {PREFIX}GRPC_TLS_CERT, _TLS_KEY and _TLS_CLIENT_CA")
    if not settings.grpc.is_loopback and not all(tls) and not settings.grpc_insecure:
        raise SettingsError(
            f"{PREFIX}GRPC={settings.grpc} can be reached from other machines: set {PREFIX}GRPC_TLS_CERT, _TLS_KEY and"
            f" _TLS_CLIENT_CA, or {PREFIX}GRPC_INSECURE=true if the network keeps strangers out"
        )


def check_edge(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> None:
    """Raise SettingsError for settings that an edge cannot serve with."""
    _check_issuers(settings, issuers, "edge --dev")
    _check_rate_limit(settings)
    if settings.upstream is None:
        raise SettingsError(f"no service to ask is set: set {PREFIX}UPSTREAM=HOST:PORT, or use --upstream")
    tls = (settings.upstream_tls_ca, settings.upstream_tls_cert, settings.upstream_tls_key)
    if any(tls) and not all(tls):
        raise SettingsError(f"{PREFIX}UPSTREAM_TLS_CA, _TLS_CERT and _TLS_KEY belong together: set all three")
    try:
        is_here = parse_address(settings.upstream).is_loopback
    except ValueError as error:
        raise SettingsError(f"{PREFIX}UPSTREAM {error}") from None
    if not is_here and not all(tls) and not settings.upstream_insecure:
        raise SettingsError(
            f"{PREFIX}UPSTREAM={settings.upstream} is on another machine: set {PREFIX}UPSTREAM_TLS_CA, _TLS_CERT and"
            f" _TLS_KEY, or {PREFIX}UPSTREAM_INSECURE=true if the network keeps strangers out"
        )


def _check_issuers(settings: Settings, issuers: tuple[IssuerSettings, ...], development: str) -> None:
    if not issuers and settings.jwt == "on":
        raise SettingsError(
            f"no issuer of tokens is set: set {PREFIX}JWT_ISSUER and its companions, or {PREFIX}JWT=off if virtual keys"
            f" are enough, or try `jobstatus {development}`"
        )
    if not issuers and settings.virtual_keys == "off":
        raise SettingsError(
            f"{PREFIX}JWT and {PREFIX}VIRTUAL_KEYS are both off, so that nobody could poll: switch on the one or the"
            " other"
        )
    if issuers and settings.jwt == "off":
        raise SettingsError(f"{PREFIX}JWT is off, but issuers are set: remove the one or the other")


def _check_console_oidc(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> None:
    name = settings.console_oidc_issuer
    if (name is None) is not (settings.console_oidc_client_id is None):
        raise SettingsError(f"{PREFIX}CONSOLE_OIDC_ISSUER and _OIDC_CLIENT_ID belong together: set both")
    if name is None:
        return
    if not is_trustworthy(name) or "?" in name:
        raise SettingsError(f"{PREFIX}CONSOLE_OIDC_ISSUER must be a URL with https (http on a loopback address only)")
    if not any(issuer.issuer == name and Kind.ADMIN in issuer.kinds for issuer in issuers):
        raise SettingsError(
            f"{PREFIX}CONSOLE_OIDC_ISSUER={name} is no issuer whose tokens may be an admin's: give it an entry of"
            " [[issuers]]"
        )


def _check_rate_limit(settings: Settings) -> None:
    if settings.rate_limit_burst is not None and settings.rate_limit is None:
        raise SettingsError(f"{PREFIX}RATE_LIMIT_BURST needs {PREFIX}RATE_LIMIT")


def unknown_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the JOBSTATUS_* variables that nothing reads, each with the closest known name (or "").

    They are worth a warning, not an error, because Kubernetes sets JOBSTATUS_SERVICE_HOST and the like for a service of
    that name.
    """
    known = {*(name.upper() for name in (CONFIG, *Settings.model_fields)), *_CLIENT_VARIABLES}
    given = {name.removeprefix(PREFIX) for name in environment if name.startswith(PREFIX)}
    if given <= known:
        return {}
    import difflib  # noqa: PLC0415  # misspelt variables are rare

    return {
        PREFIX + name: next((PREFIX + close for close in difflib.get_close_matches(name, known, 1)), "")
        for name in sorted(given - known)
    }


def development_issuer(settings: Settings, *, may_write: bool = True) -> IssuerSettings:
    """Return the issuer of `--dev`. Its random secret is in the state directory (mode 0600), and made if missing.

    Without `may_write` a secret that is missing is made, but not kept.
    """
    path = settings.state_dir / _DEVELOPMENT_KEY_FILE
    if has_development_issuer(settings):
        secret = path.read_text()
    else:
        secret = secrets.token_urlsafe(48)
        if may_write:
            path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret)
    return IssuerSettings(issuer=DEVELOPMENT_ISSUER, audience="jobstatus", algorithm="HS256", secret=SecretStr(secret))


def has_development_issuer(settings: Settings) -> bool:
    """Return whether `--dev` has been used with this state directory."""
    return (settings.state_dir / _DEVELOPMENT_KEY_FILE).is_file()
