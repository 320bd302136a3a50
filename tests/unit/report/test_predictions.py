"""predictions.npz: no file makes the reader take more than its directory claims."""

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from kd.errors import UserError
from kd.report.predictions import read_predictions

IMAGES, HIDDEN = 100, 64 * 2**20


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def parts() -> dict[str, bytes]:
    arrays = {
        "logits": np.zeros((IMAGES, 10), np.float32),
        "labels": np.zeros(IMAGES, np.int64),
        "indices": np.arange(IMAGES),
    }
    return {f"{name}.npy": npy(array) for name, array in arrays.items()}


def pack(path: Path, parts: dict[str, bytes], hidden: int) -> None:
    """Write the parts, with zeros behind the logits of which the zip's directory says nothing."""
    file, claimed = io.BytesIO(), len(parts["logits.npy"])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content + bytes(hidden if name == "logits.npy" else 0))
    real = struct.pack("<I", claimed + hidden)
    path.write_bytes(file.getvalue().replace(real, struct.pack("<I", claimed)))


def test_a_directory_that_lies_does_not_fill_the_memory(tmp_path, parts):
    pack(tmp_path / "predictions.npz", parts, HIDDEN)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="cannot be used"):
            read_predictions(tmp_path / "predictions.npz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < HIDDEN / 8


def test_an_honest_file_is_read(tmp_path, parts):
    pack(tmp_path / "predictions.npz", parts, 0)
    found = read_predictions(tmp_path / "predictions.npz")
    assert found.logits.shape == (IMAGES, 10)
    assert found.indices.tolist() == list(range(IMAGES))
