"""Data sets that come with a library."""

from typing import Any

import numpy as np

from kd.data.parts import Parts


def read_digits() -> Parts:
    """Return scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, all as training images."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = (found.images / 16).astype(np.float32)  # from 0 to 16
    labels = found.target.astype(np.int64)
    return Parts((images, labels), (images[:0], labels[:0]), tuple(map(str, range(10))))
