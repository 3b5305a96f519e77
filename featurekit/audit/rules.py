"""The metrics of the audit: how each is computed, and what of it is a finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from featurekit.audit.limits import LIMITS, SCALED, SHARES, Limit
from featurekit.audit.report import AuditReport, BlockShare, Finding, Peel
from featurekit.audit.views import F8, View, model_view, natural_view
from featurekit.cells import merged
from featurekit.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from featurekit.profile import Profile
    from featurekit.scaling import Scaling


class Named(Protocol):
    """A feature, as far as the audit needs one."""

    @property
    def name(self) -> str:
        """`block.column`."""

    @property
    def block(self) -> str:
        """The block it comes from."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A metric somewhere: of a feature, of a block, or of all."""

    metric: str
    value: float
    feature: str = ""
    block: str = ""
    severities: tuple[str, ...] = ("fail", "warn")


def audit_profiles(
    cells: Mapping[str, Profile],
    features: Sequence[Named],
    scaling: Scaling | None = None,
    *,
    source: str,
    slices: Sequence[str] = (),
) -> AuditReport:
    """Judges the train split, as the model meets it if there is a scaling, else as it is.

    `cells` are profiles named `split/slices`. Findings in natural units that the scaling repairs
    are listed apart, with the line that repairs them.

    Raises:
        DataError: when there are no rows to judge.
    """
    whole = merged(cells, "train")
    if whole is None or not whole.rows:
        raise DataError(
            Problem("there are no rows to audit", where=source, expected="rows in the train split")
        )
    judge = _Judge(features, source, scaling)
    natural = natural_view(whole)
    seen = natural if scaling is None else model_view(whole, scaling)
    in_natural = [*judge.scales(natural), *judge.row_shares(whole)]
    values = [(value, "") for value in _of_counts(judge, cells, whole, slices)]
    if scaling is None:
        values += [(value, "") for value in in_natural]
    else:
        values += [(value, "") for value in (*judge.scales(seen), *judge.model(seen, whole))]
        for name in slices:
            part = merged(cells, "train", name)
            rows = part.rows if part is not None else 0
            values.append((_Value("unrepresentative", float(rows)), name))
            if part is not None and rows:
                values += [(v, name) for v in judge.model(model_view(part, scaling), part)]
    findings = [found for v, where in values if (found := judge.finding(v, where)) is not None]
    # Rows are known in natural units only: a feature's share of them is mended with its norm.
    left = {(f.metric, f.feature, f.block) for f in findings}
    left |= {("row share", f.feature, f.block) for f in findings if f.metric == "norm share"}
    repaired = [
        found
        for value in (in_natural if scaling is not None else [])
        if (found := judge.finding(value, "", repaired=True)) is not None
        and (found.metric, found.feature, found.block) not in left
    ]
    return AuditReport(
        source=source,
        rows=sum(profile.rows for profile in cells.values()),
        features=len(features),
        slices={
            name: part.rows if (part := merged(cells, "train", name)) is not None else 0
            for name in slices
        },
        effective=_effective(_shares(seen.square)),
        blocks=tuple(judge.block_shares(natural, seen)),
        peeled=tuple(judge.peel(natural)),
        findings=_sorted(findings),
        repaired=_sorted(repaired),
    )


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    order = {"fail": 0, "warn": 1}
    return tuple(
        sorted(findings, key=lambda f: (order[f.severity], -f.margin, f.metric, f.feature, f.slice))
    )


def _of_counts(
    judge: _Judge, cells: Mapping[str, Profile], whole: Profile, slices: Sequence[str]
) -> Iterator[_Value]:
    """What no scaling mends: values that are not finite, dead columns, zeros."""
    everything = whole
    for split in ("validation", "test"):
        other = merged(cells, split)
        everything = everything if other is None else everything + other
    bad = (everything.nan + everything.infinite) / everything.rows
    for name, share in zip(judge.names, bad, strict=True):
        yield _Value("non-finite", float(share), name)
    dead = (whole.maximum <= whole.minimum) | (whole.count == 0)
    for block in judge.blocks:
        inside = judge.of_block == block
        if dead[inside].all():
            yield _Value("dead block", 1.0, block=block)
        else:
            yield from (_Value("dead", 1.0, judge.names[k]) for k in np.flatnonzero(inside & dead))
    # A column that is 0 outside a slice by nature is judged inside it, and the other way round.
    zeros = whole.zeros / whole.rows
    for slice_ in slices:
        part = merged(cells, "train", slice_)
        if part is not None and 0 < part.rows < whole.rows:
            rest = (whole.zeros - part.zeros) / (whole.rows - part.rows)
            zeros = np.minimum(zeros, np.minimum(part.zeros / part.rows, rest))
    for k in np.flatnonzero(~dead):
        yield _Value("zeros", float(zeros[k]), judge.names[k])


class _Judge:
    """The features in their blocks, and how a value becomes a finding."""

    def __init__(self, features: Sequence[Named], source: str, scaling: Scaling | None) -> None:
        self.names = [feature.name for feature in features]
        self.of_block = np.array([feature.block for feature in features])
        self.blocks = list(dict.fromkeys(self.of_block.tolist()))
        self._block_of = dict(zip(self.names, self.of_block.tolist(), strict=True))
        self._command, self._line = f"featurekit audit {source}", _line(scaling)
        self._scaled = set() if scaling is None else set(scaling.scaled)

    def finding(self, value: _Value, slice_: str, *, repaired: bool = False) -> Finding | None:
        """The finding, if the value is beyond a limit."""
        limit = LIMITS[value.metric]
        if value.metric in SHARES and value.value <= 2.0 / len(self.names):
            return None  # of few features each has a large share
        for severity in value.severities:
            bound = getattr(limit, severity)
            if bound is None or not (value.value < bound if limit.low else value.value > bound):
                continue
            above = value.value / bound if bound else float("inf")
            below = bound / value.value if value.value else float("inf")
            return Finding(
                severity="fail" if severity == "fail" else "warn",
                metric=value.metric,
                feature=value.feature,
                block=value.block or self._block_of.get(value.feature, ""),
                slice=slice_,
                value=value.value,
                limit=bound,
                margin=min(below if limit.low else above, 1e12),
                why=limit.why,
                fix=self._fix(value.feature, limit),
                command=self._command,
                repaired_by=self._line if repaired else "",
            )
        return None

    def _fix(self, feature: str, limit: Limit) -> str:
        """The line that mends it; where features are scaled already, the one is scaled again."""
        if limit.fix != SCALED or not self._scaled:
            return limit.fix
        if not feature:
            return "scaling: {kind: robust, squash: asinh}"
        kind = "robust" if feature in self._scaled else "standard"
        return f"scaling: {{features: {{{feature}: {{kind: {kind}}}}}}}"

    def scales(self, view: View) -> Iterator[_Value]:
        """Shares of the norm, effective features, scale outliers, block shares."""
        shares, centred = _shares(view.square), _shares(view.std**2)
        for k, name in enumerate(self.names):
            yield _Value("norm share", float(shares[k]), name)
            yield _Value("norm lift", float(shares[k] * len(shares)), name)
            yield _Value("centred share", float(centred[k]), name)
        yield _Value("effective features", _effective(shares) / len(shares))
        root = np.sqrt(view.square)
        distance = np.maximum(np.abs(_distance(root)), np.abs(_distance(view.robust)))
        z = np.maximum(_modified_z(root), _modified_z(view.robust))
        for at in np.flatnonzero(distance > 1.0):
            k = int(at)
            severities = ("fail", "warn") if z[k] > 3.5 else ("fail",)
            yield _Value("scale outlier", float(distance[k]), self.names[k], severities=severities)
        for block in self.blocks:
            inside = self.of_block == block
            ratio = float(shares[inside].sum() / inside.mean())
            if view.std[inside].any():
                yield _Value(
                    "block share", max(ratio, 1.0 / ratio if ratio else np.inf), block=block
                )

    def row_shares(self, profile: Profile) -> Iterator[_Value]:
        """Mean share of each feature in a row's squared norm."""
        for name, share in zip(self.names, profile.row_share, strict=True):
            yield _Value("row share", float(share), name)

    def model(self, view: View, profile: Profile) -> Iterator[_Value]:
        """What predicted a failed training, on some rows as the model meets them."""
        alive = np.isin(
            self.of_block,
            [b for b in self.blocks if (profile.std[self.of_block == b] > 0).any()],
        )
        variance, square = np.where(alive, view.std**2, 0.0), np.where(alive, view.square, 0.0)
        total = variance.sum()
        if not total:
            return
        by_block = {b: float(variance[self.of_block == b].sum() / total) for b in self.blocks}
        judged = {b: share for b, share in by_block.items() if alive[self.of_block == b].any()}
        if len(judged) > 1:
            weakest = min(judged, key=lambda b: judged[b])
            yield _Value("weakest block", judged[weakest], block=weakest)
        shares = _shares(square)
        largest = int(shares.argmax())
        yield _Value("dominance", float(shares[largest]), self.names[largest])
        rms = np.sqrt(square.sum() / alive.sum())
        yield _Value("starved features", float((view.std[alive] < 0.1 * rms).mean()))
        mean = np.where(alive, view.mean, 0.0)
        yield _Value("offset", float(np.sqrt((mean**2).sum() / total)))

    def block_shares(self, natural: View, model: View) -> Iterator[BlockShare]:
        """Each block's part of the squared norm, before and after the treatment."""
        before, after = _shares(natural.square), _shares(model.square)
        for block in self.blocks:
            inside = self.of_block == block
            yield BlockShare(
                block, int(inside.sum()), float(before[inside].sum()), float(after[inside].sum())
            )

    def peel(self, view: View) -> Iterator[Peel]:
        """Effective features in natural units, as the three largest are taken away in turn."""
        square = view.square.copy()
        yield Peel("", _effective(_shares(square)))
        for _ in range(min(3, len(self.names) - 1)):
            largest = int(square.argmax())
            square[largest] = 0.0
            yield Peel(self.names[largest], _effective(_shares(square)))


def _shares(square: F8) -> F8:
    # Squares of float32 fit in float64, their sum over any number of columns too.
    total = square.sum()
    share: F8 = square / total if total > 0 else np.zeros_like(square)
    return share


def _effective(shares: F8) -> float:
    """Inverse Simpson index: as many equal features would be as uneven."""
    total = float((shares**2).sum())
    return 1.0 / total if total else 0.0


def _distance(scale: F8) -> F8:
    """Decades from the median feature; 0 where there is no scale."""
    known = scale > 0
    if not known.any():
        return np.zeros_like(scale)
    log = np.log10(np.where(known, scale, 1.0))
    return np.where(known, log - np.median(log[known]), 0.0)


def _modified_z(scale: F8) -> F8:
    """Distance in robust deviations of the decades (Iglewicz and Hoaglin 1993)."""
    distance = _distance(scale)
    known = scale > 0
    spread = 1.4826 * np.median(np.abs(distance[known])) if known.any() else 0.0
    z: F8 = np.abs(distance) / spread if spread else np.where(distance != 0, np.inf, 0.0)
    return z


def _line(scaling: Scaling | None) -> str:
    if scaling is None:
        return ""
    return "scaling, fitted on train" + (", asinh" if scaling.squash.any() else "")
