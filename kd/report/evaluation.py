"""How good a run's predictions are, from ``predictions.npz`` alone, and what its network costs."""

import math
import timeit
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import classification_report, confusion_matrix
from torch.utils.flop_counter import FlopCounterMode

from kd import metrics
from kd.models.base import CLASSES, IMAGE_SHAPE
from kd.models.network import count_parameters
from kd.report.predictions import Predictions
from kd.report.runs import Run
from kd.report.study import Study


def per_class(predictions: Predictions) -> pd.DataFrame:
    """Tabulate precision, recall, F1 and support of every class, then their averages."""
    report: Any = classification_report(
        predictions.labels,
        predictions.classes,
        labels=range(CLASSES),
        output_dict=True,
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    report.pop("accuracy", None)
    return pd.DataFrame(report).T.astype({"support": int})


def confusion(predictions: Predictions) -> np.ndarray:
    """Count the images by actual class (down) and predicted class (across): (10, 10)."""
    return confusion_matrix(predictions.labels, predictions.classes, labels=range(CLASSES))


def confused_pairs(matrix: np.ndarray, most: int = 5) -> list[tuple[int, int, int]]:
    """Find the pairs of classes most often confused, in either direction: (one, other, count)."""
    both = matrix + matrix.T
    pairs = [(i, j, int(both[i, j])) for i in range(len(both)) for j in range(i)]
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
    labels = student.predictions.labels
    s, t = student.predictions.logits.double(), teacher.predictions.logits.double()
    agreement = float(metrics.agreement(s, t))
    floor = max(0.0, float(metrics.accuracy(s, labels) + metrics.accuracy(t, labels)) - 1)
    errors = teacher.predictions.classes != labels
    same = student.predictions.classes == teacher.predictions.classes
    repeated = float(same[errors].double().mean()) if errors.any() else math.nan
    return {
        "agreement": agreement,
        "kl": float(metrics.predictive_kl(s, t)),
        "agreement_on_errors": repeated,
        "floor": floor,
        "position": (agreement - floor) / (1 - floor) if floor < 1 else 1.0,
    }


def scoring_teacher(run: Run, study: Study) -> Run | None:
    """The study's teacher if a run can be scored against it, else None.

    Both must have been tested on the same images. A student whose own teacher has changed since is
    not scored: another network would take its teacher's place.
    """
    teacher = study.teacher
    if teacher is None or not study.checkpoints.taught_unchanged(run):
        return None
    same_images = torch.equal(run.predictions.indices, teacher.predictions.indices)
    return teacher if same_images else None


def summarise_run(run: Run, classes: pd.DataFrame, study: Study) -> dict[str, Any]:
    """One row of the table of all runs; ``classes`` is the run's :func:`per_class`."""
    teacher = scoring_teacher(run, study)
    row = {
        "run": run.name,
        "test_accuracy": run.metrics["test/acc"],
        "test_nll": run.metrics["test/loss"],
        "test_ece": run.metrics["test/ece"],
        "macro_f1": classes.loc["macro avg", "f1-score"],
        "validation_accuracy": run.metrics["val/acc"],
        "epochs": run.metrics["epochs"],
        "fit_s": run.metrics["time/fit_s"],
    }
    return row | (measure_fidelity(run, teacher) if teacher else {})


def measure_cost(run: Run) -> dict[str, float]:
    """Count parameters, multiply-accumulates per image and bytes on disk; time the network.

    Latencies are medians of 50 forward passes on the CPU in milliseconds, of one image and of a
    batch of 1,000.

    Raises:
        UserError: ``model.ckpt`` is missing or damaged.
    """
    network = run.network()

    def latency(batch: int) -> float:
        forward = partial(network, torch.rand(batch, *IMAGE_SHAPE))
        return 1000 * float(np.median(timeit.repeat(forward, number=1, repeat=55)[5:]))

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *IMAGE_SHAPE))
        return {
            "parameters": count_parameters(network),
            "macs": counter.get_total_flops() // 2,
            "file_bytes": run.checkpoint.stat().st_size,
            "one_image_ms": latency(1),
            "batch_1000_ms": latency(1000),
        }
