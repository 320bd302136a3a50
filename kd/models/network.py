"""What networks are made of: features, one hidden layer, logits; and ensembles of them.

``network(images)`` gives logits; ``network.see(images)`` the representations below them as well.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.metrics import ensemble_logits
from kd.models.base import MNIST, Model, Task
from kd.outputs import Outputs
from kd.seeding import generator, isolated

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
        kept = self.uniforms(shape, device) < 1 - self.share
        return kept.to(torch.get_default_dtype()).div_(1 - self.share)

    def uniforms(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """Draw what the next mask is made of: numbers from 0 to 1, whatever the share is."""
        # In double precision a CPU's are those that torch's bernoulli_ compares.
        kind = torch.float32 if device.type == "mps" else torch.float64
        return torch.rand(shape, dtype=kind, device=device, generator=self.generator_on(device))

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
    """Features, one hidden layer with ReLU and dropout, logits.

    Args:
        features: what comes before the hidden layer; ends in (batch, width).
        width: of what the hidden layer takes.
        hidden: the width of the hidden layer.
        dropout: of its units.
        classes: how many logits there are.
    """

    def __init__(
        self, features: nn.Sequential, width: int, hidden: int, dropout: Dropout, classes: int
    ) -> None:
        super().__init__()
        self.features = features
        self.dense = nn.Linear(width, hidden)
        self.dropout = dropout
        self.output = nn.Linear(hidden, classes)

    def see(self, images: Tensor) -> Outputs:
        """(batch, channels, height, width) in [0, 1] → logits, and what they come from."""
        maps, features = [], images
        for layer in self.features:
            features = layer(features)
            if isinstance(layer, nn.ReLU) and features.ndim == 4:
                maps.append(features)
        found = classify(features, self.dense, self.dropout, self.output)
        return found._replace(maps=tuple(maps))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return self.see(images).logits


class Observed(nn.Module):
    """A network of any code, whose layers are seen by their names.

    Args:
        body: takes images (batch, channels, height, width), gives logits (batch, classes).
        hidden_layer: whose output is the hidden representation, flattened; None has none.
        map_layers: whose outputs are the feature maps, from the image on.

    Raises:
        AttributeError: ``body`` has no layer of such a name.
    """

    def __init__(
        self, body: nn.Module, hidden_layer: str | None = None, map_layers: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.body, self.hidden_layer, self.map_layers = body, hidden_layer, tuple(map_layers)
        self.seen: dict[str, Tensor] = {}  # of the batch in hand
        for name in dict.fromkeys(filter(None, (hidden_layer, *map_layers))):
            body.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, layer: nn.Module, taken: Any, given: Tensor) -> None:
        self.seen[name] = given

    def see(self, images: Tensor) -> Outputs:
        """(batch, channels, height, width) in [0, 1] → logits, and what the named layers give."""
        logits = self.body(images)
        seen, self.seen = self.seen, {}
        hidden = None if self.hidden_layer is None else seen[self.hidden_layer].flatten(1)
        return Outputs(logits, hidden, tuple(seen[name] for name in self.map_layers))

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return self.see(images).logits


class Centred(nn.Module):
    """A network that sees images minus a mean image; it takes plain ones.

    Args:
        network: its ``see`` takes centred images.
        mean: (channels, height, width).
    """

    mean: Tensor

    def __init__(self, network: nn.Module, mean: Tensor) -> None:
        super().__init__()
        self.network: Any = network
        self.register_buffer("mean", mean)

    def see(self, images: Tensor) -> Outputs:
        """(batch, channels, height, width) in [0, 1] → what the network makes of them, centred."""
        return self.network.see(images - self.mean)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return self.see(images).logits


def build_model(config: Model, seed: int, task: Task = MNIST) -> Any:
    """Build a network whose initial weights come from the seed alone.

    They are Glorot-uniform from a generator of their own, with biases of zero; or as the network's
    own code draws them, where its settings say so.

    Args:
        config: its settings.
        seed: of initial weights and dropout masks.
        task: what it is made for.

    Returns:
        the network, an ``nn.Module`` with a method ``see``.

    Raises:
        UserError: the settings do not suit the task.
    """
    weights = generator(seed, "weights")
    with isolated(weights.initial_seed()):  # whatever draws from global generators is seeded
        network = config.build(task, seed)
    return network if config.draws_own_weights else _draw(network, weights)


def build_regressor(width: int, wanted: int, seed: int) -> nn.Linear:
    """Build what makes a student's hidden representation as wide as its teacher's, likewise."""
    return _draw(nn.Linear(width, wanted), generator(seed, "regressor"))


def _draw(network: Drawn, weights: torch.Generator) -> Drawn:
    """Draw the weights of linear layers and convolutions; leave those of other layers alone."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            nn.init.xavier_uniform_(layer.weight, generator=weights)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the ``state_dict``, a copy; of a network of other code by the names it has there."""
    own = bare(network).state_dict()
    return {name: value.detach().clone() for name, value in own.items()}


def bare(network: Any) -> Any:
    """Return the network itself, which may be centred, or observed."""
    network = network.network if isinstance(network, Centred) else network
    return network.body if isinstance(network, Observed) else network


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network the weights of :func:`weights_of`.

    Raises:
        RuntimeError: they are not of its architecture.
    """
    bare(network).load_state_dict(dict(weights), strict=True)


@torch.no_grad()
def probe(network: Any, task: Task, images: int = 1) -> Outputs:
    """Return the outputs for random images, in evaluation mode, which batch norm needs for few."""
    was_training = network.training
    network.eval()
    try:
        draw = torch.Generator().manual_seed(0)
        return network.see(torch.rand(images, *task.shape, generator=draw))
    finally:
        network.train(was_training)


class Ensemble(nn.Module):
    """Several networks as one: its logits are the log of the mean of their probabilities."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] → logits (batch, classes)."""
        return ensemble_logits(torch.stack([member(images) for member in self.members], dim=1))

    def see(self, images: Tensor) -> Outputs:
        """Images → logits (batch, classes); members' hidden representations have no mean."""
        return Outputs(self(images))


def count_parameters(network: nn.Module) -> int:
    """Count the trainable values."""
    return sum(parameter.numel() for parameter in network.parameters())
