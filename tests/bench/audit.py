"""Speed of `featurekit audit FILE --html` over 200,000 rows of 129 columns, beside its peers.

    python tests/bench/audit.py [ROWS] [--ydata PYTHON] [--evidently PYTHON] [--whylogs PYTHON]

Two of the peers want pandas before 3, so each has an environment of its own, whose
interpreter is an option (by default the one that runs this). With Python 3.11:

    python -m venv ydata && ydata/bin/pip install fg-data-profiling pyarrow
    python -m venv evidently && evidently/bin/pip install evidently pyarrow "pandas<3"
    python -m venv whylogs && whylogs/bin/pip install whylogs pyarrow pandas

A peer that cannot be imported is skipped. ydata-profiling goes on as fg-data-profiling.

Each runs in a process of its own, on one thread, from after its imports until its report is
written. Imports that it makes late are none of its time: it first runs on 1,000 rows in another
process, which says what they are, and which leaves featurekit's compiled loops on disk. The
columns are simulated.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve()
# profile.py, beside this file, is not the standard library's.
sys.path = [path for path in sys.path if Path(path).resolve() != HERE.parent or not path]

if TYPE_CHECKING:
    from collections.abc import Callable

    # Reads the file, and returns what is timed: it writes the report.
    Tool = Callable[[Path, Path], Callable[[], object]]

ONE = ("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
UNTRACKED = ("DO_NOT_TRACK", "WHYLOGS_NO_ANALYTICS", "YDATA_PROFILING_NO_ANALYTICS")
ENVIRONMENT = os.environ | dict.fromkeys(ONE, "1") | dict.fromkeys(UNTRACKED, "true")
BLOCKS = {"market": 48, "position": 27, "indicator": 54}
FEW = 1000


def write_table(path: Path, rows: int) -> None:
    """Scales over 10 decades; a position that is flat half of the time; some heavy tails."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    side = np.repeat(rng.integers(-1, 2, rows // 50 + 1), 50)[:rows]
    names = [f"{block}.column_{k:02}" for block, n in BLOCKS.items() for k in range(n)]
    names[names.index("position.column_00")] = "position.side"
    scales = rng.permutation(np.logspace(-4, 6, len(names)))
    columns = {}
    for k, (name, scale) in enumerate(zip(names, scales, strict=True)):
        column = rng.standard_t(3, rows) if k % 4 == 0 else rng.standard_normal(rows)
        if name.startswith("position"):
            column *= side != 0
        columns[name] = (column * scale).astype(np.float32)
    columns["position.column_00"] = side.astype(np.float32)
    columns = {
        name.replace("position.column_00", "position.side"): x for name, x in columns.items()
    }
    pl.DataFrame(columns).write_parquet(path)


def featurekit(file: Path, out: Path) -> Callable[[], object]:
    from featurekit.cli.audit import command

    def run() -> None:
        arguments = [str(file), "--html", str(out / "audit.html"), "--json"]
        gate = contextlib.suppress(SystemExit)  # which simulated columns need not pass
        with (out / "audit.json").open("w") as text, contextlib.redirect_stdout(text), gate:
            command.main(arguments, standalone_mode=False)

    return run


def ydata(file: Path, out: Path) -> Callable[[], object]:
    import pandas as pd
    from data_profiling import ProfileReport

    def run() -> None:
        report = ProfileReport(pd.read_parquet(file), minimal=True, pool_size=1, progress_bar=False)
        report.to_file(out / "ydata.html", silent=True)

    return run


def evidently(file: Path, out: Path) -> Callable[[], object]:
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataSummaryPreset

    def run() -> None:
        frame = pd.read_parquet(file)
        definition = DataDefinition(numerical_columns=list(frame.columns))
        data = Dataset.from_pandas(frame, data_definition=definition)
        Report([DataSummaryPreset()]).run(data, None).save_html(str(out / "evidently.html"))

    return run


def whylogs(file: Path, out: Path) -> Callable[[], object]:
    import pandas as pd
    import whylogs as why

    def run() -> None:
        view = why.log(pd.read_parquet(file)).view()
        view.to_pandas().to_csv(out / "whylogs.csv")

    return run


def profile(file: Path, out: Path) -> Callable[[], object]:
    del out
    import numpy as np
    import polars as pl

    import featurekit as fk

    table = np.ascontiguousarray(pl.read_parquet(file).to_numpy())
    fk.Profile.of(table[:FEW])  # compiled
    return lambda: fk.Profile.of(table)


def describe(file: Path, out: Path) -> Callable[[], object]:
    del out
    import polars as pl

    frame = pl.read_parquet(file)
    frame.head(FEW).describe()
    return lambda: frame.describe()


@dataclass(frozen=True)
class Run:
    """A tool, its packages (the first is its own), and what it reports."""

    tool: Tool
    name: str
    packages: str
    reports: str
    peer: bool = False


OURS, PROFILE, DESCRIBE = "featurekit audit --html", "featurekit Profile", "polars describe"
BAR_S, BAR = 2, 10
RUNS = (
    Run(
        featurekit,
        OURS,
        "featurekit",
        "moments, quantiles and histogram of each column; correlations, of a sample of the rows; "
        "scale of blocks and slices; findings with limits, remedies and commands; HTML and JSON",
    ),
    Run(
        ydata,
        "ydata-profiling, minimal",
        "fg-data-profiling pyarrow",
        "moments, quantiles, histogram, distinct, most frequent and most extreme values of each "
        "column; alerts; no correlations; HTML",
        peer=True,
    ),
    Run(
        evidently,
        "evidently, DataSummaryPreset",
        'evidently pyarrow "pandas<3"',
        "mean, deviation, quartiles, extremes and histogram of each column; equal and nearly "
        "equal rows and columns; no findings; HTML",
        peer=True,
    ),
    Run(
        whylogs,
        "whylogs, profile to CSV",
        "whylogs pyarrow pandas",
        "mean, deviation, sketches of quantiles and of distinct values, types of each column; no "
        "histogram, no findings, no page",
        peer=True,
    ),
    Run(
        profile,
        PROFILE,
        "featurekit",
        "of a table in memory: 4 moments, extremes, zeros, histogram, share of each row's square",
    ),
    Run(
        describe,
        DESCRIBE,
        "polars",
        "of a frame in memory: mean, deviation, quartiles, extremes, nulls",
    ),
)


def child(tool: str, file: Path, out: Path, early: list[str]) -> None:
    """Prints its seconds, those of the CPU, what was imported in them, and the report's bytes."""
    run = next(each.tool for each in RUNS if each.tool.__name__ == tool)(file, out)
    for name in early:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    before = set(sys.modules)
    start, busy = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    late = [name for name in sys.modules if name not in before]
    size = sum(path.stat().st_size for path in out.iterdir())
    print("\n" + json.dumps({"wall": wall, "cpu": cpu, "late": late, "size": size}))


def measured(run: Run, python: str, file: Path, early: list[str]) -> dict[str, Any]:
    """What the child prints.

    Raises:
        RuntimeError: when it fails.
    """
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [python, HERE, "--child", run.tool.__name__, file, out],
            input=json.dumps(early),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def version(run: Run, python: str) -> str:
    package = run.packages.split()[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return f"{package} {found.stdout.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="?", type=int, default=200_000)
    for run in RUNS:
        if run.peer:
            parser.add_argument(f"--{run.tool.__name__}", metavar="PYTHON", default=sys.executable)
    given = vars(parser.parse_args())
    python = {run.name: given.get(run.tool.__name__, sys.executable) for run in RUNS}
    early: dict[str, list[str]] = {}
    taken: dict[str, list[dict[str, Any]]] = {run.name: [] for run in RUNS}
    with tempfile.TemporaryDirectory() as folder:
        few, file = Path(folder) / "few.parquet", Path(folder) / "table.parquet"
        write_table(few, FEW)
        write_table(file, given["rows"])
        print(f"{given['rows']:,} rows of 129 float32 columns, {file.stat().st_size / 1e6:.0f} MB")
        for run in RUNS:
            try:
                early[run.name] = measured(run, python[run.name], few, [])["late"]
            except RuntimeError as error:
                if not run.peer:
                    raise
                why = str(error).strip().splitlines()[-1]
                print(f"skipped {run.name} ({why}): pip install {run.packages}")
        runs = [run for run in RUNS if run.name in early]
        quick = [run for run in runs if not run.peer]
        for peer in [run for run in runs if run.peer] or quick[:1]:
            for run in dict.fromkeys([*quick, peer]):  # so that a slow spell meets all
                taken[run.name] += [measured(run, python[run.name], file, early[run.name])]
    middle = {
        run.name: {
            key: statistics.median(each[key] for each in taken[run.name])
            for key in ("wall", "cpu", "size")
        }
        for run in runs
    }
    versions = {run.name: version(run, python[run.name]) for run in runs}
    print("one thread, after imports, median of the runs; report in MB")
    print(f"  {'':30}{'seconds':>8}{'CPU':>8}{'runs':>6}{'report':>8}")
    for run in runs:
        each = middle[run.name]
        figures = f"{each['wall']:8.3f}{each['cpu']:8.3f}{len(taken[run.name]):6}"
        print(f"  {run.name:30}{figures}{each['size'] / 1e6:8.2f}  {versions[run.name]}")
    print("what they report")
    fill = textwrap.TextWrapper(98, initial_indent="  ", subsequent_indent="    ").fill
    for run in runs:
        print(fill(f"{run.name}: {run.reports}"))
    ours = middle[OURS]
    print(f"{OURS}: {ours['wall']:.2f} s, CPU {ours['cpu']:.2f} s (at most {BAR_S})")
    pairs = [(run.name, OURS) for run in runs if run.peer] + [(DESCRIBE, PROFILE)]
    for peer_name, name in pairs:
        wall, cpu = (middle[peer_name][key] / middle[name][key] for key in ("wall", "cpu"))
        print(f"{peer_name} / {name}: {wall:.1f}, CPU {cpu:.1f} (at least {BAR})")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), json.load(sys.stdin))
    else:
        main()
