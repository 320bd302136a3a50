"""The sections about the networks: each has a sentence or two, and a figure, a table or both.

Where a study lacks something (a teacher, a student alone), the section says so in its place.
"""

from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup

from kd.config.schema import Config, Data
from kd.config.validation import check_values
from kd.data.pool import DECIDING, Pool, load_pool
from kd.errors import UserError
from kd.report import drawings, evaluation, figures
from kd.report.comparison import chosen_student
from kd.report.packed import OWN_KL, PackedRun, read_answers
from kd.report.page import BEST, MANY, Section
from kd.report.progress import watched
from kd.report.study import Study
from kd.report.talk import compare_with_talk
from kd.training.run_folder import HISTORY
from kd.training.threads import using

NO_NETWORK = "The study has neither a complete teacher nor a student alone."


def teacher_and_student(study: Study) -> dict[str, evaluation.Run]:
    """The study's teacher and student alone by name, as far as they exist."""
    found = {"teacher": study.teacher, "student alone": study.student}
    return {name: run for name, run in found.items() if run is not None}


def shown_networks(study: Study) -> dict[str, evaluation.Run]:
    """Teacher, student alone, and the distilled student that validation chooses."""
    return teacher_and_student(study) | chosen_student(study)


def show_curves(study: Study, config: Config) -> list[Section]:
    """Learning curves with the epochs of best fit."""
    title = "Learning curves"
    runs = shown_networks(study)
    if not runs:
        return [Section("curves", title, NO_NETWORK)]
    found = {name: read_curve(run) for name, run in runs.items()}
    curves = {name: curve for name, curve in found.items() if curve is not None}
    damaged = [run.name for name, run in runs.items() if name not in curves]
    unreadable = "".join(f" Those of {name} cannot be read from its {HISTORY}." for name in damaged)
    if not curves:
        return [Section("curves", title, unreadable)]
    best = {name: curve["val/loss"].idxmin() for name, curve in curves.items()}
    text = ", ".join(f"the {name} fits best after epoch {epoch}" for name, epoch in best.items())
    table = pd.concat(curves, names=["network", "epoch"]).reset_index()
    figure = figures.draw_learning_curves(curves)
    sentence = f"By validation loss, {text}.{unreadable}"
    drawn = {name: draw_losses(name, curve) for name, curve in curves.items()}
    drawing = drawings.beside(drawn)
    return [
        Section("curves", title, sentence, figure, f"Loss by epoch: {text}", table, drawing=drawing)
    ]


def draw_losses(name: str, curve: pd.DataFrame) -> Markup:
    """Draw a network's losses by epoch."""
    losses = {"training": curve["train/loss"].tolist(), "validation": curve["val/loss"].tolist()}
    return drawings.draw_curves(losses, f"Loss of the {name} by epoch", ("epoch", "loss, nats"))


def read_curve(run: evaluation.Run) -> pd.DataFrame | None:
    """Read a run's losses and accuracies by epoch; None if its ``history.csv`` is damaged."""
    tags = ["train/loss", "val/loss", "train/acc", "val/acc"]
    try:
        frame = run.history.loc[:, tags].astype(float)
    except (OSError, ValueError, KeyError):
        return None
    return frame if len(frame) and np.isfinite(frame.to_numpy()).all() else None


def show_classes(study: Study, config: Config) -> list[Section]:
    """Both classification reports side by side, and both confusion matrices."""
    runs = shown_networks(study)
    if not runs:
        return [Section("classes", "Classes", NO_NETWORK)]
    parts = [
        evaluation.per_class(evaluation.confusion(run), run.classes).add_prefix(f"{name} ")
        for name, run in runs.items()
    ]
    classes = next(iter(runs.values())).classes
    table = pd.concat(parts, axis=1).rename_axis("class").reset_index()
    matrices = {name: evaluation.confusion(run) for name, run in runs.items()}
    pairs = {name: evaluation.confused_pairs(matrix) for name, matrix in matrices.items()}

    def called(number: int) -> str:
        name = classes[number]
        return name if name.replace("-", "").isalnum() else f"“{name}”"

    listed = "; ".join(
        f"{name}: {', '.join(f'{called(i)} and {called(j)} ({n})' for i, j, n in found) or 'none'}"
        for name, found in pairs.items()
    )
    text = f"The pairs confused most often, in either direction. {listed}."
    figure = figures.draw_confusion_matrices(matrices, classes)
    most = figures.MOST_NAMES
    drawn = {n: drawings.draw_confusion(m, classes, most) for n, m in matrices.items()}
    alt, drawing = f"Confusion: {listed}", drawings.beside(drawn)
    return [
        Section("classes", "Classification reports", "On the test images.", table=table),
        Section("confusion", "Confusion matrices", text, figure, alt, drawing=drawing),
    ]


def with_logits(runs: dict[str, evaluation.Run]) -> tuple[dict[str, evaluation.Run], str]:
    """Select the networks whose logits are there, and name the others in a sentence."""
    found, reasons = {}, dict[str, str]()
    for name, run in runs.items():
        try:
            _ = run.predictions
            found[name] = run
        except UserError as error:
            reasons[name] = str(error).removeprefix(f"{run.folder.absolute()}: ")
    return found, say_left_out(reasons)


def say_left_out(reasons: dict[str, str]) -> str:
    """Say, with a space before, which networks a section leaves out, and why."""
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names.setdefault(reason, []).append(name)
    return "".join(f" Left out: {', '.join(own)}: {why}." for why, own in names.items())


def show_calibration(study: Study, config: Config) -> list[Section]:
    """Reliability diagrams of teacher, student alone and the chosen distilled student."""
    runs, left_out = with_logits(teacher_and_student(study) | chosen_student(study))
    if not runs:
        return [Section("calibration", "Calibration", left_out)] if left_out else []
    titled = {f"{name}\nECE {run.metrics['test/ece']:.4f}": run for name, run in runs.items()}
    tables = {title: evaluation.reliability(run.predictions) for title, run in titled.items()}
    text = "On the dotted line, a network is right as often as it is sure."
    text += f" The size of a dot shows the number of images.{left_out}"
    figure = figures.draw_reliability_diagrams(tables)
    drawn = {
        t: drawings.draw_reliability(table, f"Calibration: {t}") for t, table in tables.items()
    }
    alt, drawing = ", ".join(titled), drawings.beside(drawn)
    return [Section("calibration", "Calibration", text, figure, alt, drawing=drawing)]


def show_disagreements(study: Study, config: Config) -> list[Section]:
    """Images that teacher and student name differently, drawn."""
    title = "Images on which teacher and student disagree"
    students = chosen_student(study) or ({"student alone": study.student} if study.student else {})
    if study.teacher is None or not students:
        return [Section("disagreements", title, "Needs a teacher and a student.")]
    ((name, student),) = students.items()
    if study.scoring_teacher(student) is None:
        text = "The teacher has changed, or was tested on other images than the student."
        return [Section("disagreements", title, text)]
    labels, indices = map(torch.tensor, (student.labels, student.indices))
    s, t = (torch.tensor(run.answers.astype(int)) for run in (student, study.teacher))
    differing = (s != t).nonzero().flatten()
    if not len(differing):
        return [Section("disagreements", title, f"They agree on all {len(labels)} test images.")]
    try:
        pool = load_images(student)
    except UserError as error:
        return [Section("disagreements", title, f"The images are not at hand: {error}")]
    if indices.max() >= len(pool.labels) or not torch.equal(pool.labels[indices], labels):
        return [
            Section("disagreements", title, "The images in data.dir are not those of the runs.")
        ]
    shown = differing[:16]
    names = [name[: figures.MOST_LETTERS] for name in student.classes]
    line = "\n" if max(map(len, names)) > 2 else ", "
    captions = [f"is {names[labels[i]]}\nt {names[t[i]]}{line}s {names[s[i]]}" for i in shown]
    figure = figures.draw_images(pool.take(indices[shown])[0].numpy(), captions)
    right = (t == labels)[differing].double().mean()
    count = f"{len(differing)} of {len(labels)} test images ({name})"
    text = f"{count}; the teacher is right on {100 * right:.0f} % of them."
    caption = f"The first {len(shown)} are shown with the answers of teacher (t) and student (s)."
    return [Section("disagreements", title, f"{text} {caption}", figure, text)]


def data_of(run: evaluation.Run) -> Data:
    """Return where a run's images are and how they are split, as its configuration says.

    Raises:
        UserError: the configuration is damaged.
    """
    saved = run.read_hydra("config.yaml")
    known = saved.get("data") if isinstance(saved, dict) else None
    place = {key: known[key] for key in DECIDING if key in known} if isinstance(known, dict) else {}
    try:
        config = check_values(Config(), {"data": asdict(Data()) | place}, only=["data"]).data
    except UserError as error:
        raise UserError(f"{run.name}/.hydra/config.yaml: {error}") from error
    if not place:
        raise UserError(f"{run.name}/.hydra/config.yaml: does not say where they are")
    return config


def load_images(run: evaluation.Run) -> Pool:
    """Load the images that a run's configuration names.

    Raises:
        UserError: the configuration is damaged, or the images are not there.
    """
    config = data_of(run)
    try:
        return load_pool(config, torch.device("cpu"))
    except (OSError, AttributeError) as error:
        raise UserError(f"data.dir={config.dir}: {error}") from error


def show_costs(study: Study, config: Config) -> list[Section]:
    """What each network costs, so that "compressed" is a number."""
    title = "What the networks cost"
    costs, unreadable, reasons = {}, "", dict[str, str]()
    for name, run in shown_networks(study).items():
        try:
            costs[name] = evaluation.measure_cost(run)
        except UserError as error:
            if isinstance(run, PackedRun):
                reasons[name] = str(error).removeprefix(f"{run.folder.absolute()}: ")
            else:
                unreadable += f" The {name} is not readable: {error}."
    unreadable += say_left_out(reasons)
    if not costs:
        return [Section("cost", title, unreadable)] if unreadable else []
    table = pd.DataFrame(costs).rename_axis("cost").reset_index()
    text = f"CPU latencies are medians of up to 50 passes on this machine.{unreadable}"
    if {"teacher", "student alone"} <= costs.keys():
        t, s = costs["teacher"], costs["student alone"]
        size = f"{100 * s['parameters'] / t['parameters']:.0f} % of the teacher's parameters"
        work = f"1/{t['macs'] / s['macs']:.1f} of its multiplications"
        text = f"The student has {size} and {work}. {text}"
    return [Section("cost", title, text, table=table)]


@using(1)  # of one run's predictions, several would mostly wait for each other
def show_runs(study: Study, config: Config) -> list[Section]:
    """Every run's figures: accuracy, calibration, fidelity to the teacher, controls included."""
    rows, found = [], {}
    listed = select_listed(study)
    read_answers(listed)
    for run in watched(listed, "scoring the runs"):
        matrix = evaluation.confusion(run)
        rates = evaluation.rate_classes(matrix)
        found[run.name] = run.classes, rates, matrix
        row = {
            "run": run.name,
            "test_accuracy": run.metrics["test/acc"],
            "test_nll": run.metrics["test/loss"],
            "test_ece": run.metrics["test/ece"],
            "macro_f1": rates[-2, evaluation.RATES.index("f1-score")],
            "validation_accuracy": run.metrics["val/acc"],
            "epochs": run.metrics["epochs"],
            "fit_s": run.metrics["time/fit_s"],
        }
        scoring = study.scoring_teacher(run)
        rows.append(row | (evaluation.measure_fidelity(run, scoring) if scoring else {}))
        run.forget_predictions()  # those of a large study need not all stay in memory
    packed = any(isinstance(run, PackedRun) for run in listed)
    others = ", and the pack.json of a pack those of its runs" if packed else ""
    settings = (
        f"Only what differs between the runs. Each .hydra/config.yaml has all settings{others}."
    )
    text, table = describe_runs(study, listed), pd.DataFrame(rows)
    return [
        Section("runs", "All runs", text, table=table, files=list_classes(found)),
        Section("settings", "Their settings", settings, table=varying_settings(listed)),
    ]


def select_listed(study: Study) -> list[evaluation.Run]:
    """The runs that are listed, by :func:`place_of`: all, or of very many the best and a few."""
    if len(study.runs) <= MANY:
        return sorted(study.runs, key=place_of)
    best = sorted(study.runs, key=lambda run: -run.metrics["val/acc"])[:BEST]
    few = [*shown_networks(study).values(), *list(study.teachers.values())[:BEST]]
    return sorted(dict.fromkeys([*few, *best]), key=place_of)


def describe_runs(study: Study, listed: list[evaluation.Run]) -> str:
    """Say how many runs there are, what they are compared with, and where the others are."""
    teacher, count = study.teacher, len(study.runs)
    fidelity = f"fidelity is to {teacher.name}" if teacher else "no teacher, so no fidelity"
    if teacher and study.changed:
        fidelity += ", and of students whose own teacher has changed there is none"
    runs = f"{count} runs" if len(listed) == count else f"{count:,} runs"
    text = f"{runs if count != 1 else '1 run'}; {fidelity}."
    packed = any(isinstance(run, PackedRun) for run in listed)
    if teacher and packed:
        text += OWN_KL
    if len(listed) < count:
        tables = "results.csv and results.parquet have" if packed else "results.csv has"
        text += f" Listed are the {BEST:,} best on validation, the teachers and the networks above"
        text += f": the study's {tables} all."
    return text + " per_class.csv has the figures by class, confusion.csv the confusion matrices."


def list_classes(
    found: dict[str, tuple[list[str], np.ndarray, np.ndarray]],
) -> dict[str, pd.DataFrame]:
    """The tables of all runs by class, by the name of their file.

    Args:
        found: by run, the names of the classes, their rates and the confusion matrix.
    """
    names, rates, matrices = zip(*found.values(), strict=True)
    rows = [evaluation.name_rates(own) for own in names]
    per_class = pd.DataFrame(np.concatenate(rates), columns=evaluation.RATES)
    per_class.insert(0, "run", np.repeat([*found], [*map(len, rows)]))
    per_class.insert(1, "class", [name for own in rows for name in own])
    confusion = pd.DataFrame(np.concatenate(matrices))
    confusion.insert(0, "run", np.repeat([*found], [*map(len, matrices)]))
    confusion.insert(1, "actual", np.concatenate([np.arange(len(own)) for own in matrices]))
    return {"per_class": per_class.astype({"support": int}), "confusion": confusion}


def place_of(run: evaluation.Run) -> tuple[int, str, float, float, int]:
    """Where a run stands in a list: by stage, method, T, alpha and seed."""
    found, stages = run.metrics, ("teacher", "student", "distill")
    T, alpha = (float(found.get(key) or 0) for key in ("kd/T", "kd/alpha"))
    method = str(found.get("kd/method"))
    return stages.index(found["stage"]), method, T, alpha, found["seed"]


def varying_settings(listed: list[evaluation.Run]) -> pd.DataFrame:
    """Tabulate the settings in which runs differ."""
    runs = pd.DataFrame([dict(run.metrics) for run in listed])
    groups = (
        "seed", "stage", "checkpoint", "data", "kd", "model", "optim", "trainer", "teacher",
        "callbacks", "tags",
    )  # fmt: skip
    settings = [column for column in runs.columns if column.split("/")[0] in groups]
    varying = [column for column in settings if len(runs[[column]].drop_duplicates()) > 1]
    return runs.loc[:, ["run", *varying]]


def show_talk(study: Study, config: Config) -> list[Section]:
    """The talk's own numbers beside ours, for its study."""
    if config.study != "talk":
        return []
    table = compare_with_talk(study)
    return [Section("talk", "The talk's numbers beside ours", "Means over our seeds.", table=table)]
