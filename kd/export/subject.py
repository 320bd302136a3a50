"""What is exported: the run or checkpoint that is asked for, and what it is compared with."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kd.config.naming import shorten
from kd.config.schema import Config, Data
from kd.data.module import EVAL_BATCH
from kd.data.pool import Pool, load_split
from kd.data.sources import fetch
from kd.errors import UserError, shown
from kd.models.base import Task
from kd.models.network import Ensemble
from kd.report import stats
from kd.report.alike import comparable_settings, student_settings, views_of
from kd.report.evaluation import CHECKPOINT, Run
from kd.report.sections import data_of
from kd.report.study import Study, load_study
from kd.report.teachers import find_checkpoints, teacher_checkpoints
from kd.training.checkpoint import load_checkpoint, read_facts
from kd.training.complete import as_shown
from kd.training.packs import NotKept
from kd.training.run_folder import EPOCHS, read_metrics, scan
from kd.training.unpack import unpack

log = logging.getLogger(__name__)

KINDS = {"teacher": "teacher", "student": "student alone", "distill": "distilled"}


class Chosen(NamedTuple):
    """A network to export: its file, and its run where that is known."""

    checkpoint: Path
    run: Run | None
    study: Path  # whose folder ``export`` takes it

    @property
    def name(self) -> str:
        """Of the folder that it is exported to."""
        folder = self.checkpoint.absolute().parent
        parts = [folder.name, self.checkpoint.stem]
        if self.run is not None:
            epoch = self.checkpoint.stem if folder.name == EPOCHS else ""
            parts = [self.run.folder.parent.name, self.run.folder.name]
            parts += [f"epoch={epoch}"] if epoch else []
        return shorten("-".join(parts), most=240)


class Part(NamedTuple):
    """Some of a data set's images, with their labels."""

    pool: Pool
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        """(images,) class numbers."""
        return self.pool.labels[self.indices]

    def batches(self) -> Iterator[Tensor]:
        """Yield the images, float32 in [0, 1], some hundred at a time."""
        for chosen in self.indices.split(EVAL_BATCH):
            yield self.pool.take(chosen)[0]


@dataclass(frozen=True)
class Subject:
    """A network that is exported, with what it is checked on and compared with."""

    chosen: Chosen
    facts: dict[str, Any]  # the run's metrics; of a checkpoint alone what that says
    shape: dict[str, Any]  # the settings that its network is rebuilt by
    network: Any = field(repr=False)
    task: Task
    names: tuple[str, ...]  # of the classes
    train: Part = field(repr=False)
    val: Part = field(repr=False)
    test: Part = field(repr=False)
    others: dict[str, Any] = field(repr=False)  # by kind: teacher, student alone; as far as known
    notes: list[str]

    @property
    def kind(self) -> str:
        """What the network is, in words."""
        return KINDS[self.facts["stage"]]


def choose(config: Config) -> list[Chosen]:
    """Find what ``export.run`` names: one network, or with ``all`` one of every size.

    Raises:
        UserError: there is no such run, or it is not complete.
    """
    study = Path(config.output_dir) / config.study
    if config.export.run not in ("best", "all"):
        return [find(config.export.run, study, config.trust_code)]
    found = load_study(study, config.trust_code)
    runs = [best_of(found)] if config.export.run == "best" else list(by_network(found.runs))
    for run in runs:
        unpack(run.folder)
    return [Chosen(run.checkpoint, run, study) for run in runs]


def best_of(study: Study) -> Run:
    """Return the best seed, by validation, of the cell that validation chooses for the report.

    Raises:
        UserError: it chooses none.
    """
    cell = study.verdict.chosen
    if cell is None:
        raise UserError(
            f"export.run=best: validation chooses no cell of {study.folder}. "
            f"{study.verdict.sentence} Or give export.run=FOLDER"
        )
    return best_by_validation(cell.runs.values())


def best_by_validation(runs: Iterable[Run]) -> Run:
    """Return the run of the highest validation accuracy, of equal ones that of the lowest seed."""
    return max(runs, key=lambda run: (run.metrics["val/acc"], -run.metrics["seed"]))


def by_network(runs: Iterable[Run]) -> Iterator[Run]:
    """Yield the best student, by validation, of every network: a distilled one if there is any.

    Raises:
        UserError: there is no student.
    """
    parts: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        shape = [(k, v) for k, v in run.metrics.items() if k.startswith("model/")]
        beside = ("model/lr", "model/dropout", "model/hidden_layer", "model/map_layers")
        key = tuple(sorted((k, str(v)) for k, v in shape if k not in beside))
        parts.setdefault(key, []).append(run)
    students = []
    for part in parts.values():
        distilled, alone = (
            [r for r in part if r.metrics["stage"] == stage] for stage in ("distill", "student")
        )
        if distilled or alone:
            students.append(best_by_validation(distilled or alone))
    if not students:
        raise UserError("export.run=all: the study has no student; give export.run=FOLDER")
    yield from sorted(students, key=lambda run: run.metrics.get("model/params") or 0)


def find(given: str, study: Path, trusted: bool) -> Chosen:
    """Find a run or a checkpoint by its path, from here or from the study's folder.

    Raises:
        UserError: there is none, or the run is not complete.
    """
    said = f"export.run={shown(given)}"
    places = Path(given), study / given
    for place in places:
        unpack(place)
    path = next((path for path in places if path.exists()), None)
    if path is None:
        raise UserError(
            f"{said}: no such run or checkpoint; {study}/results.csv lists the study's runs"
        )
    folder, of_run = path, path.is_dir()
    if not of_run:
        folder = path.parent.parent if path.parent.name == EPOCHS else path.parent
        of_run = folder != path.parent or path.name == CHECKPOINT
    row = read_metrics(folder) if of_run else None
    if row is None and path.is_dir():
        begun = (path / "train.log").exists() or (path / CHECKPOINT).exists()
        raise UserError(
            f"{said}: is not complete, it has no metrics.json; give its command again to end it"
            if begun
            else f"{said}: is no run's folder; give one such as {study}/student/seed=0"
        )
    checkpoint = path / CHECKPOINT if path.is_dir() else path
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: is missing; train the run again with overwrite=true")
    if row is None:
        return Chosen(checkpoint, None, study)
    of_study = as_shown(folder.absolute().parents[1])
    return Chosen(
        checkpoint, Run(of_study.joinpath(*folder.absolute().parts[-2:]), row, trusted), of_study
    )


def load(chosen: Chosen, config: Config) -> Subject:
    """Load a network with its images, its teacher and its student alone.

    Raises:
        UserError: its images are not at hand or others than those that it was trained on, or it is
            of other code, which nothing imports unasked.
    """
    run = chosen.run
    saved = read_facts(chosen.checkpoint)
    data = config.data if run is None else data_of(run)
    pool, split, fingerprint = read_images(data)
    network = load_checkpoint(chosen.checkpoint, fingerprint, trusted=config.trust_code)
    facts = {"stage": saved["stage"], "seed": saved["seed"], "epochs": saved["epoch"]}
    facts |= {"data/fingerprint": fingerprint, **({} if run is None else run.metrics)}
    train, val, test = (Part(pool, torch.from_numpy(split[p])) for p in ("train", "val", "test"))
    others, notes = {}, []
    if run is None:
        notes.append("Exported from a checkpoint alone: of its training no more is known.")
    else:
        if run.metrics["stage"] == "distill":
            others, notes = compared_with(run, chosen.study, config.trust_code)
        notes.insert(0, of_other_seeds(run, chosen.study))
    return Subject(
        chosen, facts, saved["model"], network, pool.task, pool.names, train, val, test, others,
        notes,
    )  # fmt: skip


def read_images(data: Data) -> tuple[Pool, Any, str]:
    """Read the images, and get those that are missing as ``data.source`` says how."""
    fetch(data)
    return load_split(data, torch.device("cpu"))


def compared_with(run: Run, study: Path, trusted: bool) -> tuple[dict[str, Any], list[str]]:
    """Load a distilled student's teacher and the student alone of its seed, as far as they exist.

    Returns:
        the networks by their kind, and what to say of those that cannot be had.
    """
    found: dict[str, Any] = {}
    notes = []
    known, changed = find_checkpoints(study, [], [run])
    if changed:
        paths = ", ".join(str(path) for each in changed.values() for path in each)
        notes.append(f"The teacher is gone or has changed since, so it is not compared: {paths}.")
    else:
        paths = [known[sha256] for _, sha256 in teacher_checkpoints(run)]
        try:
            members = [load_checkpoint(path, trusted=trusted) for path in paths]
            found["teacher"] = members[0] if len(members) == 1 else Ensemble(members).eval()
        except UserError as error:
            notes.append(f"The teacher cannot be loaded, so it is not compared: {error}.")
    if alone := control_of(run, study):
        with suppress(NotKept):
            unpack(alone.folder)
    if alone and alone.checkpoint.exists():
        found["student alone"] = load_checkpoint(alone.checkpoint, trusted=trusted)
    elif alone:
        notes.append("The weights of its student alone have not been kept.")
    else:
        notes.append("The study has no student alone of this seed and these settings.")
    return found, notes


def of_other_seeds(run: Run, study: Path) -> str:
    """Say what the run's setting reaches over all its seeds: one of them may be lucky."""
    rows, _ = scan(study, [f"{run.metrics['stage']}/*"])
    runs = [Run(study / row["run"], row) for row in rows]
    alike = [other for other in runs if setting_of(other) == setting_of(run)]
    found = stats.estimate([other.metrics["test/acc"] for other in alike])
    if found.n < 2:
        return "No other seed of its setting was trained, so how lucky it is cannot be told."
    return (
        f"It is one of {found.n} seeds of its setting, which have {100 * found.mean:.2f} % of the "
        f"test images on average (95 % interval over seeds {100 * found.low:.2f} to "
        f"{100 * found.high:.2f} %)."
    )


def setting_of(run: Run) -> tuple[Any, ...]:
    """What runs share that differ in their seed alone."""
    keys = ("kd/T", "kd/alpha", "teacher/sha256", "data/fingerprint")
    return comparable_settings(run), *(run.metrics.get(key) for key in keys)


def control_of(run: Run, study: Path) -> Run | None:
    """Find the student alone of a distilled run's seed, settings and views."""
    rows, _ = scan(study, ["student/*"])
    alone = (Run(study / row["run"], row) for row in rows if row["seed"] == run.metrics["seed"])
    mine = student_settings(run), views_of(run), run.metrics["data/fingerprint"]
    return next(
        (
            other
            for other in alone
            if (student_settings(other), views_of(other), other.metrics["data/fingerprint"]) == mine
        ),
        None,
    )
