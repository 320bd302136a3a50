"""The cosine between hidden representations: golden numbers."""

import pytest
import torch.nn.functional as F
from golden_cases import cases, check

from kd.methods.cosine import cosine_loss


@pytest.mark.parametrize("case", cases("cosine_embedding"))
def test_cosine_is_golden(case, dtype):
    pool = case["params"]["teacher_avg_pool1d"]

    def loss(x):
        pooled = F.avg_pool1d(x["teacher_features"].unsqueeze(1), pool).squeeze(1)
        return cosine_loss(x["student_features"], pooled)

    check(case, dtype, loss)
