"""The sections of the report: each brings a sentence or two, and a figure, a table or both.

What a study lacks (a teacher, a second seed, a grid) is said in its section's place.
"""

import numpy as np
import pandas as pd
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd.config.schema import Config
from kd.data.pool import Pool, load_pool
from kd.errors import UserError
from kd.report import figures
from kd.report.comparison import chosen_run
from kd.report.evaluation import (
    confused_pairs,
    confusion,
    cost,
    per_class,
    reliability,
    scored_by,
    summarise,
)
from kd.report.page import Section
from kd.report.study import Study
from kd.report.talk import compare_with_talk
from kd.training.results import Run


def pair(study: Study) -> dict[str, Run]:
    """Teacher and student alone, as far as they are there."""
    found = {"teacher": study.teacher, "student alone": study.student}
    return {name: run for name, run in found.items() if run is not None}


def missing(study: Study, slug: str, title: str) -> list[Section]:
    """Where neither teacher nor student is there."""
    return [Section(slug, title, "The study has neither a complete teacher nor a student alone.")]


def curves(study: Study, config: Config) -> list[Section]:
    """Learning curves with the epochs of best fit."""
    title = "Learning curves"
    found = pair(study)
    read = {name: epochs_of(run) for name, run in found.items()}
    frames = {name: frame for name, frame in read.items() if frame is not None}
    lost = "".join(
        f" Those of {found[name].name} cannot be read from its events."
        for name in found
        if name not in frames
    )
    if not frames:
        return [Section("curves", title, lost)] if lost else missing(study, "curves", title)
    best = {name: frame["val/loss"].idxmin() for name, frame in frames.items()}
    text = ", ".join(f"the {name} fits best after epoch {epoch}" for name, epoch in best.items())
    table = pd.concat(frames, names=["network", "epoch"]).reset_index()
    figure = figures.learning_curves(frames)
    said = f"By validation loss, {text}.{lost}"
    return [Section("curves", title, said, figure, f"Loss by epoch: {text}", table)]


def epochs_of(run: Run) -> pd.DataFrame | None:
    """A run's losses and accuracies by epoch, from TensorBoard's files; None if these are damaged.

    What a damaged file raises is anybody's guess.
    """
    tags = ("train/loss", "val/loss", "train/acc", "val/acc")
    try:
        events = EventAccumulator(str(run.folder), size_guidance={"scalars": 0}).Reload()
        columns = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in tags}
        frame = pd.DataFrame(columns)
    except Exception:
        return None
    losses = frame[["train/loss", "val/loss"]].to_numpy(dtype=float)
    return frame if len(frame) and np.isfinite(losses).all() else None


def classes(study: Study, config: Config) -> list[Section]:
    """Both classification reports side by side, and both confusion matrices."""
    found = pair(study)
    if not found:
        return missing(study, "classes", "Classes")
    predictions = {name: run.predictions[:2] for name, run in found.items()}
    parts = {name: per_class(*given) for name, given in predictions.items()}
    table = pd.concat(parts, axis=1)
    table.columns = [f"{name} {column}" for name, column in table.columns]
    table = table.rename_axis("class").reset_index()
    matrices = {name: confusion(*given) for name, given in predictions.items()}
    pairs = "; ".join(
        f"{name}: " + ", ".join(f"{i} and {j} ({count})" for i, j, count in confused_pairs(matrix))
        for name, matrix in matrices.items()
    )
    drawn = figures.confusion_matrices(matrices)
    return [
        Section("classes", "Classification reports", "On the test images.", table=table),
        Section(
            "confusion",
            "Confusion matrices",
            f"Most confused, either way. {pairs}.",
            drawn,
            f"Confusion: {pairs}",
        ),
    ]


def calibration(study: Study, config: Config) -> list[Section]:
    """Reliability diagrams of teacher, student alone and the chosen distilled student."""
    shown = pair(study) | chosen_run(study)
    if not shown:
        return []
    tables = {
        name: (reliability(*r.predictions[:2]), r.metrics["test/ece"]) for name, r in shown.items()
    }
    alt = ", ".join(f"{name} ECE {error:.4f}" for name, (_, error) in tables.items())
    text = "Right as often as it is sure: on the dotted line. Size of a dot: number of images."
    return [Section("calibration", "Calibration", text, figures.reliability_diagrams(tables), alt)]


def disagreements(study: Study, config: Config) -> list[Section]:
    """Digits that teacher and student name differently, drawn."""
    title = "Digits on which teacher and student disagree"
    shown = chosen_run(study) or ({"student alone": study.student} if study.student else {})
    if study.teacher is None or not shown:
        return [Section("digits", title, "Needs a teacher and a student.")]
    ((name, student),) = shown.items()
    if scored_by(student, study) is None:
        said = "The teacher has changed, or was tested on other images than the student."
        return [Section("digits", title, said)]
    (s, labels, indices), (t, _, _) = student.predictions, study.teacher.predictions
    differ = (s.argmax(1) != t.argmax(1)).nonzero().flatten()
    try:
        pool = pool_of(student)
    except UserError as error:
        return [Section("digits", title, f"The images are not at hand: {error}")]
    if indices.max() >= len(pool.labels) or not torch.equal(pool.labels[indices], labels):
        return [Section("digits", title, "The images in data.dir are not those of the runs.")]
    some = differ[:16]
    captions = [f"is {labels[i]}\nt {t[i].argmax()}, s {s[i].argmax()}" for i in some]
    drawn = figures.digits(pool.images[indices[some]].squeeze(1).numpy(), captions)
    if not len(differ):
        return [Section("digits", title, f"They agree on all {len(labels)} test images.")]
    right = (t.argmax(1) == labels)[differ].double().mean()
    count = f"{len(differ)} of {len(labels)} test images ({name})"
    text = f"{count}; the teacher is right on {100 * right:.0f} % of them."
    return [
        Section(
            "digits", title, f"{text} The first {len(some)}: t teacher, s student.", drawn, text
        )
    ]


def pool_of(run: Run) -> Pool:
    """The images that a run's configuration names.

    Raises:
        UserError: the configuration is damaged, or the images are not there.
    """
    content = run.read_hydra("config.yaml")
    data = content.get("data") if isinstance(content, dict) else None
    words = (
        [data.get(key) for key in ("dataset", "dir", "source")] if isinstance(data, dict) else []
    )
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{run.name}/.hydra/config.yaml: does not say where they are")
    try:
        return load_pool(*words, torch.device("cpu"))
    except (OSError, AttributeError) as error:
        raise UserError(f"data.dir={words[1]}: {error}") from error


def costs(study: Study, config: Config) -> list[Section]:
    """What each network costs, so that "compressed" is a number."""
    title = "What the networks cost"
    found, lost = {}, ""
    for name, run in pair(study).items():
        try:
            found[name] = cost(run)
        except UserError as error:
            lost += f" The {name} is not readable: {error}."
    if not found:
        return [Section("cost", title, lost)] if lost else []
    table = pd.DataFrame(found).rename_axis("cost").reset_index()
    text = f"CPU latency on this machine, median of 50.{lost}"
    if len(found) == 2:
        t, s = found["teacher"], found["student alone"]
        text = (
            f"The student has {100 * s['parameters'] / t['parameters']:.0f} % of the teacher's "
            f"parameters and 1/{t['macs'] / s['macs']:.1f} of its multiplications. {text}"
        )
    return [Section("cost", title, text, table=table)]


def all_runs(study: Study, config: Config) -> list[Section]:
    """Every run's figures: accuracy, calibration, fidelity to the teacher, controls included."""
    rows, parts, matrices = [], {}, {}
    for run in study.runs:
        logits, labels, _ = run.predictions
        rows.append(summarise(run, scored_by(run, study)))
        parts[run.name] = per_class(logits, labels)
        matrices[run.name] = pd.DataFrame(confusion(logits, labels))
        run.forget()  # the predictions of a large study need not all stay in memory
    of = "no teacher, so no fidelity"
    if study.teacher is not None:
        of = f"fidelity is to {study.teacher.name}"
        if study.taught.changed:
            of += ", and of students whose own teacher has changed there is none"
    text = f"{len(rows)} runs; {of}. By class: per_class.csv; counts: confusion.csv."
    files = {
        "per_class": pd.concat(parts, names=["run", "class"]).reset_index(),
        "confusion": pd.concat(matrices, names=["run", "actual"]).reset_index(),
    }
    settings = varying(pd.DataFrame([run.metrics for run in study.runs]))
    text_settings = (
        "What differs between the runs; each metrics.json and .hydra/config.yaml has all."
    )
    return [
        Section("runs", "All runs", text, table=pd.DataFrame(rows), files=files),
        Section("settings", "Their settings", text_settings, table=settings),
    ]


def varying(table: pd.DataFrame) -> pd.DataFrame:
    """The settings in which runs differ."""
    groups = ("seed", "stage", "checkpoint", "data", "kd", "model", "optim", "trainer", "teacher")
    columns = [c for c in table.columns if c.split("/")[0] in groups]
    return table[["run", *(c for c in columns if table[c].nunique(dropna=False) > 1)]]


def talk(study: Study, config: Config) -> list[Section]:
    """The talk's own numbers beside ours, for its study."""
    if config.study != "talk":
        return []
    table = compare_with_talk(study.teachers, study.students, study.cells)
    return [Section("talk", "The talk's numbers beside ours", "Means over our seeds.", table=table)]
