"""Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation"."""

from dataclasses import dataclass

from kd._torch import F, Tensor
from kd.methods.base import HiddenDistillation, check_batches, weight


@dataclass
class SP(HiddenDistillation):
    """Tung & Mori 2019: similarities between samples."""

    term_weight: float = weight(3000.0)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``sp_loss``."""
        return sp_loss(student, teacher)


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the batch's similarity matrices, rows of L2 norm 1.

    Tung & Mori 2019, arXiv:1907.09682, equations 1 to 4.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling and rotating either.

    >>> import torch
    >>> samples = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> float(sp_loss(2 * samples, samples))
    0.0
    """
    check_batches(student, teacher)

    def similarities(features: Tensor) -> Tensor:
        return F.normalize(features @ features.mT, dim=1)

    return F.mse_loss(similarities(student.flatten(1)), similarities(teacher.detach().flatten(1)))
