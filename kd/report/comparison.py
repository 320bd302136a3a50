"""The sections of the report that compare distilled students with the student alone.

With the verdict comes what else a reader must know: what is missing, has changed, or is left out.
"""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Any

import pandas as pd

from kd.config.schema import Config
from kd.report import figures, stats
from kd.report.alike import views_of
from kd.report.evaluation import Run, mean_metric, measure_fidelity
from kd.report.packed import OWN_KL, PackedRun, read_answers
from kd.report.page import Section, one_line
from kd.report.progress import watched
from kd.report.study import Cell, Method, Study
from kd.training.checkpoint import UNKNOWN
from kd.training.threads import using

# The beginnings of the words of a distillation's command that its student alone does not share.
NOT_SHARED = ("stage=", "seed=", "kd", "teacher", "study=", "output_dir=", "overwrite=")
NOT_SHARED += ("keep_epochs=", "data.augment", "data.views", "hydra")


MOST_NAMED = 100  # methods or runs, in a sentence


def show_verdict(study: Study, config: Config) -> list[Section]:
    """The answer first."""
    verdict = study.verdict
    parts = [f"Distillation here: {verdict.word}."] if study.cells else []
    parts.append(verdict.sentence)
    if verdict.harmful:
        parts.append(say_harm(study))
    if verdict.chosen is not None and verdict.best_on_test is not None:
        chosen, best = study.comparisons[verdict.chosen], study.comparisons[verdict.best_on_test]
        bias = 100 * (best.accuracy.mean - chosen.accuracy.mean)
        parts.append(
            f"Validation chooses {cell_label(study, verdict.chosen)}: "
            f"{100 * chosen.accuracy.mean:.2f} % on test. The best such cell on test is "
            f"{cell_label(study, verdict.best_on_test)}; picking it instead would flatter the "
            f"result by {bias:.2f} points (selection bias)."
        )
        if chosen.gain.n == 1:
            runs, controls = verdict.chosen.runs, verdict.chosen.method.controls
            (seed,) = runs.keys() & controls.keys()
            parts.append(compare_networks(runs[seed], controls[seed]))
        parts += qualify_choice(study, verdict.chosen)
    text = one_line(" ".join([*parts, *list_notes(study, config)]))
    return [Section("verdict", "Verdict", text, said=[text])]


def cell_label(study: Study, cell: Cell) -> str:
    """Name a cell, with its method if the study has several."""
    method = f"{cell.method.label}, " if len(study.methods) > 1 else ""
    return f"{method}T = {cell.T:g}, alpha = {cell.alpha:g}"


def say_harm(study: Study) -> str:
    """Say in how many cells distillation hurts, and which loses most."""
    worst, *_ = harmful = study.verdict.harmful
    gain, p = study.comparisons[worst].gain, study.comparisons[worst].p_holm
    mean, low, high = (stats.signed(100 * value) for value in gain[:3])
    tested = sum(map(stats.is_tested, study.comparisons.values()))
    return (
        f"Distillation hurts in {len(harmful)} of {tested} cells, significantly (Holm, 5 %). The "
        f"largest loss is at {cell_label(study, worst)}: {mean} points (95 % interval "
        f"{low} to {high}, {gain.n} seeds, p = {p:.2g})."
    )


def qualify_choice(study: Study, chosen: Cell) -> list[str]:
    """Say what else a reader must know: the choice's views, and the methods it ignores."""
    parts = []
    if views := views_of(next(iter(chosen.runs.values()))):
        plain = [run for seed, run in chosen.method.plain.items() if seed in chosen.runs]
        accuracy = f"has {100 * mean_metric(plain, 'test/acc'):.2f} %" if plain else ""
        parts.append(
            f"Its student alone sees the same views of the images ({', '.join(views)}); the one "
            f"that sees them as they are {accuracy or 'is not there to compare'}."
        )
    considered = {cell.method for cell in stats.eligible(study.comparisons)}
    ignored = [method.label for method in study.methods if method not in considered]
    if ignored:
        parts.append(
            "Not considered, because no student alone was trained alike or because they have "
            f"fewer seeds: {'; '.join(some(ignored))}."
        )
    return parts


def compare_networks(distilled: Run, control: Run) -> str:
    """Compare two networks on other test images: all that one seed allows."""
    one, other = (run.answers == run.labels for run in (distilled, control))
    low, high = stats.bootstrap_difference(one, other)
    return (
        f"For these two trained networks: McNemar p = {stats.mcnemar(one, other):.2g}, bootstrap "
        f"interval over test images {stats.signed(100 * low)} to {stats.signed(100 * high)} points."
    )


def list_notes(study: Study, config: Config) -> list[str]:
    """List what stands in the way of an answer, and what to do about it."""
    notes = []
    taught = Counter(run.metrics["teacher/sha256"] for run in study.runs)
    for sha256, paths in study.changed.items():
        count = sum(n for told, n in taught.items() if told and sha256 in told.split(":"))
        notes.append(
            f"Note: the teacher has changed. {paths[0]} is gone or is no longer the network "
            f"({sha256[:8]}) that taught {count} of the runs, so their agreement with it and "
            "divergence from it cannot be measured again: put it back, or train these runs again "
            "with overwrite=true, or all in a study of their own (study=NEW)."
        )
    elsewhere = [run for run in study.runs if run.metrics.get("teacher/split") == UNKNOWN]
    if elsewhere:
        notes.append(
            f"Note: the teachers of {len(elsewhere)} runs were trained elsewhere, on images that "
            "are not known: these may include the test images."
        )
    unpaired: dict[str, list[Method]] = {}
    for method in study.methods:
        if method.unpaired:
            unpaired.setdefault(control_command(study, method, config), []).append(method)
    for command, methods in unpaired.items():
        of = f" of {'; '.join(some([m.label for m in methods]))}" if len(study.methods) > 1 else ""
        seeds = ", ".join(some([*map(str, methods[0].unpaired)]))
        lacking = f"Seeds{of} without a student alone: {seeds}"
        notes.append(f"{lacking}; run {command} (only seeds in common are compared).")
    if study.incomplete:
        names = ", ".join(some(study.incomplete))
        notes.append(f"{count_runs(study.incomplete)} not complete: {names}.")
    if study.not_compared:
        listed = "; ".join(some([f"{n} of {words}" for words, n in study.not_compared.items()]))
        notes.append(
            "A setting of the student is compared with students alone of that setting. Distilled "
            f"runs of others are listed, not compared: {listed}. stage=student with the same "
            "settings trains what they lack."
        )
    if study.refused:
        notes.append(f"{count_runs(study.refused)} left out; which and why is listed below.")
    return notes


def some(names: list[str]) -> list[str]:
    """Names for a sentence: the first of very many, and how many there are besides."""
    more = len(names) - MOST_NAMED
    return [*names[:MOST_NAMED], f"and {more:,} more"] if more > 0 else names


def count_runs(runs: Collection[Any]) -> str:
    """Subject and verb of a sentence about some runs."""
    return "1 run is" if len(runs) == 1 else f"{len(runs)} runs are"


def control_command(study: Study, method: Method, config: Config) -> str:
    """Build the command that trains the controls which a method lacks."""
    run = next(iter(study.cells_of(method)[0].runs.values()))
    seeds = seeds_word(method.unpaired)
    words = ["python", "train.py", "-m", "stage=student", seeds, *shared_words(run)]
    for key, value in views_of(run).items():
        words.append(f"data.{'' if key == 'views' else 'augment.'}{key}={value}")
    for key, usual in {"study": "main", "output_dir": "outputs"}.items():
        if (value := getattr(config, key)) != usual:
            words.append(f"{key}={value}")
    return shlex.join(words)


def seeds_word(seeds: Collection[int]) -> str:
    """The word of a command that sweeps over seeds, a range of very many."""
    first, last = min(seeds), max(seeds)
    if len(seeds) > MOST_NAMED and len(seeds) == last - first + 1:
        return f"seed=range({first},{last + 1})"
    return f"seed={','.join(map(str, sorted(seeds)))}"


def shared_words(run: Run) -> list[str]:
    """The words of a distilled run's command that its student alone shares, if they are known."""
    words = run.read_hydra("overrides.yaml")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    # An experiment may bring the views along, which the command names by themselves.
    own = (*NOT_SHARED, "+experiment=") if views_of(run) else NOT_SHARED
    return [word for word in words if not word.startswith(own)]


def show_left_out(study: Study, config: Config) -> list[Section]:
    """The runs that cannot be used, and why."""
    if not study.refused:
        return []
    table = pd.DataFrame(study.refused.items(), columns=["run", "reason"])
    text = "No number in this report counts these runs."
    if any(run.metrics["stage"] == "distill" for run in study.other_splits):
        text += " Only what each factor accounts for may, where just their data split is another."
    said = [f"left out: {one_line(f'{name}: {why}')}" for name, why in study.refused.items()]
    return [Section("left_out", "Left out", text, table=table, said=said)]


def chosen_student(study: Study) -> dict[str, Run]:
    """The distilled student that validation chooses, of its lowest seed, by its label."""
    if not study.cells:
        return {}
    cell = study.verdict.chosen or study.cells[0]
    return {f"distilled ({cell_label(study, cell)})": cell.runs[min(cell.runs)]}


def interval_columns(name: str, found: stats.Estimate, prefix: str = "") -> dict[str, float]:
    """A mean and its interval as columns of a table."""
    return {name: found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}


# What a single seed does not have.
OVER_SEEDS = ["low", "high", "gain_low", "gain_high", "p", "p_holm"]


def without_untested(table: pd.DataFrame) -> pd.DataFrame:
    """Drop the columns of intervals and tests where each cell has a single seed."""
    return table.drop(columns=OVER_SEEDS, errors="ignore") if max(table["seeds"]) < 2 else table


def own_fidelity(runs: Collection[Run], prefix: str = "") -> dict[str, float]:
    """The means that the runs recorded with their own teachers, as columns of a table."""
    return {prefix + key: mean_metric(runs, f"fidelity/{key}") for key in ("agreement", "kl")}


def tabulate_cells(cells: dict[Cell, stats.Comparison]) -> pd.DataFrame:
    """One row per cell: its accuracies, gain, and fidelity to the runs' own teachers."""
    return pd.DataFrame(
        {"T": cell.T, "alpha": cell.alpha, "seeds": found.accuracy.n}
        | interval_columns("test_accuracy", found.accuracy)
        | interval_columns("gain", found.gain, "gain_")
        | {"p": found.gain.p, "p_holm": found.p_holm, "validation_accuracy": found.validation}
        | own_fidelity(cell.runs.values())
        for cell, found in cells.items()
    )


def show_maps(study: Study, config: Config) -> list[Section]:
    """T × alpha maps of accuracy, paired gain, agreement and KL, and their numbers as a table.

    Agreement and KL are those that the runs recorded with their own teachers.
    """
    if not study.cells:
        return []
    method = (study.verdict.chosen or study.cells[0]).method
    cells = {cell: study.comparisons[cell] for cell in study.cells_of(method)}
    table = tabulate_cells(cells)
    shown = without_untested(table)
    maps: Any = table.pivot(index="T", columns="alpha")
    mean = f"{method.label}: mean" if len(study.methods) > 1 else "Mean"
    text = f"{mean} of {format_seeds(cells)}, in %. The table has the 95 % intervals over seeds."
    if max(table["seeds"]) < 2:
        text = f"{method.label}: one" if len(study.methods) > 1 else "One"
        text += " seed, in %. It has no intervals."
    named = "Test accuracy by temperature and alpha"
    accuracy = figures.draw_heat_map(100 * maps["test_accuracy"], "Test accuracy", "%")
    alt = "Heat map of test accuracy: its numbers are in the table below it"
    title = "Agreement with the teacher"
    agreement = figures.draw_heat_map(100 * maps["agreement"], title, "%")
    same = "Share of test images on which student and teacher name the same class, in %."
    kl = figures.draw_heat_map(maps["kl"], "KL to the teacher", "nats", "{:.3f}", good=-1)
    near = "KL(teacher ‖ student) of the predictions at T = 1, in nats: lower is more faithful."
    whose = "The teacher is the run's own, as it was when it taught."
    return [
        Section("accuracy", named, text, accuracy, alt, shown, best="validation_accuracy"),
        map_gains(table),
        Section("agreement", title, f"{same} {whose}", agreement, "Heat map of agreement"),
        Section("kl", "Divergence from the teacher", f"{near} {whose}", kl, "Heat map of KL"),
    ]


def format_seeds(cells: Iterable[Cell]) -> str:
    """How many seeds the cells have, in words."""
    counts = sorted({len(cell.runs) for cell in cells})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{number} seed{'s' * (counts != [1])}"


def map_gains(table: pd.DataFrame) -> Section:
    """Map the paired gains."""
    title = "Paired difference to the student alone"
    compared = table.dropna(subset="gain")
    if compared.empty:
        text = "No student alone of the same seeds and settings: run python train.py stage=student."
        return Section("gain", title, text)
    text = "Points of test accuracy over the student alone of the same seed."
    if len(compared.dropna(subset="p_holm")):
        text += " Numbers in brackets are not significant (Holm, 5 %)."
    else:
        text += " One seed tests nothing."
    if 1 in set(table["alpha"]):
        text += " At alpha = 1 a cell is the student alone by its setting: nothing is tested."
    maps: Any = compared.pivot(index="T", columns="alpha")
    doubtful = maps["p_holm"] >= 0.05  # false for NaN, of what is not tested
    name = "Gain over the student alone"
    figure = figures.draw_heat_map(100 * maps["gain"], name, "points", "{:+.2f}", doubtful)
    ends = (stats.signed(100 * float(f(compared["gain"]))) for f in (min, max))
    alt = f"Heat map of gains, {' to '.join(ends)} points"
    return Section("gain", title, text, figure, alt)


@using(1)
def show_methods(study: Study, config: Config) -> list[Section]:
    """Every method at the cell that validation chooses for it, and its fidelity to one teacher.

    Stanton et al. 2021, section 4: scoring a student of another teacher against the study's teacher
    too shows how much of the agreement comes from that teacher.
    """
    if len(study.methods) < 2:
        return []
    rows, cells = [], [best_cell(study, method) for method in study.methods]
    alone = controls_by_setting(study)
    runs = [*chain.from_iterable(cell.runs.values() for cell in cells), *chain(*alone.values())]
    read_answers(runs)
    for best in watched(cells, "scoring the methods"):
        found = study.comparisons[best]
        row = {"method": best.method.label, "T": best.T, "alpha": best.alpha}
        row |= summarise_cell(study, best.runs.values())
        if found.gain.n:
            row |= interval_columns("gain", found.gain, "gain_")
            row["p_holm"] = found.p_holm
        rows.append(row)
    for words, own in alone.items():
        rows.append({"method": f"student alone{words}"} | summarise_cell(study, own))
    table = pd.DataFrame(rows).sort_values("validation_accuracy", ascending=False, kind="stable")
    text = "Each method is shown at the temperature and alpha that validation chooses."
    text += " The gain is test accuracy less that of the student alone of the same seeds and views."
    if any(map(stats.is_tested, study.comparisons.values())):
        text += " p is corrected over all cells of all methods (Holm)."
    if study.teacher is not None:
        text += f" Agreement and KL are to {study.teacher.name}."
    if "own_kl" in table:
        text += " Own agreement and KL are to the run's own teacher, as it was when it taught."
    if "kl" in table and any(isinstance(run, PackedRun) for run in runs):
        text += OWN_KL
    shown = without_untested(table)
    title, by = "The methods side by side", "validation_accuracy"
    return [Section("methods", title, text, table=shown, best=by)]


def best_cell(study: Study, method: Method) -> Cell:
    """The cell of a method that validation chooses, among those that can be compared if it can."""
    cells = {cell: study.comparisons[cell] for cell in study.cells_of(method)}
    return stats.choose(cells) or max(
        cells, key=lambda cell: (not cell.is_control, cells[cell].validation)
    )


def controls_by_setting(study: Study) -> dict[str, list[Run]]:
    """The students alone by what tells them apart, of the seeds that cells share with them."""
    found: dict[str, dict[int, Run]] = {}
    for method in study.methods:
        seeds = {seed for cell in study.cells_of(method) for seed in cell.runs}
        for seed in seeds & method.controls.keys() or method.controls:
            run = method.controls[seed]
            views = [f"{key}={value}" for key, value in views_of(run).items()]
            words = "".join(f", {word}" for word in (method.student, *views) if word)
            found.setdefault(words, {})[seed] = run
    return {words: list(by_seed.values()) for words, by_seed in found.items()}


def summarise_cell(study: Study, runs: Collection[Run]) -> dict[str, Any]:
    """Means over the seeds of one cell, or of the student alone."""
    accuracy = stats.estimate([run.metrics["test/acc"] for run in runs])
    row: dict[str, Any] = {"seeds": accuracy.n} | interval_columns("test_accuracy", accuracy)
    row["validation_accuracy"] = mean_metric(runs, "val/acc")
    scores = [measure_fidelity(run, t) for run in runs if (t := study.scoring_teacher(run))]
    if len(scores) == len(runs):
        row |= pd.DataFrame(scores)[["agreement", "kl"]].mean(skipna=False).to_dict()
    for run in runs:
        run.forget_predictions()
    shown = study.teacher and study.teacher.sha256
    if {run.metrics["teacher/sha256"] for run in runs} - {None, shown}:
        row |= own_fidelity(runs, "own_")
    return row | {"fit_s": mean_metric(runs, "time/fit_s")}
