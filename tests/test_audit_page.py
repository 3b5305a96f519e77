"""report.html: readable without JavaScript, safe with any name, and working in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from featurekit.audit.html import to_html
from tests.golden.audit_document import Document, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHIFT = 8  # as the browser's protocol numbers the keys that are held
TABS = ("map", "checks", "slices", "time", "table")
HOSTILE = [
    "<script>window.hacked=1</script>",
    "</script><img src=x onerror=window.hacked=1>",
    "<!--<script>",
    "]]>--></style></title></textarea>",
    "\"' onmouseover=window.hacked=1 x='",
    "{{document}}{{script}} ${window.hacked=1} `",
    "🚀 naïve\n\tline\u2028two\u2029three\0four",
    "\ud83d half an emoji",
    "\u202eright to left",
    "=HYPERLINK('http://example.org')",
    "a|b`c*d_e",
    "__proto__",
    "constructor",
    "",
    "x" * 2_000,
]


@pytest.fixture(scope="module")
def made() -> Document:
    return document()


@pytest.fixture(scope="module")
def page(made: Document) -> str:
    return to_html(made)


def embedded(page: str) -> Document:
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.S)
    assert found
    read: Document = json.loads(found[1])
    return read


def text_of(page: str) -> str:
    """What a reader without JavaScript sees, tags taken away."""
    body = re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


# ---- The text of the file


def test_verdict_and_every_finding_are_text(made: Document, page: str) -> None:
    text = text_of(page)
    assert "featurekit scale audit" in text
    assert "FAIL eurusd" in text
    assert made["sentence"] in text
    assert "6,198 rows x 129 features" in text
    assert "2023-01-02 to 2023-12-29" in text
    assert "standard + asinh + layer_norm" in text
    for finding in [*made["findings"], *made["repaired"], *made["waived"]]:
        place = finding["feature"] or finding["block"] or "all features"
        assert f"{place} {finding['metric']} " in text
        assert finding["why"] in text
    assert made["repaired"][0]["repaired_by"] in text
    assert made["waived"][0]["reason"] in text
    assert made["notes"][0] in text


@pytest.mark.parametrize("verdict", ["pass", "warn", "fail"])
def test_the_verdict_is_a_word_of_its_own(verdict: str) -> None:
    assert f"{verdict.upper()} eurusd" in text_of(to_html(document(12, verdict=verdict)))


def test_statistics_and_blocks_are_text(made: Document, page: str) -> None:
    text = text_of(page)
    for view in made["model"]:
        for statistic in view["statistics"]:
            assert statistic["metric"] in text
    for block in made["blocks"]:
        assert block["block"] in text
        for view in block["shares"]:
            assert view in text


def test_only_what_is_hashed_is_run(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = html.unescape(policy[1])
    assert rules.startswith("default-src 'none'")
    assert "unsafe" not in rules
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in rules


def test_nothing_is_fetched(page: str) -> None:
    rest = page.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|\bfetch\(|XMLHttp|WebSocket", rest)
    assert not re.search(r"""\bsrc=["'](?!x )|\bstyle=["']""", rest.split("<script>")[0])
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(", rest)


def test_hostile_names_stay_text() -> None:
    made = document(40, names=HOSTILE)
    for finding in made["findings"]:
        finding.update(why=HOSTILE[1], fix=HOSTILE[0], slice=HOSTILE[4], metric=HOSTILE[2])
    made["subject"]["name"] = made["sentence"] = HOSTILE[1]
    page = to_html(made)
    assert page.encode("utf-8")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert page.count("<!--") == 0
    assert "<img" not in page
    assert page.count("{{script}}") <= 4 * len(made["repaired"])  # left as it was, never filled
    names = [each["name"] for each in embedded(page)["features"]]
    assert names[:7] == HOSTILE[:7]
    assert names[8:15] == HOSTILE[8:15]


def test_what_is_not_finite_is_null() -> None:
    made = document(3)
    made["features"][0]["stats"].update(mean=float("nan"), max=float("inf"))
    stats = embedded(to_html(made))["features"][0]["stats"]
    assert (stats["mean"], stats["max"]) == (None, None)


def test_unknown_values_and_missing_parts_are_no_error() -> None:
    assert "PASS" in to_html({})
    made = document(3)
    for key in ("effective", "judged", "counts", "peeled", "blocks", "model", "reference", "notes"):
        made[key] = None
    for finding in made["findings"]:
        finding.update(value=None, limit=None, margin=None)
    assert "FAIL" in to_html(made)


def without_values() -> Document:
    """A document whose first feature has no finite value, of as little as the audit says of it."""
    made = document(3)
    feature = made["features"][0]
    feature["histogram"] = {"edges": [], "counts": []}
    feature["stats"] = dict.fromkeys(feature["stats"]) | {"count": 0.0, "nan": 1.0, "zeros": 0.0}
    for values in (feature, feature["scaled"]):
        for key in ("quantiles", "abs_quantiles"):
            values[key] = [None] * len(made["probabilities"])
    feature["time"] = [None] * len(feature["time"])
    return made


@pytest.mark.parametrize("redact", [False, True])
def test_a_feature_without_values_has_a_page(redact: bool) -> None:
    feature = embedded(to_html(without_values(), redact=redact))["features"][0]
    assert feature["histogram"] == {"edges": [], "counts": []}
    assert set(feature["quantiles"]) == {None}


def histograms(made: Document) -> list[Document]:
    holders = [each[key] for each in (dict(f, own=f) for f in made["features"])
               for key in ("own", "reference")]  # fmt: skip
    return [holder["histogram"] for holder in holders if holder]


def test_edges_increase(made: Document, page: str) -> None:
    made = json.loads(json.dumps(made))
    made["features"][0]["histogram"] = {
        "edges": [-1e38, -2.0, -1.2e-38, 0.0, 1.2e-38, 1.00001, 1.00002, 980_000.0, 3.4e38],
        "counts": [1] * 8,
    }
    told = histograms(embedded(to_html(made)))
    assert len(told) > 200
    for exact, drawn in zip(histograms(made), told, strict=True):
        assert drawn["counts"] == exact["counts"]
        assert all(low < high for low, high in pairwise(drawn["edges"]))
        assert drawn["edges"] == pytest.approx(exact["edges"], rel=0.0051)
    assert histograms(embedded(page))[1:] == told[1:]


def test_the_limits_of_a_feature_are_its_own() -> None:
    made = document(4)
    first, second, third, _ = (each["checks"] for each in made["features"])
    first["zeros"].update(warn=0.7, fail=None)
    del second["zeros"]["warn"], second["zeros"]["fail"]  # of an older audit
    third["of its own"] = {"value": 1.0, "level": 0.5, "severity": "", "warn": 2.0, "fail": 3.0}
    told = embedded(to_html(made))
    metrics = [each["metric"] for each in told["checks"]]
    zeros, own = metrics.index("zeros"), metrics.index("of its own")
    assert [each["checks"][zeros][3:] for each in told["features"]] == [[0.7, None], [], [], []]
    assert told["features"][2]["checks"][own][3:] == [2.0, 3.0]
    assert sum(len(check or ()) > 3 for each in told["features"] for check in each["checks"]) == 2


def marked() -> Document:
    """A document whose every extreme is a number that stands nowhere else."""
    made = document(20)
    number = iter(range(7_000, 10_000))

    def extreme() -> float:
        return next(number) * 1e9

    for feature in made["features"]:
        feature["stats"].update(min=-extreme(), max=extreme())
        for holder in (feature, feature["scaled"], feature["reference"]):
            for key in ("quantiles", "abs_quantiles"):
                if holder and holder[key]:
                    for at in (0, 1, -2, -1):
                        holder[key][at] = extreme()
            if holder and "histogram" in holder:
                edges = holder["histogram"]["edges"]
                edges[0], edges[-1] = -extreme(), extreme()
    return made


def test_redacted_pages_hold_no_extreme() -> None:
    extreme = re.compile(r"[789]\.?\d{3}(?:0{9}|e.?12)")
    plain, redacted = to_html(marked()), to_html(marked(), redact=True)
    data = json.dumps(embedded(redacted)["features"])
    assert len(extreme.findall(json.dumps(embedded(plain)["features"]))) > 200
    assert not extreme.findall(data)
    assert not extreme.findall(text_of(redacted))
    assert '"min"' not in data
    assert embedded(redacted)["probabilities"] == [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]


EXTREMES = (987_654.0, -1_234_567.0)
NOTATIONS = (
    "987654", "987,654", "9.877e+05", "9.877e5", "987700", "988000", "980000", "990000", "9,880x",
    "1234567", "1,234,567", "1.235e+06", "1.235e6", "1234570", "1235000", "1230000", "1300000",
)  # fmt: skip


def planted() -> Document:
    """A document of two extremes that are in every feature and in what is said of one."""
    made = document(extremes=EXTREMES)
    made["features"] = [each for each in made["features"] if each["stats"]["scale"] < 1e5]
    name = made["features"][0]["name"]
    of = {
        "expected range": (100.0, "audit: {expect: {x: {range: [-1300000.0, 990000.0]}}}"),
        "expected constant": (EXTREMES[1], "audit: {expect: {x: {constant: false}}}"),
    }
    for key, metric in (("findings", "expected range"), ("repaired", "expected constant"),
                        ("waived", "expected range")):  # fmt: skip
        limit, fix = of[metric]
        made[key].insert(0, {
            "severity": "fail", "metric": metric, "feature": name, "block": "market",
            "slice": "", "value": EXTREMES[0], "limit": limit, "margin": 9876.54,
            "why": "the contract says so", "fix": fix, "command": "featurekit audit x",
            "repaired_by": "", "reason": "known", "until": "",
        })  # fmt: skip
    made["sentence"] = f"{name}: expected range 9.877e+05 > 100; the contract says so; 4 of 9."
    made["features"][0]["contract"] = {"expect": {"range": [-5, 100]}, "broken": ["range"]}
    return made


def numbers(told: Any) -> Iterator[float]:  # noqa: ANN401  # any JSON
    """Magnitudes of what is told of values; a check is a ratio or a share."""
    if isinstance(told, float):
        yield abs(told)
    elif isinstance(told, (dict, list)):
        inner = told.items() if isinstance(told, dict) else enumerate(told)
        yield from (n for key, each in inner if key != "checks" for n in numbers(each))


def test_redacted_pages_tell_no_extreme() -> None:
    made = planted()
    plain, redacted = to_html(made), to_html(made, redact=True)
    extreme = re.compile(rf"(?<![\d.])(?:{'|'.join(map(re.escape, NOTATIONS))})")
    assert len(set(extreme.findall(plain))) > 10
    assert extreme.findall(redacted) == []
    near = [
        [number for number in numbers(embedded(page)["features"])
         if any(number == pytest.approx(abs(extreme), rel=0.05) for extreme in EXTREMES)]
        for page in (plain, redacted)
    ]  # fmt: skip
    assert len(near[0]) > 1_000
    assert near[1] == []
    text = text_of(redacted)
    name = made["features"][0]["name"]
    assert f"{name}: expected range; the contract says so. " in text
    assert f"{name} expected range beyond 100 " in text
    assert f"{name} expected constant — " in text
    assert '"expect":{"range":[-5,100]},"broken":["range"]' in redacted


def test_redacted_pages_tell_what_is_robust(made: Document) -> None:
    exact = made["features"]
    told = embedded(to_html(made, redact=True))["features"]
    kept = {"count", "nan", "inf", "zeros", "median", "scale", "tail", "independent", "error"}
    for each, before in zip(told, exact, strict=True):
        assert set(each["stats"]) == kept & set(before["stats"])
        for part, whole in ((each, before), (each["reference"], before["reference"])):
            if not part:
                continue
            low, high = whole["quantiles"][2], whole["quantiles"][-3]
            edges, counts = part["histogram"]["edges"], part["histogram"]["counts"]
            assert len(edges) == len(counts) + 1
            assert edges == sorted(edges)
            assert [edges[0], edges[-1]] == pytest.approx([low, high], rel=0.3, abs=1e-9)
            assert counts[0] > 0 < counts[-1]
            assert sum(counts) == pytest.approx(0.98 * 2_000, rel=0.02)
            assert part["quantiles"][0] == pytest.approx(low, rel=1e-4)
        if each["scaled"]:
            assert set(each["scaled"]) == {"squash", "quantiles", "abs_quantiles"}


def test_a_histogram_ends_at_the_quantiles() -> None:
    made = document(1, reference=False)
    feature = made["features"][0]
    feature["quantiles"][2], feature["quantiles"][-3] = -2.0, 5.0
    feature["histogram"] = {
        "edges": [-987_654.0, -4.0, -3.0, -1.0, 0.0, 3.0, 987_654.0],
        "counts": [5, 0, 50, 0, 900, 45],
    }
    told = embedded(to_html(made, redact=True))["features"][0]
    assert told["histogram"] == {
        "edges": [-2.0, -1.0, 0.0, 3.0, 5.0],
        "counts": [45, 0, 900, 35],
    }


def test_the_document_is_not_changed(made: Document) -> None:
    before = json.dumps(made)
    to_html(made, redact=True)
    assert json.dumps(made) == before


def test_the_same_document_makes_the_same_page(made: Document, page: str) -> None:
    assert to_html(json.loads(json.dumps(made))) == page


def test_size(page: str) -> None:
    """A ratchet: 531 KB with a reference, 138 repaired findings and three slices."""
    assert len(page.encode()) < 560_000
    assert len(to_html(document(1, verdict="pass")).encode()) < 110_000


# ---- In a browser


class Browser:
    """A headless Chromium; every page is a file, and every request of it is noted."""

    def __init__(self, directory: Path) -> None:
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        service = pytest.importorskip("selenium.webdriver.chrome.service").Service
        binary = shutil.which("chromium") or shutil.which("google-chrome")
        driver = shutil.which("chromedriver")
        if not binary or not driver:
            pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update",
            f"--user-data-dir={directory / 'profile'}",
        ):  # fmt: skip
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.directory = directory
        self.driver = webdriver.Chrome(options, service(driver))
        self.driver.set_script_timeout(20)
        self.driver.set_page_load_timeout(30)
        self.size(1440, 900)

    def size(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def command(self, name: str, **arguments: object) -> Any:  # noqa: ANN401  # any JSON
        return self.driver.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: object) -> Any:  # noqa: ANN401  # any JSON
        return self.driver.execute_script(script, *arguments)

    def open(self, page: str, name: str = "report", hash_: str = "") -> None:
        path = self.directory / f"{name}.html"
        path.write_text(page, encoding="utf-8")
        self.driver.get("about:blank")  # another hash alone would not load it again
        self.driver.get(path.as_uri() + hash_)
        self.run(
            "window.copied = []; const note = (text) => { copied.push(text);"
            "return Promise.resolve(); };"
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: note}});"
        )

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def press(self, *keys: str) -> None:
        """Keys as the page gets them: dispatched to what has the focus."""
        for key in keys:
            self.run(
                "const options = {key: arguments[0], bubbles: true, cancelable: true};"
                "const on = document.activeElement || document.body;"
                "on.dispatchEvent(new KeyboardEvent('keydown', options))",
                key,
            )

    def mouse(self, kind: str, x: float, y: float, modifiers: int = 0) -> None:
        self.command(
            "Input.dispatchMouseEvent",
            type=kind, x=x, y=y, button="left", clickCount=1, modifiers=modifiers,
            buttons=int(kind != "mouseReleased"),
        )  # fmt: skip

    def strip(self, position: int) -> tuple[float, float]:
        """The middle of a feature's strip in the chart, in the window."""
        self.run("document.getElementById('explore').scrollIntoView()")
        x, y = self.run(
            "const labels = [...document.querySelectorAll('.chart text.label')];"
            "const box = document.querySelector('.chart svg').getBoundingClientRect();"
            "const at = labels[arguments[0]].getBoundingClientRect();"
            "return [at.x + at.width / 2, box.y + 120]",
            position,
        )
        return float(x), float(y)

    def settle(self) -> None:
        """Waits until what changed is drawn, and the page has heard of it."""
        self.driver.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0])))"
        )

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((n) => n.textContent)",
            selector,
        )
        return found

    def shown(self, selector: str) -> bool:
        return bool(
            self.run(
                "const n = document.querySelector(arguments[0]);"
                "return Boolean(n && n.checkVisibility())",
                selector,
            )
        )

    @property
    def rows(self) -> list[str]:
        return self.texts("#panel-table tbody th")

    @property
    def name(self) -> str:
        """The feature in the drawer, or nothing."""
        return "".join(self.texts("#drawer-name")) if self.shown("#drawer") else ""

    @property
    def hash(self) -> str:
        return str(self.run("return decodeURIComponent(location.hash.replace(/[+]/g, ' '))"))

    def type(self, text: str) -> None:
        self.run(
            "const s = document.getElementById('search'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input', {bubbles: true}))",
            text,
        )

    def choose(self, selector: str, value: str) -> None:
        self.run(
            "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
            "s.dispatchEvent(new Event('change', {bubbles: true}))",
            selector, value,
        )  # fmt: skip

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> set[str]:
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                found.add(message["params"]["request"]["url"].split("#")[0])
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("page"))
    yield browser
    browser.driver.quit()


@pytest.fixture
def opened(browser: Browser, page: str) -> Iterator[Browser]:
    """The page of 129 features, just opened; no test may leave an error in the console."""
    browser.errors()
    browser.size(1440, 900)
    browser.open(page)
    yield browser
    browser.command("Emulation.setEmulatedMedia", media="", features=[])
    assert browser.errors() == []


def test_no_request_leaves_the_page(opened: Browser) -> None:
    for tab in TABS:
        opened.click(f"#tab-{tab}")
    opened.press("j", "Enter")
    allowed = {(opened.directory / "report.html").as_uri(), "about:blank", "data:,"}
    assert {url for url in opened.requests() if url.startswith(("http", "ws"))} == set()
    assert opened.requests() <= allowed


def test_tabs_by_click_and_key(opened: Browser) -> None:
    for number, tab in enumerate(TABS, 1):
        for act in (
            lambda tab=tab: opened.click(f"#tab-{tab}"),
            lambda number=number: opened.press(str(number)),
        ):
            opened.press("1" if tab != "map" else "2")
            act()
            assert opened.texts('[role="tab"][aria-selected="true"]') == [tab.capitalize()]
            assert opened.shown(f"#panel-{tab}")
            shown = [other for other in TABS if opened.shown(f"#panel-{other}")]
            assert shown == [tab]
            assert opened.shown(f"#panel-{tab} :is(.chart svg, table)")
            assert opened.run(BROKEN + "return broken(document)") == []
    opened.run("document.getElementById('tab-table').focus()")
    opened.press("ArrowRight")
    assert opened.run("return document.activeElement.id") == "tab-map"


def test_the_map_fits_one_screen(opened: Browser) -> None:
    opened.run("document.getElementById('explore').scrollIntoView()")
    bottom = opened.run("return document.querySelector('.chart').getBoundingClientRect().bottom")
    assert 700 < bottom <= 900
    wide = "return document.documentElement.scrollWidth"
    assert opened.run(wide) <= 1440
    opened.size(700, 900)
    assert opened.run(wide) <= 700


def test_sorting(opened: Browser, made: Document) -> None:
    opened.press("5")
    order = [each["name"] for each in made["features"]]
    assert opened.rows == order
    scales = {each["name"]: each["stats"]["scale"] for each in made["features"]}
    opened.click('[data-key="scale"] button')
    assert [scales[name] for name in opened.rows] == sorted(scales.values(), reverse=True)
    assert opened.texts('[aria-sort="descending"]') == ["Scale"]
    opened.click('[data-key="scale"] button')
    assert [scales[name] for name in opened.rows] == sorted(scales.values())
    opened.click('[data-key="scale"] button')
    assert opened.rows == order
    keys = opened.run(
        "return [...document.querySelectorAll('#panel-table [data-key]')].map(n => n.dataset.key)"
    )
    for key in keys:
        opened.click(f'[data-key="{key}"] button')
        assert sorted(opened.rows) == sorted(order)
        assert len(opened.texts("[aria-sort]")) == 1


def test_search_and_filters(opened: Browser, made: Document) -> None:
    opened.press("5", "/")
    assert opened.run("return document.activeElement.id") == "search"
    opened.type("ATR")
    assert opened.rows
    assert all("atr" in name for name in opened.rows)
    assert opened.texts("#shown")[0].endswith(" of 129")
    opened.press("Escape")
    assert len(opened.rows) == 129
    opened.choose("#block", "1")
    assert len(opened.rows) == 27
    opened.choose("#status", "warn")
    expected = [
        each["name"] for each in made["features"]
        if each["block"] == "position" and each["status"] == "warn"
    ]  # fmt: skip
    assert opened.rows == expected
    opened.type("nothing is called that")
    assert opened.rows == []
    for tab in TABS:
        opened.click(f"#tab-{tab}")
        assert "No feature matches" in opened.texts(f"#panel-{tab} .empty")[0]


def test_keys_of_the_table(opened: Browser, made: Document) -> None:
    names = [each["name"] for each in made["features"]]
    opened.press("5", "j", "j", "j", "k")
    assert opened.texts("tr[aria-selected] th") == [names[1]]
    opened.press("Enter")
    assert opened.name == names[1]
    opened.press("j")
    assert opened.name == names[2]
    opened.press("Escape")
    assert opened.name == ""
    opened.press(*["j"] * 40)
    assert opened.texts("tr[aria-selected] th") == [names[42]]
    visible = opened.run(
        "const row = document.querySelector('tr[aria-selected]').getBoundingClientRect();"
        "const box = document.querySelector('.scroller').getBoundingClientRect();"
        "return row.top >= box.top && row.bottom <= box.bottom"
    )
    assert visible
    opened.press("?")
    assert opened.shown("#help")
    opened.click("#help-close")
    assert not opened.shown("#help")


def test_the_drawer(opened: Browser, made: Document) -> None:
    feature = next(each for each in made["features"] if each["name"] == "position.notional")
    opened.open(to_html(made), hash_="#feature=position.notional")
    assert opened.name == "position.notional"
    heads = opened.texts("#drawer h3")
    for head in ("Findings", "Distribution", "Quantiles", "What the scaling does", "Slices",
                 "Against eurusd_w46",
                 "Scale over time", "Contract", "Checks", "Statistics"):  # fmt: skip
        assert head in heads
    text = " ".join(opened.texts("#drawer"))
    assert feature["doc"] in text
    assert f"lookback {feature['lookback']}" in text
    assert "zeros 0.57 > 0.2" in text
    assert "asinh((x" in text
    assert "object " not in text
    assert len(opened.texts("#drawer .check")) == len(made["checks"])
    assert "E[x_j^2] / sum_k E[x_k^2] = " in text
    labels = opened.run(
        "return [...document.querySelectorAll('#drawer svg')].filter((n) =>"
        "!n.getAttribute('aria-label') && n.getAttribute('aria-hidden') !== 'true').length"
    )
    assert labels == 0
    opened.click("#drawer .finding .do button")
    assert opened.run("return copied") == ["scaling: {kind: standard, squash: asinh}"]
    opened.click("#close")
    assert opened.name == ""


def test_the_drawer_shows_the_limits_of_the_feature(browser: Browser) -> None:
    made = document(3)
    for metric, warn, fail in (("zeros", 0.7, None), ("scale drift", 0.01, 0.02)):
        made["features"][0]["checks"][metric].update(warn=warn, fail=fail)
    browser.errors()
    browser.open(to_html(made), "limits", "#tab=table&feature=" + made["features"][0]["name"])
    shown = []
    for _ in range(2):
        checks = browser.texts("#drawer .check summary")
        shown.append([check for check in checks if check.startswith(("zeros", "scale drift"))])
        browser.press("j")
    assert "warn > 0.7" in shown[0][0]
    assert "fail" not in shown[0][0]
    assert "warn > 0.01, fail > 0.02" in shown[0][1]
    assert "warn > 0.5, fail > 0.95" in shown[1][0]
    assert "warn > 0.5, fail > 1" in shown[1][1]
    browser.press("2")
    browser.run("document.querySelector('.chart svg').focus()")
    row = list(made["features"][0]["checks"]).index("zeros")
    browser.press("ArrowLeft", "ArrowLeft", "ArrowLeft", *["ArrowDown"] * row)
    assert browser.texts("#tip dd")[1] == "warn > 0.7"
    assert browser.errors() == []


@pytest.mark.parametrize("redact", [False, True])
def test_a_feature_without_values_opens(browser: Browser, redact: bool) -> None:
    browser.errors()
    browser.open(to_html(without_values(), redact=redact), "bare", "#feature=market.ret_1")
    assert browser.name == "market.ret_1"
    assert "No histogram." in browser.texts("#drawer")[0]
    for tab in TABS:
        browser.click(f"#tab-{tab}")
        assert browser.run(BROKEN + "return broken(document)") == []
    assert browser.errors() == []


def test_copied_yaml_is_the_line_as_it_is(browser: Browser) -> None:
    made = document(12)
    made["findings"][0]["fix"] = fix = "audit: {expect: {'<a.b>': {sparse: true}}}  # or leave it"
    browser.open(to_html(made), "yaml")
    browser.click("#findings .do button")
    assert browser.run("return copied") == [fix]


BROKEN = """
const broken = (root) => [...root.querySelectorAll('*')].flatMap((node) => [...node.attributes])
  .filter((each) => /NaN|undefined|Infinity/.test(each.value)).map((each) => each.value);
"""


def test_every_drawer_opens(opened: Browser, made: Document) -> None:
    opened.press("5", "j", "Enter")
    seen = opened.run(
        BROKEN + "return Array.from({length: arguments[0]}, () => {"
        "  const drawer = document.getElementById('drawer'), text = drawer.textContent;"
        "  const name = document.getElementById('drawer-name').textContent;"
        "  document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}));"
        "  return [name, broken(drawer), /undefined|object |NaN%/.test(text)];"
        "})",
        len(made["features"]),
    )
    assert seen == [[each["name"], [], False] for each in made["features"]]


def test_copy_buttons(opened: Browser, made: Document) -> None:
    opened.click("#findings .do button:nth-child(2)")
    assert opened.run("return copied.pop()") == made["findings"][0]["command"]
    opened.run("for (const d of document.querySelectorAll('details')) d.open = true")
    buttons = "return document.querySelectorAll('#findings .repaired .do button').length"
    opened.settle()
    assert opened.run(buttons) == 2 * len(made["repaired"])
    opened.press("5")
    opened.type("rsi")
    opened.click("#copy-csv")
    csv = opened.run("return copied.pop()").split("\n")
    assert csv[0].startswith("Feature,Block,Status")
    assert [line.split(",")[0] for line in csv[1:]] == opened.rows
    opened.click("#copy-json")
    assert [each["name"] for each in json.loads(opened.run("return copied.pop()"))] == opened.rows
    opened.click("#copy-markdown")
    assert opened.run("return copied.pop()").count("\n") == len(opened.rows) + 1
    assert opened.texts("#toast") == ["Copied"]


def test_jump_shows_the_feature(opened: Browser, made: Document) -> None:
    opened.type("nothing is called that")
    opened.click("#findings .do button:nth-child(3)")
    assert opened.name == made["findings"][0]["feature"]
    assert (
        opened.run("return Math.abs(document.getElementById('explore').getBoundingClientRect().y)")
        < 9
    )


def test_the_address_restores_the_view(opened: Browser) -> None:
    opened.press("5")
    opened.type("ret")
    opened.choose("#block", "0")
    opened.choose("#status", "ok")
    opened.click('[data-key="zeros"] button')
    opened.press("j", "Enter")
    opened.click("#theme")
    rows, name, address = opened.rows, opened.name, opened.hash
    assert "tab=table" in address
    opened.driver.refresh()
    assert opened.hash == address
    assert (opened.rows, opened.name) == (rows, name)
    assert opened.texts('[role="tab"][aria-selected="true"]') == ["Table"]
    assert opened.texts('[aria-sort="descending"]') == ["Zeros"]
    assert opened.run("return [search.value, block.value, status.value].join()".replace(
        "status.value", "document.getElementById('status').value"
    )) == "ret,0,ok"  # fmt: skip
    assert opened.run("return document.documentElement.dataset.theme") == "dark"


def test_a_wrong_address_is_no_error(opened: Browser, page: str) -> None:
    opened.open(page, hash_="#tab=__proto__&feature=nobody&sort=-toString&select=1-&block=x&view=y")
    assert opened.texts('[role="tab"][aria-selected="true"]') == ["Map"]
    assert opened.shown(".chart svg")


def test_themes(opened: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = opened.run(ground)
    opened.click("#theme")
    dark = opened.run(ground)
    assert light != dark
    opened.click("#theme")
    assert opened.run(ground) == light
    opened.open((opened.directory / "report.html").read_text(encoding="utf-8"))
    opened.command(
        "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    opened.settle()
    assert opened.run(ground) == dark
    assert opened.texts("#theme") == ["Light"]


def test_print(opened: Browser) -> None:
    opened.command("Emulation.setEmulatedMedia", media="print")
    opened.settle()
    for seen in ("h1", ".findings", "#model table", "#blocks .stack", "#panel-table tbody tr"):
        assert opened.shown(seen), seen
    for unseen in ("#panel-map", "[role=tablist]", ".do", "#search"):
        assert not opened.shown(unseen), unseen
    assert opened.command("Page.printToPDF", preferCSSPageSize=True)["data"].startswith("JVBERi")


def test_the_mouse_in_the_map(opened: Browser, made: Document) -> None:
    order = [each["name"] for each in made["features"]]
    x, y = opened.strip(10)
    opened.mouse("mouseMoved", x, y)
    assert opened.texts("#tip b") == [order[10]]
    assert "median |x|" in opened.texts("#tip")[0]
    opened.mouse("mousePressed", x, y)
    opened.mouse("mouseReleased", x, y)
    assert opened.name == order[10]
    opened.press("Escape")
    to, _ = opened.strip(15)
    opened.mouse("mousePressed", to, y, SHIFT)
    opened.mouse("mouseReleased", to, y, SHIFT)
    assert opened.texts("#unselect")[0].startswith("6 selected")
    opened.press("Escape")
    assert not opened.shown("#unselect")
    opened.mouse("mousePressed", x, y)
    opened.mouse("mouseMoved", (x + to) / 2, y)
    opened.mouse("mouseMoved", to, y)
    opened.mouse("mouseReleased", to, y)
    assert opened.texts("#unselect")[0].startswith("6 selected")
    opened.press("5")
    assert opened.rows == order[10:16]
    opened.click("#unselect")
    assert len(opened.rows) == 129


@pytest.mark.parametrize("tab", ["map", "checks", "slices", "time"])
def test_the_keys_in_a_chart(opened: Browser, made: Document, tab: str) -> None:
    opened.click(f"#tab-{tab}")
    opened.run("document.querySelector('.chart svg').focus()")
    opened.press("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown")
    names = [each["name"] for each in made["features"]]
    assert opened.texts("#tip b")[0] in names[:2]
    opened.press("Enter")
    assert opened.name in names[:2]


def test_the_map_after_scaling(opened: Browser) -> None:
    boxes = "return document.querySelector('.chart path.ok.box').getAttribute('d')"
    natural = opened.run(boxes)
    opened.click('[aria-label="Values"] button:nth-child(2)')
    assert opened.run(boxes) != natural
    assert "view=scaled" in opened.hash
    opened.click('[aria-label="Outline"] button:last-child')
    assert not opened.shown(".chart .ghost")


def test_the_block_bar(opened: Browser) -> None:
    for at, view in enumerate(opened.texts("#blocks .views button")):
        opened.click(f"#blocks .views button:nth-child({at + 1})")
        assert opened.texts("#blocks figure:not([hidden]) figcaption") == [view]


def test_hostile_names_run_nothing(browser: Browser) -> None:
    names = [name for name in HOSTILE if name != HOSTILE[7]]
    made = document(60, names=names)
    made["slices"][0]["name"] = HOSTILE[1]
    for feature in made["features"]:
        feature["slices"][HOSTILE[1]] = feature["slices"].pop("active")
        feature["doc"] = feature["unit"] = HOSTILE[0]
        feature["block"] = feature["block"].replace("market", HOSTILE[1])
    for finding in [*made["findings"], *made["repaired"]]:
        finding.update(why=HOSTILE[1], fix=HOSTILE[0])
    browser.errors()
    browser.open(to_html(made), "hostile", "#tab=table")
    for name in names:
        assert any(name[:70].replace("\0", "�") in row.replace("\0", "�") or not name
                   for row in browser.rows)  # fmt: skip
    browser.press("j", "Enter", *["j"] * len(names))
    for tab in TABS:
        browser.click(f"#tab-{tab}")
    browser.click("#tab-table")
    browser.click("#copy-csv")
    assert "'=HYPERLINK" in browser.run("return copied.pop()")
    browser.click("#copy-markdown")
    assert "a\\|b\\`c" in browser.run("return copied.pop()")
    browser.open(to_html(made), "hostile", "#tab=table&feature=" + "%3C!--%3Cscript%3E")
    assert browser.name == HOSTILE[2]
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.images.length") == 0
    assert browser.errors() == []


def test_five_thousand_features(browser: Browser) -> None:
    made = document(5_000, rows=64, reference=False)
    browser.errors()
    browser.open(to_html(made), "many")
    # Not a clock: elements are what a page of many features would be slow for.
    assert browser.run("return document.querySelectorAll('*').length") < 20_000
    assert browser.shown(".chart svg")
    browser.press("5")
    assert len(browser.rows) == 200
    browser.click('[data-key="scale"] button')
    browser.press("j", "k")
    assert len(browser.rows) == 200
    browser.run("document.querySelector('.scroller').scrollTop = 1e6")
    browser.settle()
    assert len(browser.rows) == 400
    browser.press("1")
    browser.type("_20_7")
    assert len(browser.texts(".chart text.label")) > 0
    assert browser.errors() == []


def test_one_feature_and_nothing_to_say(browser: Browser) -> None:
    browser.errors()
    browser.open(to_html(document(1, verdict="pass", reference=False)), "one")
    assert browser.texts("#shown") == ["1 feature"]
    assert "Nothing is beyond its limit" in browser.texts("#findings")[0]
    for number in range(1, 6):
        browser.press(str(number))
        assert browser.shown(f"#panel-{TABS[number - 1]} :is(.chart svg, table)")
    browser.press("j", "Enter")
    assert browser.name == "market.ret_1"
    assert browser.errors() == []


def test_a_redacted_page_opens(browser: Browser) -> None:
    browser.errors()
    browser.open(to_html(marked(), redact=True), "redacted", "#feature=position.notional")
    browser.press("5", "j", "Enter", "j")
    text = " ".join(browser.texts("#drawer"))
    assert "from q1 to q99: the rest is left out" in text
    assert not {"max", "mean", "std"} & set(browser.texts("#drawer section table th"))
    assert "center) / scale" in text
    assert "Std" not in browser.texts("#panel-table th")
    for _ in range(20):
        assert browser.run(BROKEN + "return broken(document)") == []
        browser.press("j")
    assert browser.errors() == []


def test_no_features_is_no_error(browser: Browser) -> None:
    browser.errors()
    browser.open(to_html({}), "empty")
    for number in range(1, 6):
        with suppress(IndexError):
            browser.press(str(number))
    assert browser.errors() == []
