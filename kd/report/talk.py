"""What the talk reported, beside what the study measured.

Figures from the talk's slides: test accuracy in %, F1 by class, confused pairs.
"""

from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd

from kd.report.evaluation import (
    RATES,
    Run,
    confused_pairs,
    confusion,
    mean_metric,
    rate_classes,
)
from kd.report.study import Cell, Study

TEACHER, STUDENT = 98.4, 96.3
CELLS = "95.7 to 96.8 %"
TEACHER_F1 = (0.99, 0.99, 0.98, 0.99, 0.99, 0.98, 0.99, 0.98, 0.98, 0.98)
STUDENT_F1 = (0.98, 0.98, 0.96, 0.96, 0.96, 0.95, 0.97, 0.97, 0.95, 0.96)
CONFUSED = "9 and 4, 5 and 3, 6 and 5"

Row = tuple[str, str, str]  # the point, what the talk says, what we measured


def compare_with_talk(study: Study) -> pd.DataFrame:
    """Compare the talk's numbers with those of the study's largest method, point by point."""
    rows = compare_network("teacher", TEACHER, TEACHER_F1, study.teachers.values())
    rows += compare_network("student alone", STUDENT, STUDENT_F1, study.students.values())
    if study.cells:
        rows += compare_sweep(study.cells_of(study.methods[0]))
    return pd.DataFrame(rows, columns=["point", "talk", "ours"])


def compare_network(
    name: str, accuracy: float, f1: Sequence[float], runs: Collection[Run]
) -> list[Row]:
    """Compare one network's accuracy, F1 by class and confused pairs over its seeds.

    Args:
        name: the network's name.
        accuracy: the talk's, in %.
        f1: the talk's, of the ten digits.
        runs: ours, one per seed.
    """
    if not runs:
        return [(f"{name}: test accuracy", f"{accuracy} %", "no run")]
    matrices = [confusion(run) for run in runs]
    ours = np.mean([rate_classes(one)[:10, RATES.index("f1-score")] for one in matrices], axis=0)
    apart = f"at most {np.abs(ours - np.array(f1)).max():.3f} apart"
    pairs = ", ".join(f"{i} and {j}" for i, j, _ in confused_pairs(np.sum(matrices, axis=0), 3))
    return [
        (f"{name}: test accuracy", f"{accuracy} %", format_spread(runs)),
        (f"{name}: F1 of the digits", format_figures(f1), f"{format_figures(ours)} ({apart})"),
        (f"{name}: most confused", CONFUSED, pairs),
    ]


def compare_sweep(cells: Iterable[Cell]) -> list[Row]:
    """Compare the mean accuracies of the cells: their range, lines through them, and the best."""
    table = pd.DataFrame(
        {"T": c.T, "alpha": c.alpha, "accuracy": 100 * mean_metric(c.runs.values(), "test/acc")}
        for c in cells
    )
    lines = {n: table.loc[table[n] == 1, "accuracy"] for n in ("T", "alpha") if 1 in set(table[n])}
    hottest = table["T"].max()
    falling = table.loc[table["T"] == hottest, "accuracy"][::-1].map("{:.2f}".format)
    best = table.loc[table["accuracy"].idxmax()]
    return [
        ("grid: lowest to highest", CELLS, format_range(table["accuracy"])),
        *((f"along {name} = 1", "constant", format_range(lines[name])) for name in lines),
        (f"at T = {hottest:g}, alpha falling", "falls", f"{' → '.join(falling)} %"),
        ("best cell", "alpha = 1", f"T = {best['T']:g}, alpha = {best['alpha']:g} on test"),
    ]


def format_range(values: Iterable[float]) -> str:
    """Least and largest of some accuracies in %."""
    return f"{min(values):.2f} to {max(values):.2f} %"


def format_spread(runs: Collection[Run]) -> str:
    """Mean and range of test accuracy over seeds."""
    values = [100 * run.metrics["test/acc"] for run in runs]
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    return f"{np.mean(values):.2f} % ({min(values):.2f} to {max(values):.2f}, {seeds})"


def format_figures(values: Iterable[float]) -> str:
    """The figures of the ten digits in a row."""
    return " ".join(f"{value:.2f}" for value in values)
