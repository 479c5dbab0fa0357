"""Choose the issuer of a token that `jobstatus token` prints, and mint it."""

import time
from datetime import timedelta

from jobstatus.auth.errors import KeyConfigError
from jobstatus.auth.issuer_config import Kind
from jobstatus.auth.minting import mint_token
from jobstatus.cli.errors import CommandError, ExitCode
from jobstatus.core.commands import check_id
from jobstatus.settings import (
    IssuerSettings,
    Settings,
    SettingsError,
    development_issuer,
    has_development_issuer,
    load_settings,
)


def mint_for_virtual_key(virtual_key_id: str, ttl: timedelta, name: str | None) -> str:
    """Return a token that may poll the jobs of a virtual key. `name` is the issuer's, if one is asked for."""
    check_id("virtual_key_id", virtual_key_id)
    issuer = _issuer(Kind.VIRTUAL_KEY, name)
    return _mint(issuer, {issuer.virtual_key_claim: virtual_key_id}, ttl)


def mint_for_admin(ttl: timedelta, name: str | None) -> str:
    """Return a token that may poll every job, likewise."""
    issuer = _issuer(Kind.ADMIN, name)
    return _mint(issuer, {issuer.role_claim: issuer.admin_role}, ttl)


def _issuer(kind: Kind, name: str | None) -> IssuerSettings:
    """Return the issuer with this name, or the first that can mint such a token."""
    try:
        settings = load_settings()
        configured = settings.accepted_issuers()
        known = (*configured, *_development(settings)) if name or not configured else configured
    except (SettingsError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    named = [issuer for issuer in known if name in (None, issuer.issuer)]
    able = [issuer for issuer in named if kind in issuer.kinds and (issuer.secret or issuer.private_key_file)]
    if able:
        return able[0]
    if named:
        raise CommandError(
            f"no issuer of the settings has a secret or a private key to mint {kind} tokens with", ExitCode.USAGE
        )
    if name:
        raise CommandError(f"the settings have no issuer {name!r}", ExitCode.USAGE)
    raise CommandError(
        f"no issuer is set, and `jobstatus serve --dev` has left no secret in {settings.state_dir}/: start it from this"
        " directory, or set JOBSTATUS_JWT_ISSUER and its companions",
        ExitCode.USAGE,
    )


def _development(settings: Settings) -> tuple[IssuerSettings, ...]:
    return (development_issuer(settings),) if has_development_issuer(settings) else ()


def _mint(issuer: IssuerSettings, claims: dict[str, str], ttl: timedelta) -> str:
    if ttl.total_seconds() > issuer.max_lifetime_seconds:
        raise CommandError(
            f"tokens of {issuer.issuer} may be valid for at most {issuer.max_lifetime_seconds} s",
            ExitCode.USAGE,
        )
    try:
        return mint_token(
            issuer=issuer.issuer,
            audience=issuer.audience,
            algorithm=issuer.algorithm,
            key=_signing_key(issuer),
            key_id=issuer.key_id,
            claims=claims,
            ttl_seconds=int(ttl.total_seconds()),
            now_seconds=time.time(),
            token_type=min(issuer.token_types),
        )
    except (KeyConfigError, ValueError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error


def _signing_key(issuer: IssuerSettings) -> str | bytes:
    if issuer.secret is not None:
        return issuer.secret.get_secret_value()
    assert issuer.private_key_file is not None  # noqa: S101 (chosen for having one of the two)
    return issuer.private_key_file.read_bytes()
