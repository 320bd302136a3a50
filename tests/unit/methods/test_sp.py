"""Similarities between samples: golden numbers, and what does not change the loss."""

import pytest
from golden_cases import cases, check

from kd.methods.sp import sp_loss


@pytest.mark.parametrize("case", cases("sp"))
def test_sp_is_golden(case, dtype):
    check(case, dtype, lambda x: sp_loss(x["student_features"], x["teacher_features"]))


def test_scale_and_rotation_are_nothing(hidden, turn):
    student, teacher = hidden
    expected = pytest.approx(sp_loss(student, teacher).item(), rel=1e-9)
    assert sp_loss(7 * student @ turn, teacher).item() == expected
    assert sp_loss(student, 0.3 * teacher @ turn).item() == expected
