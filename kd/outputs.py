"""What a network makes of images: its outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kd._torch import Tensor


class Outputs(NamedTuple):
    """The outputs of a network for a batch, or for a whole data set."""

    logits: Tensor  # (batch, classes)
    hidden: Any = None  # Tensor (batch, width), after ReLU, before dropout; an ensemble has none
    maps: tuple[Tensor, ...] = ()  # per block of convolutions, (batch, channels, height, width)

    def at(self, indices: Tensor) -> "Outputs":
        """The outputs for these samples, by their place in the first dimension."""
        return self.each(lambda part: part[indices])

    def each(self, function: Callable[[Tensor], Tensor]) -> "Outputs":
        """What the function makes of logits, hidden representation and maps."""
        hidden = None if self.hidden is None else function(self.hidden)
        return Outputs(function(self.logits), hidden, tuple(map(function, self.maps)))
