"""Schemas of bars and fills: what has to hold, and every row where it does not.

A schema file is a closed grammar of ours, also given as a pandera schema. Its checks run here: all
of them in one aggregate query, and a second, filtered one only for those that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from featurekit.document import parse, read_yaml
from featurekit.errors import ConfigError, Problem
from featurekit.violations import ROW, VIOLATIONS, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandera.polars as pandera

    from featurekit.document import Source

PIECE = 262_144  # rows checked at a time, so that memory does not grow with the frame


@dataclass(frozen=True, slots=True)
class Column:
    """One column: what kind of values, and which of them are allowed."""

    kind: Literal["text", "time", "number"]
    nullable: bool = False
    optional: bool = False
    above: float | None = None
    at_least: float | None = None
    one_of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Increasing:
    """A time that increases within each value of another column."""

    time: str
    by: str


@dataclass(frozen=True, slots=True)
class Inside:
    """Whether open and close lie between low and high, up to a tolerance in price."""

    open: Severity = "fail"
    close: Severity = "fail"
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True)
class Jump:
    """The largest log return between two closes that is not worth a look."""

    log_return: float
    severity: Severity = "warn"


@dataclass(frozen=True, slots=True)
class Schema:
    """What a table has to be; the keys of a schema file."""

    name: str
    columns: Mapping[str, Column] = field(default_factory=dict)
    increasing: Increasing | None = None
    inside: Inside | None = None
    jump: Jump | None = None
    ordered: str | None = None
    priced: bool = False

    def to_pandera(self) -> pandera.DataFrameSchema:
        """The columns as a pandera schema: kinds, nulls, ranges and choices.

        Example:
            >>> list(load_schema("schemas/bars.yaml").to_pandera().columns)[:3]
            ['symbol', 'time', 'open']
        """
        import pandera.polars as pandera  # heavy; needed by those who ask for it

        kinds: dict[str, pl.DataType] = {
            "text": pl.String(),
            "time": pl.Datetime("ns", "UTC"),
            "number": pl.Float64(),
        }
        columns = {}
        for name, column in self.columns.items():
            checks = []
            if column.above is not None:
                checks.append(pandera.Check.gt(column.above))
            if column.at_least is not None:
                checks.append(pandera.Check.ge(column.at_least))
            if column.one_of:
                checks.append(pandera.Check.isin(column.one_of))
            columns[name] = pandera.Column(
                kinds[column.kind],
                checks,
                nullable=column.nullable,
                required=not column.optional,
            )
        return pandera.DataFrameSchema(columns, name=self.name)


def template(path: str | Path) -> Path:
    """A file as given, or the one of that name that comes with featurekit.

    Raises:
        ConfigError: when there is neither.
    """
    here = Path(path)
    package = Path(__file__).parent
    for candidate in (here, package.parent / here, package / "templates" / here):
        if candidate.is_file():
            return candidate
    raise ConfigError(
        Problem("there is no such file", where=str(path), fix="schema: schemas/bars.yaml")
    )


def load_schema(path: str | Path) -> Schema:
    """Reads a schema file.

    Raises:
        ConfigError: when it is missing or not what a schema has to be.
    """
    try:
        text = template(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            Problem(
                "the schema file cannot be read",
                where=str(path),
                expected="YAML in UTF-8",
                got=getattr(error, "strerror", None) or str(error),
                fix="schema: schemas/bars.yaml",
            )
        ) from error
    document, source = read_yaml(text, str(path))
    schema = parse(Schema, document, source)
    if schema is not None:
        _check_references(schema, source)
    source.check()
    assert schema is not None  # noqa: S101  # check() raised otherwise
    return schema


def _check_references(schema: Schema, source: Source) -> None:
    """Notes checks of columns that the schema does not declare: they would never run."""
    named: list[tuple[tuple[str, ...], str]] = []
    if schema.increasing is not None:
        named.append((("increasing", "time"), schema.increasing.time))
        named.append((("increasing", "by"), schema.increasing.by))
    if schema.ordered is not None:
        named.append((("ordered",), schema.ordered))
    for path, column in named:
        if column not in schema.columns:
            near = difflib.get_close_matches(column, schema.columns, 1)
            source.add(
                "a check is of a column that is not declared",
                path,
                expected=", ".join(schema.columns),
                got=column,
                fix=f"{path[-1]}: {near[0]}" if near else f"columns: {{{column}: {{kind: time}}}}",
            )


@dataclass(frozen=True, slots=True)
class _Check:
    name: str
    column: str
    bad: pl.Expr
    severity: Severity = "fail"


def validate(frame: pl.DataFrame, schema: Schema | str | Path) -> pl.DataFrame:
    """Every violation of a schema: check, column, symbol, time, row, value and severity.

    `row` counts from 0: in the file, where the frame was read from one with its rows noted
    (`schema.ROW`), else in the frame.

    Raises:
        ConfigError: when the schema file is not what it has to be.

    Example:
        >>> bars = pl.DataFrame({"symbol": ["X"], "time": [0], "open": [1.0], "high": [0.9],
        ...     "low": [1.0], "close": [1.0], "volume": [5.0]})
        >>> bars = bars.with_columns(pl.col("time").cast(pl.Datetime("ns", "UTC")))
        >>> validate(bars, "schemas/bars.yaml")["check"].to_list()
        ['low <= high', 'open inside', 'close inside']
    """
    schema = schema if isinstance(schema, Schema) else load_schema(schema)
    found = [_wrong_columns(frame, schema)]
    checks = list(_checks(frame, schema))
    frame = frame if ROW in frame.columns else frame.with_row_index(ROW)
    for start in range(0, frame.height, PIECE):
        # One row more in front, for the checks that look at the row before.
        lead = min(start, 1)
        found.append(_broken(frame.slice(start - lead, PIECE + lead), checks, lead))
    return pl.concat(found)


def _wrong_columns(frame: pl.DataFrame, schema: Schema) -> pl.DataFrame:
    rows = []
    for name, column in schema.columns.items():
        if name not in frame.columns:
            if not column.optional:
                rows.append(("column is there", name, "", "fail"))
        elif not _is(frame.schema[name], column.kind):
            rows.append((f"is {column.kind}", name, str(frame.schema[name]), "fail"))
    return pl.DataFrame(
        {
            "check": [row[0] for row in rows],
            "column": [row[1] for row in rows],
            "value": [row[2] for row in rows],
            "severity": [row[3] for row in rows],
        },
        schema={name: VIOLATIONS[name] for name in ("check", "column", "value", "severity")},
    ).select(
        pl.col(name)
        if name in ("check", "column", "value", "severity")
        else pl.lit(None, kind).alias(name)
        for name, kind in VIOLATIONS.items()
    )


def _is(dtype: pl.DataType, kind: str) -> bool:
    if kind == "number":
        return dtype.is_numeric()
    if kind == "time":
        return isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    return dtype in (pl.String, pl.Categorical, pl.Enum)


def _checks(frame: pl.DataFrame, schema: Schema) -> Iterator[_Check]:
    usable = {
        name: column
        for name, column in schema.columns.items()
        if name in frame.columns and _is(frame.schema[name], column.kind)
    }
    for name, column in usable.items():
        x = pl.col(name)
        if not column.nullable:
            yield _Check("not null", name, x.is_null())
        if column.kind == "number" and frame.schema[name].is_float():
            yield _Check("finite", name, ~x.is_finite())
        if column.above is not None:
            yield _Check(f"> {column.above:g}", name, ~(x > column.above) & x.is_finite())
        if column.at_least is not None:
            yield _Check(f">= {column.at_least:g}", name, ~(x >= column.at_least) & x.is_finite())
        if column.one_of:
            yield _Check("one of " + ", ".join(column.one_of), name, ~x.is_in(column.one_of))
    if schema.increasing and {schema.increasing.time, schema.increasing.by} <= usable.keys():
        time, by = pl.col(schema.increasing.time), pl.col(schema.increasing.by)
        same = by == by.shift(1)
        yield _Check("each time once", schema.increasing.time, same & (time == time.shift(1)))
        yield _Check("times increase", schema.increasing.time, same & (time < time.shift(1)))
    if schema.ordered in usable:
        time = pl.col(schema.ordered)
        yield _Check("times in order", schema.ordered, time < time.shift(1))
    if schema.inside and {"open", "high", "low", "close"} <= usable.keys():
        low, high = pl.col("low"), pl.col("high")
        # What is not finite is told as that, and lies neither inside nor outside.
        known = low.is_finite() & high.is_finite()
        yield _Check("low <= high", "high", known & (low > high))
        low, high = low - schema.inside.tolerance, high + schema.inside.tolerance
        for name, severity in (("open", schema.inside.open), ("close", schema.inside.close)):
            x = pl.col(name)
            outside = known & x.is_finite() & ((x < low) | (x > high))
            yield _Check(f"{name} inside", name, outside, severity)
    if schema.jump and {"symbol", "close"} <= usable.keys():
        same = pl.col("symbol") == pl.col("symbol").shift(1)
        step = (pl.col("close") / pl.col("close").shift(1)).log().abs()
        jumps = same & step.is_finite() & (step > schema.jump.log_return)
        yield _Check("no jump", "close", jumps, schema.jump.severity)
    if schema.priced and {"side", "quantity", "price", "symbol"} <= usable.keys():
        trades = pl.col("side").is_in(["buy", "sell"]) & (pl.col("quantity") > 0)
        yield _Check("buys and sells have a price", "price", trades & pl.col("price").is_null())
        ordered = pl.col("side").is_in(["buy", "sell"])
        yield _Check("buys and sells have a symbol", "symbol", ordered & pl.col("symbol").is_null())


def _broken(frame: pl.DataFrame, checks: list[_Check], lead: int) -> pl.DataFrame:
    first = pl.int_range(pl.len()) >= lead
    marks = [(check.bad.fill_null(False) & first).alias(str(k)) for k, check in enumerate(checks)]
    counts = frame.select(mark.sum() for mark in marks).row(0) if checks else ()
    found = [
        frame.filter(mark).select(
            pl.lit(check.name).alias("check"),
            pl.lit(check.column).alias("column"),
            _or_null(frame, "symbol"),
            _or_null(frame, "time"),
            pl.col(ROW).cast(pl.Int64).alias("row"),
            pl.col(check.column).cast(pl.String).alias("value"),
            pl.lit(check.severity).alias("severity"),
        )
        for check, mark, count in zip(checks, marks, counts, strict=True)
        if count
    ]
    return pl.concat([pl.DataFrame(schema=VIOLATIONS), *found])


def _or_null(frame: pl.DataFrame, name: str) -> pl.Expr:
    if name in frame.columns and _is(frame.schema[name], "text" if name == "symbol" else "time"):
        return pl.col(name).cast(VIOLATIONS[name])
    return pl.lit(None, VIOLATIONS[name]).alias(name)
