"""The networks, by name: the talk's teacher (``cnn``) and student (``mlp``).

``network(images)`` gives logits; ``network.see(images)`` the representations below them as well.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.config.schema import CNN, MLP, Model
from kd.metrics import ensemble_logits
from kd.seeding import generator

IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10


class Seen(NamedTuple):
    """What a network makes of a batch."""

    logits: Tensor  # (batch, classes)
    hidden: Tensor | None  # (batch, width), after ReLU, before dropout; an ensemble has none
    maps: tuple[Tensor, ...] = ()  # of each block of convolutions, (batch, channels, side, side)


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
        """The next mask: 0 where a unit is dropped, 1 / (1 − share) elsewhere."""
        if self.generator is None or self.generator.device.type != device.type:
            self.generator = generator(self.seed, "dropout", device)
        kept = torch.empty(shape, device=device).bernoulli_(
            1 - self.share, generator=self.generator
        )
        return kept.div_(1 - self.share)

    def extra_repr(self) -> str:
        """What ``print(network)`` shows of it."""
        return f"share={self.share}"


class MaxPool2d(nn.MaxPool2d):
    """The largest of 2 × 2 values; without a gradient to prepare, in less than half the time."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, channels, height, width) → half of height and width, rounded down."""
        if torch.is_grad_enabled():
            return super().forward(maps)
        height, width = (side // 2 * 2 for side in maps.shape[2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


class Network(nn.Module):
    """Features, one hidden layer with ReLU and dropout, logits."""

    def __init__(self, features: nn.Sequential, width: int, config: Model, seed: int) -> None:
        super().__init__()
        self.features = features
        self.dense = nn.Linear(width, config.hidden)
        self.dropout = Dropout(config.dropout, seed)
        self.output = nn.Linear(config.hidden, CLASSES)

    def see(self, images: Tensor) -> Seen:
        """(batch, 1, 28, 28) in [0, 1] → logits, and the representations they come from."""
        maps, features = [], images
        for layer in self.features:
            features = layer(features)
            if isinstance(layer, nn.ReLU):
                maps.append(features)
        hidden = F.relu(self.dense(features))
        return Seen(self.output(self.dropout(hidden)), hidden, tuple(maps))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""
        return self.see(images).logits


def _cnn(config: CNN, seed: int) -> Network:
    layers: list[nn.Module] = []
    inputs, side = IMAGE_SHAPE[0], IMAGE_SHAPE[1]
    for outputs in config.channels:
        # ReLU and maximum commute: after the pooling, ReLU has a quarter of the work.
        layers += [nn.Conv2d(inputs, outputs, 3, padding="same"), MaxPool2d(), nn.ReLU()]
        inputs, side = outputs, side // 2
    features = nn.Sequential(*layers, nn.Flatten())
    network = Network(features, inputs * side * side, config, seed)
    return network.to(memory_format=torch.channels_last)  # the faster layout for CPU convolutions


def _mlp(config: MLP, seed: int) -> Network:
    return Network(nn.Sequential(nn.Flatten()), math.prod(IMAGE_SHAPE), config, seed)


BUILDERS = {"cnn": _cnn, "mlp": _mlp}


def build_model(config: Model, seed: int) -> Network:
    """A fresh network: Glorot-uniform weights, zero biases, drawn from the seed's own generator.

    Args:
        config: its settings; ``config.name`` chooses the network.
        seed: of initial weights and dropout masks.
    """
    return _draw(BUILDERS[config.name](config, seed), generator(seed, "weights"))


def build_regressor(width: int, wanted: int, seed: int) -> nn.Linear:
    """What makes a student's hidden representation as wide as its teacher's, drawn likewise."""
    return _draw(nn.Linear(width, wanted), generator(seed, "regressor"))


def _draw(network: nn.Module, weights: torch.Generator) -> Any:
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter, generator=weights)
        else:
            nn.init.zeros_(parameter)
    return network


class Ensemble(nn.Module):
    """Several networks as one: its logits are the log of the mean of their probabilities."""

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] → logits (batch, 10)."""
        return ensemble_logits(torch.stack([member(images) for member in self.members], dim=1))

    def see(self, images: Tensor) -> Seen:
        """(batch, 1, 28, 28) in [0, 1] → logits; members' hidden representations have no mean."""
        return Seen(self(images), None)


def count_parameters(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())


def layer_table(network: Network) -> list[tuple[str, str, int]]:
    """The layers in order, as (name, shape of the output for one image, parameters)."""
    rows: list[tuple[str, str, int]] = [("Input", str((None, *IMAGE_SHAPE)), 0)]

    def note(layer: nn.Module, _: tuple, output: Tensor) -> None:
        rows.append((type(layer).__name__, str((None, *output.shape[1:])), count_parameters(layer)))

    layers = [layer for layer in network.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    was_training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, *IMAGE_SHAPE))  # eval: draws no dropout mask
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return rows


def describe(config: Model) -> dict:
    """The settings that shape the network, as a checkpoint records them."""
    return {k: v for k, v in dataclasses.asdict(config).items() if k not in ("dropout", "lr")}
