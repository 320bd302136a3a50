"""What predictions say, and what networks cost."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import config
from sklearn.metrics import classification_report

from kd.models.network import build_model
from kd.report.evaluation import (
    Run,
    confused_pairs,
    confusion,
    count_answers,
    measure_cost,
    measure_fidelity,
    name_rates,
    per_class,
    rate_classes,
    reliability,
)
from kd.report.predictions import Predictions
from kd.training.checkpoint import save_checkpoint


def logits_of(predicted: list[int], sure: float = 5.0) -> torch.Tensor:
    return sure * torch.eye(10)[predicted]


def answers(logits: torch.Tensor, labels: list[int]) -> Predictions:
    return Predictions(logits, torch.tensor(labels), torch.arange(len(labels)))


def run(folder: Path, predicted: list[int], labels: list[int], sure: float = 5.0) -> Run:
    folder.mkdir(parents=True)
    logits = logits_of(predicted, sure).numpy()
    indices = np.arange(len(labels))
    np.savez(folder / "predictions.npz", logits=logits, labels=np.array(labels), indices=indices)
    return Run(folder, {})


def test_per_class_figures_by_hand(tmp_path):
    found = run(tmp_path / "r", [0, 0, 1, 1, 0, 2], [0, 0, 0, 1, 1, 2])
    table = per_class(confusion(found), found.classes)
    assert table.loc["0", ["precision", "recall", "f1-score"]].tolist() == pytest.approx(
        [2 / 3] * 3
    )
    assert table.loc["1", "precision"] == pytest.approx(1 / 2)
    assert table["support"].tolist() == [3, 2, 1, 0, 0, 0, 0, 0, 0, 0, 6, 6]
    assert table.loc["weighted avg", "recall"] == pytest.approx(4 / 6)


def test_class_figures_are_those_of_scikit_learn():
    """To the last bit: earlier reports had its figures."""
    random = np.random.default_rng(0)
    for count, images in ((2, 5), (3, 40), (10, 10_000), (130, 300)):
        labels, named = random.integers(count, size=(2, images))
        rates = rate_classes(count_answers(labels, named.astype(np.uint8), count))
        form = {"labels": range(count), "output_dict": True, "zero_division": 0}
        report = classification_report(labels, named, **form)
        report.pop("accuracy", None)
        assert name_rates([*map(str, range(count))]) == [*report]
        assert rates.tolist() == [[*map(float, row.values())] for row in report.values()]


def test_confusion_counts_actual_down_and_predicted_across(tmp_path):
    matrix = confusion(run(tmp_path / "r", [9, 9, 4, 4], [4, 4, 9, 4]))
    assert matrix[4, 9] == 2
    assert matrix[9, 4] == 1
    assert matrix[4, 4] == 1
    assert confused_pairs(matrix, 1) == [(9, 4, 3)]


def test_reliability_bins_hold_their_means():
    logits = torch.cat([logits_of([1] * 4, 2.0), logits_of([2] * 6, 9.0)])
    table = reliability(answers(logits, [1, 1, 0, 0, 2, 2, 2, 2, 2, 0]))
    assert table["images"].tolist() == [4, 6]
    assert table["accuracy"].tolist() == pytest.approx([0.5, 5 / 6])
    expected = [logits[i].softmax(0).max().item() for i in (0, 9)]
    assert table["confidence"].tolist() == pytest.approx(expected)


def test_fidelity_lies_between_its_floor_and_one(tmp_path):
    labels = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    teacher = run(tmp_path / "t", [0, 1, 2, 3, 4, 5, 6, 7, 8, 0], labels)  # 9 of 10 right
    student = run(tmp_path / "s", [0, 1, 2, 3, 4, 5, 6, 7, 7, 0], labels)  # 8 of 10 right
    found = measure_fidelity(student, teacher)
    assert found["agreement"] == pytest.approx(0.9)
    assert found["floor"] == pytest.approx(0.7)
    assert found["position"] == pytest.approx(0.2 / 0.3)
    assert found["agreement_on_errors"] == 1
    same = measure_fidelity(teacher, teacher)
    assert (same["agreement"], same["position"]) == (1, 1)
    assert same["kl"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("stage", "parameters", "macs"),
    # 9·8·28² + 72·16·14² + 784·32 + 32·10 and 784·32 + 32·10 multiplications
    [("teacher", 26_698, 307_648), ("student", 25_450, 25_408)],
)
def test_costs_are_counted(tmp_path, stage, parameters, macs):
    of_stage = config(f"stage={stage}")
    network = build_model(of_stage.model, 0)
    save_checkpoint(tmp_path / "model.ckpt", network.state_dict(), of_stage, "split", 1)
    found = measure_cost(Run(tmp_path, {}))
    assert (found["parameters"], found["macs"]) == (parameters, macs)
    assert found["file_bytes"] > 4 * parameters
    assert found["one_image_ms"] > 0
    assert found["batch_1000_ms"] > 0
