"""Reading a study back: one row a complete run."""

import csv
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.config import UserError
from kd.folder import METRICS, file_hash, read_metrics, replacing

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


@dataclass(frozen=True)
class Study:
    """A study's complete runs, and which of them are compared with each other.

    Runs are comparable when nothing but T, alpha, seed and the teacher differs; of several such
    families of distilled runs the largest is reported, the others are counted in ``left_out``.
    """

    folder: Path
    runs: list[Run]
    failed: list[str]
    teacher: Run | None  # that the distilled runs learned from, else the one of the lowest seed
    teachers: dict[int, Run]
    students: dict[int, Run]
    cells: dict[Cell, dict[int, Run]]
    left_out: int

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None

    @property
    def seeds(self) -> str:
        """How many seeds the cells have, in words."""
        counts = sorted({len(by_seed) for by_seed in self.cells.values()})
        said = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        return f"{said} seed{'s' * (counts != [1])}"


def family(run: Run, without: tuple[str, ...] = ()) -> tuple:
    """The settings that must be equal for runs to be compared: all but T, alpha, seed and teacher.

    Args:
        run: its metrics hold every setting that its result depends on.
        without: beginnings of further settings to leave out.
    """
    groups = ("checkpoint", "data/", "device", "kd/", "model/", "optim/", "trainer/max")
    free = ("kd/T", "kd/alpha", *without)
    return tuple(
        sorted(
            (k, v)
            for k, v in run.metrics.items()
            if k.startswith(groups) and not k.startswith(free) and v is not None
        )
    )


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
    families: dict[tuple, list[Run]] = {}
    for run in distilled:
        families.setdefault(family(run), []).append(run)
    chosen = max(families.values(), key=len, default=[])
    cells: dict[Cell, dict[int, Run]] = {}
    for run in chosen:
        cell = run.metrics["kd/T"], run.metrics["kd/alpha"]
        cells.setdefault(cell, {}).setdefault(run.metrics["seed"], run)
    if chosen:  # the control is trained alike, but for what only a distillation has
        wanted = family(chosen[0], without=("kd/",))
        students = [run for run in students if family(run, without=("kd/",)) == wanted]
        split = chosen[0].metrics["data/fingerprint"]
        teachers = [run for run in teachers if run.metrics["data/fingerprint"] == split]
    taught_by = chosen[0].metrics["teacher/sha256"] if chosen else None
    matching = [run for run in teachers if file_hash(run.folder / "model.ckpt") == taught_by]
    # Of several with one seed the one with the shortest name counts: it has nothing overridden.
    teachers.sort(key=lambda run: -len(run.folder.name))
    by_seed = {run.metrics["seed"]: run for run in teachers}
    return Study(
        folder=folder,
        runs=runs,
        failed=failed,
        teacher=next(iter(matching or [by_seed[seed] for seed in sorted(by_seed)]), None),
        teachers=by_seed,
        students={run.metrics["seed"]: run for run in students},
        cells=dict(sorted(cells.items())),
        left_out=len(distilled) - sum(map(len, cells.values())),
    )
