"""Fixtures of the tests that run the service in their own process."""

from typing import Any

import pytest
from jobstatus.auth.authenticator import Authenticator


@pytest.fixture
def authenticators(monkeypatch: pytest.MonkeyPatch) -> list[Authenticator]:
    """Those of the services that are started from now on."""
    made: list[Authenticator] = []

    def remembering(**parts: Any) -> Authenticator:
        made.append(Authenticator(**parts))
        return made[-1]

    monkeypatch.setattr("jobstatus.app.frontend.Authenticator", remembering)
    return made
