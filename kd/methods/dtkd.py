"""Wei & Bai 2024, "Dynamic Temperature Knowledge Distillation"."""

from dataclasses import dataclass

from kd._torch import Tensor, torch
from kd.methods.base import Distillation, kl_divergence, log_softmax, temperature, warmup, weight
from kd.methods.hinton import kd_loss
from kd.outputs import Outputs


@dataclass
class DTKD(Distillation):
    """Wei & Bai 2024: dynamic temperatures, beside plain distillation."""

    T: float = temperature(4.0)
    warmup_epochs: int = warmup(1)
    dynamic_weight: float = weight(3.0)
    static_weight: float = weight(1.0)

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``dynamic_weight · dtkd_loss + static_weight · kd_loss``."""
        dynamic = dtkd_loss(student.logits, teacher.logits, self.T)
        static = kd_loss(student.logits, teacher.logits, self.T)
        return self.dynamic_weight * dynamic + self.static_weight * static


def dtkd_loss(student_logits: Tensor, teacher_logits: Tensor, T: float) -> Tensor:
    """Dynamic temperatures: the sharper network of the two gets the higher one, sample by sample.

    Wei & Bai 2024, arXiv:2404.12711, as its authors' code has it (a heuristic: they retract the
    derivation). With the largest logits x of the teacher and y of the student, the temperatures are
    ``2x / (x + y) · T`` and ``2y / (x + y) · T``, and the loss is their product times the KL
    divergence. Gradient flows through y as well. Equal maxima make it :func:`kd_loss`.

    The original is NaN where x + y = 0, and can be negative where x and y differ in sign, which
    makes a temperature negative. Here a sample whose temperatures are not between T / 1000 and
    1000 T in size takes T for both networks; and if the loss of the batch is negative, all samples
    do whose x and y differ in sign.

    Args:
        student_logits: (batch, classes); not only their differences count.
        teacher_logits: (batch, classes), a constant.
        T: temperature, above 0.

    Returns:
        a scalar, 0 or more.

    >>> import torch
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> float(dtkd_loss(logits, logits, T=4.0))
    0.0
    """
    # The gradient through the temperatures is a small difference of large numbers.
    exact = torch.float32 if student_logits.device.type == "mps" else torch.float64
    dtype = student_logits.dtype
    student_logits, teacher_logits = student_logits.to(exact), teacher_logits.detach().to(exact)
    x, y = (z.max(dim=-1, keepdim=True).values for z in (teacher_logits, student_logits))
    least = 5e-4 * (x + y).abs()
    bounded = torch.minimum(x.abs(), y.abs()).gt(least) & torch.maximum(x.abs(), y.abs()).lt(
        1e6 * least
    )

    def loss(dynamic: Tensor) -> Tensor:
        """With dynamic temperatures where ``dynamic``, with T elsewhere."""
        total = torch.where(dynamic, x + y, 2)
        student_T = 2 * torch.where(dynamic, y, 1) / total * T
        teacher_T = 2 * torch.where(dynamic, x, 1) / total * T
        student = log_softmax(student_logits / student_T)
        teacher = log_softmax(teacher_logits / teacher_T)
        divergence = kl_divergence(teacher, student, keepdim=True)
        return (divergence * (teacher_T * student_T)).mean()

    original = loss(bounded)
    return torch.where(original >= 0, original, loss(bounded & (x * y > 0))).to(dtype)
