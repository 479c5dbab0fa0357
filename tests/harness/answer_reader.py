"""Finds the answers in what a connection of HTTP/1.1 receives, at little cost: it keeps no body."""

from typing import Final

_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"
_BODILESS: Final = (204, 304)


class AnswerReader:
    """Takes what a connection receives; `head_only` for answers to HEAD."""

    def __init__(self, *, head_only: bool = False) -> None:
        self._head_only = head_only
        self._head = b""
        self._left = 0
        self._status = 0

    def feed(self, data: bytes) -> list[int]:
        """Return the status of each answer that these bytes complete."""
        completed: list[int] = []
        at, size = 0, len(data)
        while at < size:
            if self._left:
                taken = min(self._left, size - at)
                self._left -= taken
                at += taken
            else:
                end = self._read_head(data, at)
                if end < 0:
                    break
                at = end
            if not self._left:
                completed.append(self._status)
        return completed

    def _read_head(self, data: bytes, at: int) -> int:
        """Return where the body begins in `data`; -1 when the head is not complete."""
        before = len(self._head)
        head = self._head + data[at:] if before else data[at : at + 4096]
        end = head.find(_END)
        if end < 0:
            self._head += data[at:]
            return -1
        self._head = b""
        fields = head[:end]
        self._status = int(fields[9:12])
        has_body = not self._head_only and self._status not in _BODILESS
        _, _, after = fields.lower().partition(_LENGTH)
        self._left = int(after.split(b"\r\n", 1)[0]) if has_body and after else 0
        return at + end + len(_END) - before
