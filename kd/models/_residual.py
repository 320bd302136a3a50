"""The layers of ``resnet8``."""

import torch.nn.functional as F
from torch import Tensor, nn

from kd.outputs import Outputs


def convolve(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    """Build a convolution with batch norm, which has the bias."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 × 1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = convolve(inputs, outputs, stride), convolve(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolve(inputs, outputs, stride, size=1)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, inputs, height, width) → (batch, outputs, height / stride, width / stride)."""
        return F.relu(self.second(F.relu(self.first(maps))) + self.shortcut(maps))


class ResNet(nn.Module):
    """A convolution, three blocks, the mean over the image, logits."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.stem = convolve(channels, width)
        self.blocks = nn.ModuleList(
            [Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2)]
        )
        self.output = nn.Linear(4 * width, classes)

    def see(self, images: Tensor) -> Outputs:
        """(batch, channels, height, width) in [0, 1] → logits, means and maps of the blocks."""
        features, maps = F.relu(self.stem(images)), []
        for block in self.blocks:
            features = block(features)
            maps.append(features)
        hidden = features.mean((2, 3))
        return Outputs(self.output(hidden), hidden, tuple(maps))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return self.see(images).logits
