"""The optimiser of every training, and its learning rate over time."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR

from kd.config.schema import Optim


def make_optimiser(
    parameters: Iterable[nn.Parameter], optim: Optim, batches: Callable[[], int]
) -> dict[str, Any]:
    """Adam in one pass over the parameters; a cosine schedule falls to 0 a batch at a time.

    Args:
        parameters: to be trained.
        optim: the settings of ``conf/optim``.
        batches: tells how many the whole training has.

    Returns:
        what ``LightningModule.configure_optimizers`` returns.
    """
    adam = Adam(parameters, lr=optim.lr, eps=optim.eps, fused=True)
    if optim.schedule == "constant":
        return {"optimizer": adam}
    schedule = CosineAnnealingLR(adam, T_max=batches())
    return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
