"""Fidelity and calibration against the numbers of gnosis and torchmetrics."""

import pytest
import torch
from golden_cases import cases, check, tensors

from kd.metrics import (
    accuracy,
    agreement,
    ensemble_logits,
    expected_calibration_error,
    predictive_kl,
)


@pytest.mark.parametrize("case", cases("fidelity"))
def test_fidelity_is_golden(case):
    inputs, expected = tensors(case, torch.float64), case["metrics"]
    student, teacher, labels = (inputs[k] for k in ("student_logits", "teacher_logits", "labels"))
    assert agreement(student, teacher).item() == pytest.approx(expected["top1_agreement"])
    assert predictive_kl(student, teacher).item() == pytest.approx(
        expected["kl_teacher_student"], rel=1e-9, abs=1e-11
    )
    assert accuracy(student, labels).item() == pytest.approx(expected["accuracy_student"])
    for bins in (10, 15):
        error = expected_calibration_error(student, labels, bins).item()
        assert error == pytest.approx(expected[f"ece{bins}_torchmetrics_l1"], rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("case", [c for c in cases("fidelity") if c.id != "fid-v09"])
def test_predictive_kl_has_the_golden_gradient(case):
    check(
        case,
        torch.float64,
        lambda x: predictive_kl(x["student_logits"], x["teacher_logits"].detach()),
    )


def test_an_ensemble_is_the_mean_of_probabilities():
    members = torch.randn(4, 3, 10, generator=torch.Generator().manual_seed(0)).double()
    mean = members.softmax(-1).mean(1)
    assert torch.allclose(ensemble_logits(members).exp(), mean)
    assert agreement(mean.log(), members).item() == 1
    assert predictive_kl(mean.log(), members).item() == pytest.approx(0, abs=1e-12)


def test_calibration_takes_logits_that_look_like_probabilities():
    logits = torch.full((10, 10), 0.7)  # confidence 0.1, not 0.7
    labels = torch.arange(10)
    assert expected_calibration_error(logits, labels).item() == pytest.approx(0, abs=1e-6)
