"""Reads ``predictions.npz``: the file is checked before it is unpacked, and no code in it runs."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kd.data.packed import read_array, read_header
from kd.errors import UserError, reason

MOST_BYTES = 2**30  # the limit of an unpacked file: 20 million images
MOST_PACKED = 100  # the limit of unpacked to packed size, for arrays above one MiB
PARTS = {"logits": "float32", "labels": "int64", "indices": "int64"}


class Predictions(NamedTuple):
    """What a network answers to the test images."""

    logits: Tensor  # (images, classes)
    labels: Tensor  # (images,)
    indices: Tensor  # (images,), into the data set

    @property
    def classes(self) -> Tensor:
        """The class that the network names for every image: (images,)."""
        return self.logits.max(1).indices  # argmax gives the same and takes thirty times as long


def read_predictions(path: Path, sha256: str | None = None) -> Predictions:
    """Read a ``predictions.npz``.

    Args:
        path: the file.
        sha256: the hash that the file must have; None accepts any.

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
        arrays = _unpack(content)
        _check(*arrays)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"{path}: cannot be used ({reason(error)}); train the run again with overwrite=true"
        ) from error
    return Predictions(*map(torch.from_numpy, arrays))


def _unpack(content: bytes) -> list[np.ndarray]:
    """Unpack the arrays of an npz; refuse those that are larger than the file warrants."""
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
        return [_read(archive, name) for name in PARTS]


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Read one array if its header names the right type."""
    if (found := read_header(archive, name).dtype) != PARTS[name]:
        raise ValueError(f"{name} are {found}, not {PARTS[name]}")
    return read_array(archive, name)


def _check(logits: np.ndarray, labels: np.ndarray, indices: np.ndarray) -> None:
    """Refuse arrays that are not predictions of the same images."""
    shapes, images = (logits.shape, labels.shape, indices.shape), labels.size
    classes = logits.shape[-1] if logits.ndim == 2 else 0
    if not images or classes < 2 or shapes != ((images, classes), (images,), (images,)):
        found = ", ".join(map(str, shapes))
        raise ValueError(f"logits, labels and indices have the shapes {found}")
    if not np.isfinite(logits).all():
        raise ValueError("logits are not all finite")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels are not all from 0 to {classes - 1}")
    if indices.min() < 0:
        raise ValueError("indices are not all 0 or more")
