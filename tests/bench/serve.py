"""What a server sustains on loopback: bars a second, and how long each waits for its answer.

    python tests/bench/serve.py [--seconds 300] [--rate 2000]

A process of its own serves the 129 columns of 100 symbols; this one is its client. Over WebSocket
each bar is a message of its own, sent when it is due whether or not others are answered: a wait
counts from when it was due. Over HTTP a request has the next bar of 50 symbols. Afterwards the
server is killed, started again, and asked where each symbol is. Bars are simulated: random walks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ[name] = "1"
# profile.py beside this file is not Python's, which others import.
sys.path = [each for each in sys.path if Path(each).resolve() != Path(__file__).resolve().parent]

import httpx
import numpy as np
import polars as pl
import websockets

import featurekit as fk

SYMBOLS, HISTORY = 100, 1_500
MINUTE = 60_000_000_000
BEGIN = 28_000_000 * MINUTE
P99 = 20.0  # ms


class Feed:
    """Bars of all symbols, minute by minute, as JSON."""

    def __init__(self) -> None:
        self.names = [f"S{k:03d}" for k in range(SYMBOLS)]
        self.random = np.random.default_rng(0)
        self.close = np.ones(SYMBOLS)
        self.minute = 0

    def next(self) -> list[dict[str, Any]]:
        begin, self.close = self.close, self.close * np.exp(self.random.normal(0, 1e-3, SYMBOLS))
        stamp = BEGIN + self.minute * MINUTE
        self.minute += 1
        high, low = np.maximum(begin, self.close) * 1.0005, np.minimum(begin, self.close) * 0.9995
        volume = self.random.lognormal(5, 1, SYMBOLS)
        columns = (begin.tolist(), high.tolist(), low.tolist(), self.close.tolist())
        return [
            {"symbol": s, "time": stamp, "open": o, "high": h, "low": lo, "close": c, "volume": v}
            for s, o, h, lo, c, v in zip(self.names, *columns, volume.tolist(), strict=True)
        ]


def dataset(folder: Path, feed: Feed) -> Path:
    table = pl.DataFrame([bar for _ in range(HISTORY) for bar in feed.next()])
    time_ = pl.col("time").cast(pl.Datetime("ns", "UTC"))
    table.with_columns(time_).sort("symbol", "time").write_parquet(folder / "bars.parquet")
    pipeline = folder / "served.yaml"
    pipeline.write_text(
        f"name: served\nbars: {{path: {folder / 'bars.parquet'}, bar: 1m, timezone: UTC}}\n"
        "blocks: [market: {}, position: {}, indicator: {}]\nsegments: {max_gap: 4d}\n"
    )
    fk.Pipeline.from_yaml(pipeline).build(folder / "dataset")
    return pipeline


def serve(pipeline: Path, folder: Path) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable, "-m", "featurekit", "serve", str(pipeline),
        "--dataset", str(folder / "dataset"), "--port", "0", "--no-clock",
    ]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if "http://" in line:
            return server, line.split("at ")[1].split()[0]
    raise RuntimeError("the server did not start")


async def over_websocket(url: str, feed: Feed, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each bar was due to its answer."""
    waits: list[float] = []
    due: list[float] = []
    count = int(rate * seconds)
    async with websockets.connect(
        url.replace("http", "ws") + "/ws", compression=None, max_size=None
    ) as socket:

        async def receive() -> None:
            for _ in range(count):
                answer = await socket.recv()
                waits.append((time.perf_counter() - due[len(waits)]) * 1e3)
                if '"features"' not in answer:
                    raise RuntimeError(str(answer)[:500])

        receiver = asyncio.create_task(receive())
        begin, sent = time.perf_counter() + 0.05, 0
        bars: list[dict[str, Any]] = []
        while sent < count:
            if receiver.done():
                break
            now = time.perf_counter()
            while sent < count and begin + sent / rate <= now:
                if not bars:
                    bars = feed.next()[::-1]
                due.append(begin + sent / rate)
                await socket.send(json.dumps({"bars": [bars.pop()]}))
                sent += 1
            await asyncio.sleep(max(begin + sent / rate - time.perf_counter(), 0.0))
        await receiver
    for bar in reversed(bars):  # the rest of the minute
        httpx.post(f"{url}/bars", json={"bars": [bar]}).raise_for_status()
    return waits


def over_http(url: str, feed: Feed, rate: float, seconds: float) -> list[float]:
    """Milliseconds from when each request was due to its answer; each has 50 bars."""
    waits = []
    with httpx.Client(base_url=url) as client:
        client.get("/health")  # connected
        begin, sent = time.perf_counter() + 0.05, 0
        while sent < rate * seconds:
            bars = feed.next()
            for half in (bars[:50], bars[50:]):
                due = begin + sent / rate
                time.sleep(max(due - time.perf_counter(), 0.0))
                client.post("/bars", json={"bars": half}).raise_for_status()
                waits.append((time.perf_counter() - due) * 1e3)
                sent += 50
    return waits


def told(kind: str, waits: list[float], bars: int, taken: float) -> bool:
    p50, p99, worst = np.percentile(waits, [50, 99, 100])
    print(
        f"{kind}: {bars:,} bars in {taken:.0f} s, {bars / taken:,.0f} bars/s, "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms (at most {P99:.0f}), slowest {worst:.0f} ms"
    )
    return bool(p99 < P99)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--rate", type=float, default=2_000.0)
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory() as name:
        folder, feed = Path(name), Feed()
        pipeline = dataset(folder, feed)
        server, url = serve(pipeline, folder)
        begin = time.perf_counter()
        waits = asyncio.run(over_websocket(url, feed, options.rate, options.seconds))
        good = told("WebSocket", waits, len(waits), time.perf_counter() - begin)
        begin = time.perf_counter()
        waits = over_http(url, feed, options.rate, options.seconds / 10)
        good &= told("HTTP, 50 a request", waits, 50 * len(waits), time.perf_counter() - begin)
        memory = int(Path(f"/proc/{server.pid}/status").read_text().split("VmRSS:")[1].split()[0])
        server.send_signal(signal.SIGKILL)
        server.wait()
        begin = time.perf_counter()
        server, url = serve(pipeline, folder)
        taken = time.perf_counter() - begin
        newest = httpx.get(f"{url}/symbols").json()
        last = np.datetime64(BEGIN + (feed.minute - 1) * MINUTE, "ns").astype("M8[s]")
        behind = sum(each["time"] != f"{last}Z" for each in newest)
        print(f"killed at {memory / 1024:,.0f} MB; answers again after {taken:.1f} s, "
              f"{behind} of {len(newest)} symbols behind (at most 0)")  # fmt: skip
        server.terminate()
        server.wait()
    return int(not good or behind > 0)


if __name__ == "__main__":
    sys.exit(main())
