"""Data sets named in Python: each is the words that name it on the command line."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kd.errors import UserError
from kd.files import data_dir, replacing


class Images(NamedTuple):
    """A data set with its split, as words of the command line."""

    words: tuple[str, ...]


def arrays(
    x: Any,
    y: Any,
    split: tuple[float, float, float] = (0.6, 0.2, 0.2),
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> Images:
    """Name images in memory; they are kept in ``data/arrays/``, so that a report finds them.

    Args:
        x: images (n, height, width) or (n, height, width, channels), uint8 or float in [0, 1]; of
            torch tensors (n, channels, height, width).
        y: (n,) class numbers.
        split: shares of training, validation and test images; they add up to 1.
        seed: of the split.
        class_names: of the classes.

    Raises:
        UserError: the shares are not above 0 or do not add up to 1, or some image has no label.
    """
    if len(split) != 3 or min(split) <= 0 or abs(sum(split) - 1) > 1e-6:
        raise UserError(f"split={split}: must be three shares above 0 that add up to 1")
    channels_first = hasattr(x, "detach") and x.ndim == 4
    images, labels = (np.asarray(_on_cpu(values)) for values in (x, y))
    images = images.transpose(0, 2, 3, 1) if channels_first else images
    if len(images) != len(labels):
        raise UserError(f"y: has {len(labels)} labels for {len(images)} images")
    content: dict[str, Any] = {"x_train": images, "y_train": labels}
    if class_names is not None:
        content["class_names"] = np.asarray(class_names, dtype=str)
    summed = hashlib.sha256()
    for name, array in content.items():
        summed.update(f"{name} {array.dtype} {array.shape}".encode())
        summed.update(np.ascontiguousarray(array).tobytes())
    path = data_dir() / "arrays" / f"{summed.hexdigest()[:16]}.npz"
    if not path.exists():
        with replacing(path) as beside, beside.open("wb") as file:
            np.savez(file, **content)
    sizes = {"test": round(split[2] * len(images)), "val": round(split[1] * len(images))}
    taken = [f"data.{part}_size={size}" for part, size in sizes.items()]
    return Images((*npz(path).words, "data.split=pooled", f"data.seed={seed}", *taken))


def _on_cpu(values: Any) -> Any:
    """Return a tensor where NumPy can read it; anything else as it is."""
    return values.detach().cpu() if hasattr(values, "detach") else values


def npz(path: Path | str, *words: str) -> Images:
    """Name the images of an ``.npz`` file of Keras's layout; ``data=npz`` of the command line.

    Args:
        path: of the file.
        words: further settings, such as ``"data.split=pooled"``.
    """
    return Images(("data=npz", f'data.file="{Path(path).absolute()}"', *words))


def torchvision(dataset: str, root: Path | str | None = None, *words: str) -> Images:
    """Name a data set by its class in ``torchvision.datasets``, downloaded where it is missing.

    Args:
        dataset: such as ``"CIFAR10"``; MNIST and FashionMNIST are verified besides.
        root: the folder for its files; None takes the project's ``data``.
        words: further settings, such as ``"data.val_size=5000"``.
    """
    source = "verified" if dataset in ("MNIST", "FashionMNIST") else "torchvision"
    place = [] if root is None else [f'data.dir="{Path(root).absolute()}"']
    return Images((f"data.dataset={dataset}", f"data.source={source}", *place, *words))
