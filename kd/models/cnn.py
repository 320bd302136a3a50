"""The talk's teacher: 3 × 3 convolutions with pooling, then a hidden layer."""

from dataclasses import dataclass
from typing import Any, ClassVar

from kd._startup import lazy
from kd._torch import nn, torch
from kd.fields import setting
from kd.models.base import IMAGE_SHAPE, Model, learning_rate

network = lazy("kd.models.network")


@dataclass
class CNN(Model):
    """Convolutions with pooling, one hidden layer, logits."""

    lr: float = learning_rate(5e-3)
    channels: list[int] = setting(
        [8, 16],
        "one to four whole numbers from 1 to 10000, as in [8,16]",
        lambda v: 1 <= len(v) <= 4 and all(1 <= c <= 10_000 for c in v),
    )
    has_maps: ClassVar[bool] = True

    def build(self, seed: int) -> Any:
        """See :meth:`Model.build`."""
        layers: list[nn.Module] = []
        inputs, side = IMAGE_SHAPE[0], IMAGE_SHAPE[1]
        for outputs in self.channels:
            # ReLU and maximum commute: after the pooling, ReLU has a quarter of the work.
            convolution = nn.Conv2d(inputs, outputs, 3, padding="same")
            layers += [convolution, network.MaxPool2d(), nn.ReLU()]
            inputs, side = outputs, side // 2
        features = nn.Sequential(*layers, nn.Flatten())
        built = network.Network(features, inputs * side * side, self, seed)
        return built.to(memory_format=torch.channels_last)  # faster for convolutions on a CPU
