"""The losses against the original implementations' numbers, and the identities they must obey."""

import doctest

import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases, check

from kd.methods import losses
from kd.methods.losses import cross_entropy, distillation_loss, kd_loss

DTYPES = [torch.float64, torch.float32]
TEMPERATURES = [1.0, 2.0, 4.0, 10.0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", cases("kd_forward_kl"))
def test_forward_kl_is_golden(case, dtype):
    T = case["params"]["T"]
    check(case, dtype, lambda x: kd_loss(x["student_logits"], x["teacher_logits"], T))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", cases("kd_reverse_kl"))
def test_reverse_kl_is_golden(case, dtype):
    T = case["params"]["T"]
    check(case, dtype, lambda x: kd_loss(x["student_logits"], x["teacher_logits"], T, "reverse"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
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


@pytest.fixture
def batch():
    """Logits of a student and a teacher, and labels, in float64."""
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, 10, generator=random, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher, torch.randint(10, (16,), generator=random)


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


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(losses, extraglobs={"torch": torch}).failed == 0


# ------------------------------------------------------------------ the other methods


def features(name):
    """A golden case of a loss of two feature tensors."""
    return lambda x: getattr(losses, name)(x["student_features"], x["teacher_features"])


def logits(name, *keys):
    """A golden case of a loss of logits and numbers."""
    return lambda x, p: getattr(losses, name)(
        x["student_logits"], x["teacher_logits"], *(p[key] for key in keys)
    )


def dkd(x, p):
    numbers = p["T"], p["alpha"], p["beta"]
    return losses.dkd_loss(x["student_logits"], x["teacher_logits"], x["labels"], *numbers)


def dtkd(x, p):
    """The whole of the original's loss: its parts have no gradients of their own."""
    z = x["student_logits"], x["teacher_logits"], p["T"]
    soft = p["alpha"] * losses.dtkd_loss(*z) + p["beta"] * kd_loss(*z)
    label = F.cross_entropy(x["student_logits"], x["labels"])
    return min(p["epoch"] / p["warmup"], 1) * soft + p["ce_weight"] * label


def cosine(x, p):
    pooled = F.avg_pool1d(x["teacher_features"].unsqueeze(1), p["teacher_avg_pool1d"]).squeeze(1)
    return losses.cosine_loss(x["student_features"], pooled)


GOLDEN = {
    "dkd": dkd,
    "dtkd": dtkd,
    "logit_std_kd": logits("logit_std_kd_loss", "T"),
    "dist": logits("dist_loss", "T", "beta", "gamma"),
    "rkd_distance": features("rkd_distance_loss"),
    "rkd_angle": features("rkd_angle_loss"),
    "sp": features("sp_loss"),
    "pkt": features("pkt_loss"),
    "cc_repdistiller": features("cc_loss"),
    "fitnet_hint": features("hint_loss"),
    "cosine_embedding": cosine,
    "at": lambda x, p: losses.at_loss(x["student_features"], x["teacher_features"], p["p"]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("name", "case"),
    [pytest.param(name, *case.values, id=case.id) for name in GOLDEN for case in cases(name)],
)
def test_methods_are_golden(name, case, dtype):
    if name == "dist" and case["regime"] in ("same", "equal_student") and dtype == torch.float32:
        pytest.skip("the original's own float32 gradient is noise there")
    loss = GOLDEN[name]
    takes_params = loss.__code__.co_argcount == 2
    check(case, dtype, lambda x: loss(x, case["params"]) if takes_params else loss(x))


def test_dkd_with_the_papers_beta_is_kd(batch):
    """Equation 7: the divergence is the target term plus (1 − p_teacher(label)) non-target."""
    student, teacher, labels = batch
    for T in TEMPERATURES:
        for one in range(len(labels)):
            s, t, y = (x[one : one + 1] for x in (student, teacher, labels))
            beta = 1 - F.softmax(t / T, dim=1)[0, y].item()
            mine = losses.dkd_loss(s, t, y, T, 1.0, beta)
            assert mine.item() == pytest.approx(kd_loss(s, t, T).item(), rel=1e-9)


def test_dtkd_with_equal_maxima_is_kd(batch):
    student, teacher, _ = batch
    student = student.detach() - student.detach().amax(1, keepdim=True) + 3
    teacher = teacher - teacher.amax(1, keepdim=True) + 3
    mine = losses.dtkd_loss(student, teacher, 2.0)
    assert mine.item() == pytest.approx(kd_loss(student, teacher, 2.0).item(), rel=1e-12)


@pytest.mark.parametrize("name", ["rkd_distance_loss", "rkd_angle_loss", "sp_loss", "pkt_loss"])
def test_relations_do_not_see_scale_and_rotation(name):
    random = torch.Generator().manual_seed(1)
    s, t = torch.randn(2, 9, 32, generator=random, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=random, dtype=torch.float64)).Q
    loss = getattr(losses, name)
    expected = pytest.approx(loss(s, t).item(), rel=1e-4 if name == "pkt_loss" else 1e-9)
    assert loss(7 * s @ turn, t).item() == expected
    assert loss(s, 0.3 * t @ turn).item() == expected


LOGIT_LOSSES = {
    "kd": lambda s, t, y, T: kd_loss(s, t, T),
    "reverse": lambda s, t, y, T: kd_loss(s, t, T, "reverse"),
    "dkd": lambda s, t, y, T: losses.dkd_loss(s, t, y, T, 1.0, 8.0),
    "dtkd": lambda s, t, y, T: losses.dtkd_loss(s, t, T),
    "logit_std": lambda s, t, y, T: losses.logit_std_kd_loss(s, t, T),
    "dist": lambda s, t, y, T: losses.dist_loss(s, t, T, 1.0, 1.0),
}
HIDDEN_LOSSES = {
    name: getattr(losses, f"{name}_loss")
    for name in ("rkd_distance", "rkd_angle", "sp", "pkt", "cc", "hint", "cosine")
}
EXTREMES = {
    "large": lambda *shape: 1e4 * torch.randn(*shape).clamp(-1, 1),
    "saturated": lambda *shape: 1e4 * (2.0 * torch.randint(2, shape) - 1),
    "equal": lambda *shape: torch.full(shape, 3.0),
    "zero": lambda *shape: torch.zeros(shape),
    "negative": lambda *shape: -1e4 * torch.rand(*shape),
    "tiny": lambda *shape: 1e-20 * torch.randn(*shape),
}


@pytest.mark.parametrize("size", [1, 2, 3, 16])
@pytest.mark.parametrize("extreme", EXTREMES)
def test_no_loss_is_ever_nan_or_infinite(extreme, size):
    torch.manual_seed(0)
    make = EXTREMES[extreme]
    labels = torch.randint(10, (size,))
    calls = {
        (name, T): (10, lambda s, t, f=loss, T=T: f(s, t, labels, T))
        for name, loss in LOGIT_LOSSES.items()
        for T in (0.5, 1.0, 4.0, 100.0)
    }
    calls |= {(name, None): (32, loss) for name, loss in HIDDEN_LOSSES.items()}
    for key, (width, loss) in calls.items():
        student = make(size, width).requires_grad_()
        value = loss(student, make(size, width))
        value.backward()
        assert torch.isfinite(value), key
        assert torch.isfinite(student.grad).all(), key
        assert value >= -1e-4, key


def test_losses_are_nothing_where_student_and_teacher_agree(batch):
    logits = batch[1]
    labels = batch[2]
    for name, loss in LOGIT_LOSSES.items():
        assert loss(logits, logits, labels, 3.0).item() == pytest.approx(0, abs=1e-5), name
    for name, loss in HIDDEN_LOSSES.items():
        assert loss(logits, logits).item() == pytest.approx(0, abs=1e-9), name


def test_attention_needs_feature_maps():
    with pytest.raises(ValueError, match="needs feature maps"):
        losses.at_loss(torch.randn(4, 32), torch.randn(4, 32))
