"""Files of Keras's layout that are damaged, made to harm, or merely unusual."""

import contextlib
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kd.data import packed
from kd.data.npz_file import npz_bytes, read_npz
from kd.errors import UserError

RANDOM = np.random.default_rng(0)
GREY = {
    "x_train": RANDOM.integers(0, 256, (20, 6, 5), dtype=np.uint8),
    "y_train": np.arange(20) % 3,
    "x_test": RANDOM.integers(0, 256, (4, 6, 5), dtype=np.uint8),
    "y_test": np.arange(4) % 3,
}


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write(folder: Path, **changes: np.ndarray) -> Path:
    np.savez_compressed(folder / "mine.npz", **(GREY | changes))
    return folder / "mine.npz"


def refused(path: Path) -> str:
    """The one line that is said of a file."""
    with pytest.raises(UserError) as error:
        read_npz(path)
    said = str(error.value)
    assert said.startswith(f"data.file={path}: ")
    assert "\n" not in said
    return said


def peak(call) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, np.float64, ">f4"])
def test_images_are_counted_as_they_are_kept(tmp_path, kind):
    images = {name: GREY[name].astype(kind) for name in ("x_train", "x_test")}
    if kind != np.uint8:
        images = {name: array / array.dtype.type(255) for name, array in images.items()}
    path = write(tmp_path, **images)
    training, test, names = read_npz(path)
    assert training[0].dtype == test[0].dtype == (np.uint8 if kind == np.uint8 else np.float32)
    assert npz_bytes(path) == training[0].nbytes + test[0].nbytes
    assert (training[0] == images["x_train"].astype(training[0].dtype)).all()
    assert names is None


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16, np.uint64, ">i4", np.float32])
def test_labels_of_any_type_become_whole_numbers(tmp_path, kind):
    labels = (np.arange(20) % 2).astype(kind)
    found = read_npz(write(tmp_path, y_train=labels[:, None])).training[1]
    assert found.dtype == np.int64
    assert found.tolist() == [0, 1] * 10


@pytest.mark.parametrize("empty", [np.zeros((0, 6, 5)), np.zeros((0, 28, 28)), np.zeros(0)])
def test_no_test_images_are_of_the_training_images_type_whatever_theirs(tmp_path, empty):
    found = read_npz(write(tmp_path, x_test=empty, y_test=np.zeros(0)))
    assert found.test[0].dtype == np.uint8
    assert found.test[0].shape == (0, 6, 5)
    assert found.test[1].dtype == np.int64


def test_values_in_fortrans_order_and_in_many_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "CHUNK", 7)
    found = read_npz(write(tmp_path, x_train=np.asfortranarray(GREY["x_train"])))
    assert (found.training[0] == GREY["x_train"]).all()
    assert found.training[0].flags.c_contiguous


WRONG = [
    ({"x_train": np.zeros((20, 0, 5), np.uint8)}, "x_train has shape (20, 0, 5): its images have"),
    ({"x_train": np.zeros((20, 0, 5))}, "x_train has shape (20, 0, 5): its images have"),
    ({"x_test": GREY["x_test"] / 255}, "x_train is uint8 and x_test is float64; images are"),
    ({"x_train": GREY["x_train"].astype(bool)}, "x_train is bool; images are"),
    ({"x_train": GREY["x_train"].astype(complex)}, "x_train is complex128; images are"),
    ({"x_train": np.array(3)}, "x_train has shape (); images are"),
    ({"y_train": np.array(3)}, "y_train has shape () for 20 images"),
    ({"y_train": np.full(20, np.nan)}, "y_train holds labels from nan to nan"),
    ({"y_train": np.full(20, np.inf)}, "y_train holds labels from inf to inf"),
    ({"y_train": GREY["y_train"] + 2**40}, "labels are class numbers from 0 to at most 99,999"),
    ({"y_train": np.full(20, 2**64 - 1, np.uint64)}, "labels are class numbers from 0"),
    ({"y_test": np.array([0, 1, 2, -1])}, "y_test holds labels from -1 to 2"),
    ({"y_train": np.full(20, 1)}, "y_train has one class only"),
    ({"y_train": np.array([b"a"] * 20)}, "y_train is |S1; it must hold numbers"),
    ({"y_test": np.zeros(0)}, "y_test has shape (0,) for 4 images"),
    ({"class_names": np.array([["a", "b", "c"]])}, "class_names is <U1 of shape (1, 3)"),
    ({"class_names": np.arange(3)}, "class_names is int64 of shape (3,); it must be a list of"),
    ({"class_names": np.array(["a", "b", None])}, "class_names holds pickled objects"),
    ({"class_names": np.array(["a" * 10**7])}, "class_names is too long"),
    ({"x_train": np.zeros(20, [("a", "f4"), ("b", "O")])}, "x_train holds pickled objects"),
]
FLOATS = [
    (-0.1, "x_train is float64 from -0.1"),
    (1.5, "to 1.5; images are uint8 from 0 to 255, or float from 0 to 1 (divide by 255)"),
    (1e300, "to inf; images are"),
    (np.inf, "to inf; images are"),
    (np.nan, "x_train holds NaN"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong_arrays_are_refused(tmp_path, changes, said):
    assert said in refused(write(tmp_path, **changes))


@pytest.mark.parametrize(("value", "said"), FLOATS)
def test_one_wrong_pixel_is_refused(tmp_path, value, said):
    images = GREY["x_train"] / 255
    images[7, 3, 2] = value
    assert said in refused(write(tmp_path, x_train=images, x_test=GREY["x_test"] / 255))


def pack(path: Path, **contents: bytes) -> None:
    """Write a zip of these bytes in the place of the arrays'."""
    whole = {name: npy(array) for name, array in GREY.items()} | contents
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in whole.items():
            archive.writestr(f"{name}.npy", content)


def header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """The header of an array without its values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


DAMAGED = [
    ({"x_train": b""}, "EOF"),
    ({"x_train": b"\x93NUMPY\x01"}, "EOF"),
    ({"x_train": b"no array"}, "magic string"),
    ({"x_train": npy(GREY["x_train"])[:-1]}, "x_train is damaged: its shape (20, 6, 5) does not"),
    ({"x_train": header((10**12, 6, 5))}, "x_train is damaged: its shape (1000000000000, 6, 5)"),
    ({"x_train": header((-20, -6, 5)) + bytes(600)}, "x_train is damaged: its shape (-20, -6, 5)"),
    ({"class_names": header((10**12,), "<U0")}, "class_names is damaged"),
    ({"y_train": npy(GREY["y_train"]).replace(b"<i8", b"???")}, "descr"),
]


@pytest.mark.parametrize(("contents", "said"), DAMAGED, ids=[str(n) for n in range(len(DAMAGED))])
def test_damaged_arrays_are_refused(tmp_path, contents, said):
    path = tmp_path / "mine.npz"
    pack(path, **contents)
    assert said in refused(path)
    with pytest.raises(UserError):
        npz_bytes(path)


def test_a_flipped_byte_is_refused_or_changes_nothing(tmp_path):
    whole = write(tmp_path).read_bytes()
    path = tmp_path / "flipped.npz"
    right = read_npz(tmp_path / "mine.npz")
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 0x55
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            found = read_npz(path)
            assert all((a == b).all() for a, b in zip(found.training, right.training, strict=True))


def test_every_truncated_file_is_one_line(tmp_path):
    whole = write(tmp_path).read_bytes()
    path = tmp_path / "cut.npz"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        assert "is not an .npz file" in refused(path)


def test_no_pickle_runs(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (print, ("code in a pickle ran",))

    evil = np.array([Evil()] * 20, dtype=object)
    file = io.BytesIO()
    np.save(file, evil, allow_pickle=True)
    pack(tmp_path / "mine.npz", y_train=file.getvalue())
    assert "holds pickled objects, which are never read" in refused(tmp_path / "mine.npz")
    assert capsys.readouterr().out == ""


def test_images_that_pack_well_are_read_without_a_second_copy(tmp_path):
    count = 3000
    images = {"x_test": np.zeros((4, 100, 100)), "y_test": np.arange(4) % 2}
    path = write(
        tmp_path, x_train=np.zeros((count, 100, 100)), y_train=np.arange(count) % 2, **images
    )
    assert npz_bytes(path) > 400 * path.stat().st_size
    assert peak(lambda: read_npz(path)) < 1.6 * npz_bytes(path)  # of float64 that become float32


def test_what_a_file_would_take_is_told_without_unpacking_it(tmp_path):
    images = np.zeros((20, 1000, 1000), np.uint8)
    path = write(tmp_path, x_train=images, x_test=images[:4])
    assert peak(lambda: npz_bytes(path)) < 1e6
    assert npz_bytes(path) == 24 * 10**6


def test_a_directory_that_lies_does_not_fill_the_memory(tmp_path):
    """Zeros behind the images, of which the zip's directory says nothing."""
    path, hidden = tmp_path / "mine.npz", 64 * 2**20
    claimed = len(npy(GREY["x_train"]))
    pack(path, x_train=npy(GREY["x_train"]) + bytes(hidden))
    lie = path.read_bytes().replace(struct.pack("<I", claimed + hidden), struct.pack("<I", claimed))
    path.write_bytes(lie)
    assert peak(lambda: refused(path)) < hidden / 8


@pytest.mark.parametrize("kind", ["folder", "device", "encrypted", "npy", "nothing"])
def test_what_is_no_npz_is_refused(tmp_path, kind):
    path = tmp_path / "mine.npz"
    expected = "is not a plain file"
    if kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "encrypted":
        write(tmp_path)
        content = bytearray(path.read_bytes())
        content[content.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(content)
        expected = "encrypted"
    elif kind == "npy":
        path.write_bytes(npy(GREY["x_train"]))
        expected = "is not an .npz file"
    else:
        np.savez(path)
        expected = "lacks x_train, y_train; it holds no arrays"
    assert expected in refused(path)


def test_a_member_of_the_same_name_without_ending_does_not_stand_in(tmp_path):
    path = write(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train", npy(np.ones((20, 9, 9, 9))))
    assert (read_npz(path).training[0] == GREY["x_train"]).all()
