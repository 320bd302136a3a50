"""Passalis & Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer"."""

from dataclasses import dataclass

from kd._torch import Tensor
from kd.methods.base import HiddenDistillation, check_batches, norm, weight


@dataclass
class PKT(HiddenDistillation):
    """Passalis & Tefas 2018: probabilities of picking another sample."""

    term_weight: float = weight(30000.0)

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """``pkt_loss``."""
        return pkt_loss(student, teacher)


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the probabilities with which one sample of the batch picks another.

    Passalis & Tefas 2018, arXiv:1803.10837, equations 6 to 8 with the cosine kernel, as its
    authors' code has it: the mean over batch² entries.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling and rotating either.

    >>> import torch
    >>> samples = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> float(pkt_loss(samples, samples))
    0.0
    """
    check_batches(student, teacher)

    def probabilities(features: Tensor) -> Tensor:
        directions = features / (norm(features, 1, keepdim=True) + 1e-7)
        kernel = (directions @ directions.mT + 1) / 2
        return kernel / kernel.sum(dim=1, keepdim=True)

    picks, target = probabilities(student.flatten(1)), probabilities(teacher.detach().flatten(1))
    return (target * ((target + 1e-7) / (picks + 1e-7)).log()).mean()
