"""The server as its clients meet it: a process of its own, asked over HTTP and WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import polars as pl
import pytest
import schemathesis
import websockets
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from websockets.sync.client import connect

import featurekit as fk
from featurekit.cli import main
from featurekit.errors import ConfigError
from featurekit.serve.hub import Hub
from featurekit.serve.journal import Journal
from featurekit.serve.messages import Message, RefusedError
from featurekit.serve.page import page
from featurekit.serve.server import begin
from featurekit.serve.service import Service

from .test_rebuild import SYMBOLS, Desk, bars_of
from .test_service import Live, bars_json, hours

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a token that nobody guesses"  # noqa: S105  # of a test


class Place:
    """A dataset, its pipeline as a file, and what comes after it."""

    def __init__(self, root: Path) -> None:
        desk = Desk(root)
        self.live = Live(desk)
        self.dataset = self.live.dataset.path
        self.pipeline = root / "desk.yaml"
        self.pipeline.write_text(json.dumps(desk.document))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("serve"))


@contextmanager
def serving(
    place: Place, state: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [
        sys.executable, "-m", "featurekit", "serve", str(place.pipeline),
        "--dataset", str(place.dataset), "--state", str(state),
        "--port", "0", "--no-clock", *options,
    ]  # fmt: skip
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    told = []
    try:
        for line in server.stderr:
            told.append(line)
            if found := re.search(r"http://\S+", line):
                yield server, found[0]
                break
        else:
            raise AssertionError("".join(told))
    finally:
        if server.poll() is None:
            server.kill()
        server.wait()
        server.stderr.close()


@pytest.fixture(scope="module")
def url(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(place, tmp_path_factory.mktemp("state") / "s") as (_, address):
        yield address


def floats(row: Any) -> Any:  # noqa: ANN401  # JSON
    return np.array(row, np.float32)


def test_bars_and_fills_over_both_and_a_stop_between(place: Place, tmp_path: Path) -> None:
    messages = hours(place.live)
    rows: dict[str, list[Any]] = {symbol: [] for symbol in SYMBOLS}

    def keep(answer: Any) -> None:  # noqa: ANN401  # JSON
        for row in answer["rows"]:
            rows[row["symbol"]].append(floats(row["features"]))

    with serving(place, tmp_path / "state") as (server, address):
        for one in messages[:10]:
            keep(httpx.post(f"{address}/bars", json=one).raise_for_status().json())
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 0
    assert (tmp_path / "state" / "snapshot-000001").is_file()
    assert (tmp_path / "state" / "journal-000001").stat().st_size == 0
    with serving(place, tmp_path / "state") as (server, address):
        with connect(address.replace("http", "ws") + "/ws") as socket:
            for one in messages[10:]:  # all of them before the first answer
                socket.send(json.dumps(one))
            for one in messages[10:]:
                answer = json.loads(socket.recv())
                assert answer["id"] == one.get("id")
                keep(answer)
        newest = httpx.get(f"{address}/features/EUR").json()
        np.testing.assert_array_equal(floats(newest["features"]), rows["EUR"][-1])
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
    for symbol in SYMBOLS:
        np.testing.assert_array_equal(np.stack(rows[symbol]), place.live.rows[symbol])


@pytest.mark.parametrize("after", [3, 17, 41])
def test_a_killed_server_has_every_bar_that_it_answered(
    place: Place, tmp_path: Path, after: int
) -> None:
    """Killed while bars come as fast as they can, by a thread that waits for an answer or two."""
    sent = [
        {"bars": [bar], **({k: v for k, v in one.items() if k != "bars"} if not number else {})}
        for one in hours(place.live)
        for number, bar in enumerate(one["bars"])
    ]
    answered: list[Any] = []
    with serving(place, tmp_path / "state") as (server, address):
        enough = threading.Event()

        def kill() -> None:
            enough.wait(20)
            server.kill()

        killer = threading.Thread(target=kill)
        killer.start()

        async def feed() -> None:
            async with websockets.connect(address.replace("http", "ws") + "/ws") as socket:
                for one in sent:
                    await socket.send(json.dumps(one))
                async for answer in socket:
                    answered.append(json.loads(answer))
                    if len(answered) == after:
                        enough.set()

        with suppress(OSError, websockets.ConnectionClosed):
            asyncio.run(feed())
        enough.set()
        killer.join()
    assert len(answered) >= after
    with serving(place, tmp_path / "state") as (_, address):
        rows: dict[str, list[Any]] = {symbol: [] for symbol in SYMBOLS}
        for number, one in enumerate(sent):  # again from the beginning: taken once
            answer = httpx.post(f"{address}/bars", json=one).raise_for_status().json()
            (row,) = answer["rows"]
            if number < len(answered):
                assert row["repeated"]
                assert row["features"] == answered[number]["rows"][0]["features"]
            rows[row["symbol"]].append(floats(row["features"]))
    for symbol in SYMBOLS:
        np.testing.assert_array_equal(np.stack(rows[symbol]), place.live.rows[symbol])


def test_what_can_be_asked(place: Place, url: str) -> None:
    with httpx.Client(base_url=url) as client:
        assert client.get("/health").json() == {"status": "ok"}
        names = [column["name"] for column in client.get("/columns").json()]
        assert tuple(names) == place.live.names
        told = {each["symbol"]: each for each in client.get("/symbols").json()}
        assert set(told) == set(SYMBOLS)
        assert all(each["ready"] and not each["stale"] for each in told.values())
        natural, scaled = (
            floats(client.get("/features/EUR", params={"scaled": flag}).json()["features"])
            for flag in (False, True)
        )
        scaling = place.live.dataset.scaling
        assert scaling is not None
        np.testing.assert_array_equal(scaled, scaling.apply(natural[None])[0])
        metrics = client.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "featurekit_rows_total" in metrics.text
        policy = client.get("/").headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


LARGE = json.dumps({"bars": [], "id": "x" * (5 << 20)})
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("POST", "/bars", {"content": b"{", "headers": JSON}, 400),
        ("POST", "/bars", {"content": b'{"bars": []}'}, 422),
        ("POST", "/bars", {"content": b"\xff\xfe", "headers": JSON}, 400),
        ("POST", "/bars", {"json": {"bars": [{"symbol": "EUR"}]}}, 422),
        ("POST", "/bars", {"json": {"bar": []}}, 422),
        ("POST", "/bars", {"content": b'{"id": "\\ud800"}', "headers": JSON}, 400),
        ("POST", "/bars", {"content": b'{"bars": [{"open": NaN}]}', "headers": JSON}, 400),
        ("GET", "/features/BTC%2FUSDT", {}, 404),
        ("POST", "/bars", {"content": LARGE, "headers": JSON}, 413),
        ("POST", "/bars", {"content": iter([LARGE.encode()]), "headers": JSON}, 413),
        ("GET", "/features/GBP", {}, 404),
        ("GET", "/features/EUR?output=encoder", {}, 422),
        ("GET", "/features/EUR?output=all", {}, 422),
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/bars", {}, 405),
        ("GET", "/health", {"headers": {"host": "evil.example"}}, 421),
        ("GET", "/health", {"headers": {"host": "["}}, 421),
        ("POST", "/bars", {"json": {}, "headers": {"origin": "https://evil.example"}}, 403),
    ],
)
def test_what_is_refused_says_how_to_ask(
    url: str, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    answer = httpx.request(method, url + path, **options)
    assert answer.status_code == status, answer.text
    problems = answer.json()["problems"]
    assert problems
    assert all(problem["what"] and problem["fix"] for problem in problems)


def test_a_websocket_is_told_what_is_wrong_and_goes_on(url: str) -> None:
    with connect(url.replace("http", "ws") + "/ws") as socket:
        for text, status in (
            ("{", 422),
            ('{"id": "\\ud800"}', 422),
            ('{"bars": [{"symbol": "EUR"}]}', 422),
            ('{"id": "7", "bars": [], "output": "encoder"}', 422),
            ('{"fills": [{"time": 1, "side": "deposit", "quantity": 1}]}', 422),
        ):
            socket.send(text)
            answer = json.loads(socket.recv())
            assert answer["status"] == status
            assert answer["problems"]
        socket.send('{"id": "8"}')
        assert json.loads(socket.recv()) == {"id": "8", "rows": [], "flags": []}
        with suppress(websockets.ConnectionClosed):
            socket.send(LARGE)
        with pytest.raises(websockets.ConnectionClosed):
            socket.recv()
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(url.replace("http", "ws") + "/ws", origin="https://evil.example")  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_who_asks_too_often_is_told_to_wait(place: Place, tmp_path: Path) -> None:
    bars = bars_json(place.live.bars)[:3]
    with serving(place, tmp_path / "state", "--rate", "5") as (_, address):
        for number in range(3):  # who says that he is another is the same
            many = {"bars": bars_json(place.live.bars)[3:12]}
            headers = {"x-forwarded-for": f"203.0.113.{number}"}
            answer = httpx.post(f"{address}/bars", json=many, headers=headers)
            assert answer.status_code == (429 if number else 200)  # on credit
        time.sleep(int(answer.headers["retry-after"]))
        with connect(address.replace("http", "ws") + "/ws", open_timeout=30) as socket:
            begin = time.monotonic()
            for _ in range(12):
                socket.send('{"bars": []}')
            answers = [json.loads(socket.recv()) for _ in range(12)]
            assert all("rows" in each for each in answers)  # it waits: none is left out
            assert time.monotonic() - begin > 1.0
        answers = [httpx.post(f"{address}/bars", json={"bars": [bar]}) for bar in bars * 3]
    refused = [each for each in answers if each.status_code == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1
    assert "--rate" in refused[0].json()["problems"][0]["fix"]


def test_a_client_that_does_not_read_is_not_read_from(place: Place, tmp_path: Path) -> None:
    """What it has not read is not made: memory stays where it was."""
    bar = bars_json(place.live.bars)[0]
    many = json.dumps({"bars": [bar] * 500})
    with serving(place, tmp_path / "state", "--rate", "1e9") as (server, address):
        status = Path(f"/proc/{server.pid}/status")
        httpx.post(f"{address}/bars", json={"bars": [bar]}).raise_for_status()
        before = _memory(status)
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, address, many])
        time.sleep(5.0)
        assert httpx.get(f"{address}/health").json() == {"status": "ok"}
        assert _memory(status) - before < 150
        assert flood.poll() is None
        flood.kill()
        flood.wait()
        server.send_signal(signal.SIGTERM)
        assert server.wait(5) == 0


FLOOD = """
import sys
from websockets.sync.client import connect
with connect(sys.argv[1].replace("http", "ws") + "/ws", max_queue=1) as socket:
    while True:
        socket.send(sys.argv[2])
"""


def _memory(status: Path) -> float:
    return int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024


def test_a_stop_that_cannot_save_says_so(place: Place, tmp_path: Path) -> None:
    with serving(place, tmp_path / "state") as (server, address):
        httpx.post(f"{address}/bars", json=hours(place.live)[0]).raise_for_status()
        shutil.rmtree(tmp_path / "state")
        server.send_signal(signal.SIGTERM)
        assert server.wait(20) == 1


def test_a_state_that_is_behind_its_dataset_is_told(place: Place, tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk")
    pipeline, journal = desk.pipeline(), Journal(tmp_path / "state")
    begin(pipeline, desk.build().dataset, journal)
    journal.close()
    desk.bars = {symbol: bars_of(symbol, bars.height + 5) for symbol, bars in desk.bars.items()}
    journal, notes = Journal(tmp_path / "state"), []
    begin(pipeline, desk.build().dataset, journal, tell=notes.append)
    journal.close()
    assert any("has bars that the state has not seen, of 3 symbols" in note for note in notes)


def test_a_token_is_asked_for(place: Place, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    password = base64.b64encode(f"me:{TOKEN}".encode()).decode()
    with serving(place, tmp_path / "s", "--token-file", str(tmp_path / "token")) as (_, address):
        for header, status in (
            ({}, 401),
            ({"authorization": "Bearer wrong"}, 401),
            ({"authorization": "Basic %%%"}, 401),
            ({"authorization": f"Bearer {TOKEN}"}, 200),
            ({"authorization": f"Basic {password}"}, 200),
        ):
            answer = httpx.get(f"{address}/symbols", headers=header)
            assert answer.status_code == status
        assert answer.headers.get("www-authenticate") is None
        with pytest.raises(websockets.InvalidStatus):
            connect(address.replace("http", "ws") + "/ws")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "whoever reaches this address could ask"),  # noqa: S104
        (["--token-file", "short"], "this is no token"),
        (["--host", "203.0.113.7", "--open"], "cannot be listened at"),
        (["--encoder", "short"], "encoder"),
        (["--state", "."], "this is no state directory"),
    ],
)
def test_mistakes_are_told_before_anything_is_served(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("123")
    named = [str(place.pipeline), "--dataset", str(place.dataset), "--state", "state"]
    found = CliRunner().invoke(main, ["serve", *named, *options])
    assert found.exit_code == 2
    assert message in found.output
    assert "Fix: " in found.output
    assert "Traceback" not in found.output


@pytest.mark.parametrize("library", ["fastapi", "uvicorn", "websockets", "orjson"])
def test_without_the_extra_its_name_is_told(place: Place, library: str) -> None:
    command = ["serve", str(place.pipeline), "--dataset", str(place.dataset)]
    code = f"import sys; sys.modules[{library!r}] = None; from featurekit.cli import main; "
    found = subprocess.run(
        [sys.executable, "-c", f"{code}main({command})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert 'Fix: pip install "featurekit[serve]"' in found.stderr
    assert library in found.stderr


def test_a_dataset_or_state_of_another_pipeline_is_refused(place: Place, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other", blocks=[{"market": {}}])
    dataset = other.build().dataset
    journal = Journal(tmp_path / "state")
    with pytest.raises(ConfigError, match="the dataset is of another pipeline"):
        begin(fk.Pipeline.from_yaml(place.pipeline), dataset, journal)
    begin(fk.Pipeline.from_yaml(place.pipeline), place.live.dataset, journal)
    journal.close()
    journal = Journal(tmp_path / "state")
    with pytest.raises(ConfigError, match="the state is of another pipeline"):
        begin(fk.Pipeline.from_yaml(dataset.manifest.pipeline), dataset, journal)
    journal.close()


def test_a_full_disk_stops_the_server_and_loses_nothing(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    messages = [Message.model_validate_json(json.dumps(one)) for one in hours(place.live)]
    pipeline = fk.Pipeline.from_yaml(place.pipeline)

    async def first() -> None:
        journal = Journal(tmp_path / "state")
        hub = Hub(begin(pipeline, place.live.dataset, journal), journal)
        hub.start()
        await hub.take(messages[0])

        def full(_: int, data: Any) -> int:  # noqa: ANN401  # a buffer
            raise OSError(28, f"No space left on device for {len(data)} bytes")

        monkeypatch.setattr("featurekit.serve.journal.os.write", full)
        for one in (messages[1], messages[2]):
            with pytest.raises(RefusedError, match="has failed") as refused:
                await hub.take(one)
            assert refused.value.status == 503
        assert hub.state == "failed"
        await hub.stop()
        monkeypatch.undo()

    asyncio.run(first())
    assert "No space left" in capsys.readouterr().err

    async def second() -> None:
        journal = Journal(tmp_path / "state")
        hub = Hub(begin(pipeline, place.live.dataset, journal), journal)
        hub.start()
        answers = [await hub.take(one) for one in messages]
        assert [row["repeated"] for row in answers[0]["rows"]] == [True] * len(messages[0].bars)
        assert not any(row["repeated"] for each in answers[1:] for row in each["rows"])
        await hub.stop()

    asyncio.run(second())


def test_the_page_shows_flags_and_escapes_names(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    evil = "<img src=x onerror=alert(1)>"
    desk.bars = {
        evil if symbol == "EUR" else symbol: bars.with_columns(
            symbol=pl.when(pl.col("symbol") == "EUR").then(pl.lit(evil)).otherwise("symbol")
        )
        for symbol, bars in desk.bars.items()
    }
    desk.fills = {evil: pl.DataFrame(schema=_fills_schema()), "AUD": _none(), "JPY": _none()}
    service = Service(desk.build().dataset)
    bar = {"symbol": evil, "time": "2030-01-01T00:00:00Z", "open": 900.0, "high": 900.0,
           "low": 900.0, "close": 900.0, "volume": 1.0}  # fmt: skip
    service.take(Message.model_validate_json(json.dumps({"bars": [bar]})))
    text = page(service, 1)
    assert evil not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert 'class="fail"' in text
    assert "2030-01-01 00:00:00" in text


def _fills_schema() -> dict[str, Any]:
    text, number = pl.String(), pl.Float64()
    kinds = {"time": pl.Datetime("ns", "UTC"), "symbol": text, "side": text}
    return {**kinds, "quantity": number, "price": number, "fee": number}


def _none() -> pl.DataFrame:
    return pl.DataFrame(schema=_fills_schema())


# --- fuzzed from its own OpenAPI ---------------------------------------------------------------

OPERATIONS = [
    ("POST", "/bars"),
    ("POST", "/fills"),
    ("GET", "/features/{symbol}"),
    ("GET", "/symbols"),
    ("GET", "/columns"),
    ("GET", "/health"),
    ("GET", "/metrics"),
    ("GET", "/"),
]
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


@pytest.fixture(scope="module")
def api(url: str) -> Any:  # noqa: ANN401  # a schema
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def test_every_operation_is_fuzzed(api: Any) -> None:  # noqa: ANN401  # a schema
    found = [result.ok() for result in api.get_all_operations()]
    assert sorted((each.method.upper(), each.path) for each in found) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_whatever_is_sent_is_answered_as_its_schema_says(
    api: Any,  # noqa: ANN401  # a schema
    url: str,
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    operation = api[path][method]
    if mode.is_negative and not operation.body and not list(operation.iter_parameters()):
        pytest.skip("nothing in it can be wrong")

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:  # noqa: ANN401  # a request
        # A schema of JSON does not say that high is not below low.
        case.call_and_validate(timeout=20, excluded_checks=[positive_data_acceptance])

    ask()
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
