"""Label smoothing: torch's, of class numbers and of shares, and nothing where it is 0."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kd.methods.base import cross_entropy, weighted_loss

AMOUNTS = [0.0, 0.1, 0.7]


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(0)).double().requires_grad_()


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(10, (6,), generator=torch.Generator().manual_seed(1))


def assert_same(mine: Tensor, its: Tensor, logits: Tensor) -> None:
    """Value and gradient agree."""
    assert torch.allclose(mine, its, rtol=1e-12)
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (mine, its))
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_it_is_torchs(logits, labels, amount):
    its = F.cross_entropy(logits, labels, label_smoothing=amount)
    assert_same(cross_entropy(logits, labels, amount), its, logits)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_it_is_torchs_of_shares(logits, amount):
    shares = torch.rand(6, 10, generator=torch.Generator().manual_seed(2)).double()
    shares = shares / shares.sum(-1, keepdim=True)
    its = F.cross_entropy(logits, shares, label_smoothing=amount)
    assert_same(cross_entropy(logits, shares, amount), its, logits)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_what_has_no_label_does_not_count(logits, labels, amount):
    shares = F.one_hot(labels, 10).double()
    shares[3:] = 0
    its = F.cross_entropy(logits[:3], labels[:3], label_smoothing=amount)
    assert_same(cross_entropy(logits, shares, amount), its, logits)


def test_the_labels_alone_are_smoothed(logits, labels):
    loss = weighted_loss(logits, labels, logits.square().mean(), (0.25, 0.75), 0.3)
    label = F.cross_entropy(logits, labels, label_smoothing=0.3)
    assert_same(loss, 0.25 * label + 0.75 * logits.square().mean(), logits)
