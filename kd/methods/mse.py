"""Ba & Caruana 2014 and Kim et al. 2021: regression on the teacher's logits."""

from dataclasses import dataclass

from kd._torch import Tensor
from kd.methods.base import Distillation, check_batches
from kd.outputs import Outputs


@dataclass
class MSE(Distillation):
    """Ba & Caruana 2014, Kim et al. 2021: the logits themselves, without a softmax."""

    centred: bool = False

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """``mse_loss``."""
        return mse_loss(student.logits, teacher.logits, self.centred)


def mse_loss(student_logits: Tensor, teacher_logits: Tensor, centred: bool = False) -> Tensor:
    """Σ(difference of the logits)² / (2 · classes), averaged over the batch.

    Ba & Caruana 2014, arXiv:1312.6184, equation 1; Kim et al. 2021, arXiv:2105.08919, whose code
    has twice this. The scale is that of :func:`kd_loss`, which for large T tends to this loss of
    centred logits. A softmax does not depend on the mean of an image's logits. Raw logits ask for
    it too: their loss is that of the centred ones plus (difference of the means)² / 2.

    Args:
        student_logits: (batch, classes).
        teacher_logits: (batch, classes), a constant.
        centred: whether to subtract each image's mean logit first.

    Returns:
        a scalar, 0 where the logits agree.

    >>> import torch
    >>> one, other = torch.tensor([[1.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    >>> mse_loss(one, other), mse_loss(one, other, centred=True)
    (tensor(1.), tensor(0.5000))
    """
    check_batches(student_logits, teacher_logits, widths=True)
    apart = student_logits - teacher_logits.detach()
    if centred:
        apart = apart - apart.mean(-1, keepdim=True)
    return apart.square().mean() / 2
