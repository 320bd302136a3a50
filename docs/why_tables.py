"""Print how much distilled students of a study gain, by settings and the temperature.

    python docs/why_tables.py outputs/why_dropout model/dropout
    python docs/why_tables.py outputs/why_factors model/dropout optim/schedule data/batch_size

The gain is test accuracy over the student alone of the same seed and settings, in points: the mean
over seeds, and its 95 % interval.
"""

import argparse
from pathlib import Path

import pandas as pd

from kd.report import stats
from kd.training.run_folder import RESULTS


def gains(study: Path, by: list[str]) -> pd.DataFrame:
    """Each distilled run of a study with its gain over the student alone."""
    runs = pd.read_csv(study / RESULTS, keep_default_na=False, na_values=[""])
    alone, distilled = (runs[runs.stage == stage] for stage in ("student", "distill"))
    shared = ["seed", *(key for key in by if not key.startswith(("kd/", "teacher/")))]
    found = distilled.merge(alone[[*shared, "test/acc"]], on=shared, suffixes=("", "/alone"))
    return found.assign(gain=100 * (found["test/acc"] - found["test/acc/alone"]))


def cell(gain: pd.Series) -> str:
    """The mean gain of some runs and its interval."""
    found = stats.estimate(gain.tolist())
    return f"{found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder of the study, as outputs/why_dropout")
    parser.add_argument("by", nargs="+", help="columns of its results.csv, as model/dropout")
    given = parser.parse_args()
    found = gains(given.study, given.by)
    cells = found.groupby(["kd/alpha", *given.by, "kd/T"]).gain
    table = cells.apply(cell).unstack()
    alone = 100 * found.groupby(["kd/alpha", *given.by])["test/acc/alone"].mean()
    print(f"n = {cells.size().min()} seeds per cell")
    names = ["alpha", *given.by, "alone, %", *(f"T = {t:g}" for t in table)]
    print(f"| {' | '.join(names)} |")
    print("|---" * len(names) + "|")
    for place, row in table.iterrows():
        alpha, *values = place
        known = [f"{alpha:g}", *map(str, values), f"{alone[place]:.2f}"]
        print(f"| {' | '.join([*known, *row])} |")


if __name__ == "__main__":
    main()
