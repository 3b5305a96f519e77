"""Limits of the metrics: beyond which they are findings, why it matters and what mends it."""

from __future__ import annotations

from dataclasses import dataclass

REPRESENTATIVE = 1_000  # rows that a slice needs before anything is said to pass on it
SHARES = {"norm share", "centred share", "row share", "dominance"}  # of one feature among all
SCALED = "scaling: {kind: standard, squash: asinh}"


@dataclass(frozen=True, slots=True)
class Limit:
    """Values beyond which a metric warns and fails; `low` if it is the small values that do."""

    warn: float | None
    fail: float | None
    why: str
    fix: str = SCALED
    low: bool = False


LIMITS = {
    "non-finite": Limit(
        None,
        0.0,
        "one NaN or infinity in a batch makes the loss and every weight NaN",
        "--on-bad quarantine",
    ),
    "dead": Limit(
        None, 0.0, "a column that never changes teaches nothing", "leave the feature out"
    ),
    "dead block": Limit(
        0.0,
        None,
        "every column of the block is constant: it teaches nothing",
        "fills: {path: data/fills.csv}",
    ),
    "zeros": Limit(
        0.5,
        0.95,
        "a weight gets no gradient from an input that is exactly 0",
        "slices: {active: '\"position.side\" != 0'}",
    ),
    "norm share": Limit(None, 0.25, "one feature makes up most of what the first layer adds up"),
    "norm lift": Limit(10.0, None, "a feature weighs many times what an average one does"),
    "centred share": Limit(None, 0.25, "one feature makes up most of the variance of the input"),
    "row share": Limit(
        None, 0.25, "layer_norm divides each row by what this one feature makes of it"
    ),
    "effective features": Limit(
        0.25, 0.10, "the model sees a few features, whatever the width of its input", low=True
    ),
    "scale outlier": Limit(1.0, 2.0, "the feature is on another scale than the rest"),
    "block share": Limit(3.0, 10.0, "a block weighs many times its part of the features, or less"),
    "weakest block": Limit(
        None, 0.05, "below this share of the variance a block is not learned from", low=True
    ),
    "dominance": Limit(None, 0.30, "the largest feature drowns the others at the projection"),
    "starved features": Limit(
        None, 0.08, "features with a tenth of the row's rms get no say after layer_norm"
    ),
    "offset": Limit(
        None, 1.0, "a mean larger than the spread makes hidden units fire always or never"
    ),
    "unrepresentative": Limit(
        float(REPRESENTATIVE),
        None,
        "too few train rows of this slice to fit a scaling on, or to say that it passes",
        "more bars or fills, or splits: {train: 0.8, validation: 0.1, test: 0.1}",
        low=True,
    ),
}
