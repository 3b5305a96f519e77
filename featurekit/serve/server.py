"""Server: a pipeline served until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from featurekit.build.base import rows_digest
from featurekit.build.parts import warmup_of
from featurekit.errors import ConfigError, Problem
from featurekit.serve.app import make_app
from featurekit.serve.guard import SLOWEST, Guard, Rate
from featurekit.serve.hub import Hub
from featurekit.serve.service import Service
from featurekit.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from featurekit.dataset import Dataset
    from featurekit.nn import TemporalEncoder
    from featurekit.pipeline import Pipeline
    from featurekit.serve.journal import Journal

LOOPBACK = ("localhost", "127.0.0.1", "::1")
CONNECTIONS = 1_000
PATIENCE = 10  # seconds that a stop waits for what is under way


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may do: bytes of a message, and bars or requests a second from one address."""

    most_bytes: int = 4 << 20
    rate: float = 20_000.0


@dataclass(frozen=True, slots=True)
class Access:
    """Where is listened, under which names, and what a client has to show.

    Raises:
        ConfigError: when others could ask without a token, and that is not `open`.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()
    token: str | None = None
    open: bool = False

    def __post_init__(self) -> None:
        if not self.local and self.token is None and not self.open:
            raise ConfigError(
                Problem(
                    "whoever reaches this address could ask",
                    where="--host",
                    expected="127.0.0.1, or a token that clients have to show",
                    got=self.host,
                    fix="--token-file token.txt   # or --open",
                )
            )

    @property
    def local(self) -> bool:
        """Whether only programs on this machine reach it."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def begin(
    pipeline: Pipeline,
    dataset: Dataset,
    journal: Journal,
    *,
    encoder: TemporalEncoder | None = None,
    window: int = 20,
    tell: Callable[[str], None] = lambda _: None,
) -> Service:
    """The service where it was left, or at the end of the dataset the first time.

    Raises:
        ConfigError: when the dataset or the state is of another pipeline or version.
        DatasetError: when the state is damaged.
    """
    mine = rows_digest(pipeline, warmup_of(pipeline))
    built = dataset.manifest.fingerprints.get("rows")
    if mine != built:
        raise ConfigError(
            Problem(
                "the dataset is of another pipeline: columns, account, targets or segments differ",
                where=str(dataset.path),
                expected=f"fingerprint {mine}",
                got=str(built),
                fix="featurekit build PIPELINE --out DATASET",
            )
        )
    snapshot = journal.snapshot()
    if snapshot is None:
        service = Service(dataset, encoder=encoder, window=window)
    else:
        service = Service.restore(snapshot, dataset, encoder=encoder, window=window)
    count = sum(service.again(one) for one in journal.records())
    if snapshot is None or count:
        journal.rotate(service.snapshot())
    if snapshot is not None:
        for note in _apart(service, dataset):
            tell(note)
        since = f", {count:,} bars after its snapshot" if count else ""
        tell(f"goes on from {journal.folder}{since}")
    return service


def _apart(service: Service, dataset: Dataset) -> Iterator[str]:
    """What a dataset has that the state has not seen."""
    ahead = Stream.from_dataset(dataset)
    mine = dict(zip(service.stream.symbols, service.stream.closes.tolist(), strict=True))
    begin = "to begin from the dataset: --state ANOTHER_DIRECTORY"
    new = [symbol for symbol in ahead.symbols if symbol not in mine]
    if new:
        yield f"note: the dataset has symbols that the state lacks, such as {new[0]}; {begin}"
    later = [
        symbol
        for symbol, close in zip(ahead.symbols, ahead.closes.tolist(), strict=True)
        if symbol in mine and close > mine[symbol]
    ]
    if later:
        yield (
            f"note: the dataset has bars that the state has not seen, of {len(later)} symbols such "
            f"as {later[0]}: send them, or {begin}"
        )


def run(
    service: Service,
    journal: Journal,
    access: Access,
    limits: Limits,
    *,
    clock: bool = True,
    ready: Callable[[str], None] = lambda _: None,
) -> bool:
    """Serves until SIGINT or SIGTERM; whether everything was saved. `ready` is told the address.

    Raises:
        ConfigError: when the address cannot be listened at.
    """
    listening = _listen(access)
    rate = Rate(limits.rate)
    hub = Hub(service, journal, clock=time.time_ns if clock else None)
    address = _url(listening)
    guard = Guard(
        make_app(hub, rate),
        # Names keep out pages that found a way to this address: with a token they cannot ask.
        hosts=None if access.open or access.token else {*LOOPBACK, access.host, *access.names},
        token=access.token,
        most_bytes=limits.most_bytes,
        rate=rate,
    )
    config = uvicorn.Config(
        guard,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=limits.most_bytes,
        ws_per_message_deflate=False,  # answers are numbers, and near
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=PATIENCE,
        server_header=False,
        proxy_headers=False,  # whoever asks could say that he is another
        http=_Http,
        lifespan="on",
    )
    server = _Server(config, lambda: ready(address))
    torch.set_num_threads(1)  # one window at a time: to share it out takes longer
    gc.collect()
    gc.freeze()  # what was imported stays: to look through it again takes a tenth of a second
    asyncio.run(server.serve(sockets=[listening]))
    return hub.saved


class _Http(H11Protocol):
    """Closes a connection over which nothing comes, from its beginning on."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            SLOWEST, self.timeout_keep_alive_handler
        )


class _Server(uvicorn.Server):
    """Says when it listens, and ends as a program that has done its work."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stops at a signal, without raising it again afterwards."""
        before = {
            number: signal.signal(number, lambda *_: setattr(self, "should_exit", True))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(access: Access) -> socket.socket:
    try:
        family = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM)[0][0]
        # Without the protocol asyncio leaves Nagle's delay on: 40 ms an answer.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((access.host, access.port))
        except OSError:
            listening.close()
            raise
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            Problem(
                "this address cannot be listened at",
                where=f"--host {access.host} --port {access.port}",
                got=str(error),
                fix="--port 0   # any that is free",
            )
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
