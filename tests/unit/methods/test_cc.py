"""Correlation congruence: golden numbers."""

import pytest
from golden_cases import cases, check

from kd.methods.cc import cc_loss


@pytest.mark.parametrize("case", cases("cc_repdistiller"))
def test_cc_is_golden(case, dtype):
    check(case, dtype, lambda x: cc_loss(x["student_features"], x["teacher_features"]))
