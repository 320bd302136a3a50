"""A traced function gives what the function gives, to the last bit."""

import pytest
import torch
from torch import nn

from kd.config.schema import Optim
from kd.methods import METHODS
from kd.sweeps.layout import Kind
from kd.sweeps.stack import Masks, make_gradients
from kd.training import tracing
from kd.training.book import make_optimizer
from kd.training.tracing import optimizer_step, traced, wide_product

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
        "loss_weights": (torch.full((STUDENTS,), 0.3), torch.full((STUDENTS,), 0.7)),
    }
    if METHODS[method].needs_hidden:
        own["hidden"] = normal(STUDENTS, HIDDEN, BATCH).mT
    rest = normal(STUDENTS, HIDDEN), normal(STUDENTS, CLASSES, HIDDEN), normal(STUDENTS, CLASSES)
    masks = Masks((normal(1, HIDDEN, BATCH) > 0).float()) if mask else None
    return normal(STUDENTS, HIDDEN, BATCH), *rest, [], masks, [own]


def kind(method: str) -> Kind:
    """Three students of a method."""
    kd, width = METHODS[method](), HIDDEN if METHODS[method].needs_hidden else None
    return Kind(kd, width, None, places=list(range(STUDENTS)), methods=[kd] * STUDENTS)


def assert_the_same(function, arguments: tuple, others: tuple) -> None:
    """Traced for some arguments, the function gives for others what it gives itself."""
    fast, expected = traced(function, arguments), function(*others)
    for mine, its in zip(fast(*others), expected, strict=True):
        assert torch.equal(mine, its)
    assert any(gradient.any() for gradient in expected)


@pytest.mark.parametrize(("shares", "mask"), [(False, True), (True, False)])
@pytest.mark.parametrize("method", [m for m in METHODS if not METHODS[m].needs_maps])
def test_traced_gradients_are_the_same(method, shares, mask):
    function = make_gradients([kind(method)])
    assert_the_same(function, *(arguments(method, shares, mask, seed) for seed in (0, 1)))


def mixed(seed: int) -> tuple:
    """What is taken of the same three students, where two have a method and one has none."""
    *first, regression, _, (own,) = arguments("hinton", shares=False, mask=True, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    drawn, keep = torch.rand(2, HIDDEN, BATCH, generator=draw), torch.tensor([0.9, 0.9, 0.7])
    masks = Masks(drawn, torch.tensor([0, 1, 1]), keep)
    taught = {
        name: value[:2] if isinstance(value, torch.Tensor) else value for name, value in own.items()
    }
    taught["numbers"] = {name: value[:2] for name, value in own["numbers"].items()}
    taught["loss_weights"] = tuple(value[:2] for value in own["loss_weights"])
    taught |= {"smoothing": torch.tensor([0.0, 0.2]), "places": torch.tensor([0, 2])}
    alone = {"labels": own["labels"][2:], "places": torch.tensor([1])}
    return *first, regression, masks, [taught, alone]


def test_traced_gradients_of_several_kinds_are_the_same():
    kd = METHODS["hinton"]()
    taught = Kind(kd, None, None, places=[0, 2], methods=[kd] * 2)
    function = make_gradients([taught, Kind(None, None, None, places=[1])])
    assert_the_same(function, mixed(0), mixed(1))


def unavailable(*_, **__):
    raise AttributeError("another torch has not this private part")


@pytest.mark.parametrize("missing", [None, unavailable])
@pytest.mark.parametrize("compiles", [False, True])
def test_without_tracing_the_function_itself_serves(monkeypatch, missing, compiles):
    monkeypatch.setattr(tracing, "make_fx", missing)
    function = make_gradients([kind("hinton")])
    assert traced(function, arguments("hinton", False, True, seed=0), compiles) is function


@pytest.mark.parametrize("plain", [False, True])
def test_a_wide_product_is_a_product(monkeypatch, plain):
    if plain:
        monkeypatch.setattr(torch.ops, "mkldnn", object())
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.randn(rows, 784, generator=draw) for rows in (96, 32))
    found = wide_product(left, right)
    assert found.shape == (96, 32)
    assert torch.allclose(found, left @ right.T, rtol=1e-4, atol=1e-4)


OPTIMISERS = [
    Optim(),
    Optim("adam", weight_decay=0.1),
    Optim("adamw", weight_decay=0.1),
    Optim("sgd"),
    Optim("sgd", momentum=0.9, weight_decay=0.1),
]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("optim", OPTIMISERS, ids=str)
def test_a_step_of_a_group_is_the_optimisers(monkeypatch, optim, plain):
    if plain:
        monkeypatch.setattr(tracing, "adam_function", None)
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(3, 4, generator=draw), torch.randn(5, generator=draw)]
    whole, lean = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    optimizers = [make_optimizer(optim, parameters) for parameters in (whole, lean)]
    for number in range(4):
        gradients = [torch.randn(value.shape, generator=draw) for value in values]
        for parameter, gradient in zip(whole, gradients, strict=True):
            parameter.grad = gradient
        optimizers[0].step()
        optimizer_step(optimizers[1], gradients)
        if number == 1:  # as a training that goes on
            optimizers[1].load_state_dict(optimizers[1].state_dict())
        for one in optimizers:  # as a schedule moves them
            one.param_groups[0]["lr"] /= 2
            if "betas" in one.defaults:
                one.param_groups[0]["betas"] = (0.8, 0.99)
        for mine, its in zip(lean, whole, strict=True):
            assert torch.equal(mine, its)
