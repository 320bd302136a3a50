"""A data set as its source gives it: training and test images with labels, and class names."""

from typing import NamedTuple

import numpy as np

# images (n, height, width) or (n, height, width, channels), uint8, or float32 in [0, 1];
# labels (n,), whole numbers
Part = tuple[np.ndarray, np.ndarray]


class Parts(NamedTuple):
    """All images of a data set."""

    training: Part
    test: Part  # may be empty where the split is pooled
    names: tuple[str, ...] | None = None  # of the classes
