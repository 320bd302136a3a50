"""Reading a study back: one row a complete run."""

import csv
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.config import UserError
from kd.files import file_hash, replacing
from kd.folder import METRICS, read_metrics

log = logging.getLogger(__name__)

Cell = tuple[float, float]  # temperature, alpha


def read_study(study: Path) -> list[dict[str, Any]]:
    """The metrics of every complete run of a study, with ``run``: its folder below the study."""
    rows = []
    for run in sorted(path.parent for path in study.glob(f"*/*/{METRICS}")):
        try:
            rows.append({"run": str(run.relative_to(study)), **(read_metrics(run) or {})})
        except UserError as error:  # one damaged run does not take the others along
            log.warning("left out: %s", error)
    return rows


def write_results(study: Path) -> Path:
    """Rebuild ``results.csv`` of a study from its runs' metrics: accuracies in [0, 1]."""
    rows = read_study(study)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path = study / "results.csv"
    with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path


@dataclass(frozen=True)
class Run:
    """A complete run: its folder and its metrics; the predictions are read when asked for."""

    folder: Path
    metrics: dict[str, Any]

    @cached_property
    def predictions(self) -> tuple[Tensor, Tensor, Tensor]:
        """Test logits (images, 10), labels (images,), indices into the data set (images,)."""
        with np.load(self.folder / "predictions.npz") as file:
            parts = (file["logits"], file["labels"], file["indices"])
        return tuple(torch.from_numpy(part) for part in parts)

    def forget(self) -> None:
        """Let go of the predictions; they are read again when asked for again."""
        self.__dict__.pop("predictions", None)

    @property
    def name(self) -> str:
        """Stage and parameters, as its folder says them."""
        return f"{self.folder.parent.name}/{self.folder.name}"


@dataclass(frozen=True, eq=False)
class Method:
    """Distilled runs that differ in T, alpha and seed alone, and the students they compare with."""

    label: str  # the method, and what tells it from others of the study
    cells: dict[Cell, dict[int, Run]]  # by temperature and alpha, then by seed
    students: dict[int, Run]  # alone, trained alike but for what only a distillation has
    plain: dict[int, Run]  # the same, on the images as they are

    @property
    def seeds(self) -> str:
        """How many seeds the cells have, in words."""
        counts = sorted({len(by_seed) for by_seed in self.cells.values()})
        said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{said} seed{'s' * (counts != [1])}"


@dataclass(frozen=True)
class Study:
    """A study's complete runs, and which of them are compared with each other.

    Distilled runs are comparable when the student's network, the images and the optimiser are the
    same. Those that share all but T, alpha and seed make a :class:`Method`, the largest one first;
    of several settings of the student the one with the most runs is reported, the runs of the
    others are counted in ``left_out``.
    """

    folder: Path
    runs: list[Run]
    failed: list[str]
    teacher: Run | None  # that taught the largest method it could, else the lowest seed's
    teachers: dict[int, Run]
    students: dict[int, Run]  # alone; those of the largest method that has any
    methods: list[Method]
    left_out: int

    @property
    def cells(self) -> dict[Cell, dict[int, Run]]:
        """The runs of the largest method, by temperature and alpha, then by seed."""
        return self.methods[0].cells if self.methods else {}

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None


Settings = dict[str, Any]


def settings(run: Run, without: tuple[str, ...] = ()) -> Settings:
    """What must be equal for runs to be compared: every setting but T, alpha, seed and teacher.

    What is 0 or null is left out: a run that is older than a setting did without it.

    Args:
        run: its metrics hold every setting that its result depends on.
        without: beginnings of further settings to leave out.
    """
    groups = ("checkpoint", "data/", "device", "kd/", "model/", "optim/", "trainer/max")
    free = ("kd/T", "kd/alpha", *without)
    return {
        key: value
        for key, value in sorted(run.metrics.items())
        if key.startswith(groups) and not key.startswith(free) and value
    }


def views_of(run: Run) -> dict[str, float]:
    """How the training images were augmented; empty where they were taken as they are."""
    prefix = "data/augment/"
    return {k.removeprefix(prefix): v for k, v in settings(run).items() if k.startswith(prefix)}


def gather(runs: Iterable[Run], key: Callable[[Run], Settings]) -> list[list[Run]]:
    """The runs with equal ``key`` together, the largest lot first."""
    lots: dict[str, list[Run]] = {}
    for run in runs:
        lots.setdefault(repr(key(run)), []).append(run)
    return sorted(lots.values(), key=len, reverse=True)


def cell_of(run: Run) -> Cell:
    """Temperature and alpha of a distilled run."""
    return run.metrics["kd/T"], run.metrics["kd/alpha"]


def by_teacher(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs by their teachers; as one lot where every seed has a teacher of its own."""
    pairs = {(run.metrics["seed"], run.metrics["teacher/sha256"]) for run in runs}
    seeds, teachers = (len(set(part)) for part in zip(*pairs, strict=True))
    if len(pairs) == seeds == teachers:
        return [list(runs)]
    return gather(runs, lambda run: {"teacher": run.metrics["teacher/sha256"]})


def label_of(lot: Sequence[Run], others: Iterable[Sequence[Run]]) -> str:
    """The method's name, and what else tells this lot of runs from others of that name."""
    mine = lot[0].metrics
    kin = [one[0] for one in others if one[0].metrics["kd/method"] == mine["kd/method"]]
    known = [settings(run) for run in kin]
    keys = sorted({key for part in known for key in part})
    differing = [key for key in keys if any(p.get(key) != known[0].get(key) for p in known)]
    values = {key: "null" if mine.get(key) is None else mine[key] for key in differing}
    words = [f"{k.removeprefix('kd/').replace('/', '.')}={v}" for k, v in values.items()]
    if any(run.metrics["teacher/sha256"] != mine["teacher/sha256"] for run in kin):
        words.append(f"taught by {mine['teacher/checkpoint'].removesuffix('/model.ckpt')}")
    return ", ".join([mine["kd/method"], *words])


def load_study(folder: Path) -> Study:
    """Read a study back from its runs' ``metrics.json``.

    Raises:
        UserError: no complete run is there.
    """
    runs = [Run(folder / row["run"], row) for row in read_study(folder)]
    if not runs:
        raise UserError(
            f"{folder}: no complete run to report; first run python train.py stage=teacher"
        )
    failed = sorted(
        str(path.parent.relative_to(folder))
        for path in folder.glob("*/*/train.log")
        if not (path.parent / "metrics.json").exists()
    )
    teachers, students, distilled = (
        [run for run in runs if run.metrics["stage"] == stage]
        for stage in ("teacher", "student", "distill")
    )
    # Views of the images are a part of the method: they may differ, the student's setting not.
    alike = gather(distilled, lambda run: settings(run, without=("kd/", "data/augment/")))
    lots = [lot for kin in gather(alike[0] if alike else [], settings) for lot in by_teacher(kin)]
    # Of equally large ones first the images as they are, then the first teacher.
    lots.sort(
        key=lambda lot: (-len(lot), len(views_of(lot[0])), lot[0].metrics["teacher/checkpoint"])
    )
    methods = [
        Method(
            label=label_of(lot, lots),
            cells=in_cells(lot),
            students=controls(lot[0], [s for s in students if views_of(s) == views_of(lot[0])]),
            plain=controls(lot[0], [s for s in students if not views_of(s)]),
        )
        for lot in lots
    ]
    if lots:
        split = lots[0][0].metrics["data/fingerprint"]
        teachers = [run for run in teachers if run.metrics["data/fingerprint"] == split]
    by_hash = {file_hash(run.folder / "model.ckpt"): run for run in teachers}
    taught_by = [lot[0].metrics["teacher/sha256"] for lot in lots]
    matching = [by_hash[sha] for sha in taught_by if sha in by_hash]
    if lots and not matching:
        matching = elsewhere(lots[0][0])
    # Of several with one seed the one with the shortest name counts: it has nothing overridden.
    teachers.sort(key=lambda run: -len(run.folder.name))
    by_seed = {run.metrics["seed"]: run for run in teachers}
    return Study(
        folder=folder,
        runs=runs,
        failed=failed,
        teacher=next(iter(matching or [by_seed[seed] for seed in sorted(by_seed)]), None),
        teachers=by_seed,
        students=next(
            (m.students for m in methods if m.students),
            {run.metrics["seed"]: run for run in students if not methods},
        ),
        methods=methods,
        left_out=len(distilled) - sum(map(len, lots)),
    )


def elsewhere(run: Run) -> list[Run]:
    """The teacher of a distilled run by the path it was given, if it is still there as it was."""
    path = Path(run.metrics["teacher/checkpoint"])
    if not path.is_file() or file_hash(path) != run.metrics["teacher/sha256"]:
        return []
    found = read_metrics(path.parent)
    return [Run(path.parent, found)] if found else []


def controls(run: Run, students: Iterable[Run]) -> dict[int, Run]:
    """The students alone that are trained like a distilled run, views aside, by seed."""
    alike = settings(run, without=("kd/", "data/augment/"))
    return {
        student.metrics["seed"]: student
        for student in students
        if settings(student, without=("kd/", "data/augment/")) == alike
    }


def in_cells(runs: Iterable[Run]) -> dict[Cell, dict[int, Run]]:
    """Runs of one method by temperature and alpha, then by seed."""
    cells: dict[Cell, dict[int, Run]] = {}
    for run in runs:
        cells.setdefault(cell_of(run), {})[run.metrics["seed"]] = run
    return dict(sorted(cells.items()))
