"""The splits and the batches."""

import numpy as np
import pytest
import torch
from torchvision.datasets import MNIST
from torchvision.transforms import ToTensor

from kd.config import PROJECT, Data, UserError
from kd.data import MNISTDataModule, split_indices

MINI = str(PROJECT / "tests" / "mnist_mini")


def settings(**changes) -> Data:
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    return Data(**{"dir": MINI, "source": "folder", **sizes, **changes})


def module(seed: int = 0, **changes) -> MNISTDataModule:
    data = MNISTDataModule(settings(**changes), seed)
    data.prepare_data()
    data.setup()
    return data


def test_pixels_are_torchvisions():
    data = module()
    for train, offset in ((True, 0), (False, 1000)):
        theirs = MNIST(MINI, train=train, transform=ToTensor())
        for index in (0, 17, 199):
            image, label = theirs[index]
            assert torch.equal(data.pool.images[offset + index], image)
            assert data.pool.labels[offset + index] == label


@pytest.mark.parametrize(
    ("split", "sizes"), [("official", (800, 200, 200)), ("pooled", (800, 200, 200))]
)
def test_splits_are_disjoint_complete_and_stratified(split, sizes):
    data = module(split=split)
    parts = [data.indices[name] for name in ("train", "val", "test")]
    assert tuple(map(len, parts)) == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(1200))
    for part in parts:
        counts = torch.bincount(data.pool.labels[part], minlength=10)
        assert counts.tolist() == [len(part) / 10] * 10


def test_official_keeps_the_official_test_images_and_pooled_does_not():
    assert module().indices["test"].tolist() == list(range(1000, 1200))
    assert min(module(split="pooled").indices["test"].tolist()) < 1000


def test_mnists_own_sizes():
    """The real split's sizes, drawn from labels alone: 50,000 + 10,000 + 10,000 either way."""
    labels = np.arange(70_000) % 10
    for split in ("official", "pooled"):
        parts = split_indices(labels, 60_000, Data(split=split))
        assert {k: len(v) for k, v in parts.items()} == {
            "train": 50_000,
            "val": 10_000,
            "test": 10_000,
        }


def test_the_split_depends_on_data_seed_alone():
    same = module(seed=1)
    assert same.fingerprint == module(seed=0).fingerprint
    moved = MNISTDataModule(settings(seed=1), seed=0)
    moved.setup()
    assert moved.fingerprint != same.fingerprint
    assert module(split="pooled").fingerprint != same.fingerprint
    assert module(val_size=100).fingerprint != same.fingerprint


def order(data: MNISTDataModule, epochs: int = 1) -> list[list[int]]:
    batches = data.train_dataloader()
    return [[int(i) for _, _, part in batches for i in part] for _ in range(epochs)]


def test_batches_cover_the_split_in_the_seeds_order():
    first, second = order(module(seed=0), epochs=2)
    assert sorted(first) == sorted(second) == module().indices["train"].tolist()
    assert first != second
    torch.manual_seed(99)  # the order owes nothing to torch's global state
    assert order(module(seed=0), epochs=2) == [first, second]
    assert order(module(seed=1))[0] != first


def test_batches_have_the_shapes_they_promise():
    loader = module(batch_size=300).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    assert [len(labels) for _, labels, _ in batches] == [300, 300, 200]
    images, labels, indices = batches[0]
    assert images.shape == (300, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert torch.equal(labels, module().pool.labels[indices])


def test_the_jobs_of_a_process_share_the_images():
    assert module(seed=0).pool is module(seed=1, batch_size=64).pool


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"val_size": 1000}, "data.val_size=1000"),
        ({"val_size": 5}, "data.val_size=5"),
        ({"split": "pooled", "test_size": 5000}, "data.test_size=5000"),
        ({"dataset": "NoSuchSet"}, "data.dataset=NoSuchSet"),
        ({"dir": "/nowhere"}, "data.dir=/nowhere"),
    ],
)
def test_wrong_settings_are_named(changes, said):
    with pytest.raises(UserError, match=said):
        module(**changes)
