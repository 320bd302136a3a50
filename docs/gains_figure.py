"""Draw the gain of distillation against what the teacher knows more: docs/why/gains.png.

    python docs/gains_figure.py outputs

Of each case it takes the temperature that validation chooses at alpha = 0, of the studies of
``make why`` and ``make why-fashion`` in that folder.
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from why_tables import cell, gains

from kd.report import stats

OUT = Path(__file__).parent / "why" / "gains.png"
# What the teacher knows more, the study, a column and its value.
CASES = [
    ("nothing; wrong classes permuted", "controls", "teacher/control", "permuted"),
    ("nothing: the student has the same labels", "controls", "teacher/control", "none"),
    ("50,000 labels; the student has 10,000", "images", "data/train_size", 10_000),
    ("… 2,000", "images", "data/train_size", 2_000),
    ("… 500", "images", "data/train_size", 500),
    ("clean labels; 20 % of the student's are wrong", "noise", "data/label_noise", 0.2),
    ("… 40 %", "noise", "data/label_noise", 0.4),
    ("40,000 images without labels; 10,000 have one", "labels", "data/train_size", 10_000),
    ("48,000 …; 2,000", "labels", "data/train_size", 2_000),
    ("49,500 …; 500", "labels", "data/train_size", 500),
]
DATA_SETS = {"MNIST": "why_", "Fashion-MNIST": "why_fashion_"}


def chosen(study: Path, column: str, value: object) -> tuple[float, pd.Series]:
    """The temperature that validation chooses in a case, and each seed's gain there."""
    found = gains(study, [column])
    found = found[(found[column] == value) & (found["kd/alpha"] == 0)]
    best = found.groupby("kd/T")["val/acc"].mean().idxmax()
    return float(best), found[found["kd/T"] == best].gain


def main() -> None:
    """Draw, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", type=Path, help="folder of the studies, as outputs")
    outputs = parser.parse_args().outputs
    drawn = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(0, color="0.4", linewidth=0.8)
    for at, (data_set, prefix) in enumerate(DATA_SETS.items()):
        for place, (label, study, *case) in enumerate(CASES):
            t, gain = chosen(outputs / f"{prefix}{study}", *case)
            found = stats.estimate(gain.tolist())
            print(f"{data_set}, {label}: T = {t:g}, {cell(gain)}")
            around = [[found.mean - found.low], [found.high - found.mean]]
            height = 0.17 - 0.34 * at - place
            colour, name = f"C{at}", data_set if place == 0 else None
            axes.errorbar(
                found.mean, height, xerr=around, fmt="os"[at], capsize=3, color=colour, label=name
            )
            axes.annotate(
                f"T = {t:g}", (found.high, height), (6, -3), fontsize=7, textcoords="offset points"
            )
    axes.set_yticks([-place for place in range(len(CASES))], [label for label, *_ in CASES])
    axes.set_xlabel("gain over the student alone, points (95 % interval)")
    axes.legend(frameon=False, loc="upper right")
    axes.margins(x=0.12)
    drawn.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
