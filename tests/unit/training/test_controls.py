"""What each control takes away of a teacher's logits, and what it leaves."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kd.config.schema import Config, Data, Teacher
from kd.outputs import Outputs
from kd.training.controls import clipped, confidence, lessons, permuted


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def logits(request) -> Tensor:
    """Of a teacher that is sure of some images and not of others."""
    random = torch.Generator().manual_seed(0)
    found = torch.randn(500, 10, generator=random, dtype=torch.float64) * 4
    found[:100] *= 10  # probabilities that differ from 1 by less than float32 tells
    return found.to(request.param)


@pytest.fixture
def labels(logits) -> Tensor:
    """Of most images the teacher's class."""
    found = logits.argmax(1)
    found[::7] = (found[::7] + 1) % 10
    return found


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels.unsqueeze(1))


def test_a_permutation_keeps_the_label_and_what_there_is(logits, labels):
    found = permuted(logits, labels, draw())
    assert torch.equal(of_label(found, labels), of_label(logits, labels))
    assert torch.equal(found.sort(1).values, logits.sort(1).values)


def test_a_permutation_is_each_images_own_and_the_same_again(logits, labels):
    found = permuted(logits, labels, draw())
    assert torch.equal(permuted(logits, labels, draw()), found)
    assert not torch.equal(permuted(logits, labels, draw(1)), found)
    orders = permuted(torch.arange(10.0).expand(500, -1), torch.zeros(500).long(), draw())
    assert len(orders.unique(dim=0)) > 490


def test_every_wrong_class_gets_every_wrong_logit_as_often():
    found = permuted(torch.arange(4.0).expand(30_000, -1), torch.full((30_000,), 2), draw())
    for place in (0, 1, 3):
        counts = torch.stack([(found[:, place] == value).sum() for value in (0, 1, 3)])
        assert (counts - 10_000).abs().max() < 500
    assert (found[:, 2] == 2).all()


def test_confidence_keeps_the_probability_of_the_label_alone(logits, labels):
    found = confidence(logits, labels)
    assert found.dtype == logits.dtype
    mine, its = (of_label(each.double().softmax(1), labels) for each in (found, logits))
    close = {torch.float32: 1e-5, torch.float64: 1e-12}[logits.dtype]
    assert torch.allclose(mine, its, rtol=close, atol=0)
    assert torch.allclose(1 - mine, 1 - its, rtol=0, atol=close)
    wrong = found[torch.arange(10) != labels.unsqueeze(1)].view(-1, 9)
    assert torch.equal(wrong, wrong[:, :1].expand(-1, 9))
    sure = its.squeeze(1) > 0.5
    assert 100 < sure.sum() < 450
    assert torch.equal(found.argmax(1)[sure], labels[sure])


def test_confidence_is_finite_however_sure_the_teacher_is():
    extremes = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0]])
    assert confidence(extremes, torch.tensor([0, 0, 1])).isfinite().all()


def test_clipping_raises_what_is_far_below_the_highest(logits):
    found = clipped(logits, 6.0)
    highest = logits.amax(1, keepdim=True)
    near = logits >= highest - 6
    assert 0 < near.sum() < logits.numel()
    assert torch.equal(found[near], logits[near])
    assert torch.equal(found[~near], (highest - 6).expand_as(logits)[~near])
    assert torch.equal(clipped(logits, 1e3), logits)


def taught(logits: Tensor, labels: Tensor, seed: int = 0, **teacher: object) -> Outputs:
    """The lessons of such a teacher."""
    outputs = Outputs(logits, hidden=logits + 1)
    pool = SimpleNamespace(labels=labels)
    material = SimpleNamespace(teacher_outputs=outputs, data=SimpleNamespace(pool=pool))
    return lessons(Config(data=Data(seed=seed), teacher=Teacher(**teacher)), material)


def test_lessons_are_what_the_settings_say(logits, labels):
    plain = taught(logits, labels)
    assert torch.equal(plain.logits, logits)
    assert torch.equal(taught(logits, labels, clip=3.0).logits, clipped(logits, 3.0))
    found = taught(logits, labels, control="confidence", clip=3.0)
    assert torch.equal(found.logits, confidence(clipped(logits, 3.0), labels))
    first, second, again = (
        taught(logits, labels, seed, control="permuted").logits for seed in (0, 1, 0)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(found.hidden, plain.hidden)
