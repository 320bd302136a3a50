"""The talk's student: the teacher without its convolutions."""

import math
from dataclasses import dataclass
from typing import Any

from kd._startup import lazy
from kd._torch import nn
from kd.models.base import IMAGE_SHAPE, Model

network = lazy("kd.models.network")


@dataclass
class MLP(Model):
    """Flatten, one hidden layer, logits."""

    def build(self, seed: int) -> Any:
        """See :meth:`Model.build`."""
        return network.Network(nn.Sequential(nn.Flatten()), math.prod(IMAGE_SHAPE), self, seed)
