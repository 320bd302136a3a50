"""What to try next: explanations that the study at hand gives evidence for, and no others.

They describe what the runs show, test figures included. Nothing is chosen by them.
"""

from statistics import fmean
from typing import Any

from kd.config.schema import Config
from kd.report import stats
from kd.report.alike import views_of
from kd.report.evaluation import Run
from kd.report.page import Section, one_line
from kd.report.study import Cell, Study

LITTLE = 0.003  # points of accuracy, as a share: a teacher this near has little to add
MILD = (2, 4)  # temperatures at which small students do well; Hinton et al. 2015, section 3


def show_hints(study: Study, config: Config) -> list[Section]:
    """What to try, if the study shows anything."""
    hints = suggest(study)
    said = [f"to try: {one_line(hint)}" for hint in hints]
    return [Section("try", "What to try", " ".join(hints), said=said)] if hints else []


def suggest(study: Study) -> list[str]:
    """Suggest what to try, in a sentence each with the numbers that speak for it."""
    if not study.cells:
        return []
    cell = study.verdict.chosen or study.cells[0]
    found = (
        suggest_temperature(study, cell),
        suggest_dropout(study, cell),
        suggest_task(study, cell),
    )
    return [hint for hint in found if hint is not None]


def suggest_temperature(study: Study, about: Cell) -> str | None:
    """Suggest milder temperatures or a wider student if the highest T is worse than the lowest."""
    cells = [cell for cell in study.cells_of(about.method) if not cell.is_control]
    alpha = min((cell.alpha for cell in cells), default=1.0)
    among = sorted((cell for cell in cells if cell.alpha == alpha), key=lambda cell: cell.T)
    if len(among) < 2:
        return None
    cold, hot = among[0], among[-1]
    seeds = cold.runs.keys() & hot.runs.keys()
    found = stats.estimate([accuracy(hot.runs[s]) - accuracy(cold.runs[s]) for s in seeds])
    ways = []
    mildest, hottest = MILD
    if hottest < hot.T and not any(mildest <= cell.T <= hottest for cell in cells):
        ways.append(f"T from {mildest} to {hottest}")
    widths = values_of(study, "model/hidden")
    if len(widths) == 1:
        ways.append(f"a wider student{wider(*widths)}")
    if not found.high < 0 or not ways:
        return None
    low, high = (stats.signed(100 * limit) for limit in (found.low, found.high))
    return (
        f"T = {hot.T:g} is {-100 * found.mean:.2f} points worse than T = {cold.T:g} at alpha = "
        f"{alpha:g} (95 % interval {low} to {high}, n = "
        f"{found.n}): the student may be too small to match all of the teacher's logits; try "
        f"{', or '.join(ways)}."
    )


def wider(width: Any) -> str:
    """The words that sweep over wider hidden layers; empty if there is not one of them."""
    known = type(width) is int
    return f": -m … model.hidden={width},{4 * width},{16 * width}" if known else ""


def suggest_dropout(study: Study, about: Cell) -> str | None:
    """Suggest a student without dropout if none of the study is one."""
    share = first_run(about).metrics.get("model/dropout")
    if not isinstance(share, float) or not all(values_of(study, "model/dropout")):
        return None
    return (
        f"The student drops {100 * share:g} % of its hidden units in training, while it is to "
        "match the teacher's logits; try model.dropout=0."
    )


def suggest_task(study: Study, about: Cell) -> str | None:
    """Suggest a harder task if the student alone is about as good as the teacher, to no gain."""
    alone = [accuracy(run) for run in about.method.controls.values()]
    if study.verdict.word == "works" or study.teacher is None or not alone:
        return None
    mean, teacher = fmean(alone), accuracy(study.teacher)
    ways = []
    if values_of(study, "data/train_size") == {None}:
        ways.append("fewer labels (data.train_size=1000)")
    if not views_of(first_run(about)):
        ways.append("views of the images (data.augment.shift=2)")
    if teacher - mean > LITTLE or not ways:
        return None
    return (
        f"The teacher, at {100 * teacher:.2f} %, has little to add to the student alone, at "
        f"{100 * mean:.2f} % (n = {len(alone)}); try {', or '.join(ways)}."
    )


def first_run(cell: Cell) -> Run:
    """A cell's run of the lowest seed."""
    return cell.runs[min(cell.runs)]


def accuracy(run: Run) -> float:
    """A run's test accuracy."""
    return run.metrics["test/acc"]


def values_of(study: Study, key: str) -> set[Any]:
    """The values of a setting among the study's distilled runs."""
    return {run.metrics.get(key) for run in study.runs if run.metrics["stage"] == "distill"}
