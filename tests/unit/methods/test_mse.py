"""Regression on logits: numbers worked out by hand, and Hinton's loss at high temperature."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd.methods import kd_loss, mse_loss


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


def test_mse_is_that_of_pencil_and_paper(dtype):
    """Differences of 2, 0 and −3: 13 / 6; without their mean of −1/3, 38/3 / 6."""
    student = torch.tensor([[2.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, 4.0]], dtype=dtype)
    raw, centred = mse_loss(student, teacher), mse_loss(student, teacher, centred=True)
    assert raw.item() == pytest.approx(13 / 6)
    assert centred.item() == pytest.approx(19 / 9)
    assert gradient(raw, student).tolist()[0] == pytest.approx([2 / 3, 0, -1])
    assert gradient(centred, student).tolist()[0] == pytest.approx([7 / 9, 1 / 9, -8 / 9])


def test_mse_is_half_of_torchs_as_the_code_of_kim_et_al_has_it(batch):
    student, teacher, _ = batch
    mine, its = mse_loss(student, teacher), F.mse_loss(student, teacher) / 2
    assert mine.item() == pytest.approx(its.item(), rel=1e-12)
    assert torch.allclose(gradient(mine, student), gradient(its, student), rtol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_centred_mse_is_the_divergence_at_a_high_temperature(batch, direction):
    student, teacher, _ = batch
    mine = mse_loss(student, teacher, centred=True)
    limit = gradient(mine, student)
    for T in (1e3, 1e5):  # what is left shrinks as 1 / T
        soft = kd_loss(student, teacher, T, direction)
        assert mine.item() == pytest.approx(soft.item(), rel=1 / T)
        assert (gradient(soft, student) - limit).norm() < 10 * limit.norm() / T


def test_raw_logits_ask_for_the_mean_too(batch):
    student, teacher, _ = batch
    means = (student - teacher).mean(1)
    centred = mse_loss(student, teacher, centred=True)
    expected = centred + means.square().mean() / 2
    assert mse_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-12)
    shifted = mse_loss(student + 5, teacher, centred=True)
    assert shifted.item() == pytest.approx(centred.item(), rel=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_a_batch_twice_costs_the_same(batch, centred):
    student, teacher, _ = batch
    twice = mse_loss(torch.cat([student, student]), torch.cat([teacher, teacher]), centred)
    assert twice.item() == pytest.approx(mse_loss(student, teacher, centred).item(), rel=1e-12)


def test_logits_of_other_classes_are_refused(batch):
    student, teacher, _ = batch
    with pytest.raises(ValueError, match="do not fit"):
        mse_loss(student, teacher[:, :9])
