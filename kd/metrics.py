"""How well predictions fit the labels and the teacher, from logits alone.

Fidelity: Stanton et al. 2021, "Does Knowledge Distillation Really Work?", arXiv:2106.05945.
Teacher logits are (samples, classes), or (samples, members, classes) for an ensemble.
"""

import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error


def ensemble_logits(member_logits: Tensor) -> Tensor:
    """The log of the mean of the members' softmax probabilities.

    Args:
        member_logits: (samples, members, classes).

    Returns:
        (samples, classes): log-probabilities, which serve as the ensemble's logits.
    """
    members = member_logits.shape[1]
    summed = F.log_softmax(member_logits, dim=-1).logsumexp(dim=1)
    return summed - summed.new_tensor(members).log()


def agreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Share of samples on which student and teacher name the same class, in [0, 1]."""
    return accuracy(student_logits, _single(teacher_logits).argmax(dim=-1))


def predictive_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the predictions at T = 1, in nats, mean over the samples; ≥ 0."""
    teacher = F.log_softmax(_single(teacher_logits), dim=-1)
    return divergence(F.log_softmax(student_logits, dim=-1), teacher)


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """The same of log-probabilities."""
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean()


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Gap between confidence and accuracy, weighted over equal-width bins of confidence, in [0, 1].

    Guo et al. 2017, arXiv:1706.04599, equation 3; bins closed on the left.

    Args:
        logits: (samples, classes).
        labels: (samples,) class numbers.
        bins: number of bins, 1 or more.
    """
    # torchmetrics takes values that all lie within [0, 1] for probabilities: give it probabilities.
    return multiclass_calibration_error(
        F.softmax(logits, dim=-1), labels, num_classes=logits.shape[-1], n_bins=bins, norm="l1"
    )


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of samples whose largest logit is the label's, in [0, 1]."""
    return (logits.argmax(dim=-1) == labels).double().mean()


def _single(teacher_logits: Tensor) -> Tensor:
    return ensemble_logits(teacher_logits) if teacher_logits.ndim == 3 else teacher_logits


def count_right(logits: Tensor, labels: Tensor, dim: int = -1) -> Tensor:
    """How many samples' largest logit is that of their label, or of a class of over half a share.

    Args:
        logits: (…, batch, classes), or with the classes in ``dim``.
        labels: (…, batch) class numbers, or (…, batch, classes) shares.
        dim: of the classes in ``logits``.
    """
    # argmax gives the same in thirty times the time
    found = logits.max(dim=dim).indices
    if labels.ndim == logits.ndim:
        right = labels.gather(-1, found.unsqueeze(-1)).squeeze(-1) > 0.5
    else:
        right = found == labels
    return right.sum(dim=-1)
