"""The sections of the report that compare distilled students with the student alone."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kd.config.schema import Config
from kd.report import figures, stats
from kd.report.evaluation import fidelity_to, scored_by
from kd.report.notes import notes
from kd.report.page import Section
from kd.report.study import Cell, Method, Study, views_of
from kd.report.teachers import CHECKPOINT, hash_of
from kd.training.results import Run

Place = tuple[Method, Cell]


def by_place(study: Study) -> dict[Place, dict[int, Run]]:
    """The runs of every cell of every method, by seed: methods, then temperatures, then alphas."""
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
    controls = {place for place in places if place[1][1] == 1}
    return stats.compare(test, validation, alone, controls)


def shown(study: Study) -> Place:
    """The cell that validation chooses, of any method; the first where it cannot choose."""
    return stats.choose(compared(study)) or next(iter(by_place(study)))


def said(study: Study, place: Place) -> str:
    """A cell's name, with its method's where the study has several."""
    method, (T, alpha) = place
    named = f"{method.label}, " if len(study.methods) > 1 else ""
    return f"{named}T = {T:g}, alpha = {alpha:g}"


def verdict(study: Study, config: Config) -> list[Section]:
    """The answer first."""
    if not study.cells:
        text = "Cannot tell: the study has no distilled run. Run python train.py -m stage=distill …"
        return [Section("verdict", "Verdict", " ".join([text, *notes(study, config)]))]
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
        parts += what_else(study, found.chosen)
    return [Section("verdict", "Verdict", " ".join([*parts, *notes(study, config)]))]


def what_else(study: Study, chosen: Place) -> list[str]:
    """What a reader must know of the choice besides: its views, and who took no part."""
    cells, parts = compared(study), []
    if views := views_of(next(iter(by_place(study)[chosen].values()))):
        seeds = by_place(study)[chosen]
        plain = [run for seed, run in chosen[0].plain.items() if seed in seeds]
        has = f"has {100 * mean(plain, 'test/acc'):.2f} %" if plain else "is not there to compare"
        parts.append(
            f"Its student alone sees the same views of the images ({', '.join(views)}); the one "
            f"that sees them as they are {has}."
        )
    racing = {method for method, _ in stats.eligible(cells)}
    absent = [method.label for method in study.methods if method not in racing]
    if absent:
        parts.append(
            "Not considered, because no student alone was trained alike or because they have "
            "fewer seeds: "
            f"{'; '.join(absent)}."
        )
    return parts


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


def table_of(
    cells: dict[Cell, stats.Compared], means: dict[str, dict[Cell, float]]
) -> pd.DataFrame:
    """The figures of a method's cells; ``means``: its own fidelity, by its name in the metrics."""
    return pd.DataFrame(
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
            "agreement": means["fidelity/agreement"][T, alpha],
            "kl": means["fidelity/kl"][T, alpha],
        }
        for (T, alpha), c in cells.items()
    )


def maps(study: Study, config: Config) -> list[Section]:
    """T × alpha maps of accuracy, paired gain, agreement and KL, and their figures as a table."""
    if not study.cells:
        return []
    method, _ = shown(study)
    cells = {cell: found for (of, cell), found in compared(study).items() if of is method}
    of = f"{method.label}: m" if len(study.methods) > 1 else "M"
    means = {
        key: {c: mean(list(by.values()), key) for c, by in method.cells.items()}
        for key in ("fidelity/agreement", "fidelity/kl")
    }
    table = table_of(cells, means)
    accuracy = grid({c: 100 * found.accuracy.mean for c, found in cells.items()})
    return [
        Section(
            "accuracy",
            "Test accuracy by temperature and alpha",
            f"{of}ean of {method.seeds}, in %. 95 % intervals over seeds: in the table.",
            figures.heat_map(accuracy, "Test accuracy", "%"),
            "Heat map of test accuracy: its numbers are in the table below it",
            table,
        ),
        gain_map(cells),
        *fidelity_maps(*map(grid, means.values())),
    ]


def gain_map(cells: dict[Cell, stats.Compared]) -> Section:
    """T × alpha map of the paired gains."""
    title = "Paired difference to the student alone"
    gains = {c: 100 * found.gain.mean for c, found in cells.items() if found.gain}
    if not gains:
        text = "No student alone of the same seeds and settings: run python train.py stage=student."
        return Section("gain", title, text)
    doubtful = grid({c: cells[c].p_holm >= 0.05 for c in gains})  # NaN, a control's, is not
    text = "Points over the student alone of the same seed. Brackets: not significant (Holm, 5 %)."
    if any(found.control for found in cells.values()):
        text += " At alpha = 1 a cell is the student alone by its setting: nothing is tested."
    drawn = figures.heat_map(
        grid(gains), "Gain over the student alone", "points", "{:+.2f}", doubtful, centred=True
    )
    alt = f"Heat map of gains, {min(gains.values()):+.2f} to {max(gains.values()):+.2f} points"
    return Section("gain", title, text, drawn, alt)


def fidelity_maps(agreed: pd.DataFrame, kl: pd.DataFrame) -> list[Section]:
    """T × alpha maps of what the runs noted of their own teachers."""
    whose = "The teacher is the run's own, as it was when it taught."
    same = "Share of test images on which student and teacher name the same digit, in %."
    near = "KL(teacher ‖ student) of the predictions at T = 1, in nats: lower is more faithful."
    return [
        Section(
            "agreement",
            "Agreement with the teacher",
            f"{same} {whose}",
            figures.heat_map(100 * agreed, "Agreement with the teacher", "%"),
            "Heat map of agreement",
        ),
        Section(
            "kl",
            "Divergence from the teacher",
            f"{near} {whose}",
            figures.heat_map(kl, "KL to the teacher", "nats", "{:.3f}"),
            "Heat map of KL",
        ),
    ]


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
        mine = {place: cell for place, cell in found.items() if place[0] is method}
        place = stats.choose(mine) or max(
            mine, key=lambda place: (not mine[place].control, mine[place].validation)
        )
        T, alpha = place[1]
        rows.append(
            {"method": method.label, "T": T, "alpha": alpha}
            | figures_of(study, list(by_place(study)[place].values()))
            | gain_of(found[place])
        )
    rows += [
        {"method": f"student alone{views}"} | figures_of(study, runs)
        for views, runs in students_alone(study).items()
    ]
    table = pd.DataFrame(rows).sort_values("validation_accuracy", ascending=False, kind="stable")
    text = (
        "Each at the temperature and alpha that validation chooses. Gain: test accuracy less that "
        "of the student alone of the same seeds and views; p after Holm over all cells of all "
        "methods."
    )
    if study.teacher is not None:
        text += f" Agreement and KL are to {study.teacher.name}."
    if "own_kl" in table:
        text += " Own agreement and KL are to the run's own teacher, as it was when it taught."
    return [Section("methods", "The methods side by side", text, table=table)]


def students_alone(study: Study) -> dict[str, list[Run]]:
    """The students alone by their views in words, of the seeds that cells share with them."""
    found: dict[str, dict[int, Run]] = {}
    for method in study.methods:
        seeds = {seed for by_seed in method.cells.values() for seed in by_seed}
        for seed in seeds & method.students.keys() or method.students:
            run = method.students[seed]
            views = "".join(f", {key}={value:g}" for key, value in views_of(run).items())
            found.setdefault(views, {})[seed] = run
    return {views: list(by_seed.values()) for views, by_seed in found.items()}


def figures_of(study: Study, runs: Sequence[Run]) -> dict[str, float]:
    """Means over the seeds of one cell, or of the student alone."""
    accuracy = stats.estimate([run.metrics["test/acc"] for run in runs])
    row = {
        "seeds": accuracy.n,
        "test_accuracy": accuracy.mean,
        "low": accuracy.low,
        "high": accuracy.high,
        "validation_accuracy": mean(runs, "val/acc"),
    }
    scored = [fidelity_to(run, teacher) for run in runs if (teacher := scored_by(run, study))]
    if len(scored) == len(runs):
        scores = pd.DataFrame(scored).mean()
        row |= {"agreement": scores["agreement"], "kl": scores["kl"]}
    for run in runs:
        run.forget()
    first = study.teacher and hash_of(study.teacher.folder / CHECKPOINT)
    if {run.metrics["teacher/sha256"] for run in runs} - {None, first}:
        own = {"own_agreement": "fidelity/agreement", "own_kl": "fidelity/kl"}
        row |= {name: mean(runs, key) for name, key in own.items()}
    return row | {"fit_s": mean(runs, "time/fit_s")}


def mean(runs: Sequence[Run], key: str) -> float:
    """Of one figure of the runs' metrics."""
    return float(np.mean([run.metrics[key] for run in runs]))


def gain_of(found: stats.Compared) -> dict[str, float]:
    """Test accuracy beyond the student alone, with interval and corrected p."""
    if found.gain is None:
        return {}
    gain = found.gain
    return {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high, "p_holm": found.p_holm}


def chosen_run(study: Study) -> dict[str, Run]:
    """The distilled student that validation chooses, of its lowest seed."""
    if not study.cells:
        return {}
    place = shown(study)
    by_seed = by_place(study)[place]
    return {f"distilled ({said(study, place)})": by_seed[min(by_seed)]}
