"""A bank of views: training images shifted by whole pixels, every view with a number of its own.

So a teacher's outputs for all of them can be computed once. What comes in from outside is black.
"""

from __future__ import annotations

from dataclasses import dataclass

from kd._torch import Tensor, torch

SHIFTS = {"none": 0, "shift1": 1, "shift2": 2}  # pixels that an image is moved at most, either way


def with_margin(images: Tensor, margin: int) -> Tensor:
    """Lay images out so that a shifted one is a window of the memory that begins elsewhere.

    Black pixels follow each row, and black rows each channel: they are the margin of what comes
    before them and of what comes after.

    Args:
        images: (count, channels, height, width).
        margin: how many pixels they may be shifted, at least 1.

    Returns:
        the images, a view of that memory.
    """
    count, channels, height, width = images.shape
    of_row = width + margin
    of_channel = of_row * (height + margin)
    before = margin * of_row + margin
    memory = images.new_zeros(before + count * channels * of_channel)
    strides = channels * of_channel, of_channel, of_row, 1
    return memory.as_strided(images.shape, strides, before).copy_(images)


@dataclass(frozen=True)
class Bank:
    """The samples of a pool: each image by itself, then all other views of the training images.

    The views of one shift have their numbers side by side.
    """

    strips: Tensor  # (places, values): what follows each place of the memory, an image in it
    shape: tuple[int, ...]  # of an image
    strides: tuple[int, ...]  # of it in its strip
    places: Tensor  # (samples,), where each begins
    images: Tensor  # (samples,), which image each is a view of
    ranks: Tensor  # (images,), the place of each among the training images; -1 of the others
    training: int  # how many of these there are
    views: int  # how many each of them has, itself among them

    def take(self, samples: Tensor) -> Tensor:
        """(batch,) samples → (batch, channels, height, width), as they are stored."""
        # Strips without gaps are copied in half the time that the windows in them take.
        found = self.strips.index_select(0, self.places[samples])
        strides = found.shape[1], *self.strides
        return found.as_strided((len(found), *self.shape), strides).contiguous()

    def drawn(self, images: Tensor, views: Tensor) -> Tensor:
        """Return the samples that are these views, 0 being the image itself, of training images."""
        others = len(self.ranks) + (views - 1) * self.training + self.ranks[images]
        return torch.where(views == 0, images, others)


def make_bank(images: Tensor, train: Tensor, most: int) -> Bank:
    """Number the views of a pool's training images.

    Args:
        images: (images, channels, height, width), as :func:`with_margin` lays them out.
        train: (training images,), which these are.
        most: how many pixels they are shifted at most, within the margin.
    """
    (of_image, *strides), shape = images.stride(), images.shape[1:]
    memory = images.untyped_storage().nbytes() // images.element_size()
    length = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    strips = images.as_strided((1 + memory - length, length), (1, 1), 0)
    own = torch.arange(len(images), device=images.device)
    places = own * of_image + images.storage_offset()
    steps = [
        down * strides[1] + right
        for down in range(-most, most + 1)
        for right in range(-most, most + 1)
        if down or right
    ]
    # An image that is moved down begins in the rows above it.
    places = torch.cat([places, *(places[train] - step for step in steps)])
    sources = torch.cat([own, train.repeat(len(steps))])
    ranks = torch.full_like(own, -1)
    ranks[train] = own[: len(train)]
    layout = tuple(shape), tuple(strides)
    return Bank(strips, *layout, places, sources, ranks, len(train), 1 + len(steps))
