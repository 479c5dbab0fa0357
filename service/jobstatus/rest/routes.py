"""The paths of the eleven request types, and how a request's target is matched to them."""

from typing import Final

from yarl import URL

from jobstatus.core.job import RequestType

PATHS: Final[dict[RequestType, str]] = {
    RequestType.TRANSCRIPTION: "/v1/async/audio/transcriptions/",
    RequestType.SPEECH: "/v1/async/audio/speech/",
    RequestType.CHAT_COMPLETION: "/v1/async/chat/completions/",
    RequestType.TEXT_COMPLETION: "/v1/async/completions/",
    RequestType.RESPONSES: "/v1/async/responses/",
    RequestType.EMBEDDING: "/v1/async/embeddings/",
    RequestType.IMAGE_GENERATION: "/v1/async/images/generations/",
    RequestType.IMAGE_EDIT: "/v1/async/images/edits/",
    RequestType.IMAGE_VARIATION: "/v1/async/images/variations/",
    RequestType.RERANK: "/v1/async/rerank/",
    RequestType.OCR: "/v1/async/ocr/",
}

_TYPES: Final = {path: request_type for request_type, path in PATHS.items()}


def target(raw_path: str, url: URL) -> tuple[RequestType, str] | None:
    """Return the request type and the job's id, which may be malformed, of a target; None at any other path.

    `raw_path` is the target as it was sent, `url` the parsed one. Nearly every target is a path of the table and an id
    without escapes; for these aiohttp's router would cost five microseconds.
    """
    prefix, separator, job_id = raw_path.rpartition("/")
    request_type = _TYPES.get(prefix + separator)
    if request_type is not None and not ("%" in job_id or "?" in job_id or "#" in job_id):
        return request_type, job_id
    path = url.path_safe
    for known, request_type in _TYPES.items():
        if path.startswith(known):
            return request_type, path[len(known) :]
    return None
