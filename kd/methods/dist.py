"""Huang et al. 2022, "Knowledge Distillation from a Stronger Teacher"."""

from dataclasses import dataclass

from kd._torch import Tensor
from kd.methods.base import Distillation, log_softmax, norm, temperature, weight
from kd.outputs import Outputs


@dataclass
class DIST(Distillation):
    """Huang et al. 2022: correlations between classes and within them."""

    T: float = temperature(4.0)
    between_weight: float = weight(2.0)
    within_weight: float = weight(2.0)

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``dist_loss`` with both weights."""
        weights = self.between_weight, self.within_weight
        return dist_loss(student.logits, teacher.logits, self.T, *weights)


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, T: float, beta: float, gamma: float
) -> Tensor:
    """``T² · (beta · (1 − correlation in a sample) + gamma · (1 − correlation in a class))``.

    Huang et al. 2022, arXiv:2205.10536, equations 6 to 10: Pearson correlations of the softmaxes,
    row by row between classes and column by column over the batch, each averaged.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.
        beta: weight of the correlation between a sample's classes.
        gamma: weight of the correlation within a class, over the batch.

    Returns:
        a scalar, 0 (up to 1e-8 in the correlations' denominators) where both softmaxes agree.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 2.0, 3.0]])
    >>> bool(dist_loss(logits, logits, T=1.0, beta=2.0, gamma=2.0) < 1e-5)
    True
    """

    def distance(a: Tensor, b: Tensor, dim: int) -> Tensor:
        """1 − the mean Pearson correlation along ``dim``."""
        a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
        return 1 - ((a * b).sum(dim) / (norm(a, dim) * norm(b, dim) + 1e-8)).mean()

    student = log_softmax(student_logits / T).exp()
    teacher = log_softmax(teacher_logits.detach() / T).exp()
    return T**2 * (beta * distance(student, teacher, -1) + gamma * distance(student, teacher, -2))
