"""Socket: the messages of one WebSocket, answered in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from starlette.websockets import WebSocketDisconnect

from featurekit.errors import FeaturekitError
from featurekit.serve.guard import client_of
from featurekit.serve.messages import Message, problems_of, refusal, status_of

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

    from featurekit.serve.guard import Rate
    from featurekit.serve.hub import Hub

MOST_ROWS = 5_000  # whose answers have not been sent: no more is read until some have been
NO_TEXT = 1003  # the code of a close


class Socket:
    """Reads messages as long as their answers are read too, and no faster than the rate allows."""

    def __init__(self, websocket: WebSocket, hub: Hub, rate: Rate) -> None:
        self._websocket, self._hub, self._rate = websocket, hub, rate
        self._client = client_of(websocket.scope)
        self._rows = 0
        self._sent = asyncio.Event()
        self._line: asyncio.Queue[tuple[asyncio.Task[bytes], int]] = asyncio.Queue()

    async def run(self) -> None:
        """Until either side is gone."""
        await self._websocket.accept()
        tasks = [asyncio.create_task(each) for each in (self._receive(), self._send())]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            error = task.exception()
            if error is not None and not isinstance(error, WebSocketDisconnect):
                raise error

    async def _receive(self) -> None:
        while True:
            received = await self._websocket.receive()
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            if text is None:
                await self._websocket.close(NO_TEXT, "a message is a text of JSON")
                return
            while (wait := self._rate.wait(self._client)) > 0.0:
                await asyncio.sleep(wait)
            message = _parsed(text)
            rows = 1
            if isinstance(message, Message):
                rows = max(len(message.bars) + len(message.fills), 1)
                self._rate.owe(self._client, rows - 1)
            while self._rows and self._rows + rows > MOST_ROWS:
                self._sent.clear()
                await self._sent.wait()
            self._rows += rows
            self._line.put_nowait((asyncio.create_task(self._answer(message)), rows))
            await asyncio.sleep(0)  # it stands in the hub's line before the next one is read

    async def _send(self) -> None:
        while True:
            answer, rows = await self._line.get()
            await self._websocket.send_text((await answer).decode())
            self._rows -= rows
            self._sent.set()

    async def _answer(self, message: Message | FeaturekitError) -> bytes:
        """The answer, or why there is none."""
        name = None
        try:
            if isinstance(message, FeaturekitError):
                raise message
            name = message.id
            answer = await self._hub.take(message)
            return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        except FeaturekitError as error:
            told: dict[str, Any] = {"id": name, "status": status_of(error), **refusal(error)}
            if told["status"] == 503:
                told["retry_after"] = getattr(error, "wait", 1.0)
            return orjson.dumps(told)


def _parsed(text: str) -> Message | FeaturekitError:
    try:
        return Message.model_validate(orjson.loads(text))
    except ValidationError as error:
        return FeaturekitError(*problems_of(error.errors(include_url=False)))
    except (orjson.JSONDecodeError, UnicodeError) as error:
        return FeaturekitError(
            *problems_of([{"type": "json_invalid", "loc": (), "msg": str(error), "input": text}])
        )
