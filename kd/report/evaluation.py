"""What a run's predictions say, from ``predictions.npz`` alone; and what its network costs."""

import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import classification_report, confusion_matrix
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kd import metrics as fidelity
from kd.models.base import CLASSES, IMAGE_SHAPE
from kd.models.network import count_parameters
from kd.report.study import Study
from kd.training.checkpoint import load_checkpoint
from kd.training.results import Run


def per_class(logits: Tensor, labels: Tensor) -> pd.DataFrame:
    """Precision, recall, F1 and support of every class, then their averages: the talk's table."""
    report = classification_report(
        labels, logits.argmax(1), labels=range(CLASSES), output_dict=True, zero_division=0
    )
    report.pop("accuracy", None)
    table = pd.DataFrame(report).T
    return table.astype({"support": int})


def confusion(logits: Tensor, labels: Tensor) -> np.ndarray:
    """(10, 10) counts: actual classes down, predicted ones across."""
    return confusion_matrix(labels, logits.argmax(1), labels=range(CLASSES))


def confused_pairs(matrix: np.ndarray, most: int = 5) -> list[tuple[int, int, int]]:
    """The pairs of classes most often taken for each other, either way: (one, other, count)."""
    both = matrix + matrix.T
    pairs = [(i, j, int(both[i, j])) for i in range(len(both)) for j in range(i)]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]


def reliability(logits: Tensor, labels: Tensor, bins: int = 15) -> pd.DataFrame:
    """Mean confidence, accuracy and number of images in equal-width bins of confidence."""
    confidence, predicted = logits.double().softmax(1).max(1)
    frame = pd.DataFrame({"confidence": confidence, "accuracy": (predicted == labels).double()})
    edges = np.linspace(0, 1, bins + 1)
    groups = frame.groupby(pd.cut(frame["confidence"], edges), observed=True)
    return groups.mean().assign(images=groups.size()).reset_index(drop=True)


def fidelity_to(student: Run, teacher: Run) -> dict[str, float]:
    """How faithful a student is to a teacher (Stanton et al. 2021).

    ``position`` places the agreement between the least that both accuracies allow (0) and all (1);
    ``agreement_on_errors`` is the share of the teacher's errors that the student repeats.
    """
    (s, labels, _), (t, _, _) = student.predictions, teacher.predictions
    s, t = s.double(), t.double()
    agreement = float(fidelity.agreement(s, t))
    floor = max(0.0, float(fidelity.accuracy(s, labels) + fidelity.accuracy(t, labels)) - 1)
    errors = t.argmax(1) != labels
    repeated = (s.argmax(1) == t.argmax(1))[errors].double().mean() if errors.any() else torch.nan
    return {
        "agreement": agreement,
        "kl": float(fidelity.predictive_kl(s, t)),
        "agreement_on_errors": float(repeated),
        "floor": floor,
        "position": (agreement - floor) / (1 - floor) if floor < 1 else 1.0,
    }


def comparable(run: Run, teacher: Run) -> bool:
    """Whether both were tested on the same images."""
    return torch.equal(run.predictions[2], teacher.predictions[2])


def scored_by(run: Run, study: Study) -> Run | None:
    """The study's teacher, where a run is scored against it; None where it is not.

    A student whose own teacher has changed since is not: another network would take its place.
    """
    teacher = study.teacher
    if teacher is None or not study.taught.unchanged(run) or not comparable(run, teacher):
        return None
    return teacher


def summarise(run: Run, teacher: Run | None) -> dict[str, Any]:
    """One row of the table of all runs."""
    logits, labels, _ = run.predictions
    macro = per_class(logits, labels).loc["macro avg"]
    row = {
        "run": run.name,
        "test_accuracy": run.metrics["test/acc"],
        "test_nll": run.metrics["test/loss"],
        "test_ece": run.metrics["test/ece"],
        "macro_f1": macro["f1-score"],
        "validation_accuracy": run.metrics["val/acc"],
        "epochs": run.metrics["epochs"],
        "fit_s": run.metrics["time/fit_s"],
    }
    return row | (fidelity_to(run, teacher) if teacher else {})


def cost(run: Run) -> dict[str, float]:
    """Parameters, multiply-accumulates an image, bytes on disk, and CPU latency of the network.

    Latency: median of 50 forward passes, in milliseconds, of one image and of a batch of 1,000.

    Raises:
        UserError: ``model.ckpt`` is missing or damaged.
    """
    path = run.folder / "model.ckpt"
    network = load_checkpoint(path)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *IMAGE_SHAPE))
        latencies = []
        for images in (torch.rand(1, *IMAGE_SHAPE), torch.rand(1000, *IMAGE_SHAPE)):
            times = []
            for _ in range(55):
                started = time.perf_counter()
                network(images)
                times.append(1000 * (time.perf_counter() - started))
            latencies.append(float(np.median(times[5:])))
    return {
        "parameters": count_parameters(network),
        "macs": counter.get_total_flops() // 2,
        "file_bytes": path.stat().st_size,
        "one_image_ms": latencies[0],
        "batch_1000_ms": latencies[1],
    }
