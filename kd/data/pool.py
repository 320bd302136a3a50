"""All images of a data set in memory: read from its files, and split."""

import dataclasses
import functools
import hashlib
from collections.abc import Hashable
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets
from sklearn.model_selection import train_test_split
from torch import Tensor

from kd.config.schema import Data
from kd.data import mnist_files as mnist
from kd.data.idx import Part, read_parts
from kd.errors import UserError
from kd.models.base import CLASSES, IMAGE_SHAPE

# Their files are named and made as MNIST's. torchvision's own reader would prefer a file
# ``processed/*.pt``, whatever that holds.
LIKE_MNIST = ("MNIST", "FashionMNIST", "KMNIST")

# The settings that decide which images a split has in which part.
DECIDING = ("dataset", "dir", "source", "split", "val_size", "test_size", "seed")


@dataclass(frozen=True)
class Pool:
    """All images of a data set on one device: its training images first, then its test images."""

    images: Tensor  # (samples, 1, 28, 28), float32 in [0, 1]
    labels: Tensor  # (samples,), int64
    train_count: int
    digest: str

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of these (batch,) indices."""
        # index_select copies whole images: a third of the time that images[indices] takes
        return self.images.index_select(0, indices), self.labels[indices]


def fetch(config: Data) -> None:
    """Get a data set's files that are missing, as ``data.source`` says how.

    Raises:
        UserError: they cannot be had.
    """
    root = Path(config.dir)
    if config.source == "verified":
        if config.dataset != "MNIST":
            raise UserError(
                f"data.source=verified: knows MNIST alone; for {config.dataset} give "
                "data.source=torchvision or data.source=folder"
            )
        mnist.ensure_mnist(root, None if config.files is None else Path(config.files))
    elif config.source == "torchvision" and config.dataset in LIKE_MNIST:
        mnist.ensure_downloaded(root, config.dataset)
    elif config.source == "torchvision":
        _read_torchvision(config.dataset, config.dir, download=True)


def load_pool(dataset: str, folder: str, source: str, device: torch.device) -> Pool:
    """Read a data set into memory, once for as long as its files stay as they are.

    Args:
        dataset: a class name in ``torchvision.datasets`` with ``data`` and ``targets``.
        folder: its root.
        source: ``verified`` admits MNIST's own files alone. Nothing is downloaded.
        device: where the tensors live.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged or altered.
    """
    return _pool(dataset, folder, source, _state(dataset, folder), device)


@functools.lru_cache(maxsize=2)  # the jobs of a sweep share the images
def _pool(dataset: str, folder: str, source: str, state: Hashable, device: torch.device) -> Pool:
    read = _read(dataset, folder, source, state)
    images = read.images.to(device).float().div_(255)
    return dataclasses.replace(read, images=images, labels=read.labels.to(device))


@functools.lru_cache(maxsize=1)
def _read(dataset: str, folder: str, source: str, state: Hashable) -> Pool:
    """Read a data set whose files are in this ``state``; its images are bytes still.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged or altered.
    """
    if source == "verified" or dataset in LIKE_MNIST:
        sha256 = mnist.SHA256 if source == "verified" else None
        try:
            parts = read_parts(Path(folder, dataset, "raw"), sha256)
        except UserError as error:
            raise UserError(f"data.dir={folder}: {dataset} cannot be read: {error}") from error
    else:
        parts = _read_torchvision(dataset, folder)
    for pixels, labels in parts:
        if pixels.shape[1:] != IMAGE_SHAPE[1:] or labels.shape != pixels.shape[:1]:
            raise UserError(
                f"data.dir={folder}: {dataset} has {len(labels)} labels for images of shape "
                f"{pixels.shape}; the networks here take one 28 × 28 image a label"
            )
    pixels, labels = map(np.concatenate, zip(*parts, strict=True))
    labels = labels.astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < CLASSES:
        raise UserError(
            f"data.dir={folder}: {dataset} has labels from {labels.min()} to {labels.max()}; the "
            f"networks here know 0 to {CLASSES - 1}"
        )
    images = torch.from_numpy(pixels).unsqueeze(1)
    return Pool(images, torch.from_numpy(labels), len(parts[0][1]), digest(pixels, labels))


def _read_torchvision(dataset: str, folder: str, download: bool = False) -> list[Part]:
    """Read images and labels, of training and of test, by torchvision's own class."""
    cls = getattr(torchvision.datasets, dataset, None)
    if cls is None:
        raise UserError(f"data.dataset={dataset}: torchvision.datasets has no such class")
    try:
        parts = [cls(folder, train=train, download=download) for train in (True, False)]
        as_arrays = [map(torch.as_tensor, (part.data, part.targets)) for part in parts]
        return [(images.numpy(), labels.numpy()) for images, labels in as_arrays]
    except Exception as error:  # each class has its own ways to fail
        reason = " ".join(str(error).split()) or "damaged files"
        raise UserError(f"data.dir={folder}: {dataset} cannot be read: {reason}") from error


def _state(dataset: str, folder: str) -> Hashable:
    """Tell whether the files of a data set were changed: by size and times of each."""
    root = Path(folder, dataset)

    def stat(name: str) -> tuple[int, ...]:
        try:
            found = (root / name).stat()
        except OSError:
            return ()
        # an old modification time can be put back, that of the last change cannot
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    # glob passes over what cannot be looked into
    return tuple((name, stat(name)) for name in sorted(glob("*/*", root_dir=root)))


def split_indices(labels: np.ndarray, train_count: int, config: Data) -> dict[str, np.ndarray]:
    """Draw the stratified split, from ``data.seed`` alone.

    ``official`` keeps the data set's own test images and takes ``val_size`` of its training images
    for validation; ``pooled`` draws ``test_size`` and ``val_size`` from all images (the talk).

    Args:
        labels: (samples,), of the data set's training images first, then of its test images.
        train_count: how many of them are training images.
        config: the settings of ``conf/data``.

    Returns:
        ``train``, ``val`` and ``test``: disjoint, sorted indices into ``labels``.

    Raises:
        UserError: the sizes leave no image, or too few for one of each class.
    """

    def take(candidates: np.ndarray, key: str) -> list[np.ndarray]:
        size, strata = getattr(config, key), labels[candidates]
        try:
            parts = train_test_split(
                candidates, test_size=size, random_state=config.seed, stratify=strata
            )
        except ValueError as error:
            raise UserError(
                f"data.{key}={size}: cannot be taken from {len(candidates)} images: {error}"
            ) from error
        return [np.sort(part) for part in parts]

    everything = np.arange(len(labels))
    if config.split == "official":
        rest, test = everything[:train_count], everything[train_count:]
    else:
        rest, test = take(everything, "test_size")
    train, val = take(rest, "val_size")
    return {"train": train, "val": val, "test": test}


_fingerprints: dict[Hashable, str | None] = {}  # by the files' state and the settings that decide


def fingerprint(config: Data) -> str | None:
    """Return what tells the data split of a run with these settings from any other.

    It costs a look at the files' times where they are as they were at the last call.

    Returns:
        the ``fingerprint`` of :class:`MNISTDataModule`; None where the images are not at hand, for
        nothing is downloaded.

    Raises:
        UserError: the images are at hand and damaged, or the split's sizes do not suit them.
    """
    state = _state(config.dataset, config.dir)
    key = (state, *(getattr(config, name) for name in DECIDING))
    if key not in _fingerprints:
        try:
            pool = _read(config.dataset, config.dir, config.source, state)
        except UserError:
            if state and config.source != "verified":
                raise  # damaged; verified ones are MNIST's, or fetched again
            return None
        split = split_indices(pool.labels.numpy(), pool.train_count, config)
        _fingerprints[key] = fingerprint_of(pool, split)
    return _fingerprints[key]


def fingerprint_of(pool: Pool, split: dict[str, np.ndarray]) -> str:
    """Return the fingerprint of a split: from the pool's digest and the indices of each part."""
    return digest(np.frombuffer(pool.digest.encode(), np.uint8), *split.values())[:16]


def digest(*arrays: np.ndarray) -> str:
    """Return the sha256 of the arrays' bytes, in hexadecimal."""
    summed = hashlib.sha256()
    for array in arrays:
        summed.update(np.ascontiguousarray(array).data)
    return summed.hexdigest()
