"""Standardised logits: golden numbers."""

import pytest
from golden_cases import cases, check

from kd.methods.logit_std import logit_std_kd_loss


@pytest.mark.parametrize("case", cases("logit_std_kd"))
def test_logit_std_is_golden(case, dtype):
    T = case["params"]["T"]
    check(case, dtype, lambda x: logit_std_kd_loss(x["student_logits"], x["teacher_logits"], T))


def test_scale_and_shift_of_the_logits_are_nothing(batch):
    student, teacher, _ = batch
    expected = pytest.approx(logit_std_kd_loss(student, teacher, 2.0).item(), rel=1e-6)
    assert logit_std_kd_loss(3 * student + 5, 0.5 * teacher - 1, 2.0).item() == expected
