"""After Peng et al. 2019, "Correlation Congruence for Knowledge Distillation"."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import Tensor
from kd.methods.base import Distillation, check_batches, hidden_of, weight
from kd.outputs import Outputs


@dataclass
class CC(Distillation):
    """After Peng et al. 2019: correlation congruence."""

    term_weight: float = weight(0.02)
    needs_hidden: ClassVar[bool] = True
    needs_same_width: ClassVar[bool] = True

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``term_weight · cc_loss``."""
        return self.term_weight * cc_loss(*hidden_of(student, teacher))


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
