"""What the half of the console that speaks HTTP asks the half that has the store, and the answers.

Both are fit for JSON, because a supervisor sends them to a child as text.
"""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias


class Question(NamedTuple):
    """What is asked, with the values of the request's Authorization headers, and where it came from."""

    what: str
    authorization: Sequence[str]
    arguments: dict[str, Any]
    peer: str = ""

    def to_text(self) -> str:
        """Return the question as one line."""
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str) -> "Question":
        """Return the question of a line."""
        return cls(*json.loads(text))


class Answer(NamedTuple):
    """An HTTP status and a JSON document as text. `message` is the document's sentence where it is a refusal."""

    status: int
    body: str
    message: str = ""

    def to_text(self) -> str:
        """Return the answer as one line."""
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str) -> "Answer":
        """Return the answer of a line."""
        return cls(*json.loads(text))


Ask: TypeAlias = Callable[[Question], Awaitable[Answer]]
AskFigures: TypeAlias = Callable[["Watch"], Awaitable[Sequence[str]]]
"""Returns the figures of each process, as `Census.figures` has them, of those that answer."""


class Watch(NamedTuple):
    """Why figures are collected: `is_open` while a page is open; `is_alone` where no process of this machine counts."""

    is_open: bool
    is_alone: bool

    def to_text(self) -> str:
        """Return it as text."""
        return json.dumps(self)

    @classmethod
    def from_text(cls, text: str) -> "Watch":
        """Return it from its text."""
        return cls(*json.loads(text))


def document(value: Any) -> Answer:
    """Return the answer with this document."""
    return Answer(200, json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def refusal(status: int, message: str) -> Answer:
    """Return a refusal, which is one sentence."""
    return Answer(status, json.dumps({"message": message}), message)


UNAVAILABLE: Final = refusal(503, "The service cannot answer at the moment; the page tries again.")
