"""Bodies over HTTP: JSON of bounded length in, read within the time there is; JSON out."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from fastapi import Request, Response
from starlette.requests import ClientDisconnect

from .refusals import Refusal


async def read_body(request: Request, most: int, deadline: float) -> bytes:
    """Read a body; no more of it is kept than it may have.

    Args:
        request: whose.
        most: bytes.
        deadline: by ``time.monotonic()``.

    Raises:
        Refusal: it is no JSON by its type, too long, or too slow.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a web page of others may send the other types without asking
        message = f"the body is {kind or 'of no type'}; send JSON with the header Content-Type: application/json"
        raise Refusal(415, message, code="invalid_content_type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_long(most)
    try:
        return await asyncio.wait_for(_read(request, most), max(deadline - time.monotonic(), 0))
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise Refusal(408, "the body has not come in time; send it at once", code="timeout") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the body has not come to its end", code="incomplete_body") from error


async def _read(request: Request, most: int) -> bytes:
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > most:
            raise _too_long(most)
        parts.append(part)
    return b"".join(parts)


def _too_long(most: int) -> Refusal:
    return Refusal(413, f"the body has more than {most} bytes; shorten it (--max-body-bytes)", code="body_too_long")


def as_response(value: Any, status: int = 200) -> Response:
    """A JSON response."""
    return Response(json.dumps(value, ensure_ascii=False), status, media_type="application/json")


def refused(refusal: Refusal) -> Response:
    """A refusal as a response: in ASCII, since it may quote what is no UTF-8."""
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(refusal.status)
    return Response(json.dumps(refusal.body()), refusal.status, headers, "application/json")
