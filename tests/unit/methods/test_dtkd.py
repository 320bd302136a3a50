"""Dynamic temperatures: golden numbers, and Hinton's loss as a special case."""

import pytest
import torch.nn.functional as F
from golden_cases import cases, check

from kd.methods.dtkd import dtkd_loss
from kd.methods.hinton import kd_loss


@pytest.mark.parametrize("case", cases("dtkd"))
def test_dtkd_is_golden(case, dtype):
    """The whole of the original's loss: its parts have no gradients of their own."""
    p = case["params"]

    def loss(x):
        z = x["student_logits"], x["teacher_logits"], p["T"]
        soft = p["alpha"] * dtkd_loss(*z) + p["beta"] * kd_loss(*z)
        label = F.cross_entropy(x["student_logits"], x["labels"])
        return min(p["epoch"] / p["warmup"], 1) * soft + p["ce_weight"] * label

    check(case, dtype, loss)


def test_dtkd_with_equal_maxima_is_kd(batch):
    student, teacher, _ = batch
    student = student.detach() - student.detach().amax(1, keepdim=True) + 3
    teacher = teacher - teacher.amax(1, keepdim=True) + 3
    mine = dtkd_loss(student, teacher, 2.0)
    assert mine.item() == pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=1e-12)
