"""The routes of the API, on FastAPI."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from .answering import Answering
from .bodies import as_response, read_body, refused
from .metrics import TYPE, Metrics
from .parameters import CHAT, TEXT, asked_of
from .refusals import Refusal, broken, ending
from .served_model import ServedModel

logger = logging.getLogger(__name__)

Route = Callable[[Request], Awaitable[Response]]


class Routes:
    """What each address answers.

    Args:
        served: the model.
        answering: makes answers.
        metrics: counts.
        max_body_bytes: longest body of a request.
        request_seconds: longest time of a request.
        api_key: what requests under /v1 must bear; None: nothing.
    """

    def __init__(
        self,
        served: ServedModel,
        answering: Answering,
        metrics: Metrics,
        max_body_bytes: int,
        request_seconds: float,
        api_key: str | None,
    ) -> None:
        self._served, self._answering, self._metrics = served, answering, metrics
        self._max_body_bytes, self._request_seconds, self._api_key = max_body_bytes, request_seconds, api_key
        self._created = int(time.time())
        self.is_ending = False

    def application(self) -> FastAPI:
        """The routes, as an ASGI application; no pages of documentation, which would ask another server for scripts."""
        app = FastAPI(title="hf-difflm", docs_url=None, redoc_url=None, openapi_url=None)
        for path, method, route in (
            ("/health", "GET", self._health),
            ("/metrics", "GET", self._page_of_metrics),
            ("/v1/models", "GET", self._models),
            ("/v1/models/{name:path}", "GET", self._model),
            ("/v1/chat/completions", "POST", self._chat),
            ("/v1/completions", "POST", self._text),
        ):
            app.add_route(path, self._told(path, route), methods=[method])
        app.add_exception_handler(HTTPException, _no_such_route)
        return app

    def _told(self, path: str, route: Route) -> Route:
        """A route whose refusals are answers, and whose requests are counted."""

        async def told(request: Request) -> Response:
            began = time.monotonic()
            request.state.began = began
            try:
                if path.startswith("/v1"):
                    self._check_key(request)
                response = await route(request)
            except Refusal as refusal:
                response = refused(refusal)
            except Exception:
                self._count(path, 500, began)
                raise
            if not getattr(response, "counts_itself", False):
                self._count(path, response.status_code, began)
            return response

        return told

    def _count(self, path: str, status: int, began: float) -> None:
        self._metrics.requests.labels(path, str(status)).inc()
        self._metrics.request_seconds.labels(path).observe(time.monotonic() - began)

    def _check_key(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if self._api_key is not None and not hmac.compare_digest(given.encode(), f"Bearer {self._api_key}".encode()):
            message = "the API key is missing or wrong; send the header Authorization: Bearer KEY"
            raise Refusal(401, message, code="invalid_api_key")

    async def _health(self, request: Request) -> Response:
        return as_response({"status": "ending" if self.is_ending else "ok"}, 503 if self.is_ending else 200)

    async def _page_of_metrics(self, request: Request) -> Response:
        return Response(self._metrics.page(), headers={"content-type": TYPE})

    async def _models(self, request: Request) -> Response:
        return as_response({"object": "list", "data": [self._model_card()]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name != self._served.name:
            message = f"there is no model {name!r} here; this server has {self._served.name!r}"
            raise Refusal(404, message, "model", "model_not_found")
        return as_response(self._model_card())

    def _model_card(self) -> dict[str, Any]:
        kind = "masked diffusion" if self._served.target.is_denoiser else "causal LM"
        own = {"kind": kind, "max_length": self._served.limit}
        return {"id": self._served.name, "object": "model", "created": self._created, "owned_by": "hf-difflm", **own}

    async def _chat(self, request: Request) -> Response:
        return await self._answered(request, CHAT)

    async def _text(self, request: Request) -> Response:
        return await self._answered(request, TEXT)

    async def _answered(self, request: Request, kind: str) -> Response:
        if self.is_ending:
            raise ending()
        deadline = request.state.began + self._request_seconds
        body = await read_body(request, self._max_body_bytes, deadline)
        path = request.url.path

        def count(status: int) -> None:
            self._count(path, status, request.state.began)

        try:
            return await self._answering.answer(request, asked_of(body, kind), deadline, count)
        except Refusal:
            raise
        except Exception as error:
            logger.exception("a request could not be answered")
            raise broken() from error


async def _no_such_route(request: Request, error: Any) -> Response:
    known = "/v1/models, /v1/chat/completions, /v1/completions, /health, /metrics"
    message = f"{request.method} {request.url.path} is not here; there are {known}"
    return refused(Refusal(error.status_code, message, code="not_found"))
