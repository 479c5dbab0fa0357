"""What SIGHUP means: a reload, or the end of the terminal that the process was started from."""

import asyncio
import signal
from collections.abc import Iterator

import pytest
from harness.waiting import until
from jobstatus.processes.hangup import EarlyHangUps, HangUps


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    """The tests may run under nohup, which has the signal ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


class Terminal:
    """A terminal that may be closed."""

    def __init__(self, *, is_there: bool) -> None:
        self.is_there = is_there
        self.told: list[str] = []

    def hangups(self) -> HangUps:
        return HangUps(lambda: self.told.append("gone"), has_terminal=lambda: self.is_there)


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_signal_is_a_reload(is_there: bool) -> None:
    """With a terminal or without; one that came during the start counts once it is over."""
    terminal = Terminal(is_there=is_there)
    hangups = terminal.hangups()
    signal.raise_signal(signal.SIGHUP)
    await asyncio.sleep(0)
    assert terminal.told == []
    hangups.call(lambda: terminal.told.append("reload"))
    await until(lambda: terminal.told == ["reload"])
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: terminal.told == ["reload"] * 2)


async def test_a_terminal_that_closes_ends_the_process() -> None:
    terminal = Terminal(is_there=True)
    terminal.hangups().call(lambda: terminal.told.append("reload"))
    terminal.is_there = False
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: terminal.told == ["gone"])


async def test_under_nohup_it_goes_on() -> None:
    """There the signal is ignored before the start."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    terminal = Terminal(is_there=True)
    terminal.hangups().call(lambda: terminal.told.append("reload"))
    terminal.is_there = False
    signal.raise_signal(signal.SIGHUP)
    await until(lambda: terminal.told == ["reload"])


async def test_a_child_ignores_it() -> None:
    HangUps(lambda: None, is_child=True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


async def test_a_signal_during_the_imports_is_a_reload_once_the_process_serves() -> None:
    """Where there is no terminal; a terminal that closes then ends the process, as it ends any command."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    EarlyHangUps.expect(lambda: True)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    EarlyHangUps.expect(lambda: False)
    signal.raise_signal(signal.SIGHUP)
    terminal = Terminal(is_there=False)
    terminal.hangups().call(lambda: terminal.told.append("reload"))
    assert terminal.told == ["reload"]
