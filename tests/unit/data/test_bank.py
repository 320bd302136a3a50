"""A bank of views: every shift by whole pixels of the training images, and of no others."""

import itertools

import numpy as np
import pytest
import torch
from helpers import DIGITS

from kd.config.schema import Augment, Data, Optim
from kd.data.bank import make_bank, with_margin
from kd.data.module import ImageDataModule
from kd.data.pool import Pool
from kd.methods.hinton import Hinton
from kd.models.cnn import CNN
from kd.models.mlp import MLP
from kd.models.network import build_model
from kd.training.modules import DistillModule
from kd.training.teacher import teacher_outputs

SHIFTS = {most: list(itertools.product(range(-most, most + 1), repeat=2)) for most in (1, 2)}


def module(seed: int = 0, **changes) -> ImageDataModule:
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    data = Data(dir=str(DIGITS), source="folder", **{**sizes, **changes})
    found = ImageDataModule(data, seed)
    found.setup()
    return found


def shifted(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """An image (channels, height, width) moved by whole pixels, black coming in."""
    wide = np.pad(image, ((0, 0), (abs(down),) * 2, (abs(right),) * 2))
    rolled = np.roll(wide, (down, right), (1, 2))
    height, width = image.shape[1:]
    return rolled[:, abs(down) :, abs(right) :][:, :height, :width]


def shift_of(view: torch.Tensor, image: torch.Tensor, most: int) -> tuple[int, int]:
    """Which shift makes the view of the image."""
    found = [s for s in SHIFTS[most] if np.array_equal(view, shifted(image.numpy(), *s))]
    return found[0]


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 5, 9), (2, 4, 4), (1, 1, 1)])
def test_views_are_the_shifted_images(shape, kind, most):
    images = (255 * torch.rand(7, *shape)).to(kind)
    laid = with_margin(images, most)
    assert torch.equal(laid, images)
    train = torch.tensor([0, 2, 6])
    bank = make_bank(laid, train, most)
    assert bank.images.tolist() == [*range(7), *[0, 2, 6] * (len(SHIFTS[most]) - 1)]
    assert torch.equal(bank.take(torch.arange(7)), images)
    for image in train:
        samples = bank.drawn(image.expand(bank.views), torch.arange(bank.views))
        assert samples[0] == image
        assert (bank.images[samples] == image).all()
        mine = {view.numpy().tobytes() for view in bank.take(samples)}
        its = {shifted(images[image].numpy(), *s).tobytes() for s in SHIFTS[most]}
        assert mine == its


def test_validation_test_and_split_are_those_without_a_bank():
    plain, banked = module(), module(views="shift2")
    assert plain.fingerprint == banked.fingerprint
    assert plain.pool.bank is None
    for part in ("val_dataloader", "predict_dataloader"):
        for mine, its in zip(getattr(banked, part)(), getattr(plain, part)(), strict=True):
            assert torch.equal(mine.images, its.images)
            assert torch.equal(mine.labels, its.labels)
            assert torch.equal(mine.indices, its.indices)
    training = banked.indices["train"].tolist()
    assert set(banked.pool.bank.images[len(banked.plain.images) :].tolist()) == set(training)


@pytest.mark.parametrize("most", [1, 2])
def test_each_view_is_drawn_as_often_anew_in_every_epoch(most):
    data = module(views=f"shift{most}")
    loader, bank, count = data.train_dataloader(), data.pool.bank, len(SHIFTS[most])
    epochs = [loader.epoch() for _ in range(20)]
    for samples in epochs:
        assert sorted(bank.images[samples].tolist()) == data.indices["train"].tolist()
    assert not torch.equal(*(samples.sort().values for samples in epochs[:2]))
    others = torch.cat(epochs) - len(data.plain.images)
    view = torch.where(others < 0, 0, others // 800 + 1)
    drawn = torch.bincount(view, minlength=count)
    expected = 20 * 800 / count
    assert ((drawn - expected) ** 2 / expected).sum() < 2 * count + 20  # chi squared
    again = module(views=f"shift{most}").train_dataloader()
    assert torch.equal(again.epoch(), epochs[0])
    other = module(seed=1, views=f"shift{most}").train_dataloader()
    assert not torch.equal(other.epoch(), epochs[0])


def test_the_order_is_that_without_a_bank():
    plain, banked = module(), module(views="shift1")
    assert torch.equal(
        banked.pool.bank.images[banked.train_dataloader().epoch()], plain.train_dataloader().epoch()
    )


def test_batches_have_the_views_and_their_images_labels():
    data = module(views="shift1", label_noise=0.5)
    plain = module(label_noise=0.5)
    for batch in itertools.islice(data.train_dataloader(), 3):
        images = data.pool.bank.images[batch.indices]
        assert torch.equal(batch.labels, plain.taught.labels[images])
        for view, image in zip(batch.images, plain.pool.images[images], strict=True):
            shift_of(view, image, 1)


def test_images_without_a_label_have_views_too():
    data = module(views="shift1", train_size=100, unlabelled=True, omit=[3])
    labelled, unlabelled = set(data.indices["train"].tolist()), set(data.unlabelled.tolist())
    for images, labels, samples, count in data.train_dataloader():
        source = data.pool.bank.images[samples]
        assert set(source[:count].tolist()) <= labelled
        assert set(source[count:].tolist()) <= unlabelled
        assert (labels[count:] == 0).all()
        moved = [not torch.equal(*p) for p in zip(images, data.plain.images[source], strict=True)]
        assert any(moved[count:])


def test_teachers_outputs_are_those_of_shifted_images():
    data, teacher = module(views="shift2"), build_model(CNN(), 0).eval()
    outputs = teacher_outputs(teacher, data, hidden=True)
    assert len(outputs.logits) == len(data.pool.labels) == 1200 + 24 * 800
    batch = next(iter(data.train_dataloader()))
    sources = data.plain.images[data.pool.bank.images[batch.indices]]
    views = [
        shifted(image.numpy(), *shift_of(view, image, 2))
        for view, image in zip(batch.images, sources, strict=True)
    ]
    with torch.no_grad():
        seen = teacher.see(torch.from_numpy(np.stack(views)))
    torch.testing.assert_close(outputs.at(batch.indices).logits, seen.logits)
    torch.testing.assert_close(outputs.at(batch.indices).hidden, seen.hidden)
    student = build_model(MLP(dropout=0.0), 0)
    known, live = (
        DistillModule(student, Optim(), teacher, Hinton(), given) for given in (outputs, None)
    )
    assert known.batch_loss(batch).item() == pytest.approx(live.batch_loss(batch).item(), rel=1e-5)
    plain = teacher_outputs(teacher, data.without_views(), hidden=False)
    assert len(plain.logits) == 1200
    assert plain.hidden is None
    assert torch.equal(plain.logits, outputs.logits[:1200])


def test_pools_of_other_banks_have_other_digests():
    """Outputs that are kept go by it."""
    data = [module(), module(seed=1), module(views="shift1"), module(views="shift2")]
    data += [module(views="shift1", seed=1), module(views="shift1", val_size=100)]
    plain, same, one, two, again, split = (each.pool.digest for each in data)
    assert plain == same
    assert one == again
    assert len({plain, one, two, split}) == 4


def test_large_pools_stay_bytes():
    images = torch.randint(256, (30, 3, 6, 6), dtype=torch.uint8)
    labels = torch.arange(30) % 3
    pool = Pool(with_margin(images, 2), labels, 30, "", ("a", "b", "c"))
    banked = pool.with_views(torch.arange(20), 2)
    assert banked.task == pool.task
    samples = torch.arange(len(banked.labels))
    views, theirs = banked.take(samples)
    assert views.dtype == torch.float32
    assert views.max() <= 1
    assert torch.equal(views[:30], images.float() / 255)
    assert torch.equal(theirs, labels[banked.bank.images])


def test_views_of_both_kinds_combine():
    data = module(views="shift1", augment=Augment(mixup=0.5, extra=1))
    batch = next(iter(data.train_dataloader()))
    assert (len(batch.images), batch.labelled) == (64, 32)
    assert torch.equal(batch.images[:32], data.pool.bank.take(batch.indices))
