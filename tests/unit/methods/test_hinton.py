"""Hinton's loss: golden numbers, and the identities that it obeys."""

import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases, check

from kd.methods.base import cross_entropy
from kd.methods.hinton import distillation_loss, kd_loss

TEMPERATURES = [1.0, 2.0, 4.0, 10.0]


@pytest.mark.parametrize("case", cases("kd_forward_kl"))
def test_forward_kl_is_golden(case, dtype):
    T = case["params"]["T"]
    check(case, dtype, lambda x: kd_loss(x["student_logits"], x["teacher_logits"], T))


@pytest.mark.parametrize("case", cases("kd_reverse_kl"))
def test_reverse_kl_is_golden(case, dtype):
    T = case["params"]["T"]
    check(case, dtype, lambda x: kd_loss(x["student_logits"], x["teacher_logits"], T, "reverse"))


@pytest.mark.parametrize("case", cases("kd_combined"))
def test_distillation_loss_is_golden(case, dtype):
    p = case["params"]
    check(
        case,
        dtype,
        lambda x: distillation_loss(
            x["student_logits"],
            x["teacher_logits"],
            x["labels"],
            p["T"],
            p["alpha"],
            p["direction"],
        ),
    )


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_equal_logits_cost_nothing(batch, T, direction):
    student, _, _ = batch
    loss = kd_loss(student, student.detach().clone(), T, direction)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad.abs().max().item() < 1e-12


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_large_temperature_compares_centred_logits(batch, direction):
    student, teacher, _ = batch
    difference = (student - student.mean(1, keepdim=True)) - (
        teacher - teacher.mean(1, keepdim=True)
    )
    limit = (difference**2).sum(1).mean() / (2 * 10)
    assert kd_loss(student, teacher, 1e4, direction).item() == pytest.approx(limit.item(), rel=1e-3)


@pytest.mark.parametrize("T", TEMPERATURES)
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_batch_twice_costs_the_same(batch, T, direction):
    student, teacher, labels = batch
    once = distillation_loss(student, teacher, labels, T, 0.3, direction)
    twice = [torch.cat([part, part]) for part in batch]
    assert distillation_loss(*twice, T, 0.3, direction).item() == pytest.approx(once.item())


@pytest.mark.parametrize("T", TEMPERATURES)
def test_alpha_weighs_the_labels(batch, T):
    student, teacher, labels = batch
    label_loss = cross_entropy(student, labels)
    assert label_loss.item() == pytest.approx(F.cross_entropy(student, labels).item(), rel=1e-12)
    assert torch.equal(distillation_loss(student, teacher, labels, T, 1.0), label_loss)
    taught = distillation_loss(student, teacher, labels, T, 0.0)
    assert torch.equal(taught, kd_loss(student, teacher, T))
    mixed = distillation_loss(student, teacher, labels, T, 0.25)
    assert mixed.item() == pytest.approx(0.25 * label_loss.item() + 0.75 * taught.item())


def test_the_divergence_is_summed_over_classes_and_averaged_over_the_batch(batch):
    student, teacher, _ = batch
    library = F.kl_div(
        F.log_softmax(student / 3, 1), F.softmax(teacher / 3, 1), reduction="batchmean"
    )
    assert kd_loss(student, teacher, 3.0).item() == pytest.approx(9 * library.item())


def test_the_directions_differ(batch):
    student, teacher, _ = batch
    reverse = kd_loss(student, teacher, 2.0, "reverse").item()
    assert reverse == pytest.approx(kd_loss(teacher, student, 2.0).item())
    assert reverse != pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=1e-2)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_confident_logits_stay_finite_in_float32(direction, scale):
    random = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 8, 10, generator=random) * scale
    student.requires_grad_()
    loss = kd_loss(student, teacher, 1.0, direction)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_the_loss_can_be_mapped_over_students(batch):
    """Many students at once, each with a T and an alpha of its own, by torch.func.vmap."""
    student, teacher, labels = batch
    T, alpha = torch.tensor([1.0, 2.0, 5.0]).double(), torch.tensor([0.0, 0.5, 1.0]).double()
    students = torch.stack([student * k for k in (1, 2, 3)])
    together = torch.func.vmap(distillation_loss, (0, None, None, 0, 0))(
        students, teacher, labels, T, alpha
    )
    alone = [
        distillation_loss(s, teacher, labels, t.item(), a.item())
        for s, t, a in zip(students, T, alpha, strict=True)
    ]
    assert together.tolist() == pytest.approx([x.item() for x in alone])


def test_wrong_arguments_are_named(batch):
    student, teacher, _ = batch
    with pytest.raises(ValueError, match=r"\(16, 10\) and teacher \(16, 9\)"):
        kd_loss(student, teacher[:, :9], 1.0)
    with pytest.raises(ValueError, match="sideways"):
        kd_loss(student, teacher, 1.0, "sideways")
