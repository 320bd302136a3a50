"""Views of images: moved, turned and mixed as told, seeded, the same for teacher and student."""

import pytest
import torch
from helpers import DIGITS

from kd.config.schema import Augment, Data, Optim
from kd.data.module import ImageDataModule, as_shares
from kd.data.views import Views
from kd.methods.base import cross_entropy
from kd.methods.hinton import Hinton
from kd.metrics import count_right
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import build_model
from kd.training.modules import DistillModule


def module(**augment: float) -> ImageDataModule:
    folder = str(DIGITS)
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    data = Data(dir=folder, source="folder", augment=Augment(**augment), **sizes)
    found = ImageDataModule(data, seed=0)
    found.setup()
    return found


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels, *_ = next(iter(module().train_dataloader()))
    return images, labels


def test_shifts_move_an_image_by_at_most_so_many_pixels():
    spot = torch.zeros(500, 1, 28, 28)
    spot[..., 13:15, 13:15] = 1
    views, _ = Views(Augment(shift=3), 0, "cpu")(spot, torch.zeros(500, 10))
    pixels = torch.arange(28.0)
    for axis in (2, 3):
        weight = views.sum(5 - axis).squeeze(1)
        moved = (weight * pixels).sum(1) / weight.sum(1) - 13.5
        assert moved.abs().max() <= 3.01
        assert moved.abs().max() > 2.5
        assert moved.mean().abs() < 0.3


def test_turns_are_as_wide_as_told_and_keep_the_middle():
    bar = torch.zeros(400, 1, 28, 28)
    bar[:, :, 13:15, 4:24] = 1
    views, _ = Views(Augment(rotate=90), 0, "cpu")(bar, torch.zeros(400, 10))
    assert views[:, 0, 13:15, 13:15].min() > 0.7
    upright = views[:, 0, :, 13:15].mean((1, 2))
    assert upright.max() > 3 * upright.min()
    slight, _ = Views(Augment(rotate=5), 0, "cpu")(bar, torch.zeros(400, 10))
    assert (slight[:, 0, :, 13:15].mean((1, 2)) < 0.2).all()


def test_mixing_mixes_labels_as_it_mixes_images(batch):
    images, labels = batch
    views, shares = Views(Augment(mixup=0.4), 0, "cpu")(images, as_shares(labels, 10))
    assert torch.allclose(shares.sum(1), torch.ones(32))
    for i in range(32):
        part = 1 - shares[i, labels[i]].item() if labels[i] != labels[i - 1] else None
        if part is not None:
            assert 0 <= part <= 0.4
            expected = (1 - part) * images[i] + part * images[i - 1]
            assert torch.allclose(views[i], expected, atol=1e-5)


def test_extra_views_come_after_the_images_and_have_no_label(batch):
    images, labels = batch
    views, shares = Views(Augment(shift=2, extra=2), 0, "cpu")(images, as_shares(labels, 10))
    assert views.shape == (96, 1, 28, 28)
    assert torch.equal(views[:32], images)
    assert not torch.equal(views[32:64], views[64:])
    assert torch.equal(shares[:32].argmax(1), labels)
    assert shares.sum().item() == 32
    logits = torch.randn(96, 10)
    assert torch.allclose(cross_entropy(logits, shares), cross_entropy(logits[:32], labels))
    assert count_right(logits, shares) == count_right(logits[:32], labels)


def test_views_are_the_seeds_own(batch):
    config = Augment(shift=2, rotate=10, mixup=1)
    batch = batch[0], as_shares(batch[1], 10)
    first, again, other = (Views(config, seed, "cpu")(*batch)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    twice = Views(config, 3, "cpu")
    assert not torch.equal(twice(*batch)[0], twice(*batch)[0])


def test_every_epoch_has_other_views_and_validation_none():
    data = module(rotate=20.0)
    loader = data.train_dataloader()

    def epoch() -> dict[int, torch.Tensor]:
        return {i: x for b in loader for i, x in zip(b.indices.tolist(), b.images, strict=True)}

    first, second = epoch(), epoch()
    assert first.keys() == second.keys()
    assert all(not torch.equal(first[i], second[i]) for i in first)
    images, _, indices, _ = next(iter(data.val_dataloader()))
    assert torch.equal(images, data.pool.images[indices])


def test_teacher_and_student_see_the_same_view():
    data = module(shift=2.0, mixup=1.0)
    seen = {}

    def note(name):
        return lambda network, args: seen.setdefault(name, []).append(args[0].clone())

    student, teacher = build_model(MLP(), 0), build_model(CNN(), 0)
    student.features[0].register_forward_pre_hook(note("student"))
    teacher.features[0].register_forward_pre_hook(note("teacher"))
    distilled = DistillModule(student, Optim(), teacher, Hinton())
    for number, batch in enumerate(data.train_dataloader()):
        distilled.training_step(batch, number)
    assert len(seen["student"]) == 25
    for ours, theirs in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(ours, theirs)
