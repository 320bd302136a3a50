"""Images in one ``.npz`` file of Keras's layout; no pickle in it is ever read."""

import math
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kd.data.idx import open_plain
from kd.data.packed import Header, read_array, read_header
from kd.data.parts import Part, Parts
from kd.errors import UserError, reason

TRAINING, TEST = ("x_train", "y_train"), ("x_test", "y_test")
NAMES = "class_names"
MOST_CLASSES = 100_000  # a last layer has a row of weights for each
MOST_NAMES_BYTES = 2**24
ADVICE = "images are uint8 from 0 to 255, or float from 0 to 1 (divide by 255)"


def npz_bytes(path: Path) -> int:
    """Return how many bytes the images take as they are kept, by the headers of the file alone.

    Raises:
        UserError: see :func:`read_npz`.
    """
    with _opened(path) as archive:
        headers = _headers(archive)
    kept = _kept(headers["x_train"].dtype).itemsize
    found = [headers[name].shape for name in ("x_train", "x_test") if name in headers]
    return kept * sum(map(math.prod, found))


def read_npz(path: Path) -> Parts:
    """Read ``x_train, y_train, x_test, y_test``, and ``class_names`` where they are given.

    Images are (n, height, width) or (n, height, width, channels), uint8 or float in [0, 1]. There
    may be no test images.

    Raises:
        UserError: the file is missing, damaged, or does not hold such arrays.
    """
    with _opened(path) as archive:
        headers = _headers(archive)
        shape, kept = headers["x_train"].shape[1:], _kept(headers["x_train"].dtype)

        def read(part: str) -> Part:
            if f"y_{part}" not in headers or not headers[f"y_{part}"].shape[0]:
                return np.empty((0, *shape), kept), np.empty(0, np.int64)
            images = read_array(archive, f"x_{part}", kept)
            _check_values(f"x_{part}", images, headers[f"x_{part}"].dtype)
            return images, _class_numbers(f"y_{part}", read_array(archive, f"y_{part}"))

        training, test = read("train"), read("test")
        if training[1].min() == training[1].max():
            raise ValueError("y_train has one class only; there is nothing to tell apart")
        if training[1].min() > 0 and NAMES not in headers:
            raise ValueError("y_train has no image of class 0; labels count from 0")
        names = None
        if NAMES in headers:
            classes = 1 + max(int(labels.max(initial=0)) for _, labels in (training, test))
            names = _names(read_array(archive, NAMES), classes)
        return Parts(training, test, names)


@contextmanager
def _opened(path: Path) -> Generator[zipfile.ZipFile]:
    """Open the file; whatever is wrong with it becomes one line that names it."""
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            yield archive
    except FileNotFoundError as error:
        raise UserError(f"data.file={path}: no such file") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"data.file={path}: is not an .npz file, or damaged: {error}") from error
    except MemoryError as error:
        raise UserError(f"data.file={path}: is too large for this machine's memory") from error
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"data.file={path}: {reason(error)}") from error


def _headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    """Read the headers of the arrays that are wanted; raise ValueError where they do not fit."""
    names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    needed = TRAINING if names.isdisjoint(TEST) else TRAINING + TEST
    if missing := [name for name in needed if name not in names]:
        held = f"it holds {', '.join(sorted(names))}" if names else "it holds no arrays"
        raise ValueError(f"lacks {', '.join(missing)}; {held}")
    headers = {name: read_header(archive, name) for name in (*needed, *({NAMES} & names))}
    for part in ("train", "test"):
        if f"x_{part}" in headers:
            _check_shapes(part, headers[f"x_{part}"], headers[f"y_{part}"])
    training = headers["x_train"]
    test = headers.get("x_test", training)
    if not training.shape[0]:
        raise ValueError("x_train holds no images to train on")
    if 0 in training.shape:
        raise ValueError(f"x_train has shape {training.shape}: its images have no pixels")
    if test.shape[0] and training.shape[1:] != test.shape[1:]:
        raise ValueError(f"training images are {training.shape[1:]}, test images {test.shape[1:]}")
    if test.shape[0] and _kept(training.dtype) != _kept(test.dtype):
        raise ValueError(f"x_train is {training.dtype} and x_test is {test.dtype}; {ADVICE}")
    if NAMES in headers:
        shape, dtype = headers[NAMES].shape, headers[NAMES].dtype
        if dtype.kind != "U" or len(shape) != 1:
            raise ValueError(f"{NAMES} is {dtype} of shape {shape}; it must be a list of text")
        if shape[0] * dtype.itemsize > MOST_NAMES_BYTES:
            raise ValueError(f"{NAMES} is too long for names of classes")
    return headers


def _check_shapes(part: str, images: Header, labels: Header) -> None:
    """Refuse arrays that cannot be images with a label each; the test's may be none."""
    if part == "test" and images.shape[:1] == labels.shape[:1] == (0,):
        return
    if len(images.shape) not in (3, 4):
        raise ValueError(
            f"x_{part} has shape {images.shape}; images are (n, height, width) or "
            "(n, height, width, channels)"
        )
    if len(images.shape) == 4 and images.shape[3] > 4 and images.shape[1] in (1, 3, 4):
        raise ValueError(
            f"x_{part} has shape {images.shape}, which looks like channels first; give channels "
            "last: images.transpose(0, 2, 3, 1)"
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise ValueError(f"x_{part} is {images.dtype}; {ADVICE}")
    count = images.shape[0]
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"y_{part} has shape {labels.shape} for {count} images; labels are (n,) class numbers"
        )
    if labels.dtype.kind not in "buif":
        raise ValueError(f"y_{part} is {labels.dtype}; it must hold numbers")


def _kept(dtype: np.dtype) -> np.dtype:
    """Return the type that images of a type are kept in."""
    return np.dtype(np.uint8 if dtype == np.uint8 else np.float32)


def _check_values(name: str, images: np.ndarray, dtype: np.dtype) -> None:
    """Refuse floats that are no pixels."""
    if images.dtype == np.uint8:
        return
    least, most = images.min(), images.max()
    if np.isnan(least):
        raise ValueError(f"{name} holds NaN; {ADVICE}")
    if not 0 <= least <= most <= 1:
        raise ValueError(f"{name} is {dtype} from {least} to {most}; {ADVICE}")


def _class_numbers(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as (n,) whole numbers."""
    labels = labels.reshape(-1)
    least, most = labels.min(), labels.max()
    if not 0 <= least <= most < MOST_CLASSES:  # NaN is in no range
        raise ValueError(
            f"{name} holds labels from {least} to {most}; labels are class numbers from 0 to at "
            f"most {MOST_CLASSES - 1:,}"
        )
    whole = labels.astype(np.int64)
    if (other := labels[whole != labels]).size:
        raise ValueError(f"{name} holds {other[0]}; labels are whole numbers from 0")
    return whole


def _names(names: np.ndarray, classes: int) -> tuple[str, ...]:
    """Return the names of the classes."""
    found = tuple(map(str, names.tolist()))
    if len(found) < classes or len(set(found)) < len(found):
        raise ValueError(f"{NAMES} must name each of the {classes} classes once")
    return found
