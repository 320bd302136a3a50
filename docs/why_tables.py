"""Print how much distilled students of a study gain, by a setting and the temperature.

    python docs/why_tables.py outputs/why_dropout model/dropout

The gain is test accuracy over the student alone of the same seed and setting, in points: the mean
over seeds, and its 95 % interval.
"""

import argparse
from pathlib import Path

import pandas as pd

from kd.report import stats
from kd.training.run_folder import RESULTS


def gains(study: Path, by: str) -> pd.DataFrame:
    """Each distilled run of a study with its gain over the student alone."""
    runs = pd.read_csv(study / RESULTS, keep_default_na=False, na_values=[""])
    alone, distilled = (runs[runs.stage == stage] for stage in ("student", "distill"))
    shared = ["seed"] if by.startswith(("kd/", "teacher/")) else ["seed", by]
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
    parser.add_argument("by", help="column of its results.csv, as model/dropout")
    given = parser.parse_args()
    found = gains(given.study, given.by)
    table = found.groupby(["kd/alpha", given.by, "kd/T"]).gain.apply(cell).unstack()
    seeds = found.groupby(["kd/alpha", given.by, "kd/T"]).gain.size()
    alone = 100 * found.groupby(given.by)["test/acc/alone"].mean()
    print(f"n = {seeds.min()} seeds per cell")
    print(f"| alpha | {given.by} | alone, % | " + " | ".join(f"T = {t:g}" for t in table) + " |")
    print("|---" * (3 + table.shape[1]) + "|")
    for (alpha, value), row in table.iterrows():
        print(f"| {alpha:g} | {value} | {alone[value]:.2f} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
