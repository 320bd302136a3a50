"""Park et al. 2019, "Relational Knowledge Distillation"."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import F, Tensor, torch
from kd.methods.base import Distillation, check_batches, hidden_of, temperature, weight
from kd.methods.hinton import kd_loss
from kd.outputs import Outputs


@dataclass
class RKD(Distillation):
    """Park et al. 2019: distances and angles between samples."""

    T: float = temperature(4.0)
    distance_weight: float = weight(25.0)
    angle_weight: float = weight(50.0)
    kd_weight: float = weight(0.0)
    needs_hidden: ClassVar[bool] = True
    cubes: ClassVar[int] = 6

    @property
    def uses_logits(self) -> bool:
        """Where ``kd_loss`` has a weight."""
        return self.kd_weight > 0

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``distance_weight · distance + angle_weight · angle + kd_weight · kd_loss``."""
        hidden = hidden_of(student, teacher)
        distance, angle = rkd_distance_loss(*hidden), rkd_angle_loss(*hidden)
        soft = kd_loss(student.logits, teacher.logits, self.T)
        return self.distance_weight * distance + self.angle_weight * angle + self.kd_weight * soft


def _distances(features: Tensor) -> Tensor:
    """Distances between the rows (batch, batch), in units of their mean; 0 on the diagonal."""
    squares = features.square().sum(-1)
    squared = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * features @ features.mT
    same = torch.eye(len(features), dtype=torch.bool, device=features.device)
    distances = squared.clamp(min=1e-12).sqrt().masked_fill(same, 0)
    pairs = max(1, len(features) * (len(features) - 1))
    mean = distances.sum() / pairs
    return distances / torch.where(mean > 0, mean, 1)


def rkd_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance between the pairwise distances of student and teacher, each over its mean.

    Park et al. 2019, arXiv:1904.05068, equations 4 to 6, as its authors' code has it: averaged over
    all batch² pairs, the diagonal's zeros included.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling, rotating and shifting either; 0 for fewer than 3 samples.

    >>> import torch
    >>> samples = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
    >>> bool(rkd_distance_loss(10 * samples, samples) < 1e-6)
    True
    """
    check_batches(student, teacher)
    return F.smooth_l1_loss(_distances(student.flatten(1)), _distances(teacher.detach().flatten(1)))


def rkd_angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber distance between the cosines of the angles that triples of samples make.

    Park et al. 2019, arXiv:1904.05068, equations 7 and 8, as its authors' code has it: averaged
    over all batch³ triples, the degenerate ones included. Takes memory of batch³.

    Args:
        student: (batch, width) hidden representations; widths of the two may differ.
        teacher: (batch, width), a constant.

    Returns:
        a scalar, unchanged by scaling, rotating and shifting either; 0 for fewer than 3 samples.

    >>> import torch
    >>> samples = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 0.0]])
    >>> bool(rkd_angle_loss(10 * samples, samples) < 1e-6)
    True
    """
    check_batches(student, teacher)

    def cosines(features: Tensor) -> Tensor:
        # A stack's features lie across the batch, and so would the directions: twice the time.
        features = features.contiguous()
        directions = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
        return directions @ directions.mT

    return F.smooth_l1_loss(cosines(student.flatten(1)), cosines(teacher.detach().flatten(1)))
