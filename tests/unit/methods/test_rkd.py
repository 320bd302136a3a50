"""Relations between samples: golden numbers, and what does not change the loss."""

import pytest
from golden_cases import cases, check

from kd.methods.rkd import rkd_angle_loss, rkd_distance_loss

LOSSES = {"rkd_distance": rkd_distance_loss, "rkd_angle": rkd_angle_loss}


@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, *case.values, id=case.id) for name in LOSSES for case in cases(name)],
)
def test_rkd_is_golden(name, case, dtype):
    loss = LOSSES[name]
    check(case, dtype, lambda x: loss(x["student_features"], x["teacher_features"]))


@pytest.mark.parametrize("name", LOSSES)
def test_scale_and_rotation_are_nothing(name, hidden, turn):
    (student, teacher), loss = hidden, LOSSES[name]
    expected = pytest.approx(loss(student, teacher).item(), rel=1e-9)
    assert loss(7 * student @ turn, teacher).item() == expected
    assert loss(student, 0.3 * teacher @ turn).item() == expected
