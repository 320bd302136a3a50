"""Print how much distilled students of a study gain, by settings and the temperature; or draw it.

    python docs/why_tables.py outputs/why_dropout model/dropout
    python docs/why_tables.py outputs/why_factors model/dropout optim/schedule data/batch_size
    python docs/why_tables.py outputs/why_dropout model/dropout --figure docs/why/dropout.png

The gain is test accuracy over the student alone of the same seed and settings, in points: the mean
over seeds, and its 95 % interval. In a study of students alone, over those of the lowest value.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from kd.report import stats
from kd.training.run_folder import RESULTS


def gains(study: Path, by: list[str]) -> pd.DataFrame:
    """Each distilled run of a study with its gain over the student alone."""
    runs = pd.read_csv(study / RESULTS, keep_default_na=False, na_values=[""])
    alone, distilled = (runs[runs.stage == stage] for stage in ("student", "distill"))
    if distilled.empty:  # students alone, compared with those of the lowest value
        distilled = alone.assign(**{"kd/alpha": 1.0})
        alone = alone[alone[by[0]] == alone[by[0]].min()].drop(columns=by)
        by = []
    shared = ["seed", *(key for key in by if not key.startswith(("kd/", "teacher/")))]
    found = distilled.merge(alone[[*shared, "test/acc"]], on=shared, suffixes=("", "/alone"))
    return found.assign(gain=100 * (found["test/acc"] - found["test/acc/alone"]))


def shown(value: Any) -> str:
    """A setting's value; a teacher by its folder, several as an ensemble."""
    if pd.isna(value):
        return "null"
    paths = str(value).split(os.pathsep)
    if not paths[0].endswith("model.ckpt"):
        return str(value)
    return Path(paths[0]).parent.name if len(paths) == 1 else f"ensemble of {len(paths)}"


def cell(gain: pd.Series) -> str:
    """The mean gain of some runs and its interval."""
    found = stats.estimate(gain.tolist())
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})".replace("-", "−")


def figure(found: pd.DataFrame, by: list[str]) -> Figure:
    """The gain at the lowest alpha over T, with its 95 % interval: one line per setting."""
    lowest = found[found["kd/alpha"] == found["kd/alpha"].min()]
    settings = list(lowest.groupby(by, dropna=False))
    drawn = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = drawn.subplots()
    axes.axhline(0, color="0.4", linewidth=0.8)
    colours = mpl.colormaps["viridis"]
    for place, (values, runs) in enumerate(settings):
        cells = [(t, stats.estimate(gain.tolist())) for t, gain in runs.groupby("kd/T").gain]
        shift = 1 + 0.03 * (place - (len(settings) - 1) / 2)  # else intervals hide each other
        means = [e.mean for _, e in cells]
        around = [[e.mean - e.low for _, e in cells], [e.high - e.mean for _, e in cells]]
        label = ", ".join(map(shown, values))
        colour = colours(0.9 * place / max(1, len(settings) - 1))
        at = [t * shift for t, _ in cells]
        axes.errorbar(at, means, around, marker="o", capsize=3, color=colour, label=label)
    axes.set_xscale("log", base=2)
    temperatures = sorted(lowest["kd/T"].unique())
    axes.set_xticks(temperatures, [f"{t:g}" for t in temperatures])
    axes.minorticks_off()
    axes.set_xlabel("temperature T")
    axes.set_ylabel("gain over the student alone, points")
    columns = 2 if max(len(label) for label in axes.get_legend_handles_labels()[1]) > 12 else 4
    where = {"loc": "outside upper center", "title": ", ".join(by), "ncols": columns}
    drawn.legend(fontsize="small", frameon=False, **where)
    return drawn


def main() -> None:
    """Print the table, or draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study, as outputs/why_dropout")
    parser.add_argument("by", nargs="+", help="columns of its results.csv, as model/dropout")
    parser.add_argument("--figure", type=Path, help="file to draw instead, as dropout.png")
    given = parser.parse_args()
    found = gains(given.study, given.by)
    if given.figure:
        figure(found, given.by).savefig(given.figure, dpi=110)
        print(given.figure)
        return
    cells = found.groupby(["kd/alpha", *given.by, "kd/T"], dropna=False).gain
    table = cells.apply(cell).unstack()
    alone = 100 * found.groupby(["kd/alpha", *given.by], dropna=False)["test/acc/alone"].mean()
    print(f"n = {cells.size().min()} seeds per cell")
    names = [
        "alpha",
        *given.by,
        "alone, %",
        *("gain" if pd.isna(t) else f"T = {t:g}" for t in table),
    ]
    print(f"| {' | '.join(names)} |")
    print("|---" * len(names) + "|")
    for (place, row), accuracy in zip(table.iterrows(), alone, strict=True):
        alpha, *values = place
        known = [f"{alpha:g}", *map(shown, values), f"{accuracy:.2f}"]
        print(f"| {' | '.join([*known, *row])} |")


if __name__ == "__main__":
    main()
