"""A small ResNet with batch norm: three stages of one block each, eight layers with weights."""

from dataclasses import dataclass
from typing import Any

from kd._startup import lazy
from kd.fields import choice, count
from kd.models.base import Model, Task, learning_rate

residual = lazy("kd.models._residual")


@dataclass
class ResNet8(Model):
    """He et al. 2016, arXiv:1512.03385, section 4.2 with n = 1: widths, twice and four times."""

    lr: float = learning_rate(5e-3)
    width: int = count(16, most=10_000)
    init: str = choice("module", "glorot")

    @property
    def has_maps(self) -> bool:
        """See :attr:`Model.has_maps`."""
        return True

    @property
    def draws_own_weights(self) -> bool:
        """See :attr:`Model.draws_own_weights`."""
        return self.init == "module"

    def build(self, task: Task, seed: int) -> Any:
        """See :meth:`Model.build`."""
        return residual.ResNet(task.shape[0], self.width, task.classes)
