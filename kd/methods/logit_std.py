"""Sun et al. 2024, "Logit Standardization in Knowledge Distillation"."""

from dataclasses import dataclass

from kd._torch import Tensor
from kd.methods.base import Distillation, label_weight, temperature, weight
from kd.methods.hinton import kd_loss
from kd.outputs import Outputs


@dataclass
class LogitStd(Distillation):
    """Sun et al. 2024: plain distillation of standardised logits."""

    T: float = temperature(2.0)
    alpha: float = label_weight(0.1)
    term_weight: float = weight(10.0)

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``term_weight · logit_std_kd_loss``."""
        return self.term_weight * logit_std_kd_loss(student.logits, teacher.logits, self.T)


def logit_std_kd_loss(student_logits: Tensor, teacher_logits: Tensor, T: float) -> Tensor:
    """:func:`kd_loss` of standardised logits: each row less its mean, over its standard deviation.

    Sun et al. 2024, arXiv:2403.01427, algorithm 1, as its authors' code has it: the unbiased
    standard deviation plus 1e-7, the temperature applied afterwards, T² kept.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.

    Returns:
        a scalar, 0 where the teacher's logits are a rising linear function of the student's.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
    >>> bool(logit_std_kd_loss(3 * logits + 1, logits, T=2.0) < 1e-6)
    True
    """

    def standardise(logits: Tensor) -> Tensor:
        return (logits - logits.mean(-1, keepdim=True)) / (1e-7 + logits.std(-1, keepdim=True))

    return kd_loss(standardise(student_logits), standardise(teacher_logits.detach()), T)
