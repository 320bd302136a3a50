"""Draw the gain of distillation against what the teacher knows more: docs/why/gains.png.

    python docs/gains_figure.py outputs

Of each case it takes the temperature that validation chooses at alpha = 0, of the studies of
``make why`` in that folder.
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from why_tables import gains

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
]


def chosen(outputs: Path, study: str, column: str, value: object) -> tuple[float, stats.Estimate]:
    """The temperature that validation chooses in a case, and the gain there."""
    found = gains(outputs / f"why_{study}", [column])
    found = found[(found[column] == value) & (found["kd/alpha"] == 0)]
    best = found.groupby("kd/T")["val/acc"].mean().idxmax()
    return float(best), stats.estimate(found[found["kd/T"] == best].gain.tolist())


def main() -> None:
    """Draw, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", type=Path, help="folder of the studies, as outputs")
    outputs = parser.parse_args().outputs
    rows = {label: chosen(outputs, *case) for label, *case in CASES}
    drawn = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = drawn.subplots()
    axes.axvline(0, color="0.4", linewidth=0.8)
    for place, (t, found) in enumerate(rows.values()):
        around = [[found.mean - found.low], [found.high - found.mean]]
        axes.errorbar(found.mean, -place, xerr=around, marker="o", capsize=3, color="C0")
        axes.annotate(f"T = {t:g}", (found.high, -place), (6, -4), textcoords="offset points")
    axes.set_yticks([-place for place in range(len(rows))], list(rows))
    axes.set_xlabel("gain over the student alone, points (95 % interval)")
    axes.margins(x=0.18)
    drawn.savefig(OUT, dpi=110)
    for label, (t, found) in rows.items():
        print(f"{label}: T = {t:g}, {found.mean:+.2f} ({found.low:+.2f} to {found.high:+.2f})")


if __name__ == "__main__":
    main()
