"""One audit from start to end: measured, judged, told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from featurekit.audit.compare import Comparison, Reference, compare
from featurekit.audit.details import complete, describe
from featurekit.audit.limits import LIMITS
from featurekit.audit.measures import Measured, measure
from featurekit.audit.report import AuditReport, BlockShare, ModelSlice, Peel, Statistic
from featurekit.audit.rules import Judged, judge, severity_of
from featurekit.audit.scales import effective_features, shares_of
from featurekit.errors import DataError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from featurekit.audit.subject import Subject
    from featurekit.audit.views import F8

PEELED = 3
MODEL = (
    "weakest block", "dominance", "starved features", "offset", "entropy rank",
    "dead at initialisation", "layer_norm squash",
)  # fmt: skip


def audit_subject(subject: Subject, reference: Reference | None = None) -> AuditReport:
    """Judges the train split of a subject, as the model meets it if there is a scaling.

    With a `reference` it is compared with that as well.

    Raises:
        DataError: when there are no rows to judge.
        ConfigError: when the contract names a metric, a block or a feature that there is not.
    """
    cells = subject.cells
    if not cells.count("train"):
        raise DataError(
            Problem(
                "there are no rows to audit", where=subject.path, expected="rows in the train split"
            )
        )
    measured = measure(subject)
    train, natural = measured.profiles[""], measured.natural[""]
    columns = describe(subject, measured)
    compared = Comparison((), ())
    if reference is not None:
        compared = compare(subject, train, columns, reference)
    measures = (*measured.measures, *compared.measures)
    judged = judge(subject, measures, train, natural, measured.scaled.get(""), compared.findings)
    complete(columns, subject, measures, judged, compared.columns)
    names = [feature.name for feature in subject.features]
    splits = list(dict.fromkeys(cell.split for cell in sorted(cells.profiles)))
    sample = subject.sample()
    return AuditReport(
        kind=subject.kind,
        name=subject.name,
        source=subject.path,
        digest=subject.digest,
        rows=cells.count(),
        features=len(names),
        symbols=subject.symbols,
        span=_span(subject),
        view="natural" if subject.scaling is None else "model",
        treatment=_treatment(subject),
        sample=len(sample),
        exact=len(sample) == train.rows,
        splits={split: cells.count(split) for split in splits},
        slices={name: measured.profiles[name].rows for name in cells.slices},
        effective_features=_effective(measured),
        blocks=tuple(_blocks(subject, measured)),
        peeled=tuple(_peel(names, natural.square)),
        model=tuple(_model(subject, measured, judged)),
        findings=judged.findings,
        repaired=judged.repaired,
        waived=judged.waived,
        notes=(*subject.notes, *compared.notes, *judged.notes),
        columns=tuple(columns),
        chunks=tuple(_chunks(subject)),
        redundant=tuple((names[a], names[b], rho) for a, b, rho in measured.redundant),
        fail_on=subject.spec.fail_on,
        reference=dict(compared.summary) or None,
    )


def reference_of(subject: Subject) -> Reference:
    """A subject as what another one is compared with."""
    columns = {column["name"]: column for column in describe(subject, measure(subject))}
    return Reference(subject.name, columns, subject.rows)


def _treatment(subject: Subject) -> str:
    steps = []
    if subject.scaling is not None:
        scaling = subject.scaling
        fitted = (scaling.center != 0.0).any() or (scaling.scale != 1.0).any()
        steps += [
            "scaling fitted on train" if fitted else "",
            scaling.squashes,
        ]
    steps.append("layer_norm" if subject.norm else "")
    return " + ".join(filter(None, steps)) or "no treatment"


def _span(subject: Subject) -> tuple[str, str] | None:
    if subject.span is None:
        return None
    first, last = (str(np.datetime64(time, "ns").astype("M8[s]")) for time in subject.span)
    return first, last


def _effective(measured: Measured) -> dict[str, float]:
    found = {"natural": effective_features(shares_of(measured.natural[""].square))}
    if "" in measured.scaled:
        found["scaled"] = effective_features(shares_of(measured.scaled[""].square))
        if "" in measured.model:
            found["model"] = effective_features(measured.model[""].shares)
    return found


def _blocks(subject: Subject, measured: Measured) -> Iterator[BlockShare]:
    """Each block's part of the squared norm in every view, that of the model last."""
    natural = measured.natural[""]
    views: dict[str, F8] = {
        "raw": shares_of(natural.square),
        "centred": shares_of(natural.std**2),
        "row-wise": natural.row_share,
    }
    if "" in measured.scaled:
        views["after scaling"] = shares_of(measured.scaled[""].square)
    if "" in measured.model and subject.norm:
        views["after layer_norm"] = measured.model[""].shares
    if len(views) == 3:  # nothing is done to the rows: the model meets them raw
        views["raw"] = views.pop("raw")
    of_block = np.array([feature.block for feature in subject.features])
    for block in dict.fromkeys(of_block.tolist()):
        inside = of_block == block
        shares = {name: float(share[inside].sum()) for name, share in views.items()}
        yield BlockShare(block, int(inside.sum()), shares)


def _peel(names: list[str], square: F8) -> Iterator[Peel]:
    """Effective features in natural units, as the largest are taken away in turn."""
    square = square.copy()
    yield Peel("", effective_features(shares_of(square)))
    for _ in range(min(PEELED, len(names) - 1)):
        largest = int(square.argmax())
        square[largest] = 0.0
        yield Peel(names[largest], effective_features(shares_of(square)))


def _model(subject: Subject, measured: Measured, judged: Judged) -> Iterator[ModelSlice]:
    names = [feature.name for feature in subject.features]
    blocks = list(dict.fromkeys(feature.block for feature in subject.features))
    for slice_ in measured.model:
        statistics = []
        for each in measured.measures:
            if each.slice != slice_ or each.metric not in MODEL:
                continue
            at = int(np.flatnonzero(~np.isnan(each.values))[0])
            level = float(judged.levels[each.metric, slice_][at])
            warn, fail = (float(b[at]) for b in judged.bounds[each.metric, slice_])
            detail = {"feature": names, "block": blocks, "all": [""]}[each.of][at]
            statistics.append(
                Statistic(
                    each.metric,
                    float(each.values[at]),
                    None if np.isnan(warn) else warn,
                    None if np.isnan(fail) else fail,
                    LIMITS[each.metric].low,
                    severity_of(level),
                    detail,
                )
            )
        yield ModelSlice(slice_, measured.profiles[slice_].rows, tuple(statistics))


def _chunks(subject: Subject) -> Iterator[dict[str, object]]:
    """The stretches of time; the numbers of rows where there is no time."""
    cells = subject.cells
    if not cells.chunks:
        return
    timed = subject.span is not None
    ends = [subject.span[0] if subject.span else 0, *cells.chunks]
    for chunk, first in enumerate(ends):
        told = str(np.datetime64(first, "ns").astype("M8[s]")) if timed else str(first)
        yield {"first": told, "rows": cells.count(chunk=chunk)}
