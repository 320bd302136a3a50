"""Hints: golden numbers."""

import pytest
from golden_cases import cases, check

from kd.methods.hint import hint_loss


@pytest.mark.parametrize("case", cases("fitnet_hint"))
def test_hint_is_golden(case, dtype):
    check(case, dtype, lambda x: hint_loss(x["student_features"], x["teacher_features"]))
