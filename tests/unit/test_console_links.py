"""Links that sign in to the console: for development, once, and for an hour."""

import re
from pathlib import Path

import jwt
import pytest
from harness.faults import Clock
from jobstatus.console.links import MAX_TICKETS, TICKET_SECONDS, SignInLinks
from jobstatus.processes.launch import Launch, Source, sign_in_links
from jobstatus.settings import Address, check_servable, development_issuer, load_settings


def test_a_ticket_is_good_once_and_for_a_while() -> None:
    """Each is another one; one that was used, is too old or was made up gives nothing."""
    clock = Clock()
    links = SignInLinks(lambda: "token", monotonic=clock.time)
    first, second = links.ticket(), links.ticket()
    assert first != second
    assert [links.redeem(ticket) for ticket in (first, first, "made up", "", "\udcff")] == ["token", *[None] * 4]
    clock.move(seconds=TICKET_SECONDS)
    assert links.redeem(second) is None


def test_tickets_are_few() -> None:
    """The oldest give way."""
    links = SignInLinks(lambda: "token", monotonic=Clock().time)
    tickets = [links.ticket() for _ in range(MAX_TICKETS + 1)]
    assert [links.redeem(tickets[at]) for at in (0, 1)] == [None, "token"]


@pytest.mark.parametrize(("dev", "console"), [(False, "on"), (True, "off")])
def test_there_are_no_links_in_production_or_without_a_console(tmp_path: Path, dev: bool, console: str) -> None:
    settings = load_settings({"JOBSTATUS_STATE_DIR": str(tmp_path), "JOBSTATUS_CONSOLE": console})
    launch = Launch(source=Source(check=check_servable, dev=dev), settings=settings, issuers=())
    assert sign_in_links(launch) is None


def test_the_start_in_development_prints_a_link(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its fragment has the ticket of an admin's token. The log, which is kept, has no ticket."""
    monkeypatch.setenv("JOBSTATUS_STATE_DIR", str(tmp_path))
    source = Source(check=check_servable, dev=True)
    settings, issuers = source.read()
    assert settings.console == "on"
    launch = Launch(source=source, settings=settings, issuers=issuers)
    links = sign_in_links(launch)
    assert links is not None
    addresses = {name: Address("0.0.0.0", port) for name, port in (("http", 1), ("grpc", 2), ("admin", 3))}
    with caplog.at_level("DEBUG"):
        launch.announce(addresses, links)
    printed = capsys.readouterr().err
    found = re.search(r"http://127\.0\.0\.1:3/console/#ticket=(\S+)", printed)
    assert found is not None
    assert found[1] not in caplog.text
    token = links.redeem(found[1])
    secret = development_issuer(settings).secret
    assert token is not None
    assert secret is not None
    claims = jwt.decode(token, secret.get_secret_value(), algorithms=["HS256"], audience="jobstatus")
    assert (claims["iss"], claims["role"], claims["sub"]) == ("jobstatus-dev", "admin", "console")


def test_the_console_can_be_switched_off_in_development(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBSTATUS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("JOBSTATUS_CONSOLE", "off")
    settings, _ = Source(check=check_servable, dev=True).read()
    assert settings.console == "off"
