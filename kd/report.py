"""``stage=report``: a study's runs turned into answers, one self-contained page and its parts.

The page is a list of sections; each brings a sentence or two, and a figure, a table or both. What a
study lacks (a teacher, a second seed, a grid) is said in its section's place.
"""

import base64
import io
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from kd import figures, stats
from kd.config import Config, UserError, validate
from kd.data import load_pool
from kd.evaluation import (
    confused_pairs,
    confusion,
    cost,
    per_class,
    reliability,
    summarise,
)
from kd.folder import replacing
from kd.logs import set_up_logging
from kd.results import Cell, Run, Study, load_study, write_results
from kd.talk import compare_with_talk

log = logging.getLogger(__name__)


@dataclass
class Section:
    """One part of the report."""

    slug: str
    title: str
    text: str
    figure: Figure | None = None
    alt: str = ""
    table: pd.DataFrame | None = None
    files: dict[str, pd.DataFrame] = field(default_factory=dict)  # tables beside the page
    image: str = ""  # the figure as base64 PNG, once drawn


def report(cfg: DictConfig) -> Path:
    """Write ``outputs/<study>/report/``: ``index.html``, ``report.md``, every figure and table.

    Raises:
        UserError: the study has no complete run.
    """
    config = validate(cfg)
    set_up_logging(logging.INFO)
    study = load_study(Path(config.output_dir) / config.study)
    write_results(study.folder)
    sections = [section for build in SECTIONS for section in build(study, config)]
    target = study.folder / "report"
    fresh = study.folder / ".report"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    board = SummaryWriter(str(fresh))
    for section in sections:
        if section.figure is not None:
            drawn = io.BytesIO()
            section.figure.savefig(drawn, format="png", dpi=110)
            pixels = np.asarray(Image.open(drawn).convert("RGB"))
            board.add_image(f"report/{section.slug}", pixels, dataformats="HWC")
            (fresh / f"{section.slug}.png").write_bytes(drawn.getvalue())
            section.image = base64.b64encode(drawn.getvalue()).decode()
        shown = {} if section.table is None else {section.slug: section.table}
        for name, table in {**section.files, **shown}.items():
            table.to_csv(fresh / f"{name}.csv", index=False)
    board.close()
    environment = Environment(
        loader=PackageLoader("kd"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cell"] = cell_text
    for template, name in (("report.html", "index.html"), ("report.md", "report.md")):
        text = environment.get_template(template).render(sections=sections, study=config.study)
        with replacing(fresh / name) as beside:
            beside.write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    log.info("%s", sections[0].text)
    log.info("report: %s", target / "index.html")
    return target / "index.html"


def cell_text(value: Any) -> str:
    """A table's value for the eye."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return (
        f"{value:,}" if isinstance(value, int | np.integer) and abs(value) >= 10_000 else str(value)
    )


def compared(study: Study) -> dict[Cell, stats.Compared]:
    """Every cell beside the student alone of the same seeds."""
    test, validation = (
        {cell: {s: r.metrics[key] for s, r in by.items()} for cell, by in study.cells.items()}
        for key in ("test/acc", "val/acc")
    )
    alone = {seed: run.metrics["test/acc"] for seed, run in study.students.items()}
    return stats.compare(test, validation, alone)


def said(cell: Cell) -> str:
    """A cell's name."""
    return f"T = {cell[0]:g}, alpha = {cell[1]:g}"


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
            f"Validation chooses {said(found.chosen)}: {100 * chosen.accuracy.mean:.2f} % on test. "
            f"The best such cell on test is {said(found.best_on_test)}; picking it instead would "
            f"flatter the result by {bias:.2f} points (selection bias)."
        )
        if chosen.gain.n == 1:
            (seed,) = study.cells[found.chosen].keys() & study.students.keys()
            parts.append(one_seed(study.cells[found.chosen][seed], study.students[seed]))
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
    cells = compared(study)
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
            f"Mean of {study.seeds}, in %. 95 % intervals over seeds: in the table.",
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


def chosen_run(study: Study) -> dict[str, Run]:
    """The distilled student that validation chooses, of its lowest seed."""
    if not study.cells:
        return {}
    best = max(compared(study).items(), key=lambda item: item[1].validation)[0]
    by_seed = study.cells[best]
    return {f"distilled ({said(best)})": by_seed[min(by_seed)]}


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
        logits, labels, indices = run.predictions
        same = teacher is not None and torch.equal(indices, teacher.predictions[2])
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


SECTIONS: list[Callable[[Study, Config], list[Section]]] = [
    verdict, talk, maps, curves, classes, calibration, disagreements, costs, all_runs,
]  # fmt: skip
