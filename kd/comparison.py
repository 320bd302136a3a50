"""The sections of the report that compare distilled students with the student alone."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kd import figures, stats
from kd.config import Config
from kd.evaluation import comparable, fidelity_to
from kd.folder import file_hash
from kd.page import Section
from kd.results import Cell, Method, Run, Study

Place = tuple[Method, Cell]


def by_place(study: Study) -> dict[Place, dict[int, Run]]:
    """The runs of every cell of every method, by seed."""
    return {(m, cell): by_seed for m in study.methods for cell, by_seed in m.cells.items()}


def compared(study: Study) -> dict[Place, stats.Compared]:
    """Every cell of every method beside the student alone of the same seeds."""

    def figure(key: str, runs: dict[int, Run]) -> dict[int, float]:
        return {seed: run.metrics[key] for seed, run in runs.items()}

    places = by_place(study)
    test, validation = (
        {place: figure(key, runs) for place, runs in places.items()}
        for key in ("test/acc", "val/acc")
    )
    alone = {place: figure("test/acc", place[0].students) for place in places}
    return stats.compare(test, validation, alone)


def said(study: Study, place: Place) -> str:
    """A cell's name, with its method's where the study has several."""
    method, (T, alpha) = place
    named = f"{method.label}, " if len(study.methods) > 1 else ""
    return f"{named}T = {T:g}, alpha = {alpha:g}"


def verdict(study: Study, config: Config) -> list[Section]:
    """The answer first."""
    if not study.cells:
        text = "Cannot tell: the study has no distilled run. Run python train.py -m stage=distill …"
        return [Section("verdict", "Verdict", text)]
    cells = compared(study)
    found = stats.judge(cells)
    parts = [f"Distillation here: {found.word}.", found.sentence]
    if found.chosen is not None:
        chosen, best = cells[found.chosen], cells[found.best_on_test]
        bias = 100 * (best.accuracy.mean - chosen.accuracy.mean)
        parts.append(
            f"Validation chooses {said(study, found.chosen)}: {100 * chosen.accuracy.mean:.2f} % "
            f"on test. The best such cell on test is {said(study, found.best_on_test)}; picking "
            f"it instead would flatter the result by {bias:.2f} points (selection bias)."
        )
        if chosen.gain.n == 1:
            runs, (method, _) = by_place(study)[found.chosen], found.chosen
            (seed,) = runs.keys() & method.students.keys()
            parts.append(one_seed(runs[seed], method.students[seed]))
    if study.failed:
        parts.append(f"{len(study.failed)} runs are not complete: {', '.join(study.failed)}.")
    if study.left_out:
        parts.append(
            f"{study.left_out} distilled runs with other settings are listed, not compared."
        )
    return [Section("verdict", "Verdict", " ".join(parts))]


def one_seed(distilled: Run, alone: Run) -> str:
    """What one seed can tell: these two networks on other test images, not other seeds."""
    logits, labels, _ = distilled.predictions
    one = (logits.argmax(1) == labels).numpy()
    other = (alone.predictions[0].argmax(1) == labels).numpy()
    low, high = stats.bootstrap_difference(one, other)
    return (
        f"Of these two trained networks: McNemar p = {stats.mcnemar(one, other):.2g}, bootstrap "
        f"interval over test images {100 * low:+.2f} to {100 * high:+.2f} points."
    )


def grid(values: dict[Cell, float]) -> pd.DataFrame:
    """Temperatures down, alphas across."""
    return pd.Series(values).unstack()


def maps(study: Study, config: Config) -> list[Section]:
    """T × alpha maps of accuracy, paired gain, agreement and KL, and their figures as a table."""
    if not study.cells:
        return []
    shown = study.methods[0]
    cells = {cell: found for (method, cell), found in compared(study).items() if method is shown}
    of = f"{shown.label}: m" if len(study.methods) > 1 else "M"
    mean = {
        key: {
            c: float(np.mean([r.metrics[key] for r in by.values()]))
            for c, by in study.cells.items()
        }
        for key in ("fidelity/agreement", "fidelity/kl")
    }
    table = pd.DataFrame(
        {
            "T": T,
            "alpha": alpha,
            "seeds": c.accuracy.n,
            "test_accuracy": c.accuracy.mean,
            "low": c.accuracy.low,
            "high": c.accuracy.high,
            "gain": c.gain.mean if c.gain else math.nan,
            "gain_low": c.gain.low if c.gain else math.nan,
            "gain_high": c.gain.high if c.gain else math.nan,
            "p": c.gain.p if c.gain else math.nan,
            "p_holm": c.p_holm,
            "validation_accuracy": c.validation,
            "agreement": mean["fidelity/agreement"][T, alpha],
            "kl": mean["fidelity/kl"][T, alpha],
        }
        for (T, alpha), c in cells.items()
    )
    accuracy = grid({c: 100 * found.accuracy.mean for c, found in cells.items()})
    kl, agreed = (grid(mean[k]) for k in ("fidelity/kl", "fidelity/agreement"))
    sections = [
        Section(
            "accuracy",
            "Test accuracy by temperature and alpha",
            f"{of}ean of {study.seeds}, in %. 95 % intervals over seeds: in the table.",
            figures.heat_map(accuracy, "Test accuracy", "%"),
            "Heat map of test accuracy: its numbers are in the table below it",
            table,
        )
    ]
    gains = {c: 100 * found.gain.mean for c, found in cells.items() if found.gain}
    if gains:
        doubtful = grid({c: cells[c].p_holm >= 0.05 for c in gains})
        text = (
            "Points over the student alone of the same seed. Brackets: not significant (Holm, 5 %)."
        )
        drawn = figures.heat_map(
            grid(gains), "Gain over the student alone", "points", "{:+.2f}", doubtful, centred=True
        )
        alt = f"Heat map of gains, {min(gains.values()):+.2f} to {max(gains.values()):+.2f} points"
        sections.append(Section("gain", "Paired difference to the student alone", text, drawn, alt))
    else:
        text = "No student alone of the same seeds and settings: run python train.py stage=student."
        sections.append(Section("gain", "Paired difference to the student alone", text))
    text = "Share of test images on which student and teacher name the same digit, in %."
    drawn = figures.heat_map(100 * agreed, "Agreement with the teacher", "%")
    sections.append(
        Section("agreement", "Agreement with the teacher", text, drawn, "Heat map of agreement")
    )
    text = "KL(teacher ‖ student) of the predictions at T = 1, in nats: lower is more faithful."
    drawn = figures.heat_map(kl, "KL to the teacher", "nats", "{:.3f}")
    sections.append(Section("kl", "Divergence from the teacher", text, drawn, "Heat map of KL"))
    return sections


def methods(study: Study, config: Config) -> list[Section]:
    """Every method at the cell that validation chooses for it, and how near it comes to a teacher.

    Stanton et al. 2021, section 4: a student of another teacher, scored against the study's too,
    tells how much of the agreement is that teacher's doing.
    """
    if len(study.methods) < 2:
        return []
    found = compared(study)
    rows = []
    for method in study.methods:
        mine = [place for place in found if place[0] is method]
        most = max(found[place].accuracy.n for place in mine)
        full = [place for place in mine if found[place].accuracy.n == most]
        place = max(full, key=lambda place: found[place].validation)
        runs, (T, alpha) = list(by_place(study)[place].values()), place[1]
        rows.append({"method": method.label, "T": T, "alpha": alpha} | figures_of(study, runs))
        rows[-1] |= gain_of(found[place])
    lots = {id(m.students): m.students for m in study.methods if m.students}
    controls = {
        tuple(run.name for run in lot.values()): list(lot.values()) for lot in lots.values()
    }
    for runs in controls.values():
        views = ", ".join(
            f"{key.removeprefix('data/augment/')}={value:g}"
            for key, value in runs[0].metrics.items()
            if key.startswith("data/augment/") and value
        )
        name = f"student alone, {views}" if views else "student alone"
        rows.append({"method": name} | figures_of(study, runs))
    table = pd.DataFrame(rows).sort_values("test_accuracy", ascending=False)
    text = (
        "Each at the temperature and alpha that validation chooses. Gain: points over the student "
        "alone of the same seeds and views; p after Holm over all cells of all methods."
    )
    return [Section("methods", "The methods side by side", text, table=table)]


def figures_of(study: Study, runs: Sequence[Run]) -> dict[str, float]:
    """Means over the seeds of one cell, or of the student alone."""
    accuracy = stats.estimate([run.metrics["test/acc"] for run in runs])
    row = {
        "seeds": accuracy.n,
        "test_accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
    }
    if study.teacher is not None and comparable(runs[0], study.teacher):
        scores = pd.DataFrame([fidelity_to(run, study.teacher) for run in runs]).mean()
        row |= {"agreement": scores["agreement"], "kl": scores["kl"]}
        for run in runs:
            run.forget()
    first = study.teacher and file_hash(study.teacher.folder / "model.ckpt")
    if runs[0].metrics["teacher/sha256"] not in (None, first):
        own = {"own_agreement": "fidelity/agreement", "own_kl": "fidelity/kl"}
        row |= {name: mean(runs, key) for name, key in own.items()}
    return row | {"fit_s": mean(runs, "time/fit_s")}


def mean(runs: Sequence[Run], key: str) -> float:
    """Of one figure of the runs' metrics."""
    return float(np.mean([run.metrics[key] for run in runs]))


def gain_of(found: stats.Compared) -> dict[str, float]:
    """Points of accuracy over the student alone, with interval and corrected p."""
    if found.gain is None:
        return {}
    points = {"gain": found.gain.mean, "gain_low": found.gain.low, "gain_high": found.gain.high}
    return {name: 100 * value for name, value in points.items()} | {"p_holm": found.p_holm}


def chosen_run(study: Study) -> dict[str, Run]:
    """The distilled student that validation chooses, of its lowest seed."""
    if not study.cells:
        return {}
    best = max(compared(study).items(), key=lambda item: item[1].validation)[0]
    by_seed = by_place(study)[best]
    return {f"distilled ({said(study, best)})": by_seed[min(by_seed)]}
