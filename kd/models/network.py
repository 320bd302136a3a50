"""What networks are made of: features, one hidden layer, logits; and ensembles of them.

``network(images)`` gives logits; ``network.see(images)`` the representations below them as well.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.metrics import ensemble_logits
from kd.models.base import CLASSES, Model
from kd.outputs import Outputs
from kd.seeding import generator

Drawn = TypeVar("Drawn", bound=nn.Module)


class Dropout(nn.Module):
    """Inverted dropout whose masks come from the run's own generator, not from torch's global one.

    Args:
        share: of units set to 0 in training, from 0 to below 1; the others grow by 1 / (1 − share).
        seed: of the run.
    """

    def __init__(self, share: float, seed: int) -> None:
        super().__init__()
        self.share, self.seed = share, seed
        self.generator: torch.Generator | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, width) → the same, some of it 0 in training mode."""
        if not self.training or self.share == 0:
            return hidden
        return hidden * self.mask(hidden.shape, hidden.device)

    def mask(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Draw the next mask: 0 where a unit is dropped, 1 / (1 − share) elsewhere."""
        kept = torch.empty(shape, device=device)
        kept.bernoulli_(1 - self.share, generator=self.generator_on(device))
        return kept.div_(1 - self.share)

    def generator_on(self, device: torch.device) -> torch.Generator:
        """Return what draws the masks."""
        if self.generator is None or self.generator.device.type != device.type:
            self.generator = generator(self.seed, "dropout", device)
        return self.generator

    def extra_repr(self) -> str:
        """Say what ``print(network)`` shows of it."""
        return f"share={self.share}"


class MaxPool2d(nn.MaxPool2d):
    """The largest of 2 × 2 values; without a gradient to prepare, in less than half the time."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) → half of height and width, rounded down."""
        if torch.is_grad_enabled():
            return F.max_pool2d(maps, self.kernel_size)
        height, width = (side // 2 * 2 for side in maps.shape[2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


Layer = Callable[[Tensor], Tensor]


def classify(features: Tensor, dense: Layer, dropout: Layer, output: Layer) -> Outputs:
    """Apply a hidden layer with ReLU and dropout, then the output layer, of one network or a stack.

    Args:
        features: what the hidden layer takes.
        dense: the hidden layer's weights and bias.
        dropout: of its units.
        output: the weights and bias of the logits.
    """
    hidden = F.relu(dense(features))
    return Outputs(output(dropout(hidden)), hidden)


class Network(nn.Module):
    """Features, one hidden layer with ReLU and dropout, logits."""

    def __init__(self, features: nn.Sequential, width: int, config: Model, seed: int) -> None:
        super().__init__()
        self.features = features
        self.dense = nn.Linear(width, config.hidden)
        self.dropout = Dropout(config.dropout, seed)
        self.output = nn.Linear(config.hidden, CLASSES)

    def see(self, images: Tensor) -> Outputs:
        """(batch, 1, 28, 28) in [0, 1] → logits, and the representations they come from."""
        maps, features = [], images
        for layer in self.features:
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                maps.append(features)
        found = classify(features, self.dense, self.dropout, self.output)
        return found._replace(maps=tuple(maps))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""
        return self.see(images).logits


def build_model(config: Model, seed: int) -> Network:
    """Build a network: Glorot-uniform weights from the seed's own generator, biases of zero.

    Args:
        config: its settings.
        seed: of initial weights and dropout masks.
    """
    return _draw(config.build(seed), generator(seed, "weights"))


def build_regressor(width: int, wanted: int, seed: int) -> nn.Linear:
    """Build what makes a student's hidden representation as wide as its teacher's, likewise."""
    return _draw(nn.Linear(width, wanted), generator(seed, "regressor"))


def _draw(network: Drawn, weights: torch.Generator) -> Drawn:
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter, generator=weights)
        else:
            nn.init.zeros_(parameter)
    return network


class Ensemble(nn.Module):
    """Several networks as one: its logits are the log of the mean of their probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""
        return ensemble_logits(torch.stack([member(images) for member in self.members], dim=1))

    def see(self, images: Tensor) -> Outputs:
        """(batch, 1, 28, 28) in [0, 1] → logits; members' hidden representations have no mean."""
        return Outputs(self(images))


def count_parameters(network: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())
