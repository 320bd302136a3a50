"""Function matching: Hinton's loss on views that teacher and student both see, without labels."""

import torch
from helpers import config, method_loss

from kd.methods.function_matching import FunctionMatching
from kd.methods.hinton import Hinton
from kd.outputs import Outputs


def test_its_term_is_hintons(batch):
    student, teacher = (Outputs(logits, None) for logits in batch[:2])
    mine, its = (
        method_loss(student, teacher, batch[2], kd, (0.0, 1.0))
        for kd in (FunctionMatching(T=3.0), Hinton(T=3.0))
    )
    assert torch.equal(mine, its)


def test_it_brings_views_along_and_leaves_the_labels_out():
    found = config("stage=distill", "kd=function_matching")
    assert found.data.augment.active
    assert (found.kd.T, found.kd.alpha) == (1, 0)
