"""All images of a data set in memory: read from its files, and split.

torch is imported when the images are first read.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd._startup import importing
from kd._torch import Tensor, torch
from kd.config.schema import Data
from kd.data import remembered
from kd.data.bank import SHIFTS, Bank, make_bank, with_margin
from kd.data.mapped import Made, made_once
from kd.data.sources import Place, Sent, bytes_of, read, received, state, where_of
from kd.errors import OutOfMemory, UserError
from kd.memory import available_bytes
from kd.models.base import MNIST, Task

# The settings that decide which images a split has in which part.
SPLITTING = ("split", "val_size", "test_size", "seed")
DECIDING = (*Place._fields, *SPLITTING)

# Images that take no more as float32 are kept so; others become float batch by batch.
MOST_FLOAT_BYTES = 2**29


@dataclass(frozen=True)
class Pool:
    """All images of a data set on one device: its training images first, then its test images.

    Its samples are the images; where there is a bank, also its views of them.
    """

    images: Tensor  # (images, channels, height, width), float32 in [0, 1], or uint8 up to 255
    labels: Tensor  # (samples,), int64
    train_count: int
    digest: str
    names: tuple[str, ...]  # of the classes
    bank: Bank | None = None

    @property
    def task(self) -> Task:
        """What a network for these images is made for."""
        channels, height, width = self.images.shape[1:]
        return Task((channels, height, width), len(self.names))

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images, float32 in [0, 1], and labels of these (batch,) samples."""
        # index_select copies whole images: a third of the time that images[indices] takes
        bank = self.bank
        images = bank.take(indices) if bank else self.images.index_select(0, indices)
        return as_float(images), self.labels[indices]

    def with_views(self, train: Tensor, most: int) -> Pool:
        """Add the views of the training images, each with its image's label.

        Args:
            train: (training images,), which these are.
            most: pixels that they are shifted at most, as :func:`load_pool` was told.
        """
        bank = make_bank(self.images, train, most)
        told = digest(
            np.frombuffer(f"{self.digest} {most}".encode(), np.uint8), train.cpu().numpy()
        )
        return dataclasses.replace(self, labels=self.labels[bank.images], digest=told, bank=bank)


def as_float(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1]."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def load_pool(config: Data, device: torch.device) -> Pool:
    """Read a data set into memory, once for as long as its files stay as they are.

    Args:
        config: the settings of ``conf/data``. Nothing is downloaded.
        device: where the tensors live.

    Raises:
        UserError: there is no such data set, its files are missing, damaged or altered, or it does
            not fit in the memory that is free.
    """
    return _pool(Place.of(config), state(config), device, SHIFTS[config.views])


def load_split(config: Data, device: torch.device) -> tuple[Pool, dict[str, np.ndarray], str]:
    """Read a data set and split it: the pool, the indices of each part, and their fingerprint.

    Raises:
        UserError: see :func:`load_pool` and :func:`split_indices`.
    """
    key = _key(config)
    pool = load_pool(config, device)
    split = _split(pool, config)
    _fingerprints[key] = told = fingerprint_of(pool, split)
    return pool, split, told


def send(
    configs: Iterable[Data], sender: Callable[[str, Any], Callable[[], Any]]
) -> dict[Place, Sent]:
    """Send the images of these settings to tasks, for :data:`kd.data.sources.received`.

    Args:
        configs: the settings of ``conf/data``.
        sender: sends something by a name, and returns what fetches it elsewhere.
    """
    found = {}
    for place, config in {Place.of(config): config for config in configs}.items():
        pool = _read(place, state(config))
        found[place] = Sent(state(config), sender(pool.digest, pool))
    return found


def task_of(config: Data) -> Task:
    """Return what a network for a data set is made for; see :func:`load_pool`."""
    return _read(Place.of(config), state(config)).task


@functools.lru_cache(maxsize=2)  # the jobs of a sweep share the images
def _pool(place: Place, state: Hashable, device: torch.device, margin: int) -> Pool:
    if device.type != "cpu":
        return _as_used(place, state, device, margin)
    key = ["images", place, state, margin]
    return _unpacked(made_once(key, lambda: _packed(_as_used(place, state, device, margin))))


def _as_used(place: Place, state: Hashable, device: torch.device, margin: int) -> Pool:
    found = _read(place, state)
    images = found.images.to(device)
    if 4 * images.numel() <= MOST_FLOAT_BYTES:
        images = as_float(images)
    if margin:
        images = with_margin(images, margin)
    return dataclasses.replace(found, images=images, labels=found.labels.to(device))


def _packed(pool: Pool) -> Made:
    """Turn a pool into what can be shared: its images are the whole memory that they lie in."""
    images = pool.images
    values = images.untyped_storage().nbytes() // images.element_size()
    layout = images.shape, images.stride(), images.storage_offset()
    tensors = {"images": images.as_strided((values,), (1,), 0), "labels": pool.labels}
    return Made(tensors, [layout, pool.train_count, pool.digest, pool.names])


def _unpacked(made: Made) -> Pool:
    (shape, strides, offset), train_count, told, names = made.told
    memory = made.tensors["images"]
    images = memory.as_strided(shape, strides, memory.storage_offset() + offset)
    return Pool(images, made.tensors["labels"], train_count, told, tuple(names))


@functools.lru_cache(maxsize=2)
def _read(place: Place, state: Hashable) -> Pool:
    """Read a data set whose files are in this ``state``; its images are as they were stored.

    Raises:
        UserError: there is no such data set, or its files are missing, damaged or altered.
    """
    if place in received:
        return received[place].pool()
    config = place.config()
    where = where_of(config)
    # while they are read, there are those of each part and all of them
    needed, free = 2 * bytes_of(config), available_bytes()
    if free is not None and needed > free:
        raise OutOfMemory(
            f"{where} is too large: reading the images takes about {needed / 2**20:,.0f} MB, and "
            f"{free / 2**20:,.0f} MB are free; give fewer or smaller images"
        )
    parts = read(config)
    pairs = parts.training, parts.test
    for pixels, labels in pairs:
        if pixels.shape[1:] != parts.training[0].shape[1:] or labels.shape != pixels.shape[:1]:
            raise UserError(
                f"{where} has {len(labels)} labels for images of shape {pixels.shape}; images "
                "are of one size, with a label each"
            )
    pixels, labels = map(np.concatenate, zip(*pairs, strict=True))
    labels = labels.astype(np.int64)
    if not len(parts.training[1]) or min(pixels.shape) == 0:
        raise UserError(f"{where} holds no images to train on")
    names = parts.names or tuple(map(str, range(labels.max() + 1)))
    if not 0 <= labels.min() <= labels.max() < len(names):
        raise UserError(
            f"{where} has labels from {labels.min()} to {labels.max()}, for "
            f"{len(names)} classes from 0 to {len(names) - 1}"
        )
    if len(names) < 2:
        raise UserError(f"{where} has one class only; there is nothing to tell apart")
    images = torch.from_numpy(pixels)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    found = Pool(images, torch.from_numpy(labels), len(parts.training[1]), "", names)
    told = digest(pixels, labels)
    if (found.task, names) != (MNIST, tuple("0123456789")):  # whose is as it always was
        told = digest(np.frombuffer(repr((told, found.task, names)).encode(), np.uint8))
    return dataclasses.replace(found, digest=told)


def _split(pool: Pool, config: Data) -> dict[str, np.ndarray]:
    """Split a pool, or take the split that another task of this machine has drawn."""

    def make() -> Made:
        split = split_indices(pool.labels.cpu().numpy(), pool.train_count, config)
        return Made({part: torch.from_numpy(indices) for part, indices in split.items()})

    settings = [getattr(config, name) for name in SPLITTING]
    found = made_once(["split", pool.digest, pool.train_count, *settings], make).tensors
    return {part: found[part].numpy() for part in ("train", "val", "test")}


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

    from sklearn.model_selection import train_test_split

    def take(candidates: np.ndarray, key: str) -> list[np.ndarray]:
        size, strata = getattr(config, key), labels[candidates]
        try:
            parts = train_test_split(
                candidates, test_size=size, random_state=config.seed, stratify=strata
            )
        except ValueError as error:
            raise UserError(
                f"data.{key}={size}: cannot be taken from {len(candidates)} images of "
                f"{len(np.unique(strata))} classes, of which each needs its share on either side"
            ) from error
        return [np.sort(part) for part in parts]

    everything = np.arange(len(labels))
    if config.split == "official" and train_count == len(labels):
        raise UserError(
            "data.split=official: the data set has no test images of its own; give "
            "data.split=pooled"
        )
    if config.split == "official":
        rest, test = everything[:train_count], everything[train_count:]
    else:
        rest, test = take(everything, "test_size")
    train, val = take(rest, "val_size")
    return {"train": train, "val": val, "test": test}


_fingerprints: dict[Hashable, str] = {}  # by the files' state and the settings that decide


def _key(config: Data) -> tuple[Hashable, ...]:
    return (state(config), *(str(getattr(config, name)) for name in DECIDING))


def fingerprint(config: Data, study: Path | None = None) -> str | None:
    """Return what tells the data split of a run with these settings from any other.

    It costs a look at the files' times where they are as they were at the last call, and their
    sha256 where the study remembers it.

    Args:
        config: the settings of ``conf/data``.
        study: the folder of the run's study.

    Returns:
        the ``fingerprint`` of :class:`ImageDataModule`; None where the images are not at hand, for
        nothing is downloaded.

    Raises:
        UserError: the images are at hand and damaged, or the split's sizes do not suit them.
    """
    key = _key(config)
    if key not in _fingerprints:
        found = study and remembered.read(study).get(remembered.name_of(config, key) or "")
        if not found:
            try:
                with importing():
                    pool = _read(Place.of(config), key[0])
            except UserError:
                if key[0] and config.source != "verified":
                    raise  # damaged; verified ones are MNIST's, or fetched again
                return None
            found = fingerprint_of(pool, _split(pool, config))
        _fingerprints[key] = found
    return _fingerprints[key]


def remember(configs: Iterable[Data], study: Path) -> None:
    """Keep the fingerprints that are known of these settings, for the study's next commands."""
    found = {}
    for key, config in {_key(config): config for config in configs}.items():
        if key in _fingerprints and (name := remembered.name_of(config, key)):
            found[name] = _fingerprints[key]
    remembered.add(study, found)


def fingerprint_of(pool: Pool, split: dict[str, np.ndarray]) -> str:
    """Return the fingerprint of a split: from the pool's digest and the indices of each part."""
    return digest(np.frombuffer(pool.digest.encode(), np.uint8), *split.values())[:16]


def digest(*arrays: np.ndarray) -> str:
    """Return the sha256 of the arrays' bytes, in hexadecimal."""
    summed = hashlib.sha256()
    for array in arrays:
        summed.update(np.ascontiguousarray(array).data)
    return summed.hexdigest()
