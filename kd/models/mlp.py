"""The talk's student: the teacher without its convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kd._startup import lazy
from kd.models.base import IMAGE_SHAPE, Model

if TYPE_CHECKING:
    from torch import nn

    from kd.models import network
else:
    nn, network = lazy("torch.nn"), lazy("kd.models.network")


@dataclass
class MLP(Model):
    """Flatten, one hidden layer, logits."""

    def build(self, seed: int) -> network.Network:
        """See :meth:`Model.build`."""
        return network.Network(nn.Sequential(nn.Flatten()), math.prod(IMAGE_SHAPE), self, seed)
