"""The rules of meaning: what a distillation may and may not do to teacher, student and seeds."""

import copy
import dataclasses

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from helpers import DIGITS
from torch import nn

from kd.config.schema import Data, Optim
from kd.data.module import ImageDataModule
from kd.methods.hinton import Hinton
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import build_model
from kd.outputs import Outputs
from kd.training.book import Ends
from kd.training.modules import Classifier, DistillModule, StudentModule, TeacherModule

MINI = Data(
    dir=str(DIGITS),
    source="folder",
    val_size=200,
    test_size=200,
    batch_size=32,
)


@pytest.fixture(scope="module")
def data() -> ImageDataModule:
    module = ImageDataModule(MINI, seed=0)
    module.setup()
    return module


@pytest.fixture(scope="module")
def teacher(data) -> torch.nn.Module:
    network = build_model(CNN(), seed=0)
    fit(TeacherModule(network, Optim(lr=5e-3)))
    return network


def fit(module: Classifier, seed: int = 0, epochs: int = 2) -> Classifier:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, datamodule=ImageDataModule(MINI, seed))
    return module


def student(seed: int = 0, dropout: float = 0.1) -> torch.nn.Module:
    return build_model(MLP(dropout=dropout), seed)


def distilled(
    teacher, T=2.0, alpha=0.5, seed=0, direction="forward", teacher_outputs=None, dropout=0.1
):
    kd = Hinton(T=T, alpha=alpha, direction=direction)
    network = student(seed, dropout)
    module = DistillModule(network, Optim(), copy.deepcopy(teacher), kd, teacher_outputs)
    fit(module, seed)
    return module


def weights(module: Classifier) -> dict[str, torch.Tensor]:
    return module.network.state_dict()


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def all_outputs(teacher, data) -> Outputs:
    with torch.no_grad():
        return teacher.eval().see(data.pool.images)


@pytest.mark.parametrize("T", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_at_alpha_1_distillation_is_plain_training_bit_for_bit(teacher, T, direction):
    alone = StudentModule(student(), Optim())
    fit(alone)
    assert same(weights(distilled(teacher, T=T, alpha=1.0, direction=direction)), weights(alone))


def test_the_teacher_is_frozen(teacher):
    before = copy.deepcopy(teacher.state_dict())
    module = distilled(teacher, alpha=0.0)
    assert same(module.teacher.network.state_dict(), before)
    module.train()
    module.teacher.train()
    assert not any(part.training for part in module.teacher.modules())
    assert module.network.training
    assert not any(p.requires_grad for p in module.teacher.parameters())


def test_the_teacher_is_in_neither_checkpoint_nor_optimiser(teacher):
    module = DistillModule(student(), Optim(schedule="constant"), teacher, Hinton())
    expected = {f"network.{key}" for key in module.network.state_dict()}
    assert set(module.state_dict()) == expected
    assert {id(p) for p in module.parameters()} == {id(p) for p in module.network.parameters()}
    module.batches = lambda: 1  # the Trainer's
    adam = module.configure_optimizers()["optimizer"]
    held = [p for group in adam.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in module.network.parameters()}


def test_precomputed_teacher_logits_change_nothing(teacher, data):
    live = distilled(teacher, alpha=0.0, T=4.0)
    cached = distilled(teacher, alpha=0.0, T=4.0, teacher_outputs=all_outputs(teacher, data))
    for key, value in weights(live).items():
        assert torch.allclose(value, weights(cached)[key], rtol=1e-4, atol=1e-5), key


def test_the_loss_of_a_step_is_the_formula(teacher, data):
    module = DistillModule(student(dropout=0.0), Optim(), teacher, Hinton(T=3.0, alpha=0.3))
    batch = next(iter(data.train_dataloader()))
    images, labels, *_ = batch
    ours = module.training_step(batch, 0)
    s, t = module.network(images), module.teacher.see(images).logits
    kl = F.kl_div(F.log_softmax(s / 3, 1), F.softmax(t / 3, 1), reduction="batchmean")
    assert ours.item() == pytest.approx((0.3 * F.cross_entropy(s, labels) + 0.7 * 9 * kl).item())


def test_smoothed_labels_are_the_trainings_alone(teacher, data):
    optim = Optim(label_smoothing=0.2)
    distils = DistillModule(student(dropout=0.0), optim, teacher, Hinton(T=3.0, alpha=1.0))
    for module in (
        distils,
        StudentModule(student(dropout=0.0), optim),
        TeacherModule(copy.deepcopy(teacher).eval(), optim),
    ):
        batch = next(iter(data.train_dataloader()))
        images, labels, *_ = batch
        logits = module.network(images)
        smooth = F.cross_entropy(logits, labels, label_smoothing=0.2).item()
        assert module.training_step(batch, 0).item() == pytest.approx(smooth)
        with torch.no_grad():
            module.validation_step(batch, 0)
            module.close("val")
        plain = F.cross_entropy(logits, labels).item()
        assert module.figures["val/loss"] == [pytest.approx(plain)]
        assert abs(smooth - plain) > 0.01


def test_the_same_training_twice_gives_the_same_weights(teacher):
    first = distilled(teacher, T=2.0, alpha=0.25, seed=3)
    torch.manual_seed(123)
    assert same(weights(distilled(teacher, T=2.0, alpha=0.25, seed=3)), weights(first))
    assert not same(weights(distilled(teacher, T=2.0, alpha=0.25, seed=4)), weights(first))


class Witness(StudentModule):
    """Notes what a student sees: initial weights, batches and dropout masks."""

    def __init__(self, network, optim):
        super().__init__(network, optim)
        self.seen = [next(network.parameters()).detach().clone()]

    def training_step(self, batch, batch_index):
        self.seen.append(batch[2].clone())
        before = self.network.dropout.forward

        def note(hidden):
            dropped = before(hidden)
            self.seen.append(torch.where(hidden > 0, (dropped != 0).float(), -1.0))
            return dropped

        self.network.dropout.forward = note
        try:
            return super().training_step(batch, batch_index)
        finally:
            self.network.dropout.forward = before


class DistilledWitness(Witness):
    """The same, with another loss: another cell of the sweep."""

    def loss(self, seen, batch):
        return 0.5 * super().loss(seen, batch) + seen.logits.square().mean()


def test_cells_of_one_seed_share_weights_batches_and_masks():
    one, other = Witness(student(5), Optim()), DistilledWitness(student(5), Optim())
    fit(one, seed=5)
    fit(other, seed=5)
    assert len(one.seen) == len(other.seen) > 50
    for mine, theirs in zip(one.seen, other.seen, strict=True):
        if mine.ndim == 2 and mine.shape[1] == 32 and mine.max() <= 1:
            shown = (mine >= 0) & (theirs >= 0)  # where both hidden units are active
            assert torch.equal(mine[shown], theirs[shown])
        else:
            assert torch.equal(mine, theirs)
    assert not torch.equal(weights(one)["dense.weight"], weights(other)["dense.weight"])


def test_the_student_trains_in_training_mode_after_validation():
    modes = []

    class Watched(StudentModule):
        def training_step(self, batch, batch_index):
            modes.append(self.network.training)
            return super().training_step(batch, batch_index)

    fit(Watched(student(), Optim()), epochs=3)
    assert modes == [True] * 75


PLAIN = [
    (Optim(lr=0.01), torch.optim.Adam, {}),
    (Optim("adam", lr=0.01, weight_decay=0.1), torch.optim.Adam, {"weight_decay": 0.1}),
    (Optim("adamw", lr=0.01, eps=1e-3), torch.optim.AdamW, {"weight_decay": 0, "eps": 1e-3}),
    (Optim("sgd", lr=0.01), torch.optim.SGD, {}),
    (
        Optim("sgd", lr=0.01, momentum=0.8, weight_decay=0.1),
        torch.optim.SGD,
        {"momentum": 0.8, "weight_decay": 0.1},
    ),
]


@pytest.mark.parametrize(("optim", "plain", "settings"), PLAIN, ids=str)
def test_the_optimiser_is_torchs(optim, plain, settings):
    class Stepped(StudentModule):
        """Takes each step by the plain optimiser too, on a copy."""

        def on_train_start(self):
            super().on_train_start()
            self.copies = [nn.Parameter(p.detach().clone()) for p in self.parameters()]
            self.plain = plain(self.copies, lr=0.01, fused=False, foreach=False, **settings)

        def on_before_optimizer_step(self, optimizer):
            for copied, mine in zip(self.copies, self.parameters(), strict=True):
                copied.grad = mine.grad.clone()
            self.plain.step()

    module = Stepped(student(), dataclasses.replace(optim, schedule="constant"))
    fit(module, epochs=1)
    for copied, mine in zip(module.copies, module.parameters(), strict=True):
        assert torch.allclose(copied, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "onecycle"])
def test_the_learning_rate_follows_its_schedule(schedule):
    class Rates(StudentModule):
        def __init__(self, *args):
            super().__init__(*args)
            self.seen = []

        def on_train_batch_end(self, *_):
            self.seen.append(self.optimizers().param_groups[0]["lr"])

    module = Rates(student(), Optim(lr=0.01, schedule=schedule))
    fit(module, epochs=2)
    assert len(module.seen) == 50
    if schedule == "constant":
        assert set(module.seen) == {0.01}
    elif schedule == "onecycle":
        top = module.seen.index(max(module.seen))
        assert max(module.seen) == pytest.approx(0.01, rel=0.01)
        assert top == pytest.approx(0.3 * 50, abs=2)
        assert module.seen[:top] == sorted(module.seen[:top])
        assert module.seen[top:49] == sorted(module.seen[top:49], reverse=True)
        assert module.seen[48] < 1e-4
    else:
        assert module.seen == sorted(module.seen, reverse=True)
        assert module.seen[24] == pytest.approx(0.005, rel=0.1)
        assert module.seen[-1] < 1e-4


def test_best_keeps_the_best_validation_epoch_and_last_the_last():
    seen = []

    class Spoilt(StudentModule):
        def on_validation_epoch_start(self):
            if self.current_epoch >= 3:  # from here on it can only guess
                torch.nn.init.zeros_(self.network.output.weight)

        def on_train_epoch_end(self):
            super().on_train_epoch_end()
            state = {k: v.clone() for k, v in self.network.state_dict().items()}
            seen.append((float(self.trainer.callback_metrics["val/acc"]), state))

    best = fit(Spoilt(student(), Optim(), Ends(checkpoint="best")), epochs=5)
    accuracies = [accuracy for accuracy, _ in seen]
    expected = accuracies.index(max(accuracies))
    assert best.epoch_kept(0) == expected + 1 <= 3
    assert same(best.weights_kept(0), seen[expected][1])
    assert best.rows(0)[expected]["val/acc"] == pytest.approx(max(accuracies))
    last = fit(Spoilt(student(), Optim(), Ends(checkpoint="last")), epochs=5)
    assert last.epoch_kept(0) == 5
    assert same(last.weights_kept(0), seen[-1][1])
    assert last.rows(0)[-1]["val/acc"] == pytest.approx(accuracies[-1]) == pytest.approx(0.1)
