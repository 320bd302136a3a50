"""Reading a study back: one row a complete run."""

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd.checkpoint import METRICS, file_hash, read_metrics, replacing
from kd.config import UserError

Cell = tuple[float, float]  # temperature, alpha


def read_study(study: Path) -> list[dict[str, Any]]:
    """The metrics of every complete run of a study, with ``run``: its folder below the study."""
    runs = sorted(path.parent for path in study.glob(f"*/*/{METRICS}"))
    return [{"run": str(run.relative_to(study)), **(read_metrics(run) or {})} for run in runs]


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
    teachers: dict[int, Run]
    students: dict[int, Run]
    cells: dict[Cell, dict[int, Run]]
    left_out: int

    @property
    def teacher(self) -> Run | None:
        """The teacher that the distilled runs learned from, else the one of the lowest seed."""
        taught = {
            run.metrics["teacher/sha256"] for by in self.cells.values() for run in by.values()
        }
        by_hash = {file_hash(run.folder / "model.ckpt"): run for run in self.teachers.values()}
        for sha in taught:
            if sha in by_hash:
                return by_hash[sha]
        return self.teachers[min(self.teachers)] if self.teachers else None

    @property
    def student(self) -> Run | None:
        """The student alone of the lowest seed."""
        return self.students[min(self.students)] if self.students else None

    @property
    def seeds(self) -> int:
        """How many seeds the fullest cell has."""
        return max((len(by_seed) for by_seed in self.cells.values()), default=0)


RECIPE = ("data/fingerprint", "data/batch_size", "optim/lr", "optim/schedule", "trainer/max_epochs")


def family(run: Run, without: tuple[str, ...] = ()) -> tuple:
    """What must be equal for runs to be compared: all that their folders say beyond T, alpha and
    seed, but for keys that begin with a word of ``without``; and how they were trained.
    """
    skip = ("T=", "alpha=", "seed=", *without)
    words = tuple(word for word in run.folder.name.split(",") if not word.startswith(skip))
    return (words, *(run.metrics[key] for key in RECIPE))


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
        cells.setdefault(cell, {})[run.metrics["seed"]] = run
    if chosen:  # the control is trained alike, but for what only a distillation has
        wanted = family(chosen[0], without=("kd", "teacher"))
        students = [run for run in students if family(run) == wanted]
        split = chosen[0].metrics["data/fingerprint"]
        teachers = [run for run in teachers if run.metrics["data/fingerprint"] == split]
    return Study(
        folder=folder,
        runs=runs,
        failed=failed,
        teachers={run.metrics["seed"]: run for run in teachers},
        students={run.metrics["seed"]: run for run in students},
        cells=dict(sorted(cells.items())),
        left_out=len(distilled) - len(chosen),
    )
