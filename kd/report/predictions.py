"""Reading ``predictions.npz``: checked before it is unpacked, and no code in it runs."""

import hashlib
import io
import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from kd.errors import UserError
from kd.models.base import CLASSES

MOST_BYTES = 2**30  # that a file may unpack to: 20 million images
MOST_PACKED = 100  # times smaller than what it unpacks to, above a MiB of that
PARTS = {"logits": np.dtype(np.float32), "labels": np.dtype(np.int64), "indices": np.dtype("int64")}


def read_predictions(path: Path, sha256: str | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Test logits (images, 10), labels (images,), indices into the data set (images,).

    Args:
        path: of the file.
        sha256: that the file must have; None where nobody noted it.

    Raises:
        UserError: the file is missing, damaged, altered, or not of this form.
    """
    try:
        if not path.is_file():
            raise ValueError("missing")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("larger than 1 GiB")
        content = path.read_bytes()
        if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("not the file that the run wrote: its sha256 differs")
        logits, labels, indices = _unpack(content)
        _check(logits, labels, indices)
    except Exception as error:  # a damaged file raises whatever its damage leads to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: cannot be used ({reason}); train the run again with overwrite=true"
        ) from error
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(indices)


def _unpack(content: bytes) -> list[np.ndarray]:
    """The arrays of an npz, none of them larger than the file warrants."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        if sorted(member.filename for member in members) != sorted(f"{p}.npy" for p in PARTS):
            raise ValueError(f"holds other arrays than {', '.join(PARTS)}")
        whole = sum(member.file_size for member in members)
        for member in members:
            size, packed = member.file_size, member.compress_size
            if whole > MOST_BYTES or (size > 2**20 and size > MOST_PACKED * packed):
                raise ValueError(f"{member.filename} would unpack to {size:,} bytes")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is packed in an unusual way")
        arrays = []
        for name, dtype in PARTS.items():
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                arrays.append(_read_array(file, member.file_size, name, dtype))
        return arrays


def _read_array(file: IO[bytes], size: int, name: str, dtype: np.dtype) -> np.ndarray:
    """One array, once its header says the type it must have and a shape that the file has room for.

    Args:
        file: of the array.
        size: of the file in bytes.
        name: of the array.
        dtype: that it must have.
    """
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, found = read_header(file)
    if found != dtype:
        raise ValueError(f"{name} are {found}, not {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name} have shape {shape}, which does not match its size")
    flat = np.frombuffer(bytearray(file.read()), dtype)
    return np.ascontiguousarray(flat.reshape(shape, order="F" if fortran else "C"))


def _check(logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
    """Make sure that the arrays are predictions of the same images."""
    images = len(labels) if labels.ndim == 1 else 0
    shapes = logits.shape, labels.shape, indices.shape
    if not images or shapes != ((images, CLASSES), (images,), (images,)):
        raise ValueError(
            f"logits, labels and indices have the shapes {', '.join(map(str, shapes))}"
        )
    if not np.isfinite(logits).all():
        raise ValueError("logits are not all finite")
    if labels.min() < 0 or labels.max() >= CLASSES:
        raise ValueError(f"labels are not all from 0 to {CLASSES - 1}")
    if indices.min() < 0:
        raise ValueError("indices are not all 0 or more")
