"""SIGHUP, which would end the process: an operator asks for a reload with it, a terminal that closes says good-bye."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Final

_TERMINAL: Final = "/dev/tty"


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal."""
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class EarlyHangUps:
    """Handles SIGHUP until `HangUps` does, for a process without a terminal: there it would end the process."""

    def __init__(self) -> None:
        self.have_come = False

    def __call__(self, *_: object) -> None:
        self.have_come = True

    @classmethod
    def expect(cls, has_terminal: Callable[[], bool] = has_terminal) -> None:
        """Call this first of all at the start of a process."""
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL and not has_terminal():
            signal.signal(signal.SIGHUP, cls())


class HangUps:
    """Catches SIGHUP. One that comes before `call` is not lost.

    A process that was started from a terminal ends with it, as commands do, unless it ignored the signal from the
    start, as `nohup` has it. A child ignores the signal, because its supervisor asks it to reload and to stop.
    """

    def __init__(
        self,
        on_terminal_gone: Callable[[], None],
        *,
        is_child: bool = False,
        has_terminal: Callable[[], bool] = has_terminal,
    ) -> None:
        self._on_terminal_gone = on_terminal_gone
        self._has_terminal = has_terminal
        before = signal.getsignal(signal.SIGHUP)
        self._is_of_terminal = before is not signal.SIG_IGN and has_terminal()
        self._have_come = isinstance(before, EarlyHangUps) and before.have_come
        self._request: Callable[[], None] | None = None
        if is_child:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        else:
            loop = asyncio.get_running_loop()
            signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(self._on_signal))

    def call(self, request: Callable[[], None]) -> None:
        """Call this at each SIGHUP from now on, and now if one has come."""
        self._request = request
        if self._have_come:
            request()

    def _on_signal(self) -> None:
        if self._is_of_terminal and not self._has_terminal():
            self._on_terminal_gone()
            return
        self._have_come = True
        if self._request is not None:
            self._request()
