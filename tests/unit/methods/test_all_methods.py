"""What holds for every method there is: each is found by being there."""

import dataclasses

import pytest
import torch
from helpers import CONF, config, method_loss
from torch import Tensor

from kd.methods import METHODS
from kd.methods.base import Distillation, cross_entropy
from kd.outputs import Outputs

TERM_ALONE = 0.0, 1.0
EXTREMES = {
    "large": lambda *shape: 1e4 * torch.randn(*shape).clamp(-1, 1),
    "saturated": lambda *shape: 1e4 * (2.0 * torch.randint(2, shape) - 1),
    "equal": lambda *shape: torch.full(shape, 3.0),
    "zero": lambda *shape: torch.zeros(shape),
    "negative": lambda *shape: -1e4 * torch.rand(*shape),
    "tiny": lambda *shape: 1e-20 * torch.randn(*shape),
}
every_method = pytest.mark.parametrize("method", METHODS)


def outputs(size: int, make=torch.randn, dtype=torch.float32) -> Outputs:
    """What a network might make of so many images."""
    shapes = (size, 10), (size, 32), (size, 4, 6, 6), (size, 8, 3, 3)
    logits, hidden, *maps = (make(*shape).to(dtype) for shape in shapes)
    return Outputs(logits, hidden, tuple(maps))


def tensors(seen: Outputs) -> list[Tensor]:
    return [seen.logits, seen.hidden, *seen.maps]


def with_gradients(seen: Outputs) -> Outputs:
    for tensor in tensors(seen):
        tensor.requires_grad_()
    return seen


@pytest.fixture
def both() -> tuple[Outputs, Outputs, Tensor]:
    """Outputs of a student and of a teacher for 16 images, in float64, and the labels."""
    torch.manual_seed(0)
    student, teacher = (with_gradients(outputs(16, dtype=torch.float64)) for _ in "st")
    return student, teacher, torch.randint(10, (16,))


def term(student: Outputs, teacher: Outputs, labels: Tensor, kd: Distillation) -> Tensor:
    return method_loss(student, teacher, labels, kd, TERM_ALONE)


@every_method
def test_a_method_has_its_choice_on_the_command_line(method):
    assert (CONF / "kd" / f"{method}.yaml").exists()
    words = ("model=cnn",) if METHODS[method].needs_maps else ()
    assert type(config("stage=distill", f"kd={method}", *words).kd) is METHODS[method]


@every_method
def test_the_student_learns_and_the_teacher_is_a_constant(both, method):
    student, teacher, labels = both
    term(student, teacher, labels, METHODS[method]()).backward()
    assert any(tensor.grad is not None and tensor.grad.any() for tensor in tensors(student))
    assert all(tensor.grad is None for tensor in tensors(teacher))


@every_method
def test_a_method_knows_whether_it_uses_the_teachers_logits(both, method):
    student, teacher, labels = both
    other = teacher._replace(logits=teacher.logits.flip(-1))
    variants = [METHODS[method]()]
    if hasattr(variants[0], "kd_weight"):
        variants.append(dataclasses.replace(variants[0], kd_weight=1.0))
    for kd in variants:
        mine, changed = (term(student, seen, labels, kd).item() for seen in (teacher, other))
        assert (mine != changed) == kd.uses_logits


@every_method
def test_labels_and_term_enter_by_their_weights(both, method):
    student, teacher, labels = both
    kd = METHODS[method]()
    label = cross_entropy(student.logits, labels)
    alone = method_loss(student, teacher, labels, kd, (1.0, 0.0))
    assert torch.equal(alone, label)
    (mine,), (its,) = (torch.autograd.grad(loss, student.logits) for loss in (alone, label))
    assert torch.equal(mine, its)
    mixed = method_loss(student, teacher, labels, kd, (0.25, 0.75)).item()
    expected = 0.25 * label.item() + 0.75 * term(student, teacher, labels, kd).item()
    assert mixed == pytest.approx(expected, rel=1e-12)


@every_method
def test_shares_of_one_class_are_labels(both, method):
    student, teacher, labels = both
    shares = torch.nn.functional.one_hot(labels, 10).double()
    kd = METHODS[method]()
    by_labels, by_shares = (
        method_loss(student, teacher, given, kd, (0.5, 0.5)) for given in (labels, shares)
    )
    assert by_shares.item() == pytest.approx(by_labels.item(), rel=1e-12)


@every_method
def test_a_term_is_nothing_where_student_and_teacher_agree(both, method):
    student, teacher, labels = both
    for T in (1.0, 3.0):
        kd = dataclasses.replace(METHODS[method](), T=T)
        apart = term(student, teacher, labels, kd).item()
        agreeing = term(teacher, teacher, labels, kd).item()
        assert agreeing == pytest.approx(0, abs=1e-5 * apart)
        assert apart > 0


@pytest.mark.parametrize("extreme", EXTREMES)
@every_method
def test_no_term_is_ever_nan_or_infinite(method, extreme):
    torch.manual_seed(0)
    usual = term(outputs(16), outputs(16), torch.randint(10, (16,)), METHODS[method]()).item()
    for size in (1, 2, 3, 16):
        labels = torch.randint(10, (size,))
        for T in (0.5, 1.0, 4.0, 100.0):
            kd = dataclasses.replace(METHODS[method](), T=T)
            student = with_gradients(outputs(size, EXTREMES[extreme]))
            value = term(student, outputs(size, EXTREMES[extreme]), labels, kd)
            value.backward()
            assert torch.isfinite(value), (size, T)
            assert value >= -1e-4 * max(1, usual), (size, T)
            for tensor in tensors(student):
                assert tensor.grad is None or torch.isfinite(tensor.grad).all(), (size, T)
