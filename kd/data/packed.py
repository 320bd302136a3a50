"""The arrays of an ``.npz`` file: checked before they are unpacked, and no pickle is ever read."""

import math
import zipfile
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy

CHUNK = 2**24  # bytes that are unpacked at once


class Header(NamedTuple):
    """What an array's header says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool  # whether the first index is the one that runs fastest
    start: int  # of the values, in bytes


def read_header(archive: zipfile.ZipFile, name: str) -> Header:
    """Read the header of an array, and none of its values.

    Raises:
        ValueError: the array holds Python objects, or its shape does not fit its size.
    """
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled objects, which are never read")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not dtype.itemsize or expected != member.file_size - start:
        raise ValueError(f"{name} is damaged: its shape {shape} does not match its size")
    return Header(shape, dtype, fortran, start)


def read_array(archive: zipfile.ZipFile, name: str, kept: np.dtype | None = None) -> np.ndarray:
    """Read an array, a chunk at a time: no more memory is taken than the array needs.

    A zip's directory may claim any size; what is behind the array's own is not unpacked.

    Args:
        archive: the ``.npz`` file.
        name: of the array.
        kept: the type that its values are turned to; None keeps theirs.

    Raises:
        ValueError: see :func:`read_header`; or there are fewer values than the header says.
    """
    shape, dtype, fortran, start = read_header(archive, name)
    values = np.empty(math.prod(shape), kept or dtype)
    many = max(1, CHUNK // dtype.itemsize)
    with archive.open(f"{name}.npy") as file:
        file.read(start)
        for first in range(0, len(values), many):
            part = values[first : first + many]
            content = file.read(len(part) * dtype.itemsize)
            if len(content) < len(part) * dtype.itemsize:
                raise ValueError(f"{name} is truncated")
            with np.errstate(over="ignore"):  # the caller sees infinities
                part[:] = np.frombuffer(content, dtype)
    return np.ascontiguousarray(values.reshape(shape, order="F" if fortran else "C"))
