"""MNIST's splits, held in memory once and handed out a batch at a time."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision.datasets
from pytorch_lightning import LightningDataModule
from sklearn.model_selection import train_test_split
from torch import Tensor

from kd.augment import Views
from kd.config import Data, UserError
from kd.mnist import ensure_mnist
from kd.seeding import generator

EVAL_BATCH = 500

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


@functools.lru_cache(maxsize=2)  # the jobs of a sweep share the images
def load_pool(dataset: str, folder: str, source: str, device: torch.device) -> Pool:
    """Read a data set of torchvision's into memory.

    Args:
        dataset: a class name in ``torchvision.datasets`` with ``data`` and ``targets``.
        folder: its root.
        source: ``torchvision`` lets torchvision download what is missing.
        device: where the tensors live.

    Raises:
        UserError: torchvision has no such data set, or its files are missing or damaged.
    """
    cls = getattr(torchvision.datasets, dataset, None)
    if cls is None:
        raise UserError(f"data.dataset={dataset}: torchvision.datasets has no such class")
    try:
        parts = [cls(folder, train=train, download=source == "torchvision") for train in (1, 0)]
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError, TypeError) as error:
        reason = " ".join(str(error).split()) or "damaged files"
        raise UserError(f"data.dir={folder}: {dataset} cannot be read: {reason}") from error
    pixels = torch.cat([torch.as_tensor(part.data) for part in parts])
    labels = torch.cat([torch.as_tensor(part.targets) for part in parts]).long()
    if pixels.shape[1:] != (28, 28) or labels.shape != pixels.shape[:1]:
        raise UserError(
            f"data.dir={folder}: {dataset} has {len(labels)} labels for images of shape "
            f"{tuple(pixels.shape)}; the networks here take one 28 × 28 image a label"
        )
    return Pool(
        images=pixels.unsqueeze(1).to(device).float().div_(255),
        labels=labels.to(device),
        train_count=len(parts[0].targets),
        digest=digest(pixels.numpy(), labels.numpy()),
    )


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
        """Get and verify MNIST's files where ``data.source=verified``."""
        if self.config.source == "verified" and self.pool is None:
            if self.config.dataset != "MNIST":
                raise UserError(
                    f"data.source=verified: knows MNIST alone; for {self.config.dataset} give "
                    "data.source=torchvision or data.source=folder"
                )
            files = Path(self.config.files) if self.config.files else None
            ensure_mnist(Path(self.config.dir), files)

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call changes nothing."""
        if self.pool is not None:
            return
        self.pool = load_pool(self.config.dataset, self.config.dir, self.config.source, self.device)
        split = split_indices(self.pool.labels.cpu().numpy(), self.pool.train_count, self.config)
        parts = [np.frombuffer(self.pool.digest.encode(), np.uint8), *split.values()]
        self.fingerprint = digest(*parts)[:16]
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
