"""Attention transfer: golden numbers, and what it compares with what."""

import pytest
import torch
from golden_cases import cases, check
from helpers import method_loss

from kd.methods.at import AT, at_loss
from kd.models.cnn import CNN
from kd.models.network import build_model
from kd.outputs import Outputs


@pytest.mark.parametrize("case", cases("at"))
def test_at_is_golden(case, dtype):
    p = case["params"]["p"]
    check(case, dtype, lambda x: at_loss(x["student_features"], x["teacher_features"], p))


def test_attention_needs_feature_maps():
    with pytest.raises(ValueError, match="needs feature maps"):
        at_loss(torch.randn(4, 32), torch.randn(4, 32))


def test_attention_transfer_compares_block_by_block():
    images = torch.rand(6, 1, 28, 28)
    student, teacher = build_model(CNN(channels=[2, 4]), 0), build_model(CNN(), 1)
    ours, theirs, labels = student.see(images), teacher.see(images), torch.arange(6)
    kd = AT(alpha=0.0, term_weight=10.0)

    def loss(seen: Outputs) -> float:
        return method_loss(seen, theirs, labels, kd, (0.0, 1.0)).item()

    assert loss(theirs) == 0
    assert loss(ours) > 0
    first = ours._replace(maps=(ours.maps[0], theirs.maps[1]))
    second = ours._replace(maps=(theirs.maps[0], ours.maps[1]))
    assert loss(first) + loss(second) == pytest.approx(loss(ours))
