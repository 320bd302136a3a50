"""The splits of a data set, handed out a batch at a time from memory."""

import copy
import dataclasses
import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from kd.config.schema import Config, Data
from kd.data.bank import SHIFTS
from kd.data.pool import Pool, load_split
from kd.data.sources import fetch, state
from kd.data.transfer import transfer_set
from kd.data.views import Views
from kd.models.base import Task
from kd.models.network import Centred
from kd.seeding import generator

EVAL_BATCH = 500
CHUNK = 25  # batches that Lightning hands over at a time: its own cost per step is then not felt


class Batch(NamedTuple):
    """Images with what is known of them."""

    images: Tensor  # (batch, channels, height, width), float32 in [0, 1]
    # (batch,) class numbers; or shares (batch, classes), 0 for images without a label: views are
    # shared between classes, and some images have no label.
    labels: Tensor
    indices: Tensor  # of the pool's samples: (batch,), without the views beside the images
    labelled: int  # how many images count in a mean over labels


@dataclass(eq=False)
class Batches:
    """The batches of one split: an iterable that indexes the pool, in a new order every epoch.

    Args:
        pool: the images.
        indices: (samples,) of the split, into the pool.
        batch_size: of every batch; the last one may be smaller.
        order: draws the order of each epoch; None keeps that of ``indices``.
        views: draws views of the images; None gives the images themselves.
        unlabelled: (images,), into the pool: as many of them as have a label follow these in each
            batch. An epoch passes once over the larger of the two sets, and again and again over
            the other.
        limit: most batches of an epoch; None gives all.
        shifts: draws which view of the pool's bank stands for each image; None takes the image.
    """

    pool: Pool
    indices: Tensor
    batch_size: int
    order: torch.Generator | None = None
    views: Views | None = None
    unlabelled: Tensor | None = None
    limit: int | None = None
    shifts: torch.Generator | None = None

    @property
    def samples(self) -> int:
        """How many images with a label an epoch has, repeated ones counted each time."""
        whole = len(self.indices)
        if self.unlabelled is not None:
            longest = max(len(self.indices), len(self.unlabelled))
            whole = -(-longest // self.batch_size) * self.batch_size
        return whole if self.limit is None else min(whole, self.limit * self.batch_size)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def added(self) -> int:
        """How many unlabelled images follow the labelled ones of each batch."""
        return 0 if self.unlabelled is None else self.batch_size

    def generators(self) -> list[torch.Generator]:
        """Return what draws random numbers: the order, and the views."""
        return [*filter(None, (self.order, self.views and self.views.generator, self.shifts))]

    def epoch(self) -> Tensor:
        """Return the samples of the next epoch, batch after batch, each ``added`` ones longer."""
        if self.unlabelled is None:
            return self._shifted(self._shuffled(self.indices)[: self.samples])
        parts = [self._again_and_again(these) for these in (self.indices, self.unlabelled)]
        return self._shifted(torch.stack([p.view(len(self), -1) for p in parts], dim=1).flatten())

    def _again_and_again(self, indices: Tensor) -> Tensor:
        """Return as many indices as an epoch has samples, each pass in an order of its own."""
        passes = -(-self.samples // len(indices))
        return torch.cat([self._shuffled(indices) for _ in range(passes)])[: self.samples]

    def _shuffled(self, indices: Tensor) -> Tensor:
        if self.order is None:
            return indices
        # The order is drawn on the CPU, so that it is the same on every device.
        shuffled = torch.randperm(len(indices), generator=self.order)
        return indices[shuffled.to(indices.device)]

    def _shifted(self, images: Tensor) -> Tensor:
        """Draw a view for each image, on the CPU too."""
        bank = self.pool.bank
        if bank is None or self.shifts is None:
            return images
        views = torch.randint(bank.views, images.shape, generator=self.shifts)
        return bank.drawn(images, views.to(images.device))

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        for chosen in self.epoch().split(self.batch_size + self.added):
            yield Batch(*self.take(chosen), chosen, len(chosen) - self.added)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of these (batch,) samples, or views of them."""
        images, labels = self.pool.take(indices)
        if self.views is None:
            return images, self.shares(labels)
        return self.views(images, as_shares(labels, self.pool.task.classes))

    def shares(self, labels: Tensor) -> Tensor:
        """Return labels as they are, or as shares where some images have none."""
        return labels if self.unlabelled is None else as_shares(labels, self.pool.task.classes)


class Chunks:
    """The batches of one split, up to ``CHUNK`` at a time, each made when its turn comes.

    Args:
        batches: of the split.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.generators = batches.generators

    def __len__(self) -> int:
        """Count the chunks of an epoch."""
        return -(-len(self.batches) // CHUNK)

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        """Yield the chunks of one epoch."""
        batches = iter(self.batches)
        for _ in range(len(self)):
            yield itertools.islice(batches, CHUNK)


def as_shares(labels: Tensor, classes: int) -> Tensor:
    """Turn class numbers (…,) into shares (…, classes): all of one class, or 0 without a label."""
    return F.one_hot(labels + 1, classes + 1)[..., 1:].to(torch.get_default_dtype())


class ImageDataModule(LightningDataModule):
    """MNIST, or any data set of equal-sized images: training, validation and test images.

    Args:
        config: the settings of ``conf/data``.
        seed: of the run; draws the order of the training batches, while ``config.seed`` draws the
            split.
        device: where the images are held.
        limit: most batches of training and of validation per epoch; None gives all.
    """

    # From `setup` on; the indices by the name of their part, all that is taught being `train`.
    plain: Pool  # the images alone
    pool: Pool  # and, by ``data.views``, views of those that are for training
    taught: Pool  # the same images, with the labels that are taught
    indices: dict[str, Tensor]
    unlabelled: Tensor | None
    mean: Tensor | None  # (channels, height, width), of the training images; None centres nothing
    fingerprint: str

    def __init__(
        self,
        config: Data,
        seed: int,
        device: torch.device | str = "cpu",
        limit: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.seed, self.device = config, seed, torch.device(device)
        self.limit = limit
        self.loaded = False

    @property
    def task(self) -> Task:
        """What a network for these images is made for."""
        return self.pool.task

    def prepare_data(self) -> None:
        """Get the files that are missing, as ``data.source`` says how."""
        if not self.loaded:
            fetch(self.config)

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call changes nothing."""
        if self.loaded:
            return
        self.plain, split, self.fingerprint = load_split(self.config, self.device)
        labels = self.plain.labels.cpu().numpy()
        transfer = transfer_set(labels, split["train"], self.config)

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        self.indices = {p: on_device(split[p]) for p in split} | {
            "train": on_device(transfer.labelled)
        }
        self.unlabelled = on_device(transfer.unlabelled) if len(transfer.unlabelled) else None
        self.pool, taught = self.plain, on_device(transfer.labels)
        train = on_device(split["train"])
        self.mean = self._mean(train) if self.config.centre else None
        if most := SHIFTS[self.config.views]:
            self.pool = self.plain.with_views(train, most)
        bank = self.pool.bank
        taught = taught[bank.images] if bank else taught
        self.taught = dataclasses.replace(self.pool, labels=taught)
        self.loaded = True

    def _mean(self, train: Tensor) -> Tensor:
        """Return the mean of these images; added up on the CPU, so that it is the same for all."""
        total = torch.zeros(self.plain.task.shape, dtype=torch.float64)
        for part in train.split(EVAL_BATCH):
            total += self.plain.take(part)[0].cpu().double().sum(0)
        return (total / len(train)).float().to(self.device)

    def centred(self, network: nn.Module) -> nn.Module:
        """Return a network that takes plain images and sees them as ``data.centre`` says."""
        # A network is built on the CPU, and its mean image with it: Lightning tries it there first.
        return network if self.mean is None else Centred(network, self.mean.cpu())

    def without_views(self) -> "ImageDataModule":
        """Return the same with the images alone in its pool."""
        found = copy.copy(self)
        found.pool = self.plain
        return found

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, index: int) -> Batch:
        """Return the batch as it is: the images are on the device already."""
        return batch

    def train_dataloader(self) -> Batches:
        """Return the training images, or views of them, in the seed's order."""
        return self.training(self.seed)

    def training(self, seed: int) -> Batches:
        """Return the training images, or views of them, in the order of any ``seed``."""
        config, order = self.config, generator(seed, "order")
        views = Views(config.augment, seed, self.device) if config.augment.active else None
        shifts = generator(seed, "shifts") if self.taught.bank else None
        images = self.taught, self.indices["train"], config.batch_size
        return Batches(*images, order, views, self.unlabelled, self.limit, shifts)

    def val_dataloader(self) -> Batches:
        """Return the validation images, in their own order."""
        return Batches(self.pool, self.indices["val"], EVAL_BATCH, limit=self.limit)

    def predict_dataloader(self) -> Batches:
        """Return the test images, in their own order."""
        return Batches(self.pool, self.indices["test"], EVAL_BATCH)


def epoch_of(config: Config) -> tuple[int, int] | None:
    """How many images an epoch has: with labels, and without in each batch.

    None stands for all training images, or as many batches of them as ``trainer.limit_batches``.
    """
    if config.data.train_size is None and not config.data.omit:
        return None
    limit = config.trainer.limit_batches
    key = repr((config.data, limit)), state(config.data)
    if key not in _epochs:
        data = ImageDataModule(config.data, config.seed, limit=limit)
        data.setup()
        batches = data.train_dataloader()
        _epochs[key] = batches.samples, batches.added
    return _epochs[key]


_epochs: dict[Hashable, tuple[int, int]] = {}  # by settings and state of the files
