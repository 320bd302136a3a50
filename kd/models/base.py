"""The settings that every network has."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from kd.fields import count, number

IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10


def learning_rate(default: float) -> Any:
    """Make a field for a learning rate."""
    return number(default, "a number above 0", lambda v: v > 0)


@dataclass
class Model(ABC):
    """The settings of a network; ``lr`` is the learning rate that suits it with ``optim=adam``.

    A network derives from this class, in a module of its own, and defines :meth:`build`.
    """

    name: str = ""
    hidden: int = count(32, most=100_000)
    dropout: float = number(0.1, "a number from 0 to below 1", lambda v: 0 <= v < 1)
    lr: float = learning_rate(1e-2)
    has_maps: ClassVar[bool] = False  # whether its layers keep the image's height and width

    def __post_init__(self) -> None:
        """Name the network after its module."""
        self.name = self.name or type(self).__module__.removeprefix(f"{__package__}.")

    @abstractmethod
    def build(self, seed: int) -> Any:
        """Return the network, with weights that are still to be drawn.

        Args:
            seed: of the dropout masks.
        """

    def shape(self) -> dict[str, Any]:
        """Return the settings that shape the network, as a checkpoint records them."""
        settings = dataclasses.asdict(self)
        return {key: settings[key] for key in settings if key not in ("dropout", "lr")}
