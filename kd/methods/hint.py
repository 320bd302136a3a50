"""Romero et al. 2015, "FitNets: Hints for Thin Deep Nets"."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import F, Tensor
from kd.methods.base import HiddenDistillation, check_batches, weight


@dataclass
class Hint(HiddenDistillation):
    """Romero et al. 2015: the hidden representations themselves."""

    term_weight: float = weight(100.0)
    regresses: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``hint_loss``."""
        return hint_loss(student, teacher)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of hidden representations, over samples and units.

    Romero et al. 2015, arXiv:1412.6550, equation 3, without its factor 1/2, as code has it.

    Args:
        student: (batch, width) hidden representations, or what a regressor makes of them.
        teacher: (batch, width), of the same width, a constant.

    >>> import torch
    >>> float(hint_loss(torch.zeros(3, 2), 2 * torch.ones(3, 2)))
    4.0
    """
    check_batches(student, teacher, widths=True)
    return F.mse_loss(student, teacher.detach())
