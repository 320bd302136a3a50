"""What every stack of students does, whatever networks it has: its interface, and their losses.

The outputs of a stack have their students first and the batch last, but for feature maps.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from kd.methods.base import cross_entropy, weighted_loss
from kd.metrics import count_right
from kd.models.network import Dropout
from kd.outputs import Outputs
from kd.sweeps.layout import Kind, Rows

Places = list[tuple[int, int]]  # whose rows a tensor has: place and how many, in their order


class Members(NamedTuple):
    """The students of a stack, and who shares what."""

    networks: Sequence[Any]  # with the weights that it begins with
    lanes: Sequence[Sequence[int]]  # the places of each lane's students, one lane after another
    kinds: Sequence[Kind]
    regressors: Sequence[Sequence[nn.Linear]]  # by kind those of its students; none needs none
    draws: Rows  # which dropout masks each has
    dropouts: Sequence[Sequence[Dropout]]  # by draw: what draws the masks
    shares: Sequence[float]  # of units that each student drops


class Stacked(nn.Module, ABC):
    """Students side by side as tensors; their parameters are the module's own.

    Args:
        members: the students.
    """

    compilable: ClassVar[bool]  # whether to compile the step can repay its time
    # How many batches a student that has ended may take before a smaller stack is worth its time.
    remake: ClassVar[int]

    def __init__(self, members: Members) -> None:
        super().__init__()
        self.lanes, self.kinds = members.lanes, members.kinds
        self.draws, self.dropouts = members.draws, members.dropouts
        self.size = len(members.networks)

    def stack_regressors(self, regressors: Sequence[Sequence[nn.Linear]]) -> None:
        """Make the regressors parameters: of each kind that has some, weights and biases."""
        self.regressors = nn.ParameterList()
        for of_kind in filter(None, regressors):
            self.regressors.append(torch.stack([r.weight.detach() for r in of_kind]))
            self.regressors.append(torch.stack([r.bias.detach() for r in of_kind]))

    @abstractmethod
    def slots(self) -> list[tuple[str, Places]]:
        """Of each of :meth:`parameters`, what it is, and whose rows it has."""

    def regressor_slots(self) -> list[tuple[str, Places]]:
        """The slots of the regressors, which come last."""
        found: list[tuple[str, Places]] = []
        for kind in self.kinds:
            if kind.regression:
                of_kind = [(place, 1) for place in kind.places]
                found += [("regressor.weight", of_kind), ("regressor.bias", of_kind)]
        return found

    def rows(self) -> list[Tensor]:
        """Of each of :meth:`parameters`, the place of the student of each of its rows."""
        device = next(self.parameters()).device
        return [
            torch.tensor([place for place, count in owners for _ in range(count)], device=device)
            for _, owners in self.slots()
        ]

    def taken_apart(self, tensors: Sequence[Tensor]) -> dict[tuple[str, int], Tensor]:
        """Tensors of the shapes of :meth:`parameters` as those of each place."""
        return {
            (name, place): part
            for tensor, (name, owners) in zip(tensors, self.slots(), strict=True)
            for (place, _), part in zip(owners, tensor.split([n for _, n in owners]), strict=True)
        }

    def put_together(self, parts: Mapping[tuple[str, int], Tensor]) -> list[Tensor]:
        """Tensors of the shapes of :meth:`parameters` from those of each place."""
        return [torch.cat([parts[name, p] for p, _ in owners]) for name, owners in self.slots()]

    @abstractmethod
    def values(self) -> Any:
        """What a step takes of the stack, without a graph: it changes with the parameters."""

    @abstractmethod
    def arguments(self, values: Any, images: Tensor, owns: Sequence[dict[str, Any]]) -> tuple:
        """What :meth:`differentiate` takes of a batch; draws its dropout masks.

        Args:
            values: of :meth:`values`.
            images: (lanes, batch, pixels).
            owns: by kind what its students have of their own: places in the stack, labels
                (students, batch) or shares (students, batch, classes) and how much these are
                smoothed, the teacher's outputs, numbers of the method, weights of labels and term.
        """

    @abstractmethod
    def differentiate(self, *arguments: Any) -> Sequence[Tensor]:
        """What :meth:`gradients` takes, then losses and numbers of right answers, kind by kind.

        It consists of plain operations on the tensors in its arguments, and can be traced.
        """

    @abstractmethod
    def gradients(self, images: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        """Those of :meth:`parameters`, in their order; buffers become those after the step."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(lanes, batch, pixels) → (students, classes, batch), in evaluation mode."""

    @abstractmethod
    def state(self, place: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network, a copy."""

    def generators(self, device: torch.device) -> list[torch.Generator]:
        """Those of the dropout masks."""
        return [layer.generator_on(device) for layers in self.dropouts for layer in layers]


def losses_of(
    kinds: Sequence[Kind],
    outputs: Outputs,
    regression: Sequence[Tensor],
    owns: Sequence[dict[str, Any]],
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The sum of the students' losses; and losses and numbers of right answers, kind by kind.

    No student's loss depends on another's weights: the gradient of the sum holds each one's.

    Args:
        kinds: of students.
        outputs: of all students, in a stack's layout.
        regression: weights and biases of the regressors, kind by kind.
        owns: as :meth:`Stacked.arguments` has them.
    """
    losses, right = [], []
    regressors = iter(regression)
    for kind, own in zip(kinds, owns, strict=True):
        logits, hidden, maps = outputs if kind.maps else outputs._replace(maps=())
        if len(kinds) > 1:
            logits, hidden, maps = Outputs(logits, hidden, maps).each(
                lambda every, own=own: every.index_select(0, own["places"])
            )
        if kind.width is not None:
            hidden = hidden[:, : kind.width]
        if kind.regression:
            matrix, offset = next(regressors), next(regressors)
            hidden = torch.baddbmm(offset.unsqueeze(-1), matrix, hidden)
        own = {name: value for name, value in own.items() if name != "places"}
        seen = {"logits": logits.transpose(1, 2), "maps": maps}
        if hidden is not None:
            seen["hidden"] = hidden.transpose(1, 2)
        losses.append(torch.func.vmap(_loss_of(kind))(seen, own))
        right.append(count_right(logits.detach(), own["labels"], dim=1))
    together = losses[0] if len(losses) == 1 else torch.cat(losses)
    counted = right[0] if len(right) == 1 else torch.cat(right)
    return together.sum(), (together.detach(), counted)


def _loss_of(kind: Kind) -> Callable[..., Tensor]:
    """The loss of one student, of its outputs and of what is its own."""

    def loss(seen: dict[str, Any], own: dict[str, Any]) -> Tensor:
        student, smoothing = Outputs(**seen), own.get("smoothing", 0.0)
        if kind.kd is None:
            return cross_entropy(student.logits, own["labels"], smoothing)
        teacher = Outputs(own["logits"], own.get("hidden"), own.get("maps", ()))
        term = replace(kind.kd, **own["numbers"]).term(student, teacher, own["labels"])
        return weighted_loss(student.logits, own["labels"], term, own["loss_weights"], smoothing)

    return loss
