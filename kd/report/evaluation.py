"""A complete run, read back from its folder: how good its predictions are, what its network costs.

All but the cost is known from ``metrics.json`` and ``predictions.npz`` alone.
"""

import json
import math
import re
import timeit
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from kd import metrics
from kd.files import file_hash
from kd.models.base import MNIST
from kd.models.network import count_parameters
from kd.report.kinds import Kind
from kd.report.predictions import Predictions, read_predictions
from kd.training.checkpoint import load_checkpoint
from kd.training.run_folder import HISTORY, METRICS

CHECKPOINT = "model.ckpt"
MOST_PIXELS = 1_000_000  # of the batch whose latency is measured
MOST_SECONDS = 0.5  # that a latency is measured for, unless three passes take longer
MOST_BYTES = 2**16  # the limit of a file of Hydra's, which has a few kB


@dataclass(frozen=True)
class Run:
    """A complete run: its folder and its metrics; all else is read when asked for."""

    folder: Path
    metrics: Mapping[str, Any] = field(repr=False, hash=False)
    trusted: bool = field(default=False, repr=False)  # import the code that its network names

    @property
    def name(self) -> str:
        """Stage and parameters, as the folder names them."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def checkpoint(self) -> Path:
        """The file of the trained network."""
        return self.folder / CHECKPOINT

    @cached_property
    def sha256(self) -> str | None:
        """The hash of that file; None if it cannot be read."""
        return hash_if_readable(self.checkpoint)

    @cached_property
    def kind(self) -> Kind:
        """The settings that it shares with others."""
        return Kind(self.metrics)

    def network(self) -> Any:
        """Load the trained network, in evaluation mode.

        Raises:
            UserError: ``model.ckpt`` is missing or damaged.
        """
        return load_checkpoint(self.checkpoint, trusted=self.trusted)

    @property
    def count(self) -> int:
        """The number of classes."""
        return self.predictions.logits.shape[1]

    @property
    def classes(self) -> list[str]:
        """The names of the classes; their numbers where they have none."""
        count = self.count
        with suppress(ValueError, TypeError, RecursionError):
            names = json.loads(self.metrics.get("images/names") or "null")
            if isinstance(names, list) and len(names) == count:
                return [*map(str, names)]
        return [*map(str, range(count))]

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", str(self.metrics.get("images/shape")))
        return tuple(map(int, found.groups())) if found else MNIST.shape

    @cached_property
    def predictions(self) -> Predictions:
        """The network's answers to the test images.

        Raises:
            UserError: the file is missing, damaged, or not the one that the run wrote.
        """
        sha256 = self.metrics.get("predictions/sha256")
        return read_predictions(self.folder / "predictions.npz", sha256)

    @property
    def labels(self) -> np.ndarray:
        """The labels of the test images."""
        return self.predictions.labels.numpy()

    @property
    def indices(self) -> np.ndarray:
        """The test images' numbers in the data set."""
        return self.predictions.indices.numpy()

    @cached_property
    def answers(self) -> np.ndarray:
        """The class that the network names for every image, in little memory: it is kept."""
        few = self.predictions.logits.shape[1] <= 256
        return self.predictions.classes.numpy().astype(np.uint8 if few else np.uint16)

    @cached_property
    def kept_log_shares(self) -> torch.Tensor:
        """:func:`log_shares`, kept: those of a teacher, which many students are compared with."""
        return log_shares(self)

    def forget_predictions(self) -> None:
        """Free the memory of the predictions; they are read again when asked for again."""
        self.__dict__.pop("predictions", None)

    def divergence(self, teacher: "Run") -> float:
        """KL(teacher ‖ this network) of the predictions at T = 1, in nats."""
        return float(metrics.divergence(log_shares(self), teacher.kept_log_shares))

    @property
    def history(self) -> pd.DataFrame:
        """The figures of every epoch.

        Raises:
            OSError: the file is missing.
            ValueError: it is not the one that the run wrote.
        """
        path = self.folder / HISTORY
        if file_hash(path) != self.metrics.get("history/sha256"):
            raise ValueError("its sha256 differs")
        return pd.read_csv(path, index_col="epoch")

    @property
    def ended(self) -> float:
        """When it was complete, in seconds since 1970."""
        return (self.folder / METRICS).stat().st_mtime

    def read_hydra(self, name: str) -> Any:
        """Read one of the files in ``.hydra``; return None if it cannot be read."""
        path = self.folder / ".hydra" / name
        with suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
            if path.is_file() and path.stat().st_size <= MOST_BYTES:
                return yaml.safe_load(path.read_text(encoding="utf-8"))
        return None


def hash_if_readable(path: Path) -> str | None:
    """Compute the sha256 of a file; return None if the file cannot be read."""
    try:
        return file_hash(path) if path.is_file() else None
    except (OSError, ValueError):
        return None


def mean_metric(runs: Iterable[Run], key: str) -> float:
    """Compute the mean of one of the runs' metrics."""
    return float(np.mean([run.metrics[key] for run in runs]))


RATES = ["precision", "recall", "f1-score", "support"]


def confusion(run: Run) -> np.ndarray:
    """Count a run's images by actual class (down) and named class (across): (classes, classes)."""
    return count_answers(run.labels, run.answers, run.count)


def count_answers(labels: np.ndarray, answers: np.ndarray, count: int) -> np.ndarray:
    """Count images by actual and named class, of so many classes."""
    places = np.bincount(labels * count + answers, minlength=count**2)
    return places.reshape(count, count)


def rate_classes(matrix: np.ndarray) -> np.ndarray:
    """Compute precision, recall, F1 and support of every class, then their averages.

    Args:
        matrix: as of :func:`confusion`.

    Returns:
        (classes + 2, 4): the plain averages come last but one, those weighted by support last. What
        is of no image is 0.
    """
    right, named, actual = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    parts = (right, named), (right, actual), (2.0 * right, actual + named)
    rates = np.array([above / np.maximum(below, 1) for above, below in parts])
    plain, weighted = rates.mean(1), (rates * actual).sum(1) / actual.sum()
    table = np.column_stack([rates, plain, weighted]).T
    return np.column_stack([table, [*actual, actual.sum(), actual.sum()]])


def name_rates(names: Sequence[str]) -> list[str]:
    """The names of the rows of :func:`rate_classes`."""
    return [*names, "macro avg", "weighted avg"]


def per_class(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """Tabulate :func:`rate_classes` of a confusion matrix by the names of the classes."""
    table = pd.DataFrame(rate_classes(matrix), name_rates(names), RATES)
    return table.astype({"support": int})


def confused_pairs(matrix: np.ndarray, most: int = 5) -> list[tuple[int, int, int]]:
    """Find the pairs of classes most often confused, in either direction: (one, other, count)."""
    both = matrix + matrix.T
    pairs = [(i, j, int(both[i, j])) for i in range(len(both)) for j in range(i) if both[i, j]]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def reliability(predictions: Predictions, bins: int = 15) -> pd.DataFrame:
    """Tabulate mean confidence, accuracy and number of images by equal-width bins of confidence."""
    confidence, predicted = predictions.logits.double().softmax(1).max(1)
    right = (predicted == predictions.labels).double()
    frame = pd.DataFrame({"confidence": confidence, "accuracy": right, "images": 1})
    bin_of_image = pd.cut(frame["confidence"], np.linspace(0, 1, bins + 1))
    summary = {"confidence": "mean", "accuracy": "mean", "images": "sum"}
    return frame.groupby(bin_of_image, observed=True).agg(summary).reset_index(drop=True)


def measure_fidelity(student: Run, teacher: Run) -> dict[str, float]:
    """Measure how faithful a student is to a teacher (Stanton et al. 2021).

    ``position`` places the agreement between the least that both accuracies allow (0) and all (1).
    ``agreement_on_errors`` is the share of the teacher's errors that the student repeats.
    """
    labels = student.labels
    right = student.answers == labels, teacher.answers == labels
    same = student.answers == teacher.answers
    agreement = float(same.mean())
    floor = max(0.0, float(right[0].mean() + right[1].mean()) - 1)
    repeated = same[~right[1]]
    return {
        "agreement": agreement,
        "kl": student.divergence(teacher),
        # The mean of none, for a teacher without errors, is NaN.
        "agreement_on_errors": float(repeated.mean()) if len(repeated) else math.nan,
        "floor": floor,
        "position": (agreement - floor) / (1 - floor) if floor < 1 else 1.0,
    }


def log_shares(run: Run) -> torch.Tensor:
    """The logarithms of a network's probabilities for every image."""
    return run.predictions.logits.double().log_softmax(-1)


def measure_cost(run: Run) -> dict[str, float]:
    """Count parameters, multiply-accumulates per image and bytes on disk; time the network.

    Latencies are medians of 50 forward passes on the CPU in milliseconds, of fewer where a pass
    takes long; of one image and of a batch, of 1,000 images like MNIST's or fewer that are larger.

    Raises:
        UserError: ``model.ckpt`` is missing or damaged.
    """
    network = run.network()

    def latency(batch: int) -> float:
        forward = partial(network, torch.rand(batch, *run.shape))
        quickest = min(timeit.repeat(forward, number=1, repeat=3))
        passes = max(3, min(50, int(MOST_SECONDS / quickest)))
        return 1000 * float(np.median(timeit.repeat(forward, number=1, repeat=passes)))

    batch = max(1, min(1000, MOST_PIXELS // math.prod(run.shape)))

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *run.shape))
        return {
            "parameters": count_parameters(network),
            "macs": counter.get_total_flops() // 2,
            "file_bytes": run.checkpoint.stat().st_size,
            "one_image_ms": latency(1),
            f"batch_{batch}_ms": latency(batch),
        }
