"""Probabilities of picking another sample: golden numbers, and what does not change the loss."""

import pytest
from golden_cases import cases, check

from kd.methods.pkt import pkt_loss


@pytest.mark.parametrize("case", cases("pkt"))
def test_pkt_is_golden(case, dtype):
    check(case, dtype, lambda x: pkt_loss(x["student_features"], x["teacher_features"]))


def test_scale_and_rotation_are_nothing(hidden, turn):
    student, teacher = hidden
    expected = pytest.approx(pkt_loss(student, teacher).item(), rel=1e-4)
    assert pkt_loss(7 * student @ turn, teacher).item() == expected
    assert pkt_loss(student, 0.3 * teacher @ turn).item() == expected
