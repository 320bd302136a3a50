"""Images from one file, from folders, from a library: read as they are, and refused in one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import one_line
from PIL import Image

from kd.config.schema import Data
from kd.data import arrays
from kd.data.module import ImageDataModule
from kd.data.pool import load_pool
from kd.errors import UserError
from kd.models.base import Task

RANDOM = np.random.default_rng(0)
COLOUR = {
    "x_train": RANDOM.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8),
    "y_train": np.arange(60) % 3,
    "x_test": RANDOM.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
    "y_test": np.arange(12) % 3,
}


def npz(folder: Path, **changes) -> Data:
    """The settings of a file with these arrays; None leaves one out."""
    content = {name: array for name, array in (COLOUR | changes).items() if array is not None}
    np.savez_compressed(folder / "mine.npz", **content)
    return Data(source="npz", file=str(folder / "mine.npz"), val_size=0.2, test_size=0.2)


def load(config: Data):
    return load_pool(config, torch.device("cpu"))


def test_a_file_of_kerass_layout_is_read(tmp_path):
    pool = load(npz(tmp_path, class_names=np.array(["a", "b", "c"])))
    assert pool.task == Task((3, 6, 5), 3)
    assert pool.names == ("a", "b", "c")
    assert pool.train_count == 60
    images, labels = pool.take(torch.tensor([0, 60]))
    expected = torch.from_numpy(np.stack([COLOUR["x_train"][0], COLOUR["x_test"][0]]) / 255)
    assert torch.equal(images, expected.float().permute(0, 3, 1, 2))
    assert labels.tolist() == [0, 0]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_taken_as_they_are(tmp_path, kind):
    grey = {name: (COLOUR[name][..., 0] / 255).astype(kind) for name in ("x_train", "x_test")}
    pool = load(npz(tmp_path, **grey, y_train=COLOUR["y_train"][:, None].astype(np.uint8)))
    assert pool.task == Task((1, 6, 5), 3)
    assert torch.equal(pool.images[0, 0], torch.from_numpy(grey["x_train"][0].astype(np.float32)))


def test_many_images_stay_bytes_and_are_turned_to_float_batch_by_batch(tmp_path, monkeypatch):
    monkeypatch.setattr("kd.data.pool.MOST_FLOAT_BYTES", 1)
    pool = load(npz(tmp_path))
    assert pool.images.dtype == torch.uint8
    monkeypatch.setattr("kd.data.pool.MOST_FLOAT_BYTES", 2**30)
    (tmp_path / "again").mkdir()
    plain = load(npz(tmp_path / "again"))
    assert plain.images.dtype == torch.float32
    assert torch.equal(pool.take(torch.arange(72))[0], plain.take(torch.arange(72))[0])
    assert pool.digest == plain.digest


def test_without_test_images_all_are_split_anew(tmp_path):
    config = npz(tmp_path, x_test=COLOUR["x_test"][:0], y_test=COLOUR["y_test"][:0])
    config.split = "pooled"
    data = ImageDataModule(config, seed=0)
    data.setup()
    assert {name: len(part) for name, part in data.indices.items()} == {
        "train": 38,
        "val": 10,
        "test": 12,
    }


WRONG_FILES = [
    ({"x_train": None}, "lacks x_train; it holds x_test, y_test, y_train"),
    ({"x_train": COLOUR["x_train"][:, 0, 0]}, "x_train has shape (60, 3); images are (n, height"),
    ({"y_train": np.arange(59) % 3}, "y_train has shape (59,) for 60 images"),
    ({"y_train": np.eye(3)[COLOUR["y_train"]]}, "y_train has shape (60, 3) for 60 images"),
    ({"x_test": COLOUR["x_test"][:, :4]}, "training images are (6, 5, 3), test images (4, 5, 3)"),
    (
        {"x_train": COLOUR["x_train"] * 1.0, "x_test": COLOUR["x_test"] * 1.0},
        "x_train is float64 from 0.0 to 255.0; images are",
    ),
    ({"x_train": COLOUR["x_train"] / 255}, "x_train is float64 and x_test is uint8; images are"),
    ({"x_train": COLOUR["x_train"].astype(np.int64)}, "x_train is int64; images are uint8 from 0"),
    (
        {"x_train": np.full((60, 6, 5, 3), np.nan), "x_test": np.zeros((12, 6, 5, 3))},
        "x_train holds NaN; images are",
    ),
    ({"y_train": COLOUR["y_train"] - 1}, "y_train holds labels from -1 to 1; labels are class"),
    ({"y_train": COLOUR["y_train"] + 0.5}, "y_train holds 0.5; labels are whole numbers from 0"),
    ({"y_train": np.zeros(60), "y_test": np.zeros(12)}, "has one class only"),
    ({"class_names": np.array(["a", "b"])}, "class_names must name each of the 3 classes once"),
    ({"class_names": np.array(["a", "b", "b"])}, "class_names must name each of the 3 classes"),
    ({"y_train": np.array(["a"] * 60)}, "y_train is <U1; it must hold numbers"),
    ({"y_train": np.array([{}] * 60)}, "y_train holds pickled objects, which are never read"),
    ({"x_train": COLOUR["x_train"][:0], "y_train": COLOUR["y_train"][:0]}, "no images to train"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG_FILES, ids=[said for _, said in WRONG_FILES])
def test_a_wrong_file_is_one_line(cli, tmp_path, changes, said):
    npz(tmp_path, **changes)
    found = cli("stage=student", "data=npz", "data.file=mine.npz")
    assert found.code == 1
    assert found.err.startswith("error: data.file=mine.npz")
    one_line(found.err, said)
    assert not Path("outputs").exists()


WRONG_WORDS = [
    ("data=npz", "data.file: missing; data=npz reads data.file=PATH.npz"),
    ("data=npz data.file=", "data.file=: must be null or a folder"),
    ("data=folder data.dir=nowhere", "data.dir=nowhere: no such folder"),
    ("data=folder data.size=32", "data.size=32: must be null or height and width, as in [32,32]"),
    ("data=folder data.size=[0,32]", "data.size=[0,32]: must be null or height and width"),
    ("data=folder data.size=[32]", "data.size=[32]: must be null or height and width"),
    (
        "data=digits data.val_size=0",
        "data.val_size=0: must be a whole number from 1 to 1000000, or",
    ),
    ("data=digits data.val_size=1.5", "data.val_size=1.5: must be a whole number from 1"),
    ("data=digits data.val_size=true", "data.val_size=true: must be a whole number from 1"),
    ("data=digits data.test_size=1797", "data.test_size=1797: cannot be taken from 1797 images"),
    ("data=digits data.train_size=0", "data.train_size=0: must be null or a whole number from 1"),
    (
        "data=digits data.train_size=5000",
        "data.train_size=5000: cannot be taken from 1197 training",
    ),
    ("data=digits data.label_noise=1", "data.label_noise=1: must be a number from 0 to below 1"),
    ("data=digits data.label_noise=-1", "data.label_noise=-1: must be a number from 0 to below"),
    ("data=digits data.omit=3", "data.omit=3: must be a list of class numbers, as in [3]"),
    ("data=digits data.omit=[-1]", "data.omit=[-1]: must be a list of class numbers"),
    ("data=digits data.omit=[12]", "data.omit=[12]: the data has no class 12, only 0 to 9"),
    ("data=digits data.omit=[a]", "data.omit=[a]: must be a list of class numbers"),
    ("data=digits data.split=official", "data.split=official: the data set has no test images of"),
    ("data=digits data.size=[16,16]", "data.size=[16,16]: goes with data=folder; leave it out"),
    ("data=digits data.file=a.npz", "data.file=a.npz: goes with data=npz; leave it out"),
    (
        "data=digits data.augment.shift=5",
        "data.augment.shift=5: moves images of 8 × 8 out of",
    ),
    ("data=digits data.unlabelled=2", "data.unlabelled=2: must be true or false"),
    ("data=digits data.unlabelled=true", "data.unlabelled=true: needs data.train_size=NUMBER"),
    ("data=digits data.source=mine", "data.source=mine: must be verified or torchvision or folder"),
    ("data=digits data.files=x", "data.files=x: works only with data.source=verified"),
    ("data=fashion_mnist data.files=nowhere", "data.files=nowhere: train-images-idx3-ubyte cannot"),
    ("data.dataset=KMNIST", "knows MNIST and FashionMNIST alone; for KMNIST give data.source"),
    (
        "data=cifar10 data.source=folder data.dir=nowhere",
        "data.dir=nowhere: CIFAR10 cannot be read",
    ),
    ("data=svhn data.source=folder data.dir=nowhere", "data.dir=nowhere: SVHN cannot be read"),
    ("data=kmnist data.source=folder data.dir=nowhere", "data.dir=nowhere: KMNIST cannot be read"),
    ("data=digits model=cnn model.channels=[1,1,1,1]", "4 blocks halve images of 8 × 8 away; give"),
    (
        "data=digits model.hidden=[]",
        "model.hidden=[]: must be a whole number from 1 to 100000, or a",
    ),
    ("data=digits model.hidden=[3,0]", "model.hidden=[3,0]: must be a whole number from 1"),
    ("data=digits model.hidden=3.5", "model.hidden=3.5: must be a whole number from 1 to 100000"),
    ("data=digits model=resnet8 model.width=0", "model.width=0: must be a whole number from 1"),
    ("data=digits model=resnet8 model.hidden=3", "model.hidden: no such key"),
]


@pytest.mark.parametrize(("words", "said"), WRONG_WORDS, ids=[w[0] for w in WRONG_WORDS])
def test_wrong_words_are_one_line(cli, words, said):
    found = cli("stage=student", *words.split())
    assert found.code == 1
    one_line(found.err, said)
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"PK no zip", "is not an .npz"), (b"", "is not an .npz")],
)
def test_what_is_no_npz_is_one_line(tmp_path, content, said):
    path = tmp_path / "mine.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        load(Data(source="npz", file=str(path)))
    with pytest.raises(UserError, match=r"data\.file: missing; data=npz reads data\.file=PATH"):
        load(Data(source="npz"))


def test_a_damaged_file_is_one_line(tmp_path):
    config = npz(tmp_path)
    path = tmp_path / "mine.npz"
    content = bytearray(path.read_bytes())
    content[400:460] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"data.file={path}: "):
        load(config)


def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path, monkeypatch):
    config = npz(tmp_path)
    monkeypatch.setattr("kd.data.pool.available_bytes", lambda: 1000)
    monkeypatch.setattr("kd.data.pool.read", None)
    with pytest.raises(UserError, match="is too large: reading the images takes about 0 MB, and"):
        load(config)


def write_images(folder: Path, mode: str = "RGB", size: tuple[int, int] = (5, 6)) -> Data:
    for part, count in (("train", 8), ("test", 3)):
        for number, name in enumerate(("cat", "dog")):
            (folder / part / name).mkdir(parents=True)
            for image in range(count):
                shade = 40 * number + 10 * image
                drawn = Image.new("L", size, shade).convert(mode)
                drawn.save(folder / part / name / f"{image}.png")
    return Data(source="images", dir=str(folder), val_size=4)


def test_folders_of_images_are_read(tmp_path):
    pool = load(write_images(tmp_path))
    assert pool.task == Task((3, 6, 5), 2)
    assert pool.names == ("cat", "dog")
    assert pool.train_count == 16
    assert pool.labels.tolist() == [0] * 8 + [1] * 8 + [0] * 3 + [1] * 3
    images, _ = pool.take(torch.tensor([9]))
    assert torch.equal(images, torch.full((1, 3, 6, 5), 50 / 255))


def test_grey_images_have_one_channel_and_are_resized(tmp_path):
    config = write_images(tmp_path, "L", (30, 20))
    assert load(config).task == Task((1, 20, 30), 2)
    config.size = [8, 9]
    assert load(config).task == Task((1, 8, 9), 2)


def spoil(folder: Path, how: str) -> None:
    first = folder / "train" / "cat" / "0.png"
    if how == "size":
        Image.new("RGB", (7, 7)).save(first)
    elif how == "damaged":
        first.write_bytes(b"no image")
    elif how == "class":
        (folder / "test" / "cow").mkdir()
    elif how == "empty":
        for path in (folder / "train" / "cat").iterdir():
            path.unlink()
    elif how == "no train":
        (folder / "train").rename(folder / "elsewhere")
    elif how == "one class":
        (folder / "train" / "cat").rename(folder / "elsewhere")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("size", r"0.png is 7 × 7 pixels, .* is 6 × 5; give data.size=\[HEIGHT,WIDTH\]"),
        ("damaged", "0.png cannot be read as an image"),
        ("class", "test has a class that train lacks: cow"),
        ("empty", "train: Found no valid file for the classes cat"),
        ("no train", "holds no train/CLASS/ folders"),
        ("one class", "train has one class only, dog"),
    ],
)
def test_wrong_folders_are_one_line(cli, tmp_path, how, said):
    write_images(tmp_path / "mine")
    spoil(tmp_path / "mine", how)
    found = cli("stage=student", "data=folder", "data.dir=mine")
    assert found.code == 1
    assert re.match(f"error: data.dir=mine: .*{said}", found.err)
    one_line(found.err, "")
    assert not Path("outputs").exists()


def test_scikit_learns_digits_need_no_file():
    pool = load(Data(source="sklearn", dataset="digits"))
    assert pool.task == Task((1, 8, 8), 10)
    assert len(pool.labels) == pool.train_count == 1797
    assert pool.images.max() == 1


def test_arrays_are_kept_and_split(tmp_path, monkeypatch):
    monkeypatch.setattr("kd.data.in_python.data_dir", lambda: tmp_path)
    tensor = torch.from_numpy(COLOUR["x_train"]).permute(0, 3, 1, 2)
    found = arrays(tensor, COLOUR["y_train"], split=(0.5, 0.3, 0.2), seed=3)
    assert found == arrays(COLOUR["x_train"], COLOUR["y_train"], split=(0.5, 0.3, 0.2), seed=3)
    (path,) = (tmp_path / "arrays").iterdir()
    assert found.words == (
        *("data=npz", f'data.file="{path}"', "data.split=pooled", "data.seed=3"),
        *("data.test_size=12", "data.val_size=18"),
    )
    with pytest.raises(UserError, match="must be three shares above 0 that add up to 1"):
        arrays(tensor, COLOUR["y_train"], split=(0.5, 0.5, 0.5))
