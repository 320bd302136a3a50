"""The talk's teacher: 3 × 3 convolutions with pooling, then a hidden layer."""

from dataclasses import dataclass
from typing import Any

from kd._startup import lazy
from kd._torch import nn, torch
from kd.errors import UserError, shown
from kd.fields import count, setting
from kd.models.base import Model, Task, dropout_share, learning_rate

network = lazy("kd.models.network")


@dataclass
class CNN(Model):
    """Convolutions with pooling, one hidden layer, logits."""

    hidden: int = count(32, most=100_000)
    dropout: float = dropout_share(0.1)
    lr: float = learning_rate(5e-3)
    channels: list[int] = setting(
        [8, 16],
        "one to four whole numbers from 1 to 10000, as in [8,16]",
        lambda v: 1 <= len(v) <= 4 and all(1 <= c <= 10_000 for c in v),
    )

    @property
    def has_maps(self) -> bool:
        """See :attr:`Model.has_maps`."""
        return True

    def build(self, task: Task, seed: int) -> Any:
        """See :meth:`Model.build`."""
        layers: list[nn.Module] = []
        inputs, height, width = task.shape
        for outputs in self.channels:
            # ReLU and maximum commute: after the pooling, ReLU has a quarter of the work.
            convolution = nn.Conv2d(inputs, outputs, 3, padding="same")
            layers += [convolution, network.MaxPool2d(), nn.ReLU()]
            inputs, height, width = outputs, height // 2, width // 2
        if not height * width:
            size = f"{task.shape[1]} × {task.shape[2]}"
            raise UserError(
                f"model.channels={shown(self.channels)}: {len(self.channels)} blocks halve images "
                f"of {size} away; give fewer"
            )
        features = nn.Sequential(*layers, nn.Flatten())
        dropout = network.Dropout(self.dropout, seed)
        built = network.Network(
            features, inputs * height * width, self.hidden, dropout, task.classes
        )
        return built.to(memory_format=torch.channels_last)  # faster for convolutions on a CPU
