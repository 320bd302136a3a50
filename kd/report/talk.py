"""What the talk reported, to be put beside what we measure.

Figures from the talk's slides: test accuracy in %, F1 by class, confused pairs.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from kd.report.evaluation import confused_pairs, confusion, per_class
from kd.training.results import Run

TEACHER, STUDENT = 98.4, 96.3
LOWEST_CELL, HIGHEST_CELL = 95.7, 96.8
TEACHER_F1 = (0.99, 0.99, 0.98, 0.99, 0.99, 0.98, 0.99, 0.98, 0.98, 0.98)
STUDENT_F1 = (0.98, 0.98, 0.96, 0.96, 0.96, 0.95, 0.97, 0.97, 0.95, 0.96)
CONFUSED = "9 and 4, 5 and 3, 6 and 5"


def compare_with_talk(
    teachers: Mapping[int, Run],
    students: Mapping[int, Run],
    cells: Mapping[tuple[float, float], Mapping[int, Run]],
) -> pd.DataFrame:
    """Point by point: what the talk says, what we find."""
    rows: list[tuple[str, str, str]] = []
    for name, theirs, runs, f1 in (
        ("teacher", TEACHER, teachers, TEACHER_F1),
        ("student alone", STUDENT, students, STUDENT_F1),
    ):
        if not runs:
            rows.append((f"{name}: test accuracy", f"{theirs} %", "no run"))
            continue
        ours = [100 * run.metrics["test/acc"] for run in runs.values()]
        rows.append((f"{name}: test accuracy", f"{theirs} %", spread(ours)))
        mine = np.mean(
            [per_class(*r.predictions[:2])["f1-score"][:10] for r in runs.values()], axis=0
        )
        largest = np.abs(mine - np.array(f1)).max()
        rows.append(
            (
                f"{name}: F1 of the digits",
                listed(f1),
                f"{listed(mine)} (at most {largest:.3f} apart)",
            )
        )
        matrix = sum(confusion(*run.predictions[:2]) for run in runs.values())
        pairs = ", ".join(f"{i} and {j}" for i, j, _ in confused_pairs(matrix, 3))
        rows.append((f"{name}: most confused", CONFUSED, pairs))
    if cells:
        mean = {
            c: 100 * np.mean([r.metrics["test/acc"] for r in by.values()])
            for c, by in cells.items()
        }
        rows.append(
            (
                "grid: lowest to highest",
                f"{LOWEST_CELL} to {HIGHEST_CELL} %",
                f"{min(mean.values()):.2f} to {max(mean.values()):.2f} %",
            )
        )
        for title, inside in (
            ("along T = 1", lambda c: c[0] == 1),
            ("along alpha = 1", lambda c: c[1] == 1),
        ):
            line = [value for cell, value in mean.items() if inside(cell)]
            if line:
                rows.append((title, "constant", f"{min(line):.2f} to {max(line):.2f} %"))
        low = [mean[c] for c in mean if c[0] == max(T for T, _ in mean)]
        rows.append(
            (
                f"at T = {max(T for T, _ in mean):g}, alpha falling",
                "falls",
                " → ".join(f"{value:.2f}" for value in reversed(low)) + " %",
            )
        )
        rows.append(
            (
                "best cell",
                "alpha = 1",
                "T = {:g}, alpha = {:g} on test".format(*max(mean, key=mean.get)),
            )
        )
    return pd.DataFrame(rows, columns=["point", "talk", "ours"])


def spread(values: list[float]) -> str:
    """Mean and range over seeds."""
    seeds = f"{len(values)} seed{'s' * (len(values) > 1)}"
    return f"{np.mean(values):.2f} % ({min(values):.2f} to {max(values):.2f}, {seeds})"


def listed(values: tuple[float, ...] | np.ndarray) -> str:
    """The ten digits' figures in a row."""
    return " ".join(f"{value:.2f}" for value in values)
