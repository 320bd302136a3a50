"""MNIST's splits, held in memory once and handed out a batch at a time."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torchvision.datasets
from pytorch_lightning import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor

from kd.config.schema import Data
from kd.data import mnist_files as mnist
from kd.data.idx import read_parts
from kd.data.views import Views
from kd.errors import UserError
from kd.seeding import generator

EVAL_BATCH = 500
CLASSES = 10

# Their files are named and made as MNIST's. torchvision's own reader would prefer a file
# ``processed/*.pt``, whatever that holds.
LIKE_MNIST = ("MNIST", "FashionMNIST", "KMNIST")

# The settings that decide which images a split has in which part.
DECIDING = ("dataset", "dir", "source", "split", "val_size", "test_size", "seed")

# images (batch, 1, 28, 28) in [0, 1], labels (batch,), indices into the pool (batch,); of views the
# labels are shares (batch, classes), 0 for what has none, and the indices those of labelled images
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Pool:
    """All images of a data set on one device: its training images first, then its test images."""

    images: Tensor  # (samples, 1, 28, 28), float32 in [0, 1]
    labels: Tensor  # (samples,), int64
    train_count: int
    digest: str

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of these (batch,) indices."""
        # index_select copies whole images: a third of the time that images[indices] takes
        return self.images.index_select(0, indices), self.labels[indices]


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
def _pool(dataset: str, folder: str, source: str, state: tuple, device: torch.device) -> Pool:
    images = _read(dataset, folder, source, state)
    return Pool(
        images=torch.from_numpy(images.pixels).unsqueeze(1).to(device).float().div_(255),
        labels=torch.from_numpy(images.labels).to(device),
        train_count=images.train_count,
        digest=images.digest,
    )


class Images(NamedTuple):
    """A data set as its files hold it: its training images first, then its test images."""

    pixels: np.ndarray  # (samples, 28, 28), uint8
    labels: np.ndarray  # (samples,), int64
    train_count: int
    digest: str


@functools.lru_cache(maxsize=1)
def _read(dataset: str, folder: str, source: str, state: tuple) -> Images:
    """The images of a data set whose files are in this ``state``.

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
        if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
            raise UserError(
                f"data.dir={folder}: {dataset} has {len(labels)} labels for images of shape "
                f"{pixels.shape}; the networks here take one 28 × 28 image a label"
            )
    pixels = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    if len(labels) and not 0 <= labels.min() <= labels.max() < CLASSES:
        raise UserError(
            f"data.dir={folder}: {dataset} has labels from {labels.min()} to {labels.max()}; the "
            f"networks here know 0 to {CLASSES - 1}"
        )
    return Images(pixels, labels, len(parts[0][1]), digest(pixels, labels))


def _read_torchvision(
    dataset: str, folder: str, download: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images and labels, of training and of test, by torchvision's own class."""
    cls = getattr(torchvision.datasets, dataset, None)
    if cls is None:
        raise UserError(f"data.dataset={dataset}: torchvision.datasets has no such class")
    try:
        parts = [cls(folder, train=train, download=download) for train in (True, False)]
        return [
            (torch.as_tensor(part.data).numpy(), torch.as_tensor(part.targets).numpy())
            for part in parts
        ]
    except Exception as error:  # each class has its own ways to fail
        reason = " ".join(str(error).split()) or "damaged files"
        raise UserError(f"data.dir={folder}: {dataset} cannot be read: {reason}") from error


def _state(dataset: str, folder: str) -> tuple:
    """What tells whether the files of a data set were changed: size and times of each."""
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
    """The stratified split, drawn from ``data.seed`` alone.

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

    def take(candidates: np.ndarray, key: str) -> tuple[np.ndarray, np.ndarray]:
        size = getattr(config, key)
        try:
            rest, taken = train_test_split(
                candidates,
                test_size=size,
                random_state=config.seed,
                stratify=labels[candidates],
            )
        except ValueError as error:
            raise UserError(
                f"data.{key}={size}: cannot be taken from {len(candidates)} images: {error}"
            ) from error
        return np.sort(rest), np.sort(taken)

    everything = np.arange(len(labels))
    if config.split == "official":
        rest, test = everything[:train_count], everything[train_count:]
    else:
        rest, test = take(everything, "test_size")
    train, val = take(rest, "val_size")
    return {"train": train, "val": val, "test": test}


def fingerprint(config: Data) -> str | None:
    """What tells the data split of a run with these settings from any other.

    It costs a look at the files' times where they are as they were at the last call.

    Returns:
        the ``fingerprint`` of :class:`MNISTDataModule`; None where the images are not at hand, for
        nothing is downloaded.

    Raises:
        UserError: the images are at hand and damaged, or the split's sizes do not suit them.
    """
    state = _state(config.dataset, config.dir)
    return _fingerprint(state, *(getattr(config, name) for name in DECIDING))


@functools.lru_cache(maxsize=64)
def _fingerprint(state: tuple, *values: str | int) -> str | None:
    config = Data(**dict(zip(DECIDING, values, strict=True)))
    try:
        images = _read(config.dataset, config.dir, config.source, state)
    except UserError:
        if state and config.source != "verified":
            raise  # damaged; verified ones are MNIST's, or fetched again
        return None
    split = split_indices(images.labels, images.train_count, config)
    return fingerprint_of(images.digest, split)


def fingerprint_of(pool: str, split: dict[str, np.ndarray]) -> str:
    """The fingerprint of a split: from the pool's digest and the indices of each part."""
    return digest(np.frombuffer(pool.encode(), np.uint8), *split.values())[:16]


def digest(*arrays: np.ndarray) -> str:
    """sha256 of the arrays' bytes, in hexadecimal."""
    summed = hashlib.sha256()
    for array in arrays:
        summed.update(np.ascontiguousarray(array))
    return summed.hexdigest()


class Batches:
    """The batches of one split: an iterable that indexes the pool, in a new order every epoch.

    Args:
        pool: the images.
        indices: (samples,) of the split, into the pool.
        batch_size: of every batch; the last one may be smaller.
        order: draws the order of each epoch; None keeps that of ``indices``.
        views: draws views of the images; None gives the images themselves.
    """

    def __init__(
        self,
        pool: Pool,
        indices: Tensor,
        batch_size: int,
        order: torch.Generator | None = None,
        views: Views | None = None,
    ) -> None:
        self.pool, self.indices, self.batch_size = pool, indices, batch_size
        self.order, self.views = order, views

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.indices) // self.batch_size)

    def generators(self) -> list[torch.Generator]:
        """What draws random numbers: the order, and the views."""
        return [*filter(None, (self.order, self.views and self.views.generator))]

    def epoch(self) -> Tensor:
        """The indices (samples,) in the order of the next epoch."""
        if self.order is None:
            return self.indices
        # The order is drawn on the CPU, so that it is the same on every device.
        shuffled = torch.randperm(len(self.indices), generator=self.order)
        return self.indices[shuffled.to(self.indices.device)]

    def __iter__(self) -> Iterator[Batch]:
        """One epoch."""
        for chosen in self.epoch().split(self.batch_size):
            yield *self.take(chosen), chosen

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of these (batch,) indices, or views of them."""
        images, labels = self.pool.take(indices)
        return self.views(images, labels) if self.views else (images, labels)


class MNISTDataModule(LightningDataModule):
    """MNIST, or a data set of its shape, split into training, validation and test images.

    Args:
        config: the settings of ``conf/data``.
        seed: of the run; draws the order of the training batches, while ``config.seed`` draws the
            split.
        device: where the images are held.
    """

    def __init__(self, config: Data, seed: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.pool: Pool | None = None

    def prepare_data(self) -> None:
        """Get the files that are missing, as ``data.source`` says how."""
        config, root = self.config, Path(self.config.dir)
        if config.source == "folder" or self.pool is not None:
            return
        if config.source == "verified":
            if config.dataset != "MNIST":
                raise UserError(
                    f"data.source=verified: knows MNIST alone; for {config.dataset} give "
                    "data.source=torchvision or data.source=folder"
                )
            mnist.ensure_mnist(root, None if config.files is None else Path(config.files))
        elif config.dataset in LIKE_MNIST:
            mnist.ensure_downloaded(root, config.dataset)
        else:
            _read_torchvision(config.dataset, config.dir, download=True)

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call changes nothing."""
        if self.pool is not None:
            return
        self.pool = load_pool(self.config.dataset, self.config.dir, self.config.source, self.device)
        split = split_indices(self.pool.labels.cpu().numpy(), self.pool.train_count, self.config)
        self.fingerprint = fingerprint_of(self.pool.digest, split)
        self.indices = {
            name: torch.from_numpy(part).to(self.device) for name, part in split.items()
        }

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, index: int) -> Batch:
        """The batch as it is: the images are on the device already."""
        return batch

    def train_dataloader(self) -> Batches:
        """The training images, or views of them, in the seed's order."""
        return self.training(self.seed)

    def training(self, seed: int) -> Batches:
        """The training images, or views of them, in the order of any ``seed``."""
        order, views = generator(seed, "order"), None
        if self.config.augment.active:
            views = Views(self.config.augment, seed, self.device)
        return Batches(self.pool, self.indices["train"], self.config.batch_size, order, views)

    def val_dataloader(self) -> Batches:
        """The validation images, in their own order."""
        return Batches(self.pool, self.indices["val"], EVAL_BATCH)

    def predict_dataloader(self) -> Batches:
        """The test images, in their own order."""
        return Batches(self.pool, self.indices["test"], EVAL_BATCH)
