"""The splits and the batches."""

import os
import resource
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DIGITS
from torchvision.datasets import MNIST, FashionMNIST
from torchvision.transforms import ToTensor

from kd.config.schema import Data
from kd.data import idx
from kd.data import mnist_files as mnist
from kd.data.module import EVAL_BATCH, ImageDataModule
from kd.data.pool import digest, fingerprint, split_indices
from kd.errors import UserError
from kd.files import PROJECT, file_hash

MINI = str(DIGITS)


def settings(**changes) -> Data:
    sizes = {"val_size": 200, "test_size": 200, "batch_size": 32}
    return Data(**{"dir": MINI, "source": "folder", **sizes, **changes})


def module(seed: int = 0, **changes) -> ImageDataModule:
    data = ImageDataModule(settings(**changes), seed)
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
    moved = ImageDataModule(settings(seed=1), seed=0)
    moved.setup()
    assert moved.fingerprint != same.fingerprint
    assert module(split="pooled").fingerprint != same.fingerprint
    assert module(val_size=100).fingerprint != same.fingerprint


def order(data: ImageDataModule, epochs: int = 1) -> list[list[int]]:
    batches = data.train_dataloader()
    return [[int(i) for batch in batches for i in batch.indices] for _ in range(epochs)]


@pytest.mark.parametrize(("limit", "batches"), [(1, 1), (3, 3), (25, 25), (1000, 25)])
def test_a_limit_takes_the_first_batches_of_every_epoch(limit, batches):
    limited, whole = ImageDataModule(settings(), seed=0, limit=limit), module(seed=0)
    limited.setup()
    assert len(limited.train_dataloader()) == batches
    mine, its = order(limited, epochs=2), order(whole, epochs=2)
    assert mine == [epoch[: limit * 32] for epoch in its]
    val, most = limited.val_dataloader(), min(200, limit * EVAL_BATCH)
    assert torch.cat([batch.indices for batch in val]).tolist() == val.indices[:most].tolist()
    assert len(limited.predict_dataloader().epoch()) == 200, "the test has all its images"


def test_a_limit_holds_for_validation_too():
    data = ImageDataModule(settings(val_size=700), seed=0, limit=1)
    data.setup()
    assert len(data.val_dataloader()) == 1
    assert [len(batch.labels) for batch in data.val_dataloader()] == [EVAL_BATCH]


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
    assert [len(batch.labels) for batch in batches] == [300, 300, 200]
    images, labels, indices, labelled = batches[0]
    assert labelled == 300
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


RAW = Path(MINI, "MNIST", "raw")
NAMES = sorted(path.name for path in RAW.iterdir())


@pytest.fixture
def own(tmp_path) -> Path:
    """A data folder of this test's own, with the small digits."""
    return Path(shutil.copytree(MINI, tmp_path / "own"))


def plant(folder: Path, dataset: str = "MNIST") -> None:
    """Put random images where torchvision would rather read them than the raw files."""
    processed = folder / dataset / "processed"
    processed.mkdir(parents=True)
    for name, count in (("training.pt", 1000), ("test.pt", 200)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8)
        torch.save((images, torch.arange(count) % 10), processed / name)


def torchvisions(folder: str) -> tuple[str, np.ndarray]:
    """The digest of the images, and the labels, as torchvision reads the raw files."""
    parts = [MNIST(folder, train=train) for train in (True, False)]
    labels = torch.cat([part.targets for part in parts]).long().numpy()
    return digest(torch.cat([part.data for part in parts]).numpy(), labels), labels


def assert_as_torchvision_reads_it(config: Data, train_count: int) -> ImageDataModule:
    found = ImageDataModule(config, seed=0)
    found.prepare_data()
    found.setup()
    expected, labels = torchvisions(config.dir)
    assert found.pool.digest == expected
    assert found.pool.labels.tolist() == labels.tolist()
    split = split_indices(labels, train_count, config)
    parts = [np.frombuffer(expected.encode(), np.uint8), *split.values()]
    assert found.fingerprint == digest(*parts)[:16] == fingerprint(config)
    return found


def test_digest_and_fingerprint_of_the_small_digits():
    found = assert_as_torchvision_reads_it(settings(), 1000)
    assert found.pool.digest == "64b07fd4a1222573742f08e459304afc22cd1b788e626c3ce98b40270d781029"
    assert found.fingerprint == "fe9e8b368d3e4355"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "expected"), [("official", "203a7430f232a1ff"), ("pooled", "42911ef0cf600846")]
)
def test_digest_and_fingerprint_of_mnist(split, expected):
    config = Data(dir=str(PROJECT / "data"), split=split)
    try:
        ImageDataModule(config, seed=0).prepare_data()
    except UserError as error:
        pytest.skip(f"MNIST cannot be had: {error}")
    found = assert_as_torchvision_reads_it(config, 60_000)
    assert found.pool.digest == "b3fe36794a3a345d09632e9d79f122d61ca91a07e5a22f8536973655bacf2a78"
    assert found.fingerprint == expected


@pytest.mark.parametrize("source", ["verified", "folder", "torchvision"])
def test_the_raw_files_are_read_and_nothing_else(own, monkeypatch, source):
    monkeypatch.setitem(mnist.VERIFIED, "MNIST", {name: file_hash(RAW / name) for name in NAMES})
    plant(own)
    assert module(dir=str(own), source=source).pool.digest == module().pool.digest


def test_planted_images_do_not_stand_in_for_missing_files(tmp_path, monkeypatch):
    plant(tmp_path, "FashionMNIST")

    def download(cls: FashionMNIST) -> None:
        shutil.copytree(RAW, cls.raw_folder)

    with pytest.raises(UserError, match=r"FashionMNIST/raw/.*: No such file"):
        module(dir=str(tmp_path), dataset="FashionMNIST")
    monkeypatch.setattr(FashionMNIST, "download", download)
    words = {"dir": str(tmp_path), "dataset": "FashionMNIST"}
    for found in (module(**words, source="torchvision").pool, module(**words).pool):
        assert torch.equal(found.images, module().pool.images)
        assert found.digest != module().pool.digest, "other classes"


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def download(cls: FashionMNIST) -> None:
        raise RuntimeError("Error downloading:\nno network in this test")

    monkeypatch.setattr(FashionMNIST, "download", download)
    config = settings(dir=str(tmp_path), dataset="FashionMNIST", source="torchvision")
    with pytest.raises(UserError, match=r"FashionMNIST cannot be downloaded: .*: no network in"):
        ImageDataModule(config, seed=0).prepare_data()
    assert fingerprint(config) is None


def test_verified_files_that_were_altered_since_are_not_read(own, monkeypatch):
    monkeypatch.setitem(mnist.VERIFIED, "MNIST", {name: file_hash(RAW / name) for name in NAMES})
    found = ImageDataModule(settings(dir=str(own), source="verified"), seed=0)
    found.prepare_data()
    alter_labels(own)
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: is truncated or altered"):
        found.setup()


def alter_labels(folder: Path) -> None:
    """Exchange two labels, and let the file look as old as it was."""
    path = folder / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    before, content = path.stat(), bytearray(path.read_bytes())
    first = next(i for i in range(9, len(content)) if content[i] != content[8])
    content[8], content[first] = content[first], content[8]
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("source", ["folder", "torchvision"])
def test_altered_labels_are_seen_in_the_same_process(own, source):
    words = {"dir": str(own), "source": source}
    before, pool = fingerprint(settings(**words)), module(**words).pool
    assert before == module().fingerprint
    alter_labels(own)
    after = fingerprint(settings(**words))
    assert after not in (before, None)
    assert module(**words).fingerprint == after
    assert not torch.equal(module(**words).pool.labels, pool.labels)


def test_one_computation_serves_all_jobs(monkeypatch):
    expected = fingerprint(settings())
    monkeypatch.setattr(idx, "read_idx", None)
    monkeypatch.setattr("kd.data.pool.split_indices", None)
    assert fingerprint(settings(batch_size=7)) == expected


def test_images_that_are_not_at_hand_have_no_fingerprint(own, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    for source in ("verified", "folder", "torchvision"):
        assert fingerprint(settings(dir=nowhere, source=source)) is None
    assert fingerprint(settings(dir=str(own), source="verified")) is None  # not MNIST's own
    assert fingerprint(settings(dataset="NoSuchSet")) is None
    assert fingerprint(settings(dir="x" * 5000)) is None
    assert not Path(nowhere).exists()
    (own / "MNIST" / "raw" / NAMES[0]).unlink()
    with pytest.raises(UserError, match="cannot be read"):
        fingerprint(settings(dir=str(own)))


def header(*lengths: int) -> bytes:
    return struct.pack(f">{1 + len(lengths)}I", 0x800 + len(lengths), *lengths)


HUGE = 2**32 - 1
BAD_FILES = [
    ("empty", b"", "is truncated: 0 bytes are not even a header"),
    ("half a header", header(200, 28, 28)[:10], "is truncated: 10 bytes are not"),
    ("other dimensions", header(200), "is truncated"),
    ("labels for images", header(200) + bytes(200), "bad header"),
    ("not IDX", b"PK\3\4" + bytes(1000), "is not an IDX file of bytes in 3"),
    ("truncated", header(200, 28, 28) + bytes(156_000), "is truncated: its header says 200 × 28"),
    ("surplus", header(200, 28, 28) + bytes(156_801), "is too long: its header says 200 × 28"),
    ("promises much", header(HUGE, HUGE, HUGE) + bytes(99), "is truncated: its header says"),
    ("nothing, widely", header(HUGE, HUGE, 0), "t10k-images-idx3-ubyte: "),
    (
        "wide images",
        header(100, 56, 28) + bytes(156_800),
        "images are of one size, with a label each",
    ),
    ("no images", header(0, 28, 28), "200 labels for images of shape"),
]


@pytest.mark.parametrize(
    ("content", "said"), [b[1:] for b in BAD_FILES], ids=[b[0] for b in BAD_FILES]
)
def test_a_bad_file_is_named_before_room_is_made_for_it(own, content, said):
    (own / "MNIST" / "raw" / "t10k-images-idx3-ubyte").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error:
            module(dir=str(own))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(f"data.dir={own}: MNIST ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert peak < 5e6


def test_a_file_larger_than_memory_is_one_line(own):
    """Its header is right, and it takes no room on the disk."""
    path = own / "MNIST" / "raw" / "t10k-images-idx3-ubyte"
    path.write_bytes(header(10**9, 28, 28))
    os.truncate(path, 16 + 10**9 * 28 * 28)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**38, before[1]))
    try:
        with pytest.raises(UserError, match="MNIST is too large: reading the images takes about"):
            module(dir=str(own))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_labels_and_images_are_as_many_in_each_part(own):
    """Though training and test together have as many of the ones as of the others."""
    raw = own / "MNIST" / "raw"
    for name, count in (("train", 900), ("t10k", 300)):
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header(count) + bytes(count))
    with pytest.raises(UserError, match="900 labels for images of shape"):
        module(dir=str(own))


def test_a_label_that_no_network_knows_is_refused(own):
    (own / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(header(200) + bytes([17] * 200))
    with pytest.raises(UserError, match="has labels from 0 to 17, for 10 classes from 0 to 9"):
        module(dir=str(own))


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_is_named_and_not_waited_for(own, kind):
    path = own / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(UserError, match="train-labels-idx1-ubyte: is not a plain file"):
        module(dir=str(own))


def test_other_data_sets_are_torchvisions(own):
    """QMNIST's files have names and a form of their own."""
    with pytest.raises(UserError, match="QMNIST cannot be read: Dataset not found"):
        module(dir=str(own), dataset="QMNIST")
    with pytest.raises(UserError, match=r"EMNIST cannot be read: .*split"):
        module(dir=str(own), dataset="EMNIST")


@pytest.mark.parametrize("source", ["folder", "torchvision"])
def test_a_folder_of_files_that_would_be_ignored_is_refused(cli, source):
    said = cli("stage=student", "data=mnist_mini", f"data.source={source}", "data.files=mine")
    assert said.code == 1
    assert said.err.startswith("error: data.files=mine: works only with data.source=verified")
    assert said.err.count("\n") == 1
    assert not list(Path().iterdir())


def test_no_name_is_no_folder_of_files(cli):
    said = cli("stage=student", "data.files=")
    assert said.err.startswith("error: data.files=: must be null or a folder")
    assert said.err.count("\n") == 1
