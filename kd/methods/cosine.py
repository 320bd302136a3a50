"""The cosine of PyTorch's knowledge distillation tutorial."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import Tensor
from kd.methods.base import HiddenDistillation, check_batches, label_weight, weight


@dataclass
class Cosine(HiddenDistillation):
    """PyTorch's tutorial: the cosine between hidden representations."""

    alpha: float = label_weight(0.75)
    term_weight: float = weight(1.0)
    needs_same_width: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``cosine_loss``."""
        return cosine_loss(student, teacher)


def cosine_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 − the mean cosine between the hidden representations of student and teacher.

    PyTorch's knowledge distillation tutorial: ``CosineEmbeddingLoss`` with target 1, which adds
    1e-12 to each squared norm.

    Args:
        student: (batch, width) hidden representations.
        teacher: (batch, width), of the same width, a constant.

    Returns:
        a scalar from 0 to 2.

    >>> import torch
    >>> one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    >>> float(cosine_loss(one, other)), float(cosine_loss(one, -one))
    (1.0, 2.0)
    """
    check_batches(student, teacher, widths=True)
    student, teacher = student.flatten(1), teacher.detach().flatten(1)
    squares = (student.square().sum(1) + 1e-12) * (teacher.square().sum(1) + 1e-12)
    return (1 - (student * teacher).sum(1) / squares.sqrt()).mean()
