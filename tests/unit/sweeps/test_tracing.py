"""A traced function gives what the function gives, to the last bit."""

import pytest
import torch

from kd.methods import METHODS
from kd.sweeps.stack import make_gradients
from kd.sweeps.tracing import traced

STUDENTS, HIDDEN, BATCH, CLASSES = 3, 4, 6, 10


def arguments(method: str, shares: bool, mask: bool, seed: int) -> tuple:
    """What the gradients of three students of one seed are taken of."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    labels = torch.randint(CLASSES, (STUDENTS, BATCH), generator=draw)
    names = {"T": 1.0, "alpha": 0.1}
    own = {
        "labels": normal(STUDENTS, BATCH, CLASSES).softmax(-1) if shares else labels,
        "logits": normal(STUDENTS, CLASSES, BATCH).mT,
        "numbers": {name: least + torch.arange(STUDENTS) / 4 for name, least in names.items()},
        "weights": (torch.full((STUDENTS,), 0.3), torch.full((STUDENTS,), 0.7)),
    }
    if METHODS[method].needs_hidden:
        own["hidden"] = normal(STUDENTS, HIDDEN, BATCH).mT
    rest = normal(STUDENTS, HIDDEN), normal(STUDENTS, CLASSES, HIDDEN), normal(STUDENTS, CLASSES)
    masks = (normal(1, HIDDEN, BATCH) > 0).float() if mask else None
    return normal(STUDENTS, HIDDEN, BATCH), *rest, (), masks, own


@pytest.mark.parametrize(("shares", "mask"), [(False, True), (True, False)])
@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].needs_maps])
def test_traced_gradients_are_the_same(method, shares, mask):
    function = make_gradients(METHODS[method]())
    fast = traced(function, arguments(method, shares, mask, seed=0))
    others = arguments(method, shares, mask, seed=1)
    expected = function(*others)
    for mine, its in zip(fast(*others), expected, strict=True):
        assert torch.equal(mine, its)
    assert any(gradient.any() for gradient in expected)
