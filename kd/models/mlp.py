"""The talk's student: the teacher without its convolutions. Of several hidden layers: Hinton's."""

import math
from dataclasses import dataclass
from typing import Any

from kd._startup import lazy
from kd._torch import nn
from kd.fields import setting, sweepable
from kd.models.base import Model, Task, dropout_share

network = lazy("kd.models.network")


def is_width(value: Any) -> bool:
    """Whether a value can be the width of a hidden layer."""
    return type(value) is int and 1 <= value <= 100_000


@dataclass
class MLP(Model):
    """Flatten, one hidden layer or several, logits."""

    hidden: Any = sweepable(
        setting(
            32,
            "a whole number from 1 to 100000, or a list of up to 20, as in [800,800]",
            lambda v: (
                all(map(is_width, v)) and 1 <= len(v) <= 20 if type(v) is list else is_width(v)
            ),
        )
    )
    dropout: float = dropout_share(0.1)

    @property
    def widths(self) -> list[int]:
        """Of the hidden layers, from the image on."""
        return self.hidden if isinstance(self.hidden, list) else [self.hidden]

    @property
    def stacks(self) -> bool:
        """See :attr:`Model.stacks`."""
        return len(self.widths) == 1

    def build(self, task: Task, seed: int) -> Any:
        """See :meth:`Model.build`."""
        *widths, last = self.widths
        dropout = network.Dropout(self.dropout, seed)  # one for all: masks of one generator
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = math.prod(task.shape)
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU(), dropout]
            inputs = width
        return network.Network(nn.Sequential(*layers), inputs, last, dropout, task.classes)
