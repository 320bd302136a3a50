"""What a student is taught instead of the teacher's own logits, to see what of them it learns from.

Each takes something away: ``permuted`` which wrong classes an image resembles, ``confidence`` all
but how sure the teacher is of the label, ``clip`` how unlikely unlikely classes are. Hidden
representations, and what is reported as fidelity, stay those of the teacher.
"""

import math

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.outputs import Outputs
from kd.seeding import generator
from kd.training.material import Material


def lessons(config: Config, material: Material) -> Outputs:
    """What a student is taught of the pool: the teacher's outputs, as ``config.teacher`` has them.

    The classes are the true ones, whatever ``data.label_noise`` makes of the labels.

    Args:
        config: of the distillation.
        material: with the teacher's outputs.
    """
    outputs, labels = material.teacher_outputs, material.data.pool.labels
    logits, teacher = outputs.logits, config.teacher
    if teacher.clip is not None:
        logits = clipped(logits, teacher.clip)
    if teacher.control == "permuted":
        logits = permuted(logits, labels, generator(config.data.seed, "permutation"))
    elif teacher.control == "confidence":
        logits = confidence(logits, labels)
    return outputs._replace(logits=logits)


def permuted(logits: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """Permute the logits of the wrong classes, those of each image in an order of its own.

    Furlanello et al. 2018, "Born-Again Neural Networks", arXiv:1805.04770, section 3.2: dark
    knowledge with permuted predictions. They spare the teacher's class; here it is the label.

    Args:
        logits: (samples, classes).
        labels: (samples,) class numbers.
        draw: of a CPU, so that the order is the same on every device.

    >>> permuted(torch.tensor([[5.0, 2.0, 2.0]]), torch.tensor([0]), torch.Generator())
    tensor([[5., 2., 2.]])
    """
    samples, classes = logits.shape
    numbers = torch.rand(samples, classes - 1, generator=draw, dtype=torch.float64)
    order = numbers.argsort(-1).to(logits.device)
    wrong = torch.arange(classes, device=logits.device).expand(samples, -1)
    wrong = wrong[wrong != labels.unsqueeze(-1)].view(samples, classes - 1)
    return logits.scatter(-1, wrong, logits.gather(-1, wrong.gather(-1, order)))


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Leave the label its probability at T = 1, and share the rest evenly among the wrong classes.

    Tang et al. 2020, "Understanding and Improving Knowledge Distillation", arXiv:2002.03532, and as
    label smoothing with a share of each image's own Yuan et al. 2020, arXiv:1909.11723. The label's
    logit stays; each other becomes the logarithm of the mean of their exponentials.

    Args:
        logits: (samples, classes).
        labels: (samples,) class numbers.

    >>> logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
    >>> confidence(logits, torch.tensor([0])).softmax(-1)
    tensor([[0.7000, 0.1500, 0.1500]])
    """
    classes = logits.shape[-1]
    is_label = torch.arange(classes, device=logits.device) == labels.unsqueeze(-1)
    wrong = logits.masked_fill(is_label, -torch.inf).logsumexp(-1, keepdim=True)
    evenly = wrong - math.log(classes - 1)
    return torch.where(is_label, logits, evenly)


def clipped(logits: Tensor, most: float) -> Tensor:
    """Raise what is more than ``most`` below an image's highest logit to that bound.

    Hinton et al. 2015, arXiv:1503.02531, section 2.1: logits far below the average may be noise,
    which a low temperature ignores. Here a high one ignores it too.

    Args:
        logits: (samples, classes).
        most: in nats, above 0.

    >>> clipped(torch.tensor([[9.0, 5.0, -7.0]]), most=6.0)
    tensor([[9., 5., 3.]])
    """
    return logits.maximum(logits.amax(-1, keepdim=True) - most)
