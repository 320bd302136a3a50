"""Distillation losses: pure functions of tensors, one a published method.

All take float tensors of shape (batch, classes), return a scalar and differentiate in the student
alone. Every method enters a training in one form, ``alpha · CE + (1 − alpha) · term``.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kd.config import Distillation, Hinton


def _log_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the softmax over the last dimension, (batch, classes).

    Computed across the batch: torch's kernel is ten times faster there than along so few classes,
    and the logits of stacked students lie that way in memory.
    """
    return F.log_softmax(logits.transpose(-1, -2), dim=-2).transpose(-1, -2)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of −log softmax(logits)[label], in nats; of :func:`_log_softmax` for its speed.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers.

    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))  # log 2
    tensor(0.6931)
    """
    return -_log_softmax(logits).gather(-1, labels.unsqueeze(-1)).mean()


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

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> kd_loss(logits, logits, T=4.0)
    tensor(0.)
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"logits of student {tuple(student_logits.shape)} and teacher "
            f"{tuple(teacher_logits.shape)} differ in shape"
        )
    # Logarithms on both sides keep a class finite whose probability underflows to 0, and the
    # explicit sum has a batching rule under torch.func.vmap, which F.kl_div has not.
    student = _log_softmax(student_logits / T)
    teacher = _log_softmax(teacher_logits.detach() / T)
    if direction == "forward":
        divergence = teacher.exp() * (teacher - student)
    elif direction == "reverse":
        divergence = student.exp() * (student - teacher)
    else:
        raise ValueError(f"direction={direction!r}: must be 'forward' or 'reverse'")
    return divergence.sum(dim=-1).mean() * T**2


def weigh(student_logits: Tensor, labels: Tensor, alpha: float, term: Tensor) -> Tensor:
    """``alpha · CE(student, labels) + (1 − alpha) · term``: the one form of every method.

    Args:
        student_logits: (batch, classes).
        labels: (batch,) class numbers.
        alpha: weight of the labels, from 0 to 1.
        term: what the teacher teaches, a scalar.
    """
    return alpha * cross_entropy(student_logits, labels) + (1 - alpha) * term


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

    >>> logits, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    >>> distillation_loss(logits, logits, labels, T=2.0, alpha=0.5)  # half of log 2
    tensor(0.3466)
    """
    return weigh(
        student_logits, labels, alpha, kd_loss(student_logits, teacher_logits, T, direction)
    )


def _hinton(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, kd: Hinton) -> Tensor:
    return kd_loss(student_logits, teacher_logits, kd.T, kd.direction)


# kd.method → its term, a function of (student_logits, teacher_logits, labels, settings of conf/kd).
TERMS: dict[str, Callable[[Tensor, Tensor, Tensor, Distillation], Tensor]] = {"hinton": _hinton}


def method_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, kd: Distillation
) -> Tensor:
    """The training loss of a distilled student: the chosen method's term, weighed by alpha.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes).
        labels: (batch,) class numbers.
        kd: the method and its numbers, of ``conf/kd``.
    """
    term = TERMS[kd.method](student_logits, teacher_logits, labels, kd)
    return weigh(student_logits, labels, kd.alpha, term)
