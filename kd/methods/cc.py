"""After Peng et al. 2019, "Correlation Congruence for Knowledge Distillation"."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import Tensor
from kd.methods.base import HiddenDistillation, check_batches, weight


@dataclass
class CC(HiddenDistillation):
    """After Peng et al. 2019: correlation congruence."""

    term_weight: float = weight(0.02)
    needs_same_width: ClassVar[bool] = True

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``cc_loss``."""
        return cc_loss(student, teacher)


def cc_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Correlation congruence as RepDistiller has it: products of consecutive samples' differences.

    After Peng et al. 2019, arXiv:1904.01802, whose own loss compares kernel matrices; the code that
    comparisons use multiplies |student − teacher| of each sample with that of the next one, sums
    over the width and averages. It depends on the order of the batch.

    Args:
        student: (batch, width) hidden representations.
        teacher: (batch, width), of the same width, a constant.

    Returns:
        a scalar; 0 where both agree, and for a single sample.

    >>> import torch
    >>> zeros, ones = torch.zeros(3, 2), torch.ones(3, 2)
    >>> float(cc_loss(zeros, ones))  # 1 · 1 summed over the width
    2.0
    """
    check_batches(student, teacher)
    difference = (student - teacher.detach()).flatten(1).abs()
    return (difference[:-1] * difference[1:]).sum() / max(1, len(difference) - 1)
