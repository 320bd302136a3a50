"""What every network is made for, and the settings that every network has."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

from kd.fields import number, sweepable


class Task(NamedTuple):
    """What a network is made for: images of one shape, each of one of the classes."""

    shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width: MNIST's
    classes: int = 10


MNIST = Task()


def learning_rate(default: float) -> Any:
    """Make a field for a learning rate."""
    return sweepable(number(default, "a number above 0", lambda v: v > 0))


def dropout_share(default: float) -> Any:
    """Make a field for the share of units that dropout sets to 0."""
    return sweepable(number(default, "a number from 0 to below 1", lambda v: 0 <= v < 1))


@dataclass
class Model(ABC):
    """The settings of a network; ``lr`` is the learning rate that suits it with ``optim=adam``.

    A network derives from this class, in a module of its own, and defines :meth:`build`.
    """

    name: str = ""
    lr: float = learning_rate(1e-2)

    def __post_init__(self) -> None:
        """Name the network after its module."""
        self.name = self.name or type(self).__module__.removeprefix(f"{__package__}.")

    @property
    def has_maps(self) -> bool:
        """Whether it gives feature maps, which keep the image's height and width."""
        return False

    @property
    def stacks(self) -> bool:
        """Whether they are MLPs that ``kd.sweeps.stack`` writes out as wide products."""
        return False

    @property
    def draws_own_weights(self) -> bool:
        """Whether its own code draws the initial weights, from torch's global state."""
        return False

    @abstractmethod
    def build(self, task: Task, seed: int) -> Any:
        """Return the network; how its initial weights are drawn is for ``build_model``.

        Args:
            task: the shape of the images, and the number of classes.
            seed: of the dropout masks.

        Raises:
            UserError: the settings do not suit the task.
        """

    def shape(self) -> dict[str, Any]:
        """Return the settings that shape the network, as a checkpoint records them."""
        settings = dataclasses.asdict(self)
        return {key: settings[key] for key in settings if key not in ("dropout", "lr")}
