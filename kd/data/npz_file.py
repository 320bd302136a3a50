"""Images in one ``.npz`` file of Keras's layout; no pickle in it is ever read."""

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

from kd.data.idx import open_plain
from kd.data.parts import Part, Parts
from kd.errors import UserError, shown

NEEDED = ("x_train", "y_train", "x_test", "y_test")
NAMES = "class_names"


class Header(NamedTuple):
    """What an array's header says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype


def npz_bytes(path: Path) -> int:
    """Return how many bytes the images take as they are kept, by the headers of the file alone.

    Raises:
        UserError: see :func:`read_npz`.
    """
    found = _headers(path)
    images = [found[name] for name in NEEDED if name.startswith("x")]
    return sum(math.prod(h.shape) * (1 if h.dtype == np.uint8 else 4) for h in images)


def read_npz(path: Path) -> Parts:
    """Read ``x_train, y_train, x_test, y_test``, and ``class_names`` where they are given.

    Images are (n, height, width) or (n, height, width, channels), uint8 or float in [0, 1]. The
    test images may be none.

    Raises:
        UserError: the file is missing, damaged, or does not hold such arrays.
    """
    found = _headers(path)
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in found}
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"data.file={path}: cannot be read: {_why(error)}") from error
    training, test = (
        _part(path, part, arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")
    )
    if NAMES not in arrays:
        return Parts(training, test)
    names = tuple(map(str, arrays[NAMES].tolist())) if arrays[NAMES].ndim == 1 else ()
    largest = max((int(labels.max()) for _, labels in (training, test) if len(labels)), default=0)
    if len(names) <= largest or len(set(names)) < len(names):
        raise UserError(
            f"data.file={path}: {NAMES} must name each of the {largest + 1} classes once"
        )
    return Parts(training, test, names)


def _headers(path: Path) -> dict[str, Header]:
    """Read the headers of the arrays that are wanted, and nothing more."""
    try:
        with open_plain(path) as file, zipfile.ZipFile(file) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            wanted = [*NEEDED, *({NAMES} & names)]
            if missing := [name for name in NEEDED if name not in names]:
                raise ValueError(
                    f"lacks {', '.join(missing)}; it holds {shown(', '.join(sorted(names)))}"
                )
            found = {name: _header(archive, name) for name in wanted}
    except FileNotFoundError as error:
        raise UserError(f"data.file={path}: no such file") from error
    except zipfile.BadZipFile as error:
        raise UserError(f"data.file={path}: is not an .npz file") from error
    except Exception as error:
        raise UserError(f"data.file={path}: {_why(error)}") from error
    for part in ("train", "test"):
        images, labels = found[f"x_{part}"].shape, found[f"y_{part}"].shape
        if len(images) not in (3, 4):
            raise UserError(
                f"data.file={path}: x_{part} has shape {images}; images are (n, height, width) or "
                "(n, height, width, channels)"
            )
        if labels not in ((images[0],), (images[0], 1)):
            raise UserError(
                f"data.file={path}: y_{part} has shape {labels} for {images[0]} images; labels "
                "are (n,) class numbers"
            )
    if (one := found["x_train"].shape[1:]) != (other := found["x_test"].shape[1:]):
        raise UserError(f"data.file={path}: training images are {one}, test images {other}")
    return found


def _header(archive: zipfile.ZipFile, name: str) -> Header:
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        kinds = "U" if name == NAMES else "buif"
        if dtype.kind not in kinds:
            kind = "pickled objects, which are never read" if dtype.hasobject else f"of {dtype}"
            raise ValueError(
                f"{name} is {kind}; it must hold {'text' if kinds == 'U' else 'numbers'}"
            )
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{name} is damaged: its shape {shape} does not match its size")
    return Header(shape, dtype)


def _part(path: Path, part: str, images: np.ndarray, labels: np.ndarray) -> Part:
    """Check what the arrays hold, and turn images to uint8 or float32."""
    labels = labels.reshape(-1)
    if not len(labels):
        return images.astype(np.uint8 if images.dtype == np.uint8 else np.float32), labels.astype(
            int
        )
    whole = np.isfinite(labels).all() and (labels == np.floor(labels)).all()
    if not whole or labels.min() < 0 or labels.max() >= 2**31:
        raise UserError(f"data.file={path}: y_{part} holds labels that are no class numbers from 0")
    if images.dtype == np.uint8:
        return images, labels.astype(np.int64)
    if images.dtype.kind != "f" or not 0 <= images.min() <= images.max() <= 1:
        raise UserError(
            f"data.file={path}: x_{part} is {images.dtype} from {images.min()} to {images.max()}; "
            "images are uint8 from 0 to 255, or float from 0 to 1 (divide by 255)"
        )
    return images.astype(np.float32), labels.astype(np.int64)


def _why(error: Exception) -> str:
    return shown(
        " ".join(str(getattr(error, "strerror", "") or error).split()) or type(error).__name__
    )
