"""Views of training images: moved, turned and mixed on the device, one batch at a time."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kd.config.schema import Augment
from kd.seeding import generator


class Views:
    """Draws a view of every image of a batch from a seed's own generator.

    Mixing follows Zhang et al. 2018, "mixup", arXiv:1710.09412, with a share for each image that is
    uniform from 0 to ``config.mixup``.

    Args:
        config: the settings of ``data.augment``.
        seed: of the run.
        device: where the images are.
    """

    def __init__(self, config: Augment, seed: int, device: torch.device | str) -> None:
        self.config = config
        self.generator = generator(seed, "views", device)

    def __call__(self, images: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return views in the place of the images, or after them where ``extra`` are wanted.

        Args:
            images: (batch, channels, height, width) in [0, 1].
            shares: (batch, classes), of each class in an image; 0 in one without a label.

        Returns:
            the views, of the images' shape, and each class's share in them (batch, classes); with
            ``extra`` views per image, (batch · (1 + extra), …), the shares of views being 0.
        """
        config, extra = self.config, self.config.extra
        views = images.repeat(extra or 1, 1, 1, 1)
        theirs = shares.new_zeros(len(views), shares.shape[1]) if extra else shares
        if config.shift or config.rotate:
            views = self._move(views)
        if config.mixup:  # with the one before it: the order of the batch is random already
            part = (config.mixup * self._uniform(len(views), views.device)).unsqueeze(1)
            views = torch.lerp(views, views.roll(1, 0), part.view(-1, 1, 1, 1))
            theirs = torch.lerp(theirs, theirs.roll(1, 0), part)
        if extra:
            views, theirs = torch.cat([images, views]), torch.cat([shares, theirs])
        return views, theirs

    def _uniform(self, count: int, device: torch.device) -> Tensor:
        """Draw (count,) numbers from 0 to 1."""
        return torch.rand(count, generator=self.generator, device=device)

    def _move(self, images: Tensor) -> Tensor:
        """Turn and shift each image by amounts of its own; what comes in from outside is black."""
        count, _, height, width = images.shape
        turn, right, down = 2 * self._uniform(3 * count, images.device).view(3, count) - 1
        angle = math.radians(self.config.rotate) * turn
        cos, sin = angle.cos(), angle.sin()
        # Coordinates run from −1 to 1 over the image.
        right, down = 2 * self.config.shift / width * right, 2 * self.config.shift / height * down
        rows = [torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
