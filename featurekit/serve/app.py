"""The routes of HTTP and WebSocket, and the OpenAPI schema that they make.

Types are read while the program runs: they are imported for that.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from featurekit import __version__
from featurekit.errors import FeaturekitError, Problem
from featurekit.serve.guard import Rate, client_of, extra_headers
from featurekit.serve.hub import Hub
from featurekit.serve.messages import (
    Answer,
    Column,
    Health,
    Message,
    Output,
    Refusal,
    RefusedError,
    Row,
    SymbolTold,
    problems_of,
    refusal,
    status_of,
)
from featurekit.serve.page import page, policy
from featurekit.serve.socket import Socket

ABOUT = """
Bars and fills in, the columns of the pipeline out: the same bits as `Pipeline.transform`.

An answered bar is on disk: a restart knows it. A bar that is sent again is answered again, if it is
one of the symbol's last ones; one that is late, or has changed, is refused. Nothing of a refused
message was taken. Bars of a portfolio that close together come in one message.

`/ws` is a WebSocket: each text it is sent is a message as of `POST /bars`, and each is answered in
order by an answer, or by `{"id", "status", "problems"}`. Where HTTP says 429, it reads on later.
"""
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "No token, or a wrong one"},
    403: {"model": Refusal, "description": "Asked by a page of another site"},
    408: {"model": Refusal, "description": "The message came too slowly"},
    413: {"model": Refusal, "description": "The message is too large"},
    421: {"model": Refusal, "description": "Asked for under another name"},
    422: {"model": Refusal, "description": "Breaks a schema, or asks for what there is none of"},
    429: {"model": Refusal, "description": "Too many bars or requests: wait for Retry-After"},
    500: {"model": Refusal, "description": "A fault of the server's, before anything was taken"},
    503: {"model": Refusal, "description": "Stopping, failed or full: wait for Retry-After"},
}
TAKEN: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "No JSON"},
    404: {"model": Refusal, "description": "There is no such symbol, or no row of it yet"},
    409: {"model": Refusal, "description": "A late or changed bar, or an id used before"},
}


def make_app(hub: Hub, rate: Rate) -> FastAPI:
    """The application; it starts and stops the hub."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        hub.start()
        try:
            yield
        finally:
            await hub.stop()

    app = FastAPI(
        title="featurekit",
        summary=f"Features of {hub.service.pipeline.name}",
        description=ABOUT,
        version=__version__,
        docs_url=None,  # its pages bring scripts from other servers
        redoc_url=None,
        responses=REFUSALS,
        lifespan=lifespan,
    )
    app.router.route_class = _Route
    app.add_exception_handler(FeaturekitError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    service = hub.service

    async def take(request: Request, message: Message) -> Response:
        # The request itself has paid for one.
        rate.owe(client_of(request.scope), max(len(message.bars) + len(message.fills) - 1, 0))
        return _json(await hub.take(message))

    @app.post("/bars", response_model=Answer, responses=TAKEN)
    async def bars(request: Request, message: Message) -> Response:
        """Takes fills and then bars; answers a row for each bar."""
        return await take(request, message)

    @app.post("/fills", response_model=Answer, responses=TAKEN)
    async def fills(request: Request, message: Message) -> Response:
        """Takes fills that the next bars may see: the same as `POST /bars`."""
        return await take(request, message)

    @app.get("/features/{symbol:path}", response_model=Row, responses={404: TAKEN[404]})
    async def features(
        symbol: str, output: Output = "features", scaled: bool = Query(default=False)
    ) -> Response:
        """The newest row of a symbol."""
        return _json(await hub.read(lambda: service.last(symbol, output, scaled)))

    @app.get("/symbols", response_model=list[SymbolTold])
    async def symbols() -> Response:
        """Where each symbol is."""
        return _json(await hub.read(service.symbols))

    @app.get("/columns", response_model=list[Column])
    async def columns() -> Response:
        """What the values of `features` are, in order."""
        return _json(
            [
                {"name": each.name, "block": each.block, "unit": each.unit}
                for each in service.pipeline.features
            ]
        )

    @app.get("/health", response_model=Health)
    async def health() -> Response:
        """Whether messages are taken; 503 if not."""
        return _json({"status": hub.state}, 200 if hub.state == "ok" else 503)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        """The monitor's counts, in the text format of Prometheus."""
        text = await hub.read(service.monitor.exposition)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/",
        response_class=Response,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    async def status() -> Response:
        """A page for people: symbols, last bars, flags."""
        text = await hub.read(lambda: page(service, hub.taken))
        headers = {"Content-Security-Policy": policy(), "Cache-Control": "no-store"}
        return Response(text, media_type="text/html; charset=utf-8", headers=headers)

    @app.websocket("/ws")
    async def socket(websocket: WebSocket) -> None:
        await Socket(websocket, hub, rate).run()

    return app


class _Json(Request):
    """A request whose JSON is that of the standard: no NaN, no half of an emoji."""

    async def json(self) -> Any:  # noqa: ANN401  # any JSON
        """The body.

        Raises:
            JSONDecodeError: when it is none.
        """
        return orjson.loads(await self.body())


class _Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(_Json(request.scope, request.receive))

        return strict


def _json(answer: object, status: int = 200, **headers: str) -> Response:
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, FeaturekitError)  # noqa: S101  # what it is registered for
    headers = {}
    if isinstance(error, RefusedError):
        headers = {k.decode(): v.decode() for k, v in extra_headers(error)}
    return _json(refusal(error), status_of(error), **headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # what it is registered for
    errors = error.errors()
    status = 400 if any(each["type"] == "json_invalid" for each in errors) else 422
    return _json(refusal(FeaturekitError(*problems_of(errors))), status)


async def _http(_: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods, bodies that cannot be read."""
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    problem = Problem(str(error.detail), fix="GET /openapi.json   # what there is")
    return _json(refusal(FeaturekitError(problem)), error.status_code, **(error.headers or {}))
