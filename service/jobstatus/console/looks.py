"""How long a look at the store usually takes, by which the pause before the next one is measured."""

from collections import deque
from typing import Final

_REMEMBERED: Final = 3


class UsualSeconds:
    """The least of the last three looks, because one that a busy machine held up says nothing about the next.

    The first two count as free, because they may be slow for want of connections and caches.
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque([0.0] * (_REMEMBERED - 1), maxlen=_REMEMBERED)

    def after(self, seconds: float) -> float:
        """Return what is usual after a look that took so long."""
        self._last.append(seconds)
        return min(self._last)
