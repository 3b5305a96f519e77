"""The metrics: beyond which values they are findings, why it matters, and the YAML that mends."""

from __future__ import annotations

from dataclasses import dataclass

REPRESENTATIVE = 1_000  # rows that a slice needs before anything is said to pass on it
SCALED = "scaling: {kind: standard, squash: asinh}"
SQUASHED = "scaling: {squash: asinh}"
ROBUST = "scaling: {kind: robust, squash: asinh}"
RESCALED = (SCALED, SQUASHED, ROBUST)  # mended by another scaling of the feature
SPARSE = "audit: {expect: {FEATURE: {sparse: true}}}"
CONSTANT = "audit: {expect: {FEATURE: {constant: true}}}  # or leave it out"
AGAIN = "# build again: the scaling is then fitted on rows like these"
BOTH = "# look at both: featurekit audit ... --against OTHER --html drift.html"


@dataclass(frozen=True, slots=True)
class Limit:
    """A metric: values beyond which it warns and fails; `low` if it is the small ones that do.

    `share` marks what is a part of all features, of which few have large ones by nature;
    `compared` what is of a reference.
    """

    warn: float | None
    fail: float | None
    why: str
    formula: str
    fix: str = SCALED
    low: bool = False
    share: bool = False
    compared: bool = False


LIMITS = {
    "non-finite": Limit(
        None,
        0.0,
        "one NaN or infinity in a batch makes the loss and every weight NaN",
        "share of null, NaN, +inf and -inf",
        "# set aside the bars behind it: featurekit build PIPELINE --on-bad quarantine",
    ),
    "overflow": Limit(
        None,
        0.0,
        "values beyond 3.4e38 are infinite in the float32 that a model reads",
        "share of values that are finite before the cast to float32 and infinite after it",
        "# divide FEATURE by its unit before it is stored",
    ),
    "dead": Limit(None, 0.0, "a column that never changes teaches nothing", "max = min", CONSTANT),
    "dead block": Limit(
        0.0,
        None,
        "every column of the block is constant: it teaches nothing",
        "max = min of every column of the block",
        "fills: {path: data/fills.csv}",
    ),
    "dead in slice": Limit(
        0.0,
        None,
        "where this condition holds the column teaches nothing",
        "max = min in a slice of at least 1% of the rows",
        "slices: {}  # or leave FEATURE out",
    ),
    "near-constant": Limit(
        0.95,
        None,
        "nearly all rows have one value: what is learned of the others is noise",
        "share of the most frequent value, of at most 10% distinct ones",
        SPARSE,
    ),
    "zeros": Limit(
        0.5,
        0.95,
        "a weight gets no gradient from an input that is exactly 0",
        "share of values that are exactly 0, in the slice where they are fewest",
        SPARSE,
    ),
    "resolution": Limit(
        16.0,
        4.0,
        "the cast to float32 leaves too few levels: the changes are rounded away",
        "2 robust scales over the distance of neighbouring float32 at the median",
        "# store FEATURE as a change, not as a level",
        low=True,
    ),
    "norm share": Limit(
        None,
        0.25,
        "one feature makes up most of what the first layer adds up",
        "E[x_j^2] / sum_k E[x_k^2]",
        share=True,
    ),
    "norm lift": Limit(
        10.0,
        None,
        "a feature weighs many times what an average one does",
        "norm share times the number of features",
        share=True,
    ),
    "centred share": Limit(
        None,
        0.25,
        "one feature makes up most of the variance of the input",
        "Var x_j / sum_k Var x_k",
        share=True,
    ),
    "row share": Limit(
        None,
        0.25,
        "layer_norm divides each row by what this one feature makes of it",
        "mean over rows of x_j^2 / |x|^2",
        share=True,
    ),
    "effective features": Limit(
        0.25,
        0.10,
        "the model sees a few features, whatever the width of its input",
        "1 / sum of squared norm shares, over the number of features",
        low=True,
    ),
    "scale outlier": Limit(
        1.0,
        2.0,
        "the feature is on another scale than the rest",
        "decades of rms, or of robust scale, from the median feature; warns if z > 3.5 as well",
    ),
    "tail weight": Limit(
        1.5,
        3.0,
        "rare large values make the gradient of a batch that holds one",
        "(q99 - q01) / (q75 - q25) / 3.449, which is 1 for a normal distribution",
        SQUASHED,
    ),
    "tail index": Limit(
        4.0,
        2.0,
        "its variance is that of its largest values: a z-score means little",
        "Hill's index on the largest sqrt(m) of m distances from the median, 2.5 errors up",
        SQUASHED,
        low=True,
    ),
    "max-to-sum": Limit(
        0.01,
        0.1,
        "one row holds a visible part of all the square there is",
        "max x^2 / sum x^2, less what a normal distribution of so many rows has",
        SQUASHED,
    ),
    "spread ratio": Limit(
        2.0,
        5.0,
        "the standard deviation is that of the tails: dividing by it squeezes the bulk",
        "standard deviation over robust scale",
        ROBUST,
    ),
    "quantile skew": Limit(
        0.5,
        None,
        "the middle half leans to one side",
        "(q75 + q25 - 2 q50) / (q75 - q25), Bowley",
        SQUASHED,
    ),
    "pile-up": Limit(
        0.05,
        None,
        "many rows at the very edge: the values were clipped, or saturate",
        "share at exactly the minimum or the maximum, where no bound is declared there",
        "audit: {limits: {pile-up: {features: {FEATURE: {warn: never}}}}}",
    ),
    "block share": Limit(
        3.0,
        10.0,
        "a block weighs many times its part of the features, or less",
        "share of the squared norm over share of the features, or its inverse",
    ),
    "block scale": Limit(
        3.0,
        10.0,
        "the features of a block are on another scale than the rest",
        "geometric mean of a block's robust scales over that of all, or its inverse",
    ),
    "conditional scale": Limit(
        1.0,
        3.0,
        "what is learned in one slice is on another scale in the other",
        "|log2| of the robust scales of two slices, where a test by stretches of rows agrees",
        SQUASHED,
    ),
    # Real markets pass an octave in every year looked at: within one table this does not fail.
    # Against a reference it does, as "scale change".
    "scale drift": Limit(
        1.0,
        None,
        "the scale moves with time: a scaling fitted on train does not fit later rows",
        "largest |log2| of the robust scale of a stretch of time over that of train",
    ),
    "conditioning": Limit(
        None,
        1e4,
        "the loss is a thin valley whose sides are the scales: plain gradient descent crawls",
        "condition number of the covariance over that of the correlation",
    ),
    "weakest block": Limit(
        None,
        0.05,
        "below this share of the variance a block is not learned from",
        "variance of the block's features over that of all",
        low=True,
    ),
    "dominance": Limit(
        None,
        0.30,
        "the largest feature drowns the others at the projection",
        "max_j E[x_j^2] / sum_k E[x_k^2]",
        share=True,
    ),
    "starved features": Limit(
        None,
        0.08,
        "features with a tenth of the row's rms get no say at the projection",
        "share of the features whose standard deviation is below 0.1 of the rms of the rows",
    ),
    "offset": Limit(
        None,
        1.0,
        "a mean larger than the spread makes hidden units fire always or never",
        "norm of the mean / sqrt(trace of the covariance)",
    ),
    "entropy rank": Limit(
        0.45,
        None,
        "the rows vary in few directions, and the rest is what they drown",
        "exp of the entropy of the normalised singular values, over the number of features",
        low=True,
    ),
    "dead at initialisation": Limit(
        0.05,
        None,
        "units that never fire before the first step get no gradient to learn to",
        "share of 512 random Linear + ReLU units that fire on fewer than 1% of the rows",
    ),
    "layer_norm squash": Limit(
        3.0,
        None,
        "layer_norm shrinks all features by what a few make of the row",
        "median over features of their deviation before layer_norm over that after it",
    ),
    "scale change": Limit(
        0.5,
        1.0,
        "a scaling fitted on the reference leaves these rows on another scale",
        "|log2| of the robust scale over that of the reference, 0 where chance may reach it",
        AGAIN,
        compared=True,
    ),
    "median shift": Limit(
        0.25,
        0.5,
        "the middle of the feature has moved against the reference",
        "|median - that of the reference| over its robust scale, 0 where chance may reach it",
        AGAIN,
        compared=True,
    ),
    "shape drift": Limit(
        0.1,
        0.25,
        "the distribution is another one than in the reference, beyond what chance does",
        "population stability index over ten groups, 0 where chance may reach it",
        BOTH,
        compared=True,
    ),
    "shape distance": Limit(
        0.1,
        0.25,
        "the distribution has moved against the reference",
        "Wasserstein distance over the reference's robust scale, 0 where chance may reach it",
        BOTH,
        compared=True,
    ),
    "mismatch": Limit(
        None,
        0.0,
        "rows of one symbol and time differ: training and serving do not compute the same",
        "share of joined rows whose values differ by more than 1e-5 of themselves",
        "# compute both with one pipeline: pipeline.transform(bars, fills)",
        compared=True,
    ),
    "unit change": Limit(
        None,
        0.0,
        "one side is the other times a constant: a unit, a sign or a multiplier has changed",
        "|log2| of the median ratio of joined rows, where it is steady, and 1 if a sign is turned",
        "# the same unit on both sides",
        compared=True,
    ),
    "unmatched rows": Limit(
        0.01,
        None,
        "rows of one table have no partner of their symbol and time in the other",
        "share of the keys of the larger table that the other lacks",
        "# the same bars on both sides",
        compared=True,
    ),
    "missing column": Limit(
        None,
        0.0,
        "the reference has a feature that these rows lack: a model that was trained on it fails",
        "in the reference, and not here",
        "# add FEATURE again",
        compared=True,
    ),
    "new column": Limit(
        0.0,
        None,
        "a feature that the reference does not have: no model was trained on it",
        "here, and not in the reference",
        "# build the reference again, or leave FEATURE out",
        compared=True,
    ),
    "unrepresentative": Limit(
        float(REPRESENTATIVE),
        None,
        "too few train rows of this slice to fit a scaling on, or to say that it passes",
        "rows of the slice in train",
        "splits: {train: 0.8, validation: 0.1, test: 0.1}  # or more bars or fills",
        low=True,
    ),
}
