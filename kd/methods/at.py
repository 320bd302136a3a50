"""Zagoruyko & Komodakis 2017, "Paying More Attention to Attention"."""

from dataclasses import dataclass
from typing import ClassVar

from kd._torch import F, Tensor, torch
from kd.methods.base import Distillation, check_batches, weight
from kd.outputs import Outputs


@dataclass
class AT(Distillation):
    """Zagoruyko & Komodakis 2017: attention maps, block by block."""

    term_weight: float = weight(1000.0)
    needs_maps: ClassVar[bool] = True

    @property
    def uses_logits(self) -> bool:
        """Not at all."""
        return False

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``term_weight`` times the sum over the blocks."""
        pairs = zip(student.maps, teacher.maps, strict=True)
        losses = [at_loss(ours, theirs) for ours, theirs in pairs]
        return self.term_weight * torch.stack(losses).sum()


def at_loss(student: Tensor, teacher: Tensor, p: int = 2) -> Tensor:
    """Mean squared difference of attention maps: channel means of features^p, of L2 norm 1.

    Zagoruyko & Komodakis 2017, arXiv:1612.03928, as its authors' code has it; the paper's equation
    2 takes the norm of the difference. Of two sizes the larger map is first pooled to the other.

    Args:
        student: (batch, channels, height, width) feature maps; channels of the two may differ.
        teacher: (batch, channels, height, width), a constant.
        p: the power; odd ones keep the sign.

    Raises:
        ValueError: one of them is not a feature map.

    >>> import torch
    >>> maps = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    >>> float(at_loss(2 * maps, maps))
    0.0
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(
            "attention transfer needs feature maps (batch, channels, height, width), not "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    check_batches(student, teacher)
    height, width = min(student.shape[2:], teacher.shape[2:])

    def attention(maps: Tensor) -> Tensor:
        if maps.shape[2:] != (height, width):
            maps = F.adaptive_avg_pool2d(maps, (height, width))
        return F.normalize(maps.pow(p).mean(1).flatten(1))

    return F.mse_loss(attention(student), attention(teacher.detach()))
