"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

import logging
from typing import Any

from lookahead.errors import (
    ConfigError,
    EngineClosedError,
    LookaheadError,
    PromptTooLongError,
    QueueFullError,
    RequestTooLongError,
    first_line,
)

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}
_log = logging.getLogger("lookahead.server")
RETRY_AFTER_SECONDS = 1
"""How long a client is to wait before it asks again."""


class ApiError(Exception):
    """What a client is told instead of an answer.

    Args:
        status: The HTTP status.
        message: What is wrong, and what is allowed.
        param: The field that is wrong.
        code: A word for programs.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The response's body."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """The response's headers."""
        return {"retry-after": str(RETRY_AFTER_SECONDS)} if self.status in (429, 503) else {}


def told_error(error: Exception, request_id: str) -> ApiError:
    """Return what a client is told about an exception, and log what it is not told."""
    told = api_error(error, request_id)
    if told.code == "internal":
        _log.error("request %s failed", request_id, exc_info=error)
    return told


def api_error(error: Exception, request_id: str = "") -> ApiError:
    """Return what a client is told about an exception.

    Args:
        error: What was raised.
        request_id: The request's id, by which the operator finds an unexpected error in the log.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(503, str(error), code="queue_full")
    if isinstance(error, EngineClosedError):
        return ApiError(503, "the server is shutting down; ask another one", code="draining")
    if isinstance(error, PromptTooLongError | RequestTooLongError):
        return ApiError(400, str(error), code="context_length_exceeded")
    if isinstance(error, ConfigError | LookaheadError):
        return ApiError(400, first_line(error))
    return ApiError(500, f"the server failed; its log has the reason (request {request_id})", code="internal")
