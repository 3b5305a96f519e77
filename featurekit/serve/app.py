"""The routes of HTTP and WebSocket, and the OpenAPI schema that they make.

Types are read while the program runs: they are imported for that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from featurekit import __version__
from featurekit.errors import FeaturekitError, Problem
from featurekit.serve.guard import Rate, client_of, extra_headers, too_often
from featurekit.serve.hub import Hub
from featurekit.serve.messages import (
    Answer,
    Column,
    Health,
    Message,
    Output,
    Refusal,
    Row,
    SymbolTold,
    refusal,
)
from featurekit.serve.page import page, policy
from featurekit.serve.service import RefusedError

WAITING = 1_000  # messages of one WebSocket that wait for their answers
ABOUT = """
Bars and fills in, the columns of the pipeline out: the same bits as `Pipeline.transform`.

An answered bar is on disk: a restart knows it. A bar that is sent again is answered again; one that
is late, or has changed, is refused. Nothing of a refused message was taken.

`/ws` is a WebSocket: each text it is sent is a message as of `POST /bars`, and each is answered in
order by an answer, or by `{"id", "status", "problems"}`.
"""
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": Refusal, "description": "No token, or a wrong one"},
    403: {"model": Refusal, "description": "Asked by a page of another site"},
    408: {"model": Refusal, "description": "The message came too slowly"},
    413: {"model": Refusal, "description": "The message is too large"},
    421: {"model": Refusal, "description": "Asked for under another name"},
    422: {"model": Refusal, "description": "Breaks a schema, or asks for what there is none of"},
    429: {"model": Refusal, "description": "Too many bars or requests: wait for Retry-After"},
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
    app.add_exception_handler(FeaturekitError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    service = hub.service

    async def take(request: Request, message: Message) -> Response:
        charge(client_of(request.scope), message)
        return _json(await hub.take(message))

    def charge(client: str, message: Message) -> None:
        """A request has paid for one bar."""
        more = len(message.bars) + len(message.fills) - 1
        if more > 0 and (wait := rate.wait(client, more)) > 0.0:
            raise too_often(rate.rate, wait)

    @app.post("/bars", response_model=Answer, responses=TAKEN)
    async def bars(request: Request, message: Message) -> Response:
        """Takes fills and then bars; answers a row for each bar."""
        return await take(request, message)

    @app.post("/fills", response_model=Answer, responses=TAKEN)
    async def fills(request: Request, message: Message) -> Response:
        """Takes fills that the next bars may see: the same as `POST /bars`."""
        return await take(request, message)

    @app.get("/features/{symbol}", response_model=Row, responses={404: TAKEN[404]})
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
        await websocket.accept()
        client = client_of(websocket.scope)
        waiting: asyncio.Queue[asyncio.Future[bytes] | asyncio.Task[bytes] | None]
        waiting = asyncio.Queue(WAITING)
        sender = asyncio.create_task(_send(websocket, waiting))
        try:
            while True:
                text = await websocket.receive_text()
                answer = asyncio.ensure_future(_answered(hub, rate, charge, client, text))
                await waiting.put(answer)
                await asyncio.sleep(0)  # it stands in line before the next one is read
        except (WebSocketDisconnect, KeyError):  # gone, or what it sent is no text
            pass
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    return app


async def _answered(
    hub: Hub, rate: Rate, charge: Callable[[str, Message], None], client: str, text: str
) -> bytes:
    """What a WebSocket is answered to a text; errors too are answers."""
    name = None
    try:
        if (wait := rate.wait(client)) > 0.0:
            raise too_often(rate.rate, wait)
        message = Message.model_validate_json(text)
        name = message.id
        charge(client, message)
        return orjson.dumps(await hub.take(message), option=orjson.OPT_SERIALIZE_NUMPY)
    except ValidationError as error:
        problems = [_problem(each) for each in error.errors(include_url=False)[:20]]
        told = {"status": 422, **refusal(FeaturekitError(*problems))}
    except FeaturekitError as error:
        told = {"status": _status(error), **refusal(error)}
        if _status(error) in (429, 503):
            told["retry_after"] = getattr(error, "wait", 1.0)
    return orjson.dumps({"id": name, **told})


async def _send(websocket: WebSocket, waiting: "asyncio.Queue[Any]") -> None:
    try:
        while True:
            answer = await waiting.get()
            await websocket.send_text((await answer).decode())
    except WebSocketDisconnect:
        pass  # whoever reads from it notices too
    except Exception:
        await websocket.close(1011)
        raise


def _json(answer: object, status: int = 200, **headers: str) -> Response:
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def _status(error: FeaturekitError) -> int:
    return error.status if isinstance(error, RefusedError) else 422


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, FeaturekitError)  # noqa: S101  # what it is registered for
    headers = {}
    if isinstance(error, RefusedError):
        headers = {k.decode(): v.decode() for k, v in extra_headers(error)}
    return _json(refusal(error), _status(error), **headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  # what it is registered for
    errors = error.errors()
    status = 400 if any(each["type"] == "json_invalid" for each in errors) else 422
    return _json(refusal(FeaturekitError(*map(_problem, errors[:20]))), status)


async def _http(_: Request, error: Exception) -> Response:
    """What the router refuses: unknown paths and methods, bodies that cannot be read."""
    assert isinstance(error, HTTPException)  # noqa: S101  # what it is registered for
    problem = Problem(str(error.detail), fix="GET /openapi.json   # what there is")
    return _json(refusal(FeaturekitError(problem)), error.status_code, **(error.headers or {}))


def _problem(error: Any) -> Problem:  # noqa: ANN401  # a dictionary of pydantic
    """One line of pydantic's, in the one shape that every message has."""
    if isinstance(error.get("input"), bytes):  # it was not even read
        return Problem(
            "the body is not said to be JSON",
            where="header Content-Type",
            expected="application/json",
            fix="Content-Type: application/json",
        )
    where = ".".join(str(part) for part in error["loc"] if part != "body")
    got = repr(error.get("input", ""))
    return Problem(
        str(error["msg"]),
        where=where[:200],
        got=got[:80],
        fix="GET /openapi.json   # what a message has to be",
    )
