"""Guard: who may ask, how much and how often, before anything is read."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import math
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from featurekit.errors import Problem
from featurekit.serve.messages import RefusedError, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENTS = 10_000  # whose rates are known
SLOWEST = 10.0  # seconds that a body may take


class Rate:
    """A bucket of tokens for each client, which fills up at `rate` a second, to a second's worth.

    Example:
        >>> now = [0.0]
        >>> rate = Rate(10.0, clock=lambda: now[0])
        >>> rate.wait("a"), rate.owe("a", 19), rate.wait("a"), rate.wait("b")
        (0.0, None, 1.1, 0.0)
        >>> now[0] = 1.1
        >>> rate.wait("a")
        0.0
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Takes a token, or says for how many seconds to wait for one."""
        left = self._left(client)
        enough = left >= 1.0
        self._keep(client, left - enough)
        return 0.0 if enough else (1.0 - left) / self.rate

    def owe(self, client: str, tokens: float) -> None:
        """Takes more than one, on credit: what comes next waits until they are paid off."""
        self._keep(client, self._left(client) - tokens)

    def _left(self, client: str) -> float:
        left, then = self._buckets.get(client, (self.rate, self._clock()))
        return min(left + (self._clock() - then) * self.rate, self.rate)

    def _keep(self, client: str, left: float) -> None:
        self._buckets[client] = (left, self._clock())
        self._buckets.move_to_end(client)
        if len(self._buckets) > CLIENTS:
            self._buckets.popitem(last=False)


class Guard:
    """ASGI: refuses other hosts and sites, wrong tokens, large bodies and too many requests.

    Args:
        hosts: Names under which this server may be asked; None for any.
        token: What a client has to show, if anything.
        most_bytes: Of a body.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str] | None,
        token: str | None,
        most_bytes: int,
        rate: Rate,
    ) -> None:
        self.app, self.token, self.most_bytes, self.rate = app, token, most_bytes, rate
        self.hosts = None if hosts is None else {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, with all of its body, or refuses it."""
        try:
            if scope["type"] in ("http", "websocket"):
                self._check(scope)
            if scope["type"] == "http":
                receive = await self._read(receive)
        except RefusedError as error:
            await _refuse(scope, receive, send, error)
            return
        await self.app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = _host(headers.get(b"host", b"").decode("latin-1"))
        if self.hosts is not None and host not in self.hosts:
            raise RefusedError(
                421,
                Problem(
                    "this server is not asked for under that name",
                    where="header Host",
                    expected=", ".join(sorted(self.hosts)),
                    got=host[:80],
                    fix="--allow-host NAME",
                ),
            )
        origin = headers.get(b"origin")
        if origin is not None and not _same(origin.decode("latin-1"), headers.get(b"host", b"")):
            raise RefusedError(
                403,
                Problem(
                    "pages of other sites may not ask this server",
                    where="header Origin",
                    expected="none, or this server",
                    got=origin.decode("latin-1")[:80],
                    fix="ask from a program, or from a page of this server",
                ),
            )
        if self.token is not None and not _shows(headers.get(b"authorization"), self.token):
            raise RefusedError(
                401,
                Problem(
                    "no token, or a wrong one",
                    where="header Authorization",
                    expected="Bearer and the token",
                    fix="Authorization: Bearer TOKEN",
                ),
            )
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self.most_bytes:
            raise _too_large(self.most_bytes)
        # A socket that is open waits by itself.
        if (wait := self.rate.wait(client_of(scope))) > 0.0:
            raise _too_often(self.rate.rate, wait)

    async def _read(self, receive: Receive) -> Receive:
        """The body as one message.

        Raises:
            RefusedError: when it is too large, or comes too slowly.
        """
        parts: list[Message] = []
        size = 0
        until = time.monotonic() + SLOWEST
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(until - time.monotonic(), 0.0))
            except asyncio.TimeoutError:
                raise _too_slow() from None
            parts.append(message)
            size += len(message.get("body", b""))
            if size > self.most_bytes:
                raise _too_large(self.most_bytes)
            if not message.get("more_body", False):
                break
        if parts[-1]["type"] == "http.request":
            body = b"".join(part["body"] for part in parts)
            parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return parts.pop(0) if parts else await receive()

        return again


def client_of(scope: Any) -> str:  # noqa: ANN401  # a scope of ASGI
    """Whose rate it is: the address."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _too_often(rate: float, wait: float) -> RefusedError:
    return RefusedError(
        429,
        Problem(
            "too many bars or requests",
            expected=f"at most {rate:,.0f} a second from one address",
            got="more",
            fix="wait for as long as Retry-After says, or --rate N",
        ),
        wait=wait,
    )


def _too_large(most: int) -> RefusedError:
    return RefusedError(
        413,
        Problem(
            "the message is too large",
            expected=f"at most {most:,} bytes",
            fix="send fewer bars at a time",
        ),
    )


def _too_slow() -> RefusedError:
    return RefusedError(
        408,
        Problem(
            "the message did not come in time",
            expected=f"all of it within {SLOWEST:g} s",
            fix="send fewer bars at a time",
        ),
    )


async def _refuse(scope: Scope, receive: Receive, send: Send, error: RefusedError) -> None:
    body = orjson.dumps(refusal(error))
    headers = [(b"content-type", b"application/json"), *extra_headers(error)]
    kind = "http.response"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in scope.get("extensions", {}):
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    length = (b"content-length", str(len(body)).encode())
    await send({"type": f"{kind}.start", "status": error.status, "headers": [*headers, length]})
    await send({"type": f"{kind}.body", "body": body})


def extra_headers(error: RefusedError) -> list[tuple[bytes, bytes]]:
    """What a status of HTTP has to say besides."""
    if error.status == 401:
        return [(b"www-authenticate", b'Basic realm="featurekit"')]
    if error.status in (429, 503):
        return [(b"retry-after", str(max(1, math.ceil(error.wait))).encode())]
    return []


def _host(text: str) -> str:
    """The name in a Host header, without the port.

    Example:
        >>> _host("LocalHost:8765"), _host("[::1]:8765")
        ('localhost', '::1')
    """
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""


def _same(origin: str, host: bytes) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.decode("latin-1").lower()
    except ValueError:
        return False


def _shows(authorization: bytes | None, token: str) -> bool:
    """Whether a header has the token: as a bearer's, or as a password, which browsers ask for."""
    kind, _, value = (authorization or b"").partition(b" ")
    if kind.lower() == b"basic":
        try:
            value = base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif kind.lower() != b"bearer":
        return False
    return hmac.compare_digest(value.strip(), token.encode())
