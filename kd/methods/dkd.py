"""Zhao et al. 2022, "Decoupled Knowledge Distillation"."""

from dataclasses import dataclass

from kd._torch import Tensor, torch
from kd.methods.base import Distillation, kl_divergence, log_softmax, temperature, warmup, weight
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
    student_pair, student_others = _decouple(student_logits, labels, T)
    teacher_pair, teacher_others = _decouple(teacher_logits.detach(), labels, T)
    target = kl_divergence(teacher_pair, student_pair).mean()
    return T**2 * (alpha * target + beta * kl_divergence(teacher_others, student_others).mean())


def _decouple(logits: Tensor, labels: Tensor, T: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of (the label, any other), and of the others among themselves."""
    is_label = torch.arange(logits.shape[-1], device=labels.device) == labels.unsqueeze(-1)
    scaled = logits / T
    label = log_softmax(scaled).gather(-1, labels.unsqueeze(-1))
    others = scaled.masked_fill(is_label, -torch.inf)
    rest = others.logsumexp(-1, keepdim=True) - scaled.logsumexp(-1, keepdim=True)
    among_others = log_softmax(others).masked_fill(is_label, 0)  # the label's takes no part
    return torch.cat([label, rest], dim=-1), among_others
