"""The splits of a data set, handed out a batch at a time from memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from kd.config.schema import Data
from kd.data.pool import Pool, fetch, fingerprint_of, load_pool, split_indices
from kd.data.views import Views
from kd.seeding import generator

EVAL_BATCH = 500

# images (batch, 1, 28, 28) in [0, 1], labels (batch,), indices into the pool (batch,); of views the
# labels are shares (batch, classes), 0 for what has none, and the indices those of labelled images
Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(eq=False)
class Batches:
    """The batches of one split: an iterable that indexes the pool, in a new order every epoch.

    Args:
        pool: the images.
        indices: (samples,) of the split, into the pool.
        batch_size: of every batch; the last one may be smaller.
        order: draws the order of each epoch; None keeps that of ``indices``.
        views: draws views of the images; None gives the images themselves.
        limit: most batches of an epoch; None gives all.
    """

    pool: Pool
    indices: Tensor
    batch_size: int
    order: torch.Generator | None = None
    views: Views | None = None
    limit: int | None = None

    @property
    def samples(self) -> int:
        """How many an epoch has."""
        most = len(self.indices) if self.limit is None else self.limit * self.batch_size
        return min(len(self.indices), most)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return -(-self.samples // self.batch_size)

    def generators(self) -> list[torch.Generator]:
        """Return what draws random numbers: the order, and the views."""
        return [*filter(None, (self.order, self.views and self.views.generator))]

    def epoch(self) -> Tensor:
        """Return the indices (samples,) in the order of the next epoch."""
        if self.order is None:
            return self.indices[: self.samples]
        # The order is drawn on the CPU, so that it is the same on every device.
        shuffled = torch.randperm(len(self.indices), generator=self.order)[: self.samples]
        return self.indices[shuffled.to(self.indices.device)]

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of one epoch."""
        for chosen in self.epoch().split(self.batch_size):
            yield *self.take(chosen), chosen

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels of these (batch,) indices, or views of them."""
        images, labels = self.pool.take(indices)
        return self.views(images, labels) if self.views else (images, labels)


class MNISTDataModule(LightningDataModule):
    """MNIST, or a data set of its shape, split into training, validation and test images.

    Args:
        config: the settings of ``conf/data``.
        seed: of the run; draws the order of the training batches, while ``config.seed`` draws the
            split.
        device: where the images are held.
        limit: most batches of training and of validation per epoch; None gives all.
    """

    # From `setup` on; the indices by the name of their part.
    pool: Pool
    indices: dict[str, Tensor]
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

    def prepare_data(self) -> None:
        """Get the files that are missing, as ``data.source`` says how."""
        if not self.loaded:
            fetch(self.config)

    def setup(self, stage: str | None = None) -> None:
        """Load the images and split them; a second call changes nothing."""
        if self.loaded:
            return
        config = self.config
        self.pool = load_pool(config.dataset, config.dir, config.source, self.device)
        split = split_indices(self.pool.labels.cpu().numpy(), self.pool.train_count, config)
        self.fingerprint = fingerprint_of(self.pool, split)
        self.indices = {part: torch.from_numpy(split[part]).to(self.device) for part in split}
        self.loaded = True

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
        indices, size = self.indices["train"], config.batch_size
        return Batches(self.pool, indices, size, order, views, self.limit)

    def val_dataloader(self) -> Batches:
        """Return the validation images, in their own order."""
        return Batches(self.pool, self.indices["val"], EVAL_BATCH, limit=self.limit)

    def predict_dataloader(self) -> Batches:
        """Return the test images, in their own order."""
        return Batches(self.pool, self.indices["test"], EVAL_BATCH)
