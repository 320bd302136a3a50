"""The sections of the report: each brings a sentence or two, and a figure, a table or both.

What a study lacks (a teacher, a second seed, a grid) is said in its section's place.
"""

import pandas as pd
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kd import figures
from kd.comparison import chosen_run
from kd.config import Config, UserError
from kd.data import load_pool
from kd.evaluation import (
    comparable,
    confused_pairs,
    confusion,
    cost,
    per_class,
    reliability,
    summarise,
)
from kd.page import Section
from kd.results import Run, Study
from kd.talk import compare_with_talk


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
    frames = {}
    for name, run in pair(study).items():
        events = EventAccumulator(str(run.folder), size_guidance={"scalars": 0}).Reload()
        tags = ("train/loss", "val/loss", "train/acc", "val/acc")
        if set(tags) <= set(events.Tags()["scalars"]):
            columns = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in tags}
            frames[name] = pd.DataFrame(columns)
    if not frames:
        return missing(study, "curves", title)
    best = {name: frame["val/loss"].idxmin() for name, frame in frames.items()}
    text = ", ".join(f"the {name} fits best after epoch {epoch}" for name, epoch in best.items())
    table = pd.concat(frames, names=["network", "epoch"]).reset_index()
    figure = figures.learning_curves(frames)
    return [
        Section(
            "curves", title, f"By validation loss, {text}.", figure, f"Loss by epoch: {text}", table
        )
    ]


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
    (s, labels, indices), (t, _, theirs) = student.predictions, study.teacher.predictions
    if not torch.equal(indices, theirs):
        return [Section("digits", title, "Teacher and student were tested on different images.")]
    differ = (s.argmax(1) != t.argmax(1)).nonzero().flatten()
    try:
        data = OmegaConf.load(student.folder / ".hydra" / "config.yaml").data
        pool = load_pool(data.dataset, data.dir, data.source, torch.device("cpu"))
    except (UserError, OSError) as error:
        return [Section("digits", title, f"The images are not at hand: {error}")]
    if indices.max() >= len(pool.labels) or not torch.equal(pool.labels[indices], labels):
        return [Section("digits", title, f"The images in {data.dir} are not those of the runs.")]
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


def costs(study: Study, config: Config) -> list[Section]:
    """What each network costs, so that "compressed" is a number."""
    found = {name: cost(run) for name, run in pair(study).items()}
    if not found:
        return []
    table = pd.DataFrame(found).rename_axis("cost").reset_index()
    text = "CPU latency on this machine, median of 50."
    if len(found) == 2:
        t, s = found["teacher"], found["student alone"]
        text = (
            f"The student has {100 * s['parameters'] / t['parameters']:.0f} % of the teacher's "
            f"parameters and 1/{t['macs'] / s['macs']:.1f} of its multiplications. {text}"
        )
    return [Section("cost", "What the networks cost", text, table=table)]


def all_runs(study: Study, config: Config) -> list[Section]:
    """Every run's figures: accuracy, calibration, fidelity to the teacher, controls included."""
    teacher = study.teacher
    rows, parts, matrices = [], {}, {}
    for run in study.runs:
        logits, labels, _ = run.predictions
        same = teacher is not None and comparable(run, teacher)
        rows.append(summarise(run, teacher if same else None))
        parts[run.name] = per_class(logits, labels)
        matrices[run.name] = pd.DataFrame(confusion(logits, labels))
        run.forget()  # the predictions of a large study need not all stay in memory
    of = f"fidelity is to {teacher.name}" if teacher else "no teacher, so no fidelity"
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
