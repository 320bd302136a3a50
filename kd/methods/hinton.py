"""Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a Neural Network"."""

from dataclasses import dataclass

from kd._torch import Tensor
from kd.fields import choice
from kd.methods.base import Distillation, kl_divergence, log_softmax, temperature, weighted_loss
from kd.outputs import Outputs


@dataclass
class Hinton(Distillation):
    """Hinton et al. 2015, in either direction of the KL divergence."""

    T: float = temperature(2.0)
    direction: str = choice("forward", "reverse")

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``kd_loss``."""
        return kd_loss(student.logits, teacher.logits, self.T, self.direction)


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, T: float, direction: str = "forward"
) -> Tensor:
    """T² times the KL divergence between the softened predictions of teacher and student.

    Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2. The divergence is summed over the
    classes and averaged over the batch; T² keeps its gradient's size while T changes, and for large
    T the loss tends to Σ(difference of centred logits)² / (2 · classes).

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant: no gradient flows into it.
        T: temperature, above 0.
        direction: ``forward`` is KL(teacher ‖ student), ``reverse`` KL(student ‖ teacher).

    Returns:
        a scalar, 0 where both softmaxes agree.

    Raises:
        ValueError: the shapes differ, or ``direction`` is neither of the two.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> kd_loss(logits, logits, T=4.0)
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits of student {tuple(student_logits.shape)} and teacher "
            f"{tuple(teacher_logits.shape)} differ in shape"
        )
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction={direction!r}: must be 'forward' or 'reverse'")
    student, teacher = log_softmax(student_logits / T), log_softmax(teacher_logits.detach() / T)
    if direction == "reverse":
        student, teacher = teacher, student
    return kl_divergence(teacher, student).mean() * T**2


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    T: float,
    alpha: float,
    direction: str = "forward",
) -> Tensor:
    """``alpha · CE(student, labels) + (1 − alpha) · T² · KL(teacher_T ‖ student_T)``.

    Hinton, Vinyals & Dean 2015. alpha weighs the labels, 0 to 1; at 1 this is the plain
    cross-entropy, value and gradient. The other arguments are those of :func:`kd_loss`.

    >>> import torch
    >>> logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    >>> distillation_loss(logits, logits, labels, T=2.0, alpha=0.5)  # half of log 2
    tensor(0.3466)
    """
    soft = kd_loss(student_logits, teacher_logits, T, direction)
    return weighted_loss(student_logits, labels, soft, (alpha, 1 - alpha))
