"""torch for files that are imported before a run begins: it loads when it is first used.

``from kd._torch import F, Tensor, nn, torch`` costs nothing; type checkers see the true ones.
"""

from typing import TYPE_CHECKING, Any

from kd._startup import lazy

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn
else:
    torch, nn, F = lazy("torch"), lazy("torch.nn"), lazy("torch.nn.functional")
    Tensor = Any

__all__ = ["F", "Tensor", "nn", "torch"]
