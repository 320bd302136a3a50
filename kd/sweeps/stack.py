"""Many students as tensors: their parameters stacked, the loss and its gradients for all at once.

Tensors of a stack have their students first and the batch last: (students, hidden, batch). That is
the layout which the wide product gives, and in which sums over ten classes are vector instructions
across the batch. Students of a smaller width than the widest have units that stay 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.methods.base import cross_entropy, weighted_loss
from kd.metrics import count_right
from kd.models.network import Network, classify
from kd.outputs import Outputs
from kd.sweeps.layout import Kind
from kd.training.tracing import wide_product


class Weights(NamedTuple):
    """The parameters of a stack as they are, without a graph."""

    first: list[Tensor]  # of a lane: (units of all its students, pixels)
    bias: Tensor  # (students, hidden)
    weight: Tensor  # (students, classes, hidden)
    output_bias: Tensor  # (students, classes)
    regression: list[Tensor]  # weights and biases of the regressors, kind by kind


class Stack(nn.Module):
    """Students of the network ``mlp`` side by side; their outputs are those of ``kd.models``.

    Args:
        networks: of the students, whose weights it begins with.
        lanes: the places of each lane's students, one lane after another.
        kinds: of students.
        regressors: by kind those of its students; none where the kind needs none.
        width: of the hidden layer, at least that of the widest student.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        lanes: Sequence[Sequence[int]],
        kinds: Sequence[Kind],
        regressors: Sequence[Sequence[nn.Linear]],
        width: int,
    ) -> None:
        super().__init__()
        self.widths = [network.dense.out_features for network in networks]
        self.lanes, self.kinds = lanes, kinds
        self.units = [sum(self.widths[place] for place in lane) for lane in lanes]

        def padded(values: Tensor) -> Tensor:
            return F.pad(values.detach(), (0, width - values.shape[-1]))

        # One tensor per lane, because its gradient is one product's result: a stack of all would
        # have to be put together from these at every step.
        first = torch.cat([network.dense.weight.detach() for network in networks])
        self.first = nn.ParameterList(first.split(self.units))
        self.bias = nn.Parameter(torch.stack([padded(n.dense.bias) for n in networks]))
        self.weight = nn.Parameter(torch.stack([padded(n.output.weight) for n in networks]))
        self.output_bias = nn.Parameter(torch.stack([n.output.bias.detach() for n in networks]))
        self.regressors = nn.ParameterList()  # of each kind that has some, weights and biases
        for of_kind in filter(None, regressors):
            self.regressors.append(torch.stack([r.weight.detach() for r in of_kind]))
            self.regressors.append(torch.stack([r.bias.detach() for r in of_kind]))
        device = self.bias.device
        units = [range(at * width, at * width + n) for at, n in enumerate(self.widths)]
        real = [place for of_student in units for place in of_student]
        self.padded = len(real) < width * len(networks)
        # Where the padded layout has the real units, and where these have the padded ones' (the
        # last one stands for all that are none).
        self.real = torch.tensor(real, device=device)
        self.places = torch.full((width * len(networks),), len(real), device=device)
        self.places[self.real] = torch.arange(len(real), device=device)

    def slots(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Of each of :meth:`parameters`, what it is, and whose rows it has: (place, how many)."""
        each = [(place, 1) for place in range(len(self.widths))]
        found = [(name, each) for name in ("bias", "weight", "output_bias")]
        found += [("first", [(place, self.widths[place]) for place in lane]) for lane in self.lanes]
        for kind in self.kinds:
            if kind.regression:
                of_kind = [(place, 1) for place in kind.places]
                found += [("regressor.weight", of_kind), ("regressor.bias", of_kind)]
        return found

    def rows(self) -> list[Tensor]:
        """Of each of :meth:`parameters`, the place of the student of each of its rows."""
        device = self.bias.device
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

    def weights(self) -> Weights:
        """All parameters: they change with those of the stack."""
        first = [weight.detach() for weight in self.first]
        rest = self.bias.detach(), self.weight.detach(), self.output_bias.detach()
        return Weights(first, *rest, [value.detach() for value in self.regressors])

    def products(self, weights: Weights, images: Tensor) -> Tensor:
        """(lanes, batch, pixels) → (students, hidden, batch), before the bias."""
        found = [wide_product(*pair) for pair in zip(weights.first, images, strict=True)]
        if not self.padded:
            together = found[0] if len(found) == 1 else torch.cat(found)
            return together.unflatten(0, self.bias.shape)
        zeros = found[0].new_zeros(1, found[0].shape[1])
        return torch.cat([*found, zeros]).index_select(0, self.places).unflatten(0, self.bias.shape)

    def gradients(self, images: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        """Those of :meth:`parameters`, in their order, from what :func:`make_gradients` finds."""
        of_products, *of_rest = found
        flat = of_products.flatten(0, 1)
        if self.padded:
            flat = flat.index_select(0, self.real)
        parts = flat.split(self.units)
        of_first = [
            wide_product(part, batch.t()) for part, batch in zip(parts, images, strict=True)
        ]
        return [*of_rest[:3], *of_first, *of_rest[3:]]

    def state(self, place: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network."""
        width = self.widths[place]
        (lane,) = (number for number, places in enumerate(self.lanes) if place in places)
        before = sum(self.widths[p] for p in self.lanes[lane] if p < place)
        state = {
            "dense.weight": self.first[lane][before : before + width],
            "dense.bias": self.bias[place, :width],
            "output.weight": self.weight[place, :, :width],
            "output.bias": self.output_bias[place],
        }
        return {name: value.detach().clone() for name, value in state.items()}


class Masks(NamedTuple):
    """A batch's dropout masks, or what they are made of."""

    drawn: Tensor  # (draws, hidden, batch): masks, or with ``keep`` numbers from 0 to 1
    # (students,), the draw of each; None where as many students side by side have each.
    rows: Tensor | None = None
    keep: Tensor | None = None  # (students,), shares of units kept; None where all agree


def drop(hidden: Tensor, masks: Masks | None) -> Tensor:
    """Drop units of hidden representations (students, hidden, batch); None drops nothing."""
    if masks is None:
        return hidden
    drawn, rows, keep = masks
    if rows is None:
        hidden, drawn = hidden.unflatten(0, (len(drawn), -1)), drawn.unsqueeze(1)
    else:
        drawn = drawn.index_select(0, rows)
    if keep is not None:
        keep = keep.view(*hidden.shape[:-2], 1, 1)
        drawn = (drawn < keep).to(hidden.dtype) / keep.to(hidden.dtype)
    dropped = hidden * drawn
    return dropped.flatten(0, 1) if rows is None else dropped


def outputs_of(weights: Weights, products: Tensor, masks: Masks | None) -> Outputs:
    """Logits (students, classes, batch) and hidden representations (students, hidden, batch).

    Args:
        weights: of the students.
        products: (students, hidden, batch), of the first layers.
        masks: of the batch.
    """

    return classify(
        products,
        dense=lambda products: products + weights.bias.unsqueeze(-1),
        dropout=lambda hidden: drop(hidden, masks),
        output=lambda kept: torch.baddbmm(weights.output_bias.unsqueeze(-1), weights.weight, kept),
    )


def make_gradients(kinds: Sequence[Kind]) -> Callable[..., Sequence[Tensor]]:
    """The function that gives every student's gradients, then losses and numbers of right answers.

    It takes what each of :class:`Weights` but the first layers has, the products of these, the
    masks, and for each kind a dictionary of what its students have of their own: their places in
    the stack, labels (students, batch) or shares (students, batch, classes) and how much these are
    smoothed, the teacher's outputs for the batch, numbers of the method and the weights of labels
    and term. Gradients come in the order of :meth:`Stack.gradients`, losses and numbers kind by
    kind.
    """

    def loss_of(kind: Kind) -> Callable[..., Tensor]:
        def loss(logits: Tensor, hidden: Tensor, own: dict[str, Any]) -> Tensor:
            smoothing = own.get("smoothing", 0.0)
            if kind.kd is None:
                return cross_entropy(logits, own["labels"], smoothing)
            teacher = Outputs(own["logits"], own.get("hidden"))
            method = replace(kind.kd, **own["numbers"])
            term = method.term(Outputs(logits, hidden), teacher, own["labels"])
            return weighted_loss(logits, own["labels"], term, own["loss_weights"], smoothing)

        return loss

    def objective(products, bias, weight, output_bias, regression, masks, owns):
        weights = Weights([], bias, weight, output_bias, regression)
        all_logits, all_hidden, _ = outputs_of(weights, products, masks)
        losses, right = [], []
        regressors = iter(regression)
        for kind, own in zip(kinds, owns, strict=True):
            logits, hidden = all_logits, all_hidden
            if len(kinds) > 1:
                logits, hidden = (
                    every.index_select(0, own["places"]) for every in (logits, hidden)
                )
            if kind.width is not None:
                hidden = hidden[:, : kind.width]
            if kind.regression:
                matrix, offset = next(regressors), next(regressors)
                hidden = torch.baddbmm(offset.unsqueeze(-1), matrix, hidden)
            own = {name: value for name, value in own.items() if name != "places"}
            found = torch.func.vmap(loss_of(kind))
            losses.append(found(logits.transpose(1, 2), hidden.transpose(1, 2), own))
            right.append(count_right(logits.detach(), own["labels"], dim=1))
        together = losses[0] if len(losses) == 1 else torch.cat(losses)
        # No student's loss depends on another's weights: the gradient of the sum holds each one's.
        return together.sum(), (
            together.detach(),
            right[0] if len(right) == 1 else torch.cat(right),
        )

    differentiate = torch.func.grad(objective, argnums=(0, 1, 2, 3, 4), has_aux=True)

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        (*own, of_regression), counted = differentiate(*arguments)
        return *own, *of_regression, *counted

    return gradients
