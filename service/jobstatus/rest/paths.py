"""Where each request type is polled: the one table of the eleven families."""

from typing import Final

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
