"""Zhao et al. 2022, "Decoupled Knowledge Distillation"."""

from dataclasses import dataclass

from kd._torch import Tensor, torch
from kd.methods.base import Distillation, log_softmax, temperature, warmup, weight
from kd.outputs import Outputs


@dataclass
class DKD(Distillation):
    """Zhao et al. 2022: the label against the rest, and the rest among themselves."""

    T: float = temperature(4.0)
    warmup_epochs: int = warmup(1)
    target_weight: float = weight(1.0)
    nontarget_weight: float = weight(8.0)

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``dkd_loss`` with both weights."""
        if labels.ndim == 2:  # of shares the largest counts, or the teacher's class without any
            known = labels.sum(-1, keepdim=True) > 0
            labels = torch.where(known, labels, teacher.logits).max(dim=-1).indices
        weights = self.target_weight, self.nontarget_weight
        return dkd_loss(student.logits, teacher.logits, labels, self.T, *weights)


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    T: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """Decoupled distillation: ``T² · (alpha · target term + beta · non-target term)``.

    Zhao et al. 2022, arXiv:2203.08679, equation 7. The target term is the divergence of the two
    classes "the label" and "any other", the non-target term that of the softmax over the classes
    other than the label. With alpha = 1 and beta = 1 − p_teacher(label), a sample's loss is that of
    :func:`kd_loss`. The original subtracts 1000 from the label's logit and takes logarithms of
    probabilities, which is infinite for confident logits in float32; here both are logarithms
    throughout, and finite.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        labels: (batch,) class numbers.
        T: temperature, above 0.
        alpha: weight of the target term, not that of the labels in a training.
        beta: weight of the non-target term.

    Returns:
        a scalar, 0 where both softmaxes agree.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.0, 1.0]]), torch.tensor([0])
    >>> float(dkd_loss(logits, logits, labels, T=4.0, alpha=1.0, beta=8.0))
    0.0
    """
    classes = torch.arange(student_logits.shape[-1], device=labels.device)
    is_label = classes == labels.unsqueeze(-1)

    def decouple(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (the label, any other), and of the other classes among them."""
        scaled = logits / T
        among_all = log_softmax(scaled)
        label = among_all.gather(-1, labels.unsqueeze(-1))
        others = scaled.masked_fill(is_label, -torch.inf)
        rest = others.logsumexp(-1, keepdim=True) - scaled.logsumexp(-1, keepdim=True)
        return torch.cat([label, rest], dim=-1), log_softmax(others)

    def divergence(teacher: Tensor, student: Tensor) -> Tensor:
        return (teacher.exp() * (teacher - student)).sum(-1).mean()

    student_pair, student_others = decouple(student_logits)
    teacher_pair, teacher_others = decouple(teacher_logits.detach())
    zero = torch.zeros_like(student_others)  # the label's own column takes no part
    target = divergence(teacher_pair, student_pair)
    non_target = divergence(
        torch.where(is_label, zero, teacher_others), torch.where(is_label, zero, student_others)
    )
    return T**2 * (alpha * target + beta * non_target)
