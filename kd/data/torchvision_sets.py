"""Data sets by their class in torchvision, such as CIFAR10 and SVHN."""

import inspect
from typing import Any

import numpy as np

from kd._torch import torch
from kd.data.mnist_files import patience
from kd.data.parts import Part, Parts
from kd.errors import UserError, reason


def read_torchvision(dataset: str, folder: str, download: bool = False) -> Parts:
    """Read images and labels, of training and of test, by torchvision's own class.

    Args:
        dataset: its name; it must hold its images in ``data``.
        folder: its root.
        download: what is missing there, within a time limit.

    Raises:
        UserError: there is no such class, or its files cannot be had or read.
    """
    import torchvision.datasets

    cls = getattr(torchvision.datasets, dataset, None)
    if not isinstance(cls, type):
        raise UserError(f"data.dataset={dataset}: torchvision.datasets has no such class")
    by_name = "split" in inspect.signature(cls).parameters
    which: list[Any] = [{"train": True}, {"train": False}]
    if by_name:
        which = [{"split": "train"}, {"split": "test"}]
    try:
        with patience():
            sets: list[Any] = [cls(folder, download=download, **words) for words in which]
        training, test = map(_part, sets)
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"data.dataset={dataset}: its class in torchvision does not hold training and test "
            f"images in memory as CIFAR10, SVHN or USPS do ({reason(error)})"
        ) from error
    except Exception as error:  # each class has its own ways to fail
        mend = "" if download else "data.source=torchvision downloads it; or "
        raise UserError(
            f"data.dir={folder}: {dataset} cannot be {'downloaded' if download else 'read'}: "
            f"{_why(error)}; {mend}put {_files_of(cls)} there"
        ) from error
    return Parts(training, test, tuple(map(str, getattr(sets[0], "classes", ()))) or None)


def _files_of(cls: Any) -> str:
    """Name the files that a class of torchvision looks for, as far as its attributes tell."""
    if hasattr(cls, "split_list"):
        files = {name: url for url, name, _ in (cls.split_list[part] for part in ("train", "test"))}
        return " and ".join(f"{name} (from {url})" for name, url in files.items())
    if hasattr(cls, "base_folder") and hasattr(cls, "url"):
        return f"the folder {cls.base_folder} (in {cls.url})"
    return "its files"


def _why(error: Exception) -> str:
    said = reason(error).replace("You can use download=True to download it", "")
    return said.rstrip(" .")


def _part(found: Any) -> Part:
    """Return images, channels last, and labels."""
    images = torch.as_tensor(found.data).numpy()
    labels = torch.as_tensor(found.targets if hasattr(found, "targets") else found.labels).numpy()
    channels_first = (
        images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3)
    )
    return (images.transpose(0, 2, 3, 1) if channels_first else images), labels.astype(np.int64)
