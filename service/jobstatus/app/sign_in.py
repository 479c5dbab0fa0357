"""Build what lets an admin sign in to the console with an issuer of OpenID Connect."""

from collections.abc import Callable

from jobstatus.app.key_fetching import fetch
from jobstatus.auth.remote_keys import JwksLimits
from jobstatus.console.open_id import OpenIdProvider, SignIn
from jobstatus.settings import Settings


def open_id_provider(
    settings: Settings,
    *,
    monotonic: Callable[[], float],
    limits: JwksLimits = JwksLimits(),  # noqa: B008  # a frozen value
) -> OpenIdProvider | None:
    """Return the provider that the settings name, None where they name none."""
    if settings.console_oidc_issuer is None or settings.console_oidc_client_id is None:
        return None
    client = SignIn(
        issuer=settings.console_oidc_issuer,
        client_id=settings.console_oidc_client_id,
        scope=settings.console_oidc_scope,
        audience=settings.console_oidc_audience,
    )
    return OpenIdProvider(client, fetch, monotonic=monotonic, limits=limits)
