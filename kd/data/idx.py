"""IDX, the format of MNIST's files: read no further than the file's own size, written as MNIST is.

A file is a header (a magic number and the length of each dimension, four bytes each, the most
significant first) and then the bytes themselves.
"""

import hashlib
import math
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from kd.errors import UserError

IMAGES, LABELS = "{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"
PARTS = ("train", "t10k")
NAMES = [name.format(part) for part in PARTS for name in (IMAGES, LABELS)]

Part = tuple[np.ndarray, np.ndarray]  # images (samples, height, width), labels (samples,)


def read_parts(folder: Path, sha256: Mapping[str, str] | None = None) -> list[Part]:
    """Read the four files of a data set like MNIST.

    Args:
        folder: that holds ``train-images-idx3-ubyte`` and so on.
        sha256: what each file's must be, by its name; None takes any.

    Returns:
        the training images and the test images, each with their labels, as bytes.

    Raises:
        UserError: one of them is missing, cannot be read or is not what it should be.
    """

    def read(name: str, dimensions: int) -> np.ndarray:
        return read_idx(folder / name, dimensions, (sha256 or {}).get(name))

    return [(read(IMAGES.format(part), 3), read(LABELS.format(part), 1)) for part in PARTS]


def read_idx(path: Path, dimensions: int, sha256: str | None = None) -> np.ndarray:
    """Read a file once: what is hashed is what is returned.

    Args:
        path: of the file.
        dimensions: how many it must have.
        sha256: what the file's must be; None takes any.

    Raises:
        UserError: the file cannot be read, its header does not fit its size, or its sha256 differs.
    """
    try:
        with open_plain(path) as file:
            header = file.read(4 * (1 + dimensions))
            shape = _shape(header, dimensions, os.fstat(file.fileno()).st_size)
            content = file.read(math.prod(shape))
        if sha256 is not None and hashlib.sha256(header + content).hexdigest() != sha256:
            raise ValueError("is truncated or altered (sha256 does not match)")
        return np.frombuffer(content, np.uint8).reshape(shape)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path}: is too large for this machine's memory") from error
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _shape(header: bytes, dimensions: int, size: int) -> list[int]:
    """Return the lengths in the header, if the file has as many bytes as they ask for."""
    if len(header) < 4 * (1 + dimensions):
        raise ValueError(f"is truncated: {size} bytes are not even a header")
    magic, *shape = struct.unpack(f">{1 + dimensions}I", header)
    if magic != 0x800 + dimensions:
        raise ValueError(f"is not an IDX file of bytes in {dimensions} dimension(s): bad header")
    expected, there = math.prod(shape), size - len(header)
    if there != expected:
        kind = "truncated" if there < expected else "too long"
        lengths = " × ".join(map(str, shape))
        raise ValueError(f"is {kind}: its header says {lengths} bytes, {there} are there")
    return shape


def open_plain(path: Path) -> BinaryIO:
    """Open a file to read its bytes; a folder, a pipe or a device in its place is a ValueError."""
    if path.exists() and not path.is_file():
        raise ValueError("is not a plain file")
    return path.open("rb")


def write_idx(path: Path, content: np.ndarray) -> None:
    """Write an array of whole numbers from 0 to 255 as an IDX file."""
    header = struct.pack(f">{1 + content.ndim}I", 0x800 + content.ndim, *content.shape)
    path.write_bytes(header + content.astype(np.uint8).tobytes())
