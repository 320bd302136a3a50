"""Decoupled distillation: golden numbers, and Hinton's loss as a special case."""

import pytest
import torch.nn.functional as F
from golden_cases import cases, check

from kd.methods.dkd import dkd_loss
from kd.methods.hinton import kd_loss


@pytest.mark.parametrize("case", cases("dkd"))
def test_dkd_is_golden(case, dtype):
    numbers = [case["params"][name] for name in ("T", "alpha", "beta")]
    check(
        case,
        dtype,
        lambda x: dkd_loss(x["student_logits"], x["teacher_logits"], x["labels"], *numbers),
    )


@pytest.mark.parametrize("T", [1.0, 2.0, 4.0, 10.0])
def test_dkd_with_the_papers_beta_is_kd(batch, T):
    """Equation 7: the divergence is the target term plus (1 − p_teacher(label)) non-target."""
    student, teacher, labels = batch
    for one in range(len(labels)):
        s, t, y = (x[one : one + 1] for x in (student, teacher, labels))
        beta = 1 - F.softmax(t / T, dim=1)[0, y].item()
        mine = dkd_loss(s, t, y, T, 1.0, beta)
        assert mine.item() == pytest.approx(kd_loss(s, t, T).item(), rel=1e-9)
