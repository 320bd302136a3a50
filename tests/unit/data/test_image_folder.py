"""Folders of images: of every kind that Pillow reads, damaged, and merely unusual."""

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd.data import image_folder
from kd.data.image_folder import image_folder_bytes, read_image_folder
from kd.errors import UserError

CLASSES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three training images and one for the test, of each of two classes, 4 × 6 pixels."""
    for part, count in (("train", 3), ("test", 1)):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                shade = 10 * number + (100 if name == "dog" else 0)
                Image.new("L", (6, 4), shade).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def refused(folder: Path, size: list[int] | None = None) -> str:
    """The one line that is said of a folder."""
    with pytest.raises(UserError) as error:
        read_image_folder(folder, size)
    said = str(error.value)
    assert said.startswith(f"data.dir={folder}: ")
    assert "\n" not in said
    return said


def save(pixels: np.ndarray, path: Path) -> None:
    Image.fromarray(pixels).save(path)


def test_grey_images(folder):
    training, test, names = read_image_folder(folder, None)
    assert names == CLASSES
    assert training[0].shape == (6, 4, 6)
    assert training[0].dtype == np.uint8
    assert training[0][:, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]
    assert training[1].tolist() == [0] * 3 + [1] * 3
    assert test[0].shape == (2, 4, 6)
    assert test[1].tolist() == [0, 1]
    assert test[1].dtype == np.int64


def test_one_image_in_colour_makes_all_of_training_so(folder):
    save(np.full((4, 6, 3), (1, 2, 3), np.uint8), folder / "train" / "dog" / "1.png")
    training, test, _ = read_image_folder(folder, None)
    assert training[0][4, 0, 0].tolist() == [1, 2, 3]
    assert training[0][5, 0, 0].tolist() == [120] * 3
    assert test[0].shape == (2, 4, 6, 3)


def test_a_test_image_in_colour_does_not(folder):
    save(np.full((4, 6, 3), 7, np.uint8), folder / "test" / "dog" / "0.png")
    assert read_image_folder(folder, None).test[0][1].tolist() == [[7] * 6] * 4


@pytest.mark.parametrize(
    ("kind", "suffix", "expected"),
    [
        ("uint16", "png", 200),
        ("uint16", "tif", 200),
        ("big-endian", "tif", 200),
        ("LA", "png", 200),
        ("1", "png", 255),
        ("L", "JPG", 200),
        ("L", "bmp", 200),
    ],
)
def test_kinds_of_grey(folder, kind, suffix, expected):
    path = folder / "train" / "cat" / f"9.{suffix}"
    if kind in ("uint16", "big-endian"):
        save(np.full((4, 6), 200 * 257, ">u2" if kind == "big-endian" else np.uint16), path)
    else:
        Image.new("L", (6, 4), expected).convert(kind).save(path)
    images = read_image_folder(folder, None).training[0]
    assert images[3].tolist() == [[expected] * 6] * 4


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_kinds_of_colour(folder, mode):
    path = folder / "train" / "cat" / f"9.{'tif' if mode == 'CMYK' else 'png'}"
    Image.new("RGB", (6, 4), (255, 0, 0)).convert(mode).save(path)
    images = read_image_folder(folder, None).training[0]
    assert np.abs(images[3].astype(int) - [255, 0, 0]).max() <= 1


def test_images_are_resized_and_smoothed(folder):
    stripes = np.tile(np.array([0, 255], np.uint8), (40, 30))
    save(stripes, folder / "train" / "cat" / "0.png")
    training, test, _ = read_image_folder(folder, [4, 6])
    assert training[0].shape == (6, 4, 6)
    assert np.abs(training[0][0].astype(int) - 127).max() < 30  # neither black nor white
    assert test[0].shape == (2, 4, 6)
    assert image_folder_bytes(folder, [4, 6]) == 8 * 4 * 6 * 3


def test_what_the_images_take_is_told_without_decoding_them(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "_decode", None)
    assert image_folder_bytes(folder, None) == 8 * 4 * 6 * 3


def test_sizes_that_differ_name_both_files_before_any_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(image_folder, "_decode", None)
    Image.new("L", (7, 5)).save(folder / "test" / "dog" / "0.png")
    said = refused(folder)
    assert "train/cat/0.png is 4 × 6 pixels" in said
    assert "test/dog/0.png is 5 × 7; give data.size=[HEIGHT,WIDTH] to resize them" in said


@pytest.mark.parametrize("how", ["missing", "no classes", "one class", "a file"])
def test_test_images_may_be_few_or_none(folder, how):
    (folder / "test").rename(folder / "elsewhere")
    if how == "a file":
        (folder / "test").write_text("")
    elif how != "missing":
        (folder / "test").mkdir()
        (folder / "test" / "notes.txt").write_text("")
    if how == "one class":
        (folder / "elsewhere" / "dog").rename(folder / "test" / "dog")
    images, labels = read_image_folder(folder, None).test
    assert images.shape == (int(how == "one class"), 4, 6)
    assert labels.tolist() == [1] * len(images)
    assert labels.dtype == np.int64


def test_other_files_are_passed_over(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / "README").write_text("no class")
    assert len(read_image_folder(folder, None).training[0]) == 6


def chunk(kind: bytes, content: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + crc


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims to have side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def whole() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)).save(file, "png")
    return file.getvalue()


def floats() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6), 0.5, np.float32)).save(file, "tiff")
    return file.getvalue()


def deep() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 6), 2**20, np.int32)).save(file, "tiff")
    return file.getvalue()


DAMAGED = {
    "empty": (b"", ""),
    "text": (b"no image", ""),
    "truncated": (whole()[:-30], ": "),
    "bomb": (bomb(50_000), ": Image size (2500000000 pixels) exceeds"),
    "floats": (floats(), ": its pixels are floats, whose range is not known"),
    "deep": (deep(), ": it has more than 16 bits per pixel"),
}


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("part", ["train", "test"])
def test_damaged_images_are_named(folder, how, part):
    content, said = DAMAGED[how]
    path = folder / part / "dog" / "0.png"
    path.write_bytes(content)
    assert f"{path} cannot be read as an image{said}" in refused(folder)


@pytest.mark.parametrize("kind", ["pipe", "device", "broken link"])
def test_what_is_no_file_is_not_waited_for(folder, kind):
    path = folder / "train" / "dog" / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    assert f"{path} cannot be read as an image: " in refused(folder)


def test_a_name_of_two_lines_is_one(folder):
    (folder / "train" / "dog" / "a\nb.png").write_bytes(b"no image")
    assert "a\\nb.png cannot be read" in refused(folder)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nowhere", "no such folder"),
        ("no train", "holds no train/CLASS/ folders"),
        ("train is a file", "holds no train/CLASS/ folders"),
        ("no class", "holds no train/CLASS/ folders"),
        ("one class", "train has one class only, cat"),
        ("an empty class", "train: Found no valid file for the classes cow"),
        ("test has another", "test has a class that train lacks: cow"),
    ],
)
def test_wrong_folders(tmp_path, folder, how, said):
    train = folder / "train"
    if how == "nowhere":
        assert said in refused(folder / "nowhere")
        return
    if how == "one class":
        (train / "dog").rename(folder / "dog")
    elif how.endswith("class"):
        (train / "cow").mkdir()
    elif how.startswith("test"):
        (folder / "test" / "cow").mkdir()
    if how in ("no train", "train is a file", "no class"):
        train.rename(folder / "elsewhere")
    if how == "train is a file":
        train.write_text("")
    elif how == "no class":
        train.mkdir()
    assert said in refused(folder)
    with pytest.raises(UserError):
        image_folder_bytes(folder, None)


def test_many_images_are_announced(folder, monkeypatch, caplog):
    monkeypatch.setattr(image_folder, "MANY", 8)
    with caplog.at_level(logging.INFO):
        read_image_folder(folder, None)
    assert f"reading 8 images from {folder}" in caplog.text
