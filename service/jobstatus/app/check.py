"""`--check`: read all that a start reads, change nothing, and say in a few lines what would be served.

What a start would refuse is raised as a start raises it. What a start would bear, such as an identity provider that
does not answer, is said in the line that it concerns.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from cryptography import x509

from jobstatus.app.clocks import Clocks
from jobstatus.app.issuers import AcceptedIssuers
from jobstatus.auth.issuer_config import IssuerConfig
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.auth.tls_files import TlsFiles
from jobstatus.core.errors import JobStatusError
from jobstatus.core.timekeeper import TimeLimits
from jobstatus.settings import IssuerSettings, Settings
from jobstatus.stores import describe_store
from jobstatus.telemetry import audit
from jobstatus.telemetry.metrics import Metrics

_NO_TLS: Final = "without TLS"


async def check_service(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> list[str]:
    """Return what `serve` would serve. Raise KeyConfigError, StoreConfigError or OSError."""
    tls = _describe_tls(settings.grpc_tls, "gRPC")
    tokens = await _describe_issuers(issuers)
    return _table(
        ("REST", str(settings.http)),
        ("gRPC", f"{settings.grpc}, {tls}{_describe_clients(settings)}"),
        ("admin", str(settings.admin)),
        ("processes", str(settings.workers)),
        ("store", await describe_store(settings.store, redis_replicas=settings.redis_replicas)),
        *_describe_audit(settings),
        *(("tokens", line) for line in tokens),
    )


async def check_edge_start(settings: Settings, issuers: tuple[IssuerSettings, ...]) -> list[str]:
    """Return what `edge` would serve. Raise KeyConfigError or OSError."""
    tls = _describe_tls(settings.upstream_tls, "JOBSTATUS_UPSTREAM")
    tokens = await _describe_issuers(issuers)
    return _table(
        ("REST", str(settings.http)),
        ("admin", str(settings.admin)),
        ("service", f"{settings.upstream}, {tls}; {await _ask_upstream(settings)}"),
        *_describe_audit(settings),
        *(("tokens", line) for line in tokens),
    )


def _table(*rows: tuple[str, str]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name:{width}}  {value}" for name, value in rows]


def _describe_tls(files: TlsFiles | None, what: str) -> str:
    if files is None:
        return _NO_TLS
    pem = files.read(what)
    ends_at = x509.load_pem_x509_certificates(pem.certificate)[0].not_valid_after_utc
    return f"with TLS by {files.certificate}, which is valid until {ends_at:%Y-%m-%d %H:%M} UTC"


def _describe_clients(settings: Settings) -> str:
    if settings.grpc_tls is None:
        return ""
    allowed = ", ".join(sorted(settings.grpc_allowed_clients)) or "any with a certificate"
    edges = ", ".join(sorted(settings.grpc_edge_clients))
    return f"; clients: {allowed}" + (f"; edges: {edges}" if edges else "")


def _describe_audit(settings: Settings) -> list[tuple[str, str]]:
    """Return the row of the audit log, if there is one. Raise OSError."""
    if settings.audit_log is None:
        return []
    audit.check_path(settings.audit_log)
    return [("audit log", str(settings.audit_log))]


async def _describe_issuers(issuers: Iterable[IssuerSettings]) -> list[str]:
    """Return a line for each issuer. Raise KeyConfigError."""
    prepared = AcceptedIssuers(JwksLimits(), Clocks(), Metrics()).prepare(issuers)
    await asyncio.gather(*(keys.refresh() for _, keys in prepared.remote))
    missing = {config for config, keys in prepared.remote if not keys.has_keys}
    lines = [
        f"of {config.issuer} for {config.audience}: {config.algorithm}, {_describe_keys(config)}"
        + (", which cannot be fetched now" if config in missing else "")
        for config in prepared.configs
    ]
    return lines or ["not accepted"]


def _describe_keys(config: IssuerConfig) -> str:
    if config.secret is not None:
        return "a secret"
    if config.is_remote:
        return f"keys from {config.jwks_url or 'where its description says'}"
    return f"keys in {config.key_file}"


async def _ask_upstream(settings: Settings) -> str:
    """Return whether the service answers."""
    from jobstatus.app.edge import EdgeLimits, read_pem, upstream_channel  # noqa: PLC0415  # loads gRPC
    from jobstatus.upstream.reader import UpstreamReader  # noqa: PLC0415  # as above

    limits = EdgeLimits()
    clock = Clocks().timekeeper(TimeLimits(), Metrics())
    async with upstream_channel(settings, read_pem(settings), limits.upstream) as channel:
        reader = UpstreamReader(channel, limits.upstream, clock=clock)
        try:
            await reader.probe()
        except JobStatusError as error:
            return f"it does not answer now ({error.message.rstrip('.')})"
        finally:
            await reader.close()
    return "it answers"
