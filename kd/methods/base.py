"""What the methods have in common: the form of their training loss, its numbers and checks.

Every method enters a training as ``alpha · CE + (1 − alpha) · term``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from kd._torch import F, Tensor, torch
from kd.fields import count, maybe_count, number, sweepable
from kd.outputs import Outputs


def temperature(default: float) -> Any:
    """Make a field for T, the temperature."""
    return sweepable(number(default, "a number above 0, up to 1000", lambda v: 1e-3 <= v <= 1e3))


def label_weight(default: float) -> Any:
    """Make a field for alpha, the weight of the labels."""
    return sweepable(number(default, "a number from 0 to 1", lambda v: 0 <= v <= 1))


def weight(default: float) -> Any:
    """Make a field for a weight within a method's term: 0 or more."""
    return sweepable(number(default, "a number from 0 up", lambda v: v >= 0))


def warmup(default: int) -> Any:
    """Make a field for the number of epochs over which the term's weight rises from 0."""
    return sweepable(count(default, least=0))


def stop() -> Any:
    """Make a field for the epoch after which the labels teach alone, or null."""
    return sweepable(maybe_count())


@dataclass
class Distillation(ABC):
    """The settings of a method: temperature, weight of the labels, and when the teacher takes part.

    A method derives from this class, in a module of its own, adds its numbers and defines
    :meth:`term`.
    """

    method: str = ""
    T: float = temperature(1.0)
    alpha: float = label_weight(0.5)
    warmup_epochs: int = warmup(0)
    stop_epoch: int | None = stop()
    # Whether the method compares hidden representations, if these must be equally wide, and if the
    # student's passes through a regressor where they are not; whether it compares feature maps.
    needs_hidden: ClassVar[bool] = False
    needs_same_width: ClassVar[bool] = False
    regresses: ClassVar[bool] = False
    needs_maps: ClassVar[bool] = False
    # How many times batch³ numbers a student takes while it trains.
    cubes: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Name the method after its module."""
        self.method = self.method or type(self).__module__.removeprefix(f"{__package__}.")

    @property
    def uses_logits(self) -> bool:
        """Whether the term depends on the teacher's logits."""
        return True

    @abstractmethod
    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """Return the method's term, a scalar that differentiates in the student alone.

        Args:
            student: its outputs for a batch.
            teacher: the teacher's outputs for it, constants.
            labels: (batch,) class numbers, or shares as in :func:`cross_entropy`.
        """


@dataclass
class HiddenDistillation(Distillation):
    """A method whose term is ``term_weight`` times a loss of the hidden representations."""

    term_weight: float = weight(1.0)
    needs_hidden: ClassVar[bool] = True

    @property
    def uses_logits(self) -> bool:
        """Not at all."""
        return False

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of the student's hidden representation (batch, width) and the teacher's.

        Their widths may differ unless :attr:`needs_same_width` or :attr:`regresses` is set.
        """

    def term(self, student: Outputs, teacher: Outputs, labels: Tensor) -> Tensor:
        """Return ``term_weight · compare(student, teacher)``."""
        return self.term_weight * self.compare(*hidden_of(student, teacher))


# These act through `loss_weights_at`; all other sweepable numbers reach the term as tensors.
SCHEDULED = ("alpha", "warmup_epochs", "stop_epoch")


def loss_weights_at(kd: Distillation, epochs: float) -> tuple[float, float]:
    """Return the weights of the labels and of the term at a time of the training.

    They are alpha and 1 − alpha. While the method warms up, the term's grows to that (Zhao et al.
    2022); after ``kd.stop_epoch`` the labels teach alone (Cho & Hariharan 2019, arXiv:1910.01348).

    Args:
        kd: the method and its numbers.
        epochs: how many have passed, the batch in hand included.
    """
    if kd.stop_epoch is not None and epochs > kd.stop_epoch:
        return 1.0, 0.0
    warmth = min(1.0, epochs / kd.warmup_epochs) if kd.warmup_epochs else 1.0
    return kd.alpha, (1 - kd.alpha) * warmth


def weighted_loss(
    student_logits: Tensor,
    labels: Tensor,
    term: Tensor,
    weights: tuple[float | Tensor, float | Tensor],
    smoothing: float | Tensor = 0.0,
) -> Tensor:
    """Return the loss of a distilled student: ``alpha · CE(student, labels) + (1 − alpha) · term``.

    Args:
        student_logits: (batch, classes).
        labels: (batch,) class numbers, or shares as in :func:`cross_entropy`.
        term: of the method, a scalar.
        weights: of the labels and of the term; see :func:`loss_weights_at`.
        smoothing: of the labels, as in :func:`cross_entropy`.
    """
    of_labels, of_term = weights
    return of_labels * cross_entropy(student_logits, labels, smoothing) + of_term * term


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """Return the mean of −log softmax(logits)[label], in nats.

    Args:
        logits: (batch, classes).
        labels: (batch,) class numbers; or (batch, classes) shares of each class, which sum to 1 in
            an image with a label and to 0 in one without, which then does not count.
        smoothing: share of each label that goes to all classes alike (Szegedy et al. 2016).

    >>> import torch
    >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))  # log 2
    tensor(0.6931)
    """
    found = log_softmax(logits)
    smooths = not isinstance(smoothing, float | int) or smoothing > 0  # a tensor has any value
    if labels.ndim == logits.ndim:
        if smooths:
            labels = (1 - smoothing) * labels + smoothing * labels.mean(-1, keepdim=True)
        return -(labels * found).sum() / labels.sum()
    of_labels = -found.gather(-1, labels.unsqueeze(-1)).mean()
    return (1 - smoothing) * of_labels - smoothing * found.mean() if smooths else of_labels


def log_softmax(logits: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the last dimension, (batch, classes).

    It is computed across the batch: torch's kernel is ten times faster there than along so few
    classes, and the logits of stacked students lie that way in memory.
    """
    return F.log_softmax(logits.transpose(-1, -2), dim=-2).transpose(-1, -2)


def kl_divergence(teacher: Tensor, student: Tensor, keepdim: bool = False) -> Tensor:
    """Return KL(teacher ‖ student) of log-probabilities (batch, classes), per sample, in nats.

    Logarithms on both sides keep a class finite whose probability underflows to 0, and the explicit
    sum has a batching rule under ``torch.func.vmap``, which ``F.kl_div`` has not.
    """
    return (teacher.exp() * (teacher - student)).sum(-1, keepdim=keepdim)


def norm(features: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Return the Euclidean norm along a dimension; torch has no types for it."""
    return torch.linalg.vector_norm(features, dim=dim, keepdim=keepdim)  # pyright: ignore


def hidden_of(student: Outputs, teacher: Outputs) -> tuple[Tensor, Tensor]:
    """Return the hidden representations of student and teacher.

    Raises:
        ValueError: one of them has none.
    """
    if student.hidden is None or teacher.hidden is None:
        raise ValueError("the method compares hidden representations, and one network has none")
    return student.hidden, teacher.hidden


def check_batches(student: Tensor, teacher: Tensor, widths: bool = False) -> None:
    """Make sure that two tensors have one batch, and one shape where ``widths`` must agree.

    Raises:
        ValueError: they do not.
    """
    if len(student) != len(teacher) or (widths and student.shape != teacher.shape):
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} do not fit"
        )
