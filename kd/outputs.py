"""What a network makes of images: its outputs."""

from typing import Any, NamedTuple

from kd._torch import Tensor


class Outputs(NamedTuple):
    """The outputs of a network for a batch, or for a whole data set."""

    logits: Tensor  # (batch, classes)
    hidden: Any = None  # Tensor (batch, width), after ReLU, before dropout; an ensemble has none
    maps: tuple[Tensor, ...] = ()  # per block of convolutions, (batch, channels, height, width)

    def at(self, indices: Tensor) -> "Outputs":
        """The outputs for these samples, by their place in the first dimension."""
        hidden = None if self.hidden is None else self.hidden[indices]
        return Outputs(self.logits[indices], hidden, tuple(maps[indices] for maps in self.maps))
