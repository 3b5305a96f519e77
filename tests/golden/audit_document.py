"""A simulated audit document of the shape of audit.json: believable names, scales over 9 decades.

Rows are drawn from a seed and summed up here, plainly; no number is of real data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
Document = dict[str, Any]

PROBABILITIES = (0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1)
CHUNKS = 12
SLICES = {"active": 0.43, "flat": 0.57, "asia": 0.31}

# kind: how unit draws are made; "sparse" ones are 0 while there is no position.
KINDS: dict[str, Callable[[np.random.Generator, int], F8]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "heavy": lambda rng, n: rng.standard_t(3, n),
    "positive": lambda rng, n: rng.lognormal(0, 0.5, n),
    "wild": lambda rng, n: rng.lognormal(0, 1.6, n),
    "share": lambda rng, n: rng.beta(2, 2, n),
    "wave": lambda rng, n: np.sin(rng.uniform(0, 2 * np.pi, n)),
    "percent": lambda rng, n: np.clip(rng.normal(0.5, 0.18, n), 0, 1),
    "sparse": lambda rng, n: np.where(rng.random(n) < 0.43, rng.normal(size=n), 0.0),
    "sparse positive": lambda rng, n: np.where(rng.random(n) < 0.43, rng.lognormal(0, 0.7, n), 0.0),
    "side": lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=[0.2, 0.57, 0.23]),
    "dead": lambda rng, n: np.zeros(n),
}

# block: rows of kind, scale and the names that share them.
NAMES: dict[str, list[tuple[str, float, str]]] = {
    "market": [
        ("heavy", 1.2e-3, "ret_1 ret_1_lag_1 ret_1_lag_2 ret_1_lag_3 ret_1_lag_4 ret_1_lag_5 body"),
        ("heavy", 3.1e-3, "ret_2 ret_3 ret_5 ret_10 ret_20 ret_50 ret_100"),
        ("wild", 4e-4, "upper_wick lower_wick range gap"),
        ("percent", 1.0, "close_location channel_20 channel_100 downside_share_50"),
        ("positive", 1.1e-3, "volatility_10 volatility_20 volatility_50 volatility_100"),
        ("positive", 9e-4, "parkinson_20 garman_klass_20 rogers_satchell_20 yang_zhang_20"),
        ("normal", 0.8, "skew_50 kurtosis_50 volume_change volume_zscore_20 volume_zscore_100"),
        ("positive", 1.0, "volatility_ratio_10_100 relative_volume_20"),
        ("heavy", 1.4, "signed_volume_20 price_zscore_50 price_zscore_100"),
        ("wild", 3e-6, "amihud_20"),
        ("heavy", 5e-3, "vwap_distance_20 vwap_distance_100 drawdown_100"),
        ("wave", 1.0, "hour_sin hour_cos weekday_sin weekday_cos"),
    ],
    "position": [
        ("side", 1.0, "side"),
        ("sparse", 2.0, "quantity exposure pnl_in_atr risk_reward"),
        ("sparse positive", 6e4, "notional"),
        ("sparse", 4e-3, "entry_distance unrealized_return stop_distance target_distance"),
        ("sparse", 240.0, "unrealized_pnl max_favorable_excursion max_adverse_excursion giveback"),
        ("wild", 12.0, "bars_held bars_flat fills_held trades_100"),
        ("sparse positive", 3.5, "fees_held"),
        ("heavy", 800.0, "realized_pnl_100"),
        ("heavy", 6e-3, "last_trade_return mean_trade_return_20 equity_return_100 equity_drawdown"),
        ("share", 1.0, "win_rate_20 cash_ratio"),
        ("dead", 1.0, "profit_factor_20"),
    ],
    "indicator": [
        ("percent", 100.0, "rsi_7 rsi_14 rsi_21 stoch_k stoch_d stochrsi_k stochrsi_d mfi_14"),
        (
            "percent",
            100.0,
            "ultosc adx_14 plus_di_14 minus_di_14 adxr_14 aroon_up_14 aroon_down_14",
        ),
        ("normal", 60.0, "willr_14 cci_14 cci_20 cmo_14 aroonosc_14"),
        ("heavy", 0.4, "roc_5 roc_10 roc_20 trix_15 ppo ulcer_14 natr_14"),
        ("heavy", 2e-3, "mom_10 apo macd macd_signal macd_hist trange atr_14 stddev_20"),
        ("normal", 0.6, "bb_percent_20 bb_width_20 keltner_20 correl_20 cmf_20"),
        ("heavy", 4e-3, "ema_distance_8 ema_distance_21 ema_distance_55 ema_distance_100"),
        ("heavy", 5e-3, "sma_distance_20 sma_distance_50 sma_distance_200 kama_distance_10"),
        ("heavy", 3e-4, "sar_distance linreg_slope_14 linreg_slope_50 ichimoku_spread"),
        ("wild", 5e5, "obv_change_20"),
        ("heavy", 3e3, "adosc"),
    ],
}

# metric: warn, fail, low, why, formula.
CHECKS: dict[str, tuple[float | None, float | None, bool, str, str]] = {
    "non-finite": (None, 0.0, False, "one NaN or infinity in a batch makes the loss NaN",
                   "share of null, NaN, +inf and -inf"),
    "dead": (None, 0.0, False, "a column that never changes teaches nothing", "max = min"),
    "zeros": (0.5, 0.95, False, "a weight gets no gradient from an input that is exactly 0",
              "share of values that are exactly 0"),
    "resolution": (16, 4, True, "the cast to float32 leaves too few levels",
                   "2 robust scales over the distance of neighbouring float32 at the median"),
    "norm share": (None, 0.25, False, "one feature makes up most of what the first layer adds up",
                   "E[x_j^2] / sum_k E[x_k^2]"),
    "norm lift": (10, None, False, "a feature weighs many times what an average one does",
                  "norm share times the number of features"),
    "scale outlier": (1, 2, False, "the feature is on another scale than the rest",
                      "decades of rms, or of robust scale, from the median feature"),
    "tail weight": (1.5, 3, False, "rare large values make the gradient of a batch that holds one",
                    "(q99 - q01) / (q75 - q25) / 3.449, which is 1 for a normal distribution"),
    "max-to-sum": (0.01, 0.1, False, "one row holds a visible part of all the square there is",
                   "max x^2 / sum x^2"),
    "spread ratio": (2, 5, False, "the standard deviation is that of the tails",
                     "standard deviation over robust scale"),
    "quantile skew": (0.5, None, False, "the middle half leans to one side",
                      "(q75 + q25 - 2 q50) / (q75 - q25), Bowley"),
    "pile-up": (0.05, None, False, "many rows at the very edge: the values were clipped",
                "share at exactly the minimum or the maximum"),
    "conditional scale": (1, 3, False, "what is learned in one slice is on another scale in other",
                          "|log2| of the robust scales of two slices"),
    "scale drift": (0.5, 1, False, "a scaling fitted on train does not fit later rows",
                    "largest |log2| of the robust scale of a stretch of time over that of train"),
}  # fmt: skip
FIX = "scaling: {kind: standard, squash: asinh}"
VIEWS = ("raw", "centred", "row-wise", "after scaling", "after layer_norm")


def document(
    features: int = 129,
    seed: int = 0,
    verdict: str = "fail",
    *,
    reference: bool = True,
    names: Sequence[str] | None = None,
    rows: int = 2_000,
    extremes: Sequence[float] = (),
) -> Document:
    """An audit document; of more features than there are names, names repeat with a number.

    `extremes` are values of the first rows of every feature, and of its reference.
    """
    columns = _columns(features, names)
    made = [_feature(*column, seed, rows, reference, extremes) for column in columns]
    _shares(made)
    standing = {"fail": 3, "warn": 9} if verdict == "fail" else {"fail": 0, "warn": 9}
    found = _findings(made, {"fail": 0, "warn": 0} if verdict == "pass" else standing)
    findings, repaired, waived = found
    status = [each["status"] for each in made]
    square = np.array([each["stats"]["rms"] ** 2 for each in made])
    return {
        "version": 2,
        "verdict": verdict,
        "subject": {
            "kind": "dataset", "name": "eurusd", "path": "build/eurusd", "digest": "9f3c2ad1e07b",
            "rows": 6_198, "features": features, "symbols": 1,
            "first": "2023-01-02T00:00:00Z", "last": "2023-12-29T21:00:00Z",
        },
        "sentence": _sentence(made, square),
        "judged": {"view": "model", "treatment": "standard + asinh + layer_norm",
                   "sample": 4_338, "exact": True},
        "counts": {
            **{s: sum(each["severity"] == s for each in findings) for s in ("fail", "warn")},
            "repaired": len(repaired), "waived": len(waived),
            **{f"features_{s}": status.count(s) for s in ("ok", "warn", "fail")},
        },
        "splits": {"train": 4_338, "validation": 930, "test": 930},
        "slices": [{"name": n, "rows": int(s * 4_338), "share": s} for n, s in SLICES.items()],
        "effective": {"natural": _effective(square), "scaled": 0.7 * features,
                      "model": 0.68 * features},
        "peeled": _peeled(made, square),
        "blocks": _blocks(made, square),
        "model": _model(verdict),
        "checks": [
            {"metric": m, "warn": w, "fail": f, "low": low, "why": why, "formula": formula}
            for m, (w, f, low, why, formula) in CHECKS.items()
        ],
        "findings": findings, "repaired": repaired, "waived": waived,
        "notes": ["one symbol: nothing is said of differences between symbols"],
        "probabilities": list(PROBABILITIES),
        "chunks": [{"first": f"2023-{m:02d}-01T00:00:00Z", "last": f"2023-{m:02d}-28T23:00:00Z",
                    "rows": 361} for m in range(1, CHUNKS + 1)],
        "features": made,
        "reference": {"name": "eurusd_w46", "new": ["market.gap"], "missing": ["market.spread"]}
        if reference else None,
    }  # fmt: skip


def _columns(features: int, names: Sequence[str] | None) -> list[tuple[str, str, str, float]]:
    """Name, block, kind and scale of each feature; the blocks keep their proportions."""
    known = [
        (f"{block}.{name}", block, kind, scale)
        for block, groups in NAMES.items()
        for kind, scale, line in groups
        for name in line.split()
    ]
    rounds, rest = divmod(features, len(known))
    chosen = [
        (f"{name}_{turn}" if turn else name, block, kind, scale * (1 + 0.1 * turn))
        for block in NAMES
        for turn in range(rounds + 1)
        for at, (name, of, kind, scale) in enumerate(known)
        if of == block and (turn < rounds or at < rest)
    ]
    if names is None:
        return chosen
    given = [(name, *column[1:]) for name, column in zip(names, chosen, strict=False)]
    return given + chosen[len(given) :]


def _feature(
    name: str,
    block: str,
    kind: str,
    scale: float,
    seed: int,
    rows: int,
    reference: bool,
    extremes: Sequence[float],
) -> Document:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "replace"))])
    scale *= float(rng.lognormal(0, 0.4))
    x = KINDS[kind](rng, rows) * scale
    x[: len(extremes)] = extremes
    robust = _robust(x)
    center, spread = float(x.mean()), float(x.std()) or 1.0
    drift = rng.normal(0, 0.12, CHUNKS).cumsum() * (0.6 if rng.random() < 0.15 else 0.3)
    made: Document = {
        "name": name, "block": block, "unit": "-", "doc": f"Simulated: {kind} draws x {scale:.3g}.",
        "lookback": int(rng.integers(0, 100)), "memory": int(rng.integers(0, 400)),
        "status": "ok", "repaired": False,
        "stats": _stats(x),
        **_summary(x),
        "slices": _slices(x, kind, rng, robust),
        "time": [float(value) if robust else None for value in drift],
        "scaled": None if kind == "dead" else {
            "center": center, "scale": spread, "squash": True,
            **_quantiles(np.arcsinh((x - center) / spread)),
        },
        "reference": None, "contract": None,
    }  # fmt: skip
    if reference and rng.random() < 0.95:
        shift = float(rng.lognormal(0, 0.15))
        before = KINDS[kind](rng, rows) * scale * shift
        before[: len(extremes)] = extremes
        made["reference"] = {
            **_summary(before), "scale": _robust(before) or None, "psi": 0.02 * shift**8,
            "log2": -float(np.log2(shift)) if robust else None,
        }  # fmt: skip
    if name == "position.notional":
        made["contract"] = {
            "expect": {"scale": [100, 50_000], "zeros": "<0.2", "sparse": False},
            "broken": ["zeros 0.57 > 0.2"],
        }
    made["checks"] = _checks(x, made)
    return made


def _robust(x: F8) -> float:
    q25, q75 = np.quantile(x, [0.25, 0.75])
    return float(q75 - q25) / 1.349


def _stats(x: F8) -> Document:
    std = float(x.std())
    z = (x - x.mean()) / std if std else None
    return {
        "count": len(x), "nan": 0, "inf": 0, "zeros": float((x == 0).mean()),
        "min": float(x.min()), "max": float(x.max()), "mean": float(x.mean()), "std": std,
        "rms": float(np.sqrt((x**2).mean())), "median": float(np.median(x)), "scale": _robust(x),
        "skew": float((z**3).mean()) if z is not None else None,
        "kurtosis": float((z**4).mean()) if z is not None else None,
    }  # fmt: skip


def _quantiles(x: F8) -> Document:
    size = np.abs(x[x != 0])
    return {
        "quantiles": np.quantile(x, PROBABILITIES).tolist(),
        "abs_quantiles": np.quantile(size, PROBABILITIES).tolist() if len(size) else None,
    }


def _summary(x: F8) -> Document:
    """Quantiles and a histogram whose bins are even on a symmetric log axis."""
    unit = _robust(x) or float(np.abs(x).mean()) or 1.0
    low, high = np.arcsinh([x.min() / unit, x.max() / unit])
    edges = unit * np.sinh(np.linspace(low, max(high, low + 1e-3), 49))
    edges[0], edges[-1] = min(edges[0], x.min()), max(edges[-1], x.max())
    counts, _ = np.histogram(x, edges)
    return {
        **_quantiles(x),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def _slices(x: F8, kind: str, rng: np.random.Generator, robust: float) -> Document:
    found = {}
    held = kind.startswith(("sparse", "side"))
    for at, (name, share) in enumerate(SLICES.items()):
        part = x[x != 0] if held and at == 0 else x[x == 0] if held and at == 1 else x[at::3]
        if not held:
            part = part * rng.lognormal(0, 0.35)
        scale = _robust(part) if len(part) else 0.0
        found[name] = {
            "rows": int(share * 4_338), "scale": scale,
            "log2": float(np.log2(scale / robust)) if scale and robust else None,
            "median": float(np.median(part)) if len(part) else None,
            "zeros": float((part == 0).mean()) if len(part) else None,
            "mean": float(part.mean()) if len(part) else None,
        }  # fmt: skip
    return found


def _checks(x: F8, made: Document) -> Document:
    q = dict(zip(PROBABILITIES, made["quantiles"], strict=True))
    inner, robust = q[0.75] - q[0.25], made["stats"]["scale"]
    logs = [each["log2"] for each in made["slices"].values() if each["log2"] is not None]
    ulp = float(np.spacing(np.float32(abs(q[0.5])))) or 1e-45
    values = {
        "non-finite": 0.0,
        "dead": float(x.max() == x.min()),
        "zeros": made["stats"]["zeros"],
        "resolution": min(2 * robust / ulp, 1e9) if robust else None,
        "tail weight": (q[0.99] - q[0.01]) / inner / 3.449 if inner else None,
        "max-to-sum": float((x**2).max() / (x**2).sum()) if x.any() else None,
        "spread ratio": made["stats"]["std"] / robust if robust else None,
        "quantile skew": abs(q[0.75] + q[0.25] - 2 * q[0.5]) / inner if inner else None,
        "pile-up": float(((x == x.min()) | (x == x.max())).mean()),
        "conditional scale": max(logs) - min(logs) if len(logs) > 1 else None,
        "scale drift": max(map(abs, made["time"])) if robust else None,
    }
    return {metric: _check(metric, value) for metric, value in values.items()}


def _check(metric: str, value: float | None) -> Document:
    warn, fail, low, *_ = CHECKS[metric]
    level = _level(value, warn, fail, low)
    return {"value": value, "level": level, "severity": "", "warn": warn, "fail": fail}


def _level(value: float | None, warn: float | None, fail: float | None, low: bool) -> float | None:
    """0 to 1 within the limits, 1 to 2 beyond warn, 2 and more beyond fail."""
    if value is None:
        return None
    if low:
        value, warn, fail = (1 / v if v else None for v in (max(value, 1e-9), warn, fail))
    if fail is not None and value > fail:
        return 2.0 if not fail else min(2 + float(np.log2(value / fail)) / 2, 6)
    if warn is not None and value > warn:
        return min(1 + (value - warn) / ((fail or 4 * warn) - warn), 1.99)
    edge = warn if warn is not None else fail
    return value / edge if edge else 0.0


def _shares(made: list[Document]) -> None:
    """The checks that compare a feature with the others."""
    square = np.array([each["stats"]["rms"] ** 2 for each in made])
    share = square / (square.sum() or 1.0)
    log = np.log10([each["stats"]["rms"] or 1e-3 for each in made])
    for each, s, distance in zip(made, share, np.abs(log - np.median(log)), strict=True):
        values = {"norm share": s, "norm lift": s * len(made), "scale outlier": distance}
        own = {m: _check(m, float(value)) for m, value in values.items()} | each["checks"]
        each["checks"] = {metric: own[metric] for metric in CHECKS}


def _findings(
    made: list[Document], standing: dict[str, int]
) -> tuple[list[Document], list[Document], list[Document]]:
    """The worst of each severity stand; the scaling repairs the rest, one is waived."""
    beyond = [
        (check["level"], each, metric, check)
        for each in made
        for metric, check in each["checks"].items()
        if (check["level"] or 0) >= 1
    ]
    beyond.sort(key=lambda entry: -entry[0])
    findings: list[Document] = []
    repaired: list[Document] = []
    left = dict(standing)
    for level, each, metric, check in beyond:
        severity = "fail" if level >= 2 else "warn"
        finding = _finding(severity, each["name"], "", metric, check["value"], "")
        stands = left[severity] > 0 and each["status"] == "ok"
        if stands:
            left[severity] -= 1
            each["status"] = check["severity"] = severity
            findings.append(finding)
        elif len(repaired) < 140:
            each["repaired"] = True
            repaired.append({**finding, "repaired_by": FIX})
    if findings:
        findings.append(_finding("warn", "", "position", "block share", 0.12, "flat"))
        findings.append(_finding("warn", "", "", "entropy rank", 0.41, "active"))
    findings.sort(key=lambda each: each["severity"])
    waived = [{**repaired.pop(), "reason": "known: the broker rounds it", "until": "2027-03-31"}
              for _ in range(min(2, len(repaired) // 4))]  # fmt: skip
    return findings, repaired, waived


def _finding(
    severity: str, feature: str, block: str, metric: str, value: float, slice_: str
) -> Document:
    warn, fail, low, why, _ = CHECKS.get(metric, (0.45, None, True, "it teaches nothing", ""))
    limit = fail if severity == "fail" else warn
    above, below = (limit, value) if low else (value, limit)
    return {
        "severity": severity, "metric": metric, "feature": feature, "block": block, "slice": slice_,
        "value": value, "limit": limit, "margin": above / below if above and below else None,
        "why": why, "fix": FIX, "repaired_by": "",
        "command": "featurekit audit build/eurusd --json",
    }  # fmt: skip


def _sentence(made: list[Document], square: F8) -> str:
    largest = int(square.argmax())
    share = square[largest] / (square.sum() or 1.0)
    return (
        f"{made[largest]['name'][:60]} carries {share:.1%} of the squared norm in natural units: "
        f"{_effective(square):.1f} effective features of {len(made)}, "
        f"{0.68 * len(made):.1f} as the model meets them."
    )


def _effective(square: F8) -> float:
    total = square.sum()
    return float(1 / ((square / total) ** 2).sum()) if total else 0.0


def _peeled(made: list[Document], square: F8) -> list[Document]:
    left = square.copy()
    peels = [{"without": "", "effective": _effective(left)}]
    for _ in range(min(3, len(made) - 1)):
        largest = int(left.argmax())
        left[largest] = 0.0
        peels.append({"without": made[largest]["name"], "effective": _effective(left)})
    return peels


def _blocks(made: list[Document], square: F8) -> list[Document]:
    of = [each["block"] for each in made]
    total = square.sum() or 1.0
    found = []
    for block in dict.fromkeys(of):
        inside = np.array([each == block for each in of])
        raw, even = float(square[inside].sum() / total), float(inside.mean())
        shares = [raw, 0.98 * raw, 0.5 * raw + 0.5 * even, 0.15 * raw + 0.85 * even,
                  0.1 * raw + 0.9 * even]  # fmt: skip
        found.append(
            {
                "block": block,
                "features": int(inside.sum()),
                "shares": dict(zip(VIEWS, shares, strict=True)),
            }
        )
    return found


def _model(verdict: str) -> list[Document]:
    rows = [
        ("weakest block", 0.21, 0.04, None, 0.05, True, "position"),
        ("dominance", 0.031, 0.052, None, 0.30, False, "position.notional"),
        ("starved features", 0.016, 0.07, None, 0.08, False, ""),
        ("offset", 0.22, 0.31, None, 1.0, False, ""),
        ("entropy rank", 0.62, 0.41, 0.45, None, True, ""),
        ("dead at initialisation", 0.0, 0.012, 0.05, None, False, ""),
        ("layer_norm squash", 1.02, 1.31, 3.0, None, False, ""),
    ]
    tables = []
    for at, (name, count) in enumerate((("", 4_338), ("active", 1_865), ("flat", 2_472))):
        statistics = []
        for metric, calm, tense, warn, fail, low, detail in rows:
            value = tense if at == 1 and verdict != "pass" else calm
            severity = next(
                (word for word, limit in (("fail", fail), ("warn", warn))
                 if limit is not None and (value < limit if low else value > limit)), "",
            )  # fmt: skip
            judged = not (at == 2 and metric == "weakest block")  # positions are 0 while flat
            statistics.append(
                {"metric": metric, "value": value if judged else None, "warn": warn, "fail": fail,
                 "low": low, "severity": severity if judged else "", "detail": detail}
            )  # fmt: skip
        tables.append({"slice": name, "rows": count, "statistics": statistics})
    return tables
