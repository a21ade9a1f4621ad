"""What a client is told when there is no answer: a status, and an error in the API's own form."""

from __future__ import annotations

from typing import Any

GONE = 499
"""The status, in metrics alone, of a request whose client has gone."""
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}


_LONGEST = 500  # characters of a message, which may quote what was sent


class Refusal(Exception):
    """A request without an answer.

    Args:
        status: of HTTP.
        message: one sentence: what is wrong, with the value, and what to do.
        param: the parameter it is about.
        code: a word for programs.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}..."

    def body(self) -> dict[str, Any]:
        """The error as it is sent."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }


def queue_full(most: int) -> Refusal:
    """Too many texts wait."""
    return Refusal(429, f"{most} texts wait already; ask again later (--max-queue)", code="queue_full")


def ending() -> Refusal:
    """The server has been told to end."""
    return Refusal(503, "the server is shutting down; ask another one, or again later", code="shutting_down")


def too_slow(seconds: float) -> Refusal:
    """The request has taken too long."""
    return Refusal(
        504,
        f"there was no answer within {seconds:g} seconds; ask for fewer tokens, or again later (--request-seconds)",
        code="timeout",
    )


def broken() -> Refusal:
    """Something failed that is no fault of the request; the server's own log has it."""
    return Refusal(500, "the server failed at this request; its log says why", code="internal_error")


def rewritten() -> Refusal:
    """What was streamed turned out not to be the beginning of the text."""
    return Refusal(
        500, "the tokenizer has changed text that was sent already; ask without stream", code="internal_error"
    )
