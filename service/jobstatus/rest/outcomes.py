"""Turn what a poll found or raised into a response, and report refusals to the metrics and the log."""

import logging
from collections import defaultdict
from typing import Final, TypeAlias

from aiohttp import web

from jobstatus.auth.errors import CredentialError, KeysUnavailable, MissingCredential, Reason
from jobstatus.core.poll import Poll
from jobstatus.rest import responses
from jobstatus.rest.admission import RateLimited
from jobstatus.rest.headers import (
    Conditions,
    entity_tag,
    is_expected,
    is_known,
    progress,
    retry_after_seconds,
)
from jobstatus.rest.responses import MAX_BYTES, VARY, LargeResponse, PrebuiltResponse, Problem
from jobstatus.rest.send_limits import NoRoomForLarge
from jobstatus.telemetry.metrics import Metrics
from jobstatus.telemetry.throttle import LogThrottle

_log = logging.getLogger(__name__)

Response: TypeAlias = PrebuiltResponse | LargeResponse | web.Response


class Outcomes:
    """Makes the responses to polls."""

    def __init__(self, *, metrics: Metrics, retry_after_seconds: int) -> None:
        """`retry_after_seconds` is the least Retry-After."""
        self._metrics = metrics
        self._retry_after_seconds = retry_after_seconds
        self._unanswered = LogThrottle()
        self._limited = LogThrottle()
        self._refused: Final[defaultdict[Reason, LogThrottle]] = defaultdict(LogThrottle)
        self._failed: Final[defaultdict[type[Exception], LogThrottle]] = defaultdict(LogThrottle)
        """By the error's class, so that a bug that clients can cause at will hides no other."""

    def found(
        self, poll: Poll, conditions: Conditions | None, request_id: str, lines: str = ""
    ) -> PrebuiltResponse | LargeResponse:
        """Return the response with a job: 200, 202, 304 or 412. Only a 200 ever needs a large result.

        `conditions` are the request's, `lines` more header lines.
        """
        if conditions is not None and (refused := self.unexpected(poll, conditions, request_id)):
            return refused
        if poll.is_terminal:
            tag = entity_tag(poll.version, poll.created_at_ms)
            if conditions is not None and is_known(conditions.if_none_match, tag):
                return responses.not_modified(request_id, tag)
            lines = f"{VARY}{lines}ETag: {tag}\r\n"
            if poll.large_result is not None or len(poll.body) > MAX_BYTES:
                return responses.large_answer(poll, request_id, lines)
            return responses.answer(200, poll.body, request_id, lines, is_kept=True)
        if poll.progress is not None:
            lines = f"{lines}Job-Progress: {progress(poll.progress)}\r\n"
        retry_after = retry_after_seconds(poll.retry_after_ms, self._retry_after_seconds)
        return responses.answer(202, poll.body, request_id, f"{VARY}{lines}Retry-After: {retry_after}\r\n")

    def unexpected(self, poll: Poll, conditions: Conditions | None, request_id: str) -> PrebuiltResponse | None:
        """Return the 412 to a request whose `If-Match` names other documents than this one, None to any other."""
        if conditions is None or not conditions.if_match:
            return None
        tag = entity_tag(poll.version, poll.created_at_ms) if poll.is_terminal else None
        if is_expected(conditions.if_match, tag):
            return None
        return responses.problem_answer(responses.PRECONDITION_FAILED, request_id)

    def refused(self, error: Exception, request_id: str) -> PrebuiltResponse:
        """Return the response to an error. The details go to the log, not to the client."""
        if isinstance(error, CredentialError):
            self._metrics.credential_refused(error.reason)
            self._log_refused(error, request_id)
            return responses.problem_answer(_problem_of(error), request_id)
        if isinstance(error, RateLimited):
            self._metrics.rate_limited()
            self._log_limited(error, request_id)
            return responses.problem_answer(responses.rate_limited(error.retry_after_seconds), request_id)
        if isinstance(error, KeysUnavailable):
            return responses.problem_answer(responses.KEYS_UNAVAILABLE, request_id)
        if isinstance(error, NoRoomForLarge):
            return responses.problem_answer(responses.STORE_UNAVAILABLE, request_id)
        problem = responses.PROBLEMS.get(type(error), responses.INTERNAL)
        if problem is responses.STORE_UNAVAILABLE:
            self._log_unanswered(error, request_id)
        elif problem is responses.INTERNAL:
            self._log_failed(error, request_id)
        return responses.problem_answer(problem, request_id)

    def _log_refused(self, error: CredentialError, request_id: str) -> None:
        """Log one refusal of each reason at once, then one every 10 s, and all of them at the level debug."""
        if requests := self._refused[error.reason].should_log():
            _log.info(
                "A credential was refused.",
                extra={"event": "credential_refused", "requests": requests, **_facts(error, request_id)},
            )
        elif _log.isEnabledFor(logging.DEBUG):
            _log.debug("A credential was refused.", extra={"event": "credential_refused", **_facts(error, request_id)})

    def _log_limited(self, error: RateLimited, request_id: str) -> None:
        if polls := self._limited.should_log():
            _log.info(
                "Polls were refused because their virtual key sends too many.",
                extra={
                    "event": "polls_rate_limited",
                    "request_id": request_id,
                    "virtual_key_id": error.virtual_key_id,
                    "polls": polls,
                },
            )

    def _log_unanswered(self, error: Exception, request_id: str) -> None:
        if polls := self._unanswered.should_log():
            cause = type(error.__cause__ or error).__name__
            _log.warning(
                "Polls could not be answered.",
                extra={"event": "polls_unanswered", "request_id": request_id, "cause": cause, "polls": polls},
            )

    def _log_failed(self, error: Exception, request_id: str) -> None:
        if polls := self._failed[type(error)].should_log():
            _log.error(
                "A poll failed because of a bug of this program.",
                extra={"event": "poll_failed", "request_id": request_id, "polls": polls},
                exc_info=error,
            )


def _facts(error: CredentialError, request_id: str) -> dict[str, str]:
    """Return what the log has of a refusal: never the credential, but what it claims to be of."""
    claims = {"issuer": error.issuer, "kid": error.key_id}
    claimed = {name: text for name, text in claims.items() if text}
    return {"request_id": request_id, "reason": error.reason.value, **claimed}


def _problem_of(error: CredentialError) -> Problem:
    """Return what the client is told: whether it sent no credential, several, or a bad one, but not what is bad."""
    if isinstance(error, MissingCredential):
        return responses.MISSING_CREDENTIALS
    several = error.reason is Reason.SEVERAL_CREDENTIALS
    return responses.MULTIPLE_CREDENTIALS if several else responses.INVALID_CREDENTIALS
