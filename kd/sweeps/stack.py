"""Many MLPs of one hidden layer as tensors: the loss and its gradients for all at once.

Tensors of a stack have their students first and the batch last: (students, hidden, batch). That is
the layout which the wide product gives, and in which sums over ten classes are vector instructions
across the batch. Students of a smaller width than the widest have units that stay 0.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd.models.network import classify
from kd.outputs import Outputs
from kd.sweeps.layout import Kind
from kd.sweeps.stacked import Members, Places, Stacked, losses_of
from kd.training.tracing import wide_product


class Weights(NamedTuple):
    """The parameters of a stack as they are, without a graph."""

    first: list[Tensor]  # of a lane: (units of all its students, pixels)
    bias: Tensor  # (students, hidden)
    weight: Tensor  # (students, classes, hidden)
    output_bias: Tensor  # (students, classes)
    regression: list[Tensor]  # weights and biases of the regressors, kind by kind


class Masks(NamedTuple):
    """A batch's dropout masks, or what they are made of."""

    drawn: Tensor  # (draws, hidden, batch): masks, or with ``keep`` numbers from 0 to 1
    # (students,), the draw of each; None where as many students side by side have each.
    rows: Tensor | None = None
    keep: Tensor | None = None  # (students,), shares of units kept; None where all agree


class Stack(Stacked):
    """Students of the network ``mlp`` side by side; their outputs are those of ``kd.models``.

    Args:
        members: the students.
        width: of the hidden layer, at least that of the widest student.
    """

    compilable, remake = True, 10_000

    def __init__(self, members: Members, width: int) -> None:
        super().__init__(members)
        networks = members.networks
        self.widths = [network.dense.out_features for network in networks]
        by_draw = dict(zip(self.draws.rows.tolist(), self.widths, strict=True))
        self.widths_of_draws = [by_draw[draw] for draw in range(len(self.dropouts))]
        self.own = make_gradients(self.kinds)
        device = networks[0].dense.weight.device
        keep = [1 - share for share in members.shares]
        kind = torch.float32 if device.type == "mps" else torch.float64  # as Dropout draws
        self.keep = torch.tensor(keep, dtype=kind, device=device)
        self.drops, self.alike = min(keep) < 1, len(set(keep)) == 1
        self.units = [sum(self.widths[place] for place in lane) for lane in self.lanes]

        def padded(values: Tensor) -> Tensor:
            return F.pad(values.detach(), (0, width - values.shape[-1]))

        # One tensor per lane, because its gradient is one product's result: a stack of all would
        # have to be put together from these at every step.
        first = torch.cat([network.dense.weight.detach() for network in networks])
        self.first = nn.ParameterList(first.split(self.units))
        self.bias = nn.Parameter(torch.stack([padded(n.dense.bias) for n in networks]))
        self.weight = nn.Parameter(torch.stack([padded(n.output.weight) for n in networks]))
        self.output_bias = nn.Parameter(torch.stack([n.output.bias.detach() for n in networks]))
        self.stack_regressors(members.regressors)
        units = [range(at * width, at * width + n) for at, n in enumerate(self.widths)]
        real = [place for of_student in units for place in of_student]
        self.padded = len(real) < width * len(networks)
        # Where the padded layout has the real units, and where these have the padded ones' (the
        # last one stands for all that are none).
        self.real = torch.tensor(real, device=device)
        self.places = torch.full((width * len(networks),), len(real), device=device)
        self.places[self.real] = torch.arange(len(real), device=device)

    def slots(self) -> list[tuple[str, Places]]:
        """See :meth:`Stacked.slots`."""
        each = [(place, 1) for place in range(self.size)]
        found = [(name, each) for name in ("bias", "weight", "output_bias")]
        found += [("first", [(place, self.widths[place]) for place in lane]) for lane in self.lanes]
        return found + self.regressor_slots()

    def values(self) -> Weights:
        """See :meth:`Stacked.values`."""
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

    def masks(self, batch: int) -> Masks | None:
        """A batch's dropout masks."""
        if not self.drops:
            return None
        rows = None if self.draws.each else self.draws.rows
        shape = len(self.dropouts), self.bias.shape[1], batch
        keep = float(self.keep[0]) if self.alike else None
        # Numbers are compared before they are turned: they are doubles.
        found = self.bias.new_ones(shape) if keep else self.keep.new_ones(shape)
        for row, (layer,), width in zip(found, self.dropouts, self.widths_of_draws, strict=True):
            drawn = layer.uniforms((batch, width), self.bias.device)
            row[:width] = (drawn < keep).mT if keep else drawn.mT
        return Masks(found.div_(keep), rows) if keep else Masks(found, rows, self.keep)

    def arguments(self, values: Weights, images: Tensor, owns: Sequence[dict[str, Any]]) -> tuple:
        """See :meth:`Stacked.arguments`."""
        products = self.products(values, images)
        return products, *values[1:], self.masks(images.shape[1]), owns

    def differentiate(self, *arguments: Any) -> Sequence[Tensor]:
        """See :meth:`Stacked.differentiate`."""
        return self.own(*arguments)

    def gradients(self, images: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        """See :meth:`Stacked.gradients`."""
        of_products, *of_rest = found
        flat = of_products.flatten(0, 1)
        if self.padded:
            flat = flat.index_select(0, self.real)
        parts = flat.split(self.units)
        of_first = [
            wide_product(part, batch.t()) for part, batch in zip(parts, images, strict=True)
        ]
        return [*of_rest[:3], *of_first, *of_rest[3:]]

    def logits(self, images: Tensor) -> Tensor:
        """See :meth:`Stacked.logits`."""
        values = self.values()
        return outputs_of(values, self.products(values, images), masks=None).logits

    def state(self, place: int) -> dict[str, Tensor]:
        """See :meth:`Stacked.state`."""
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

    It takes the products of the first layers, what each of :class:`Weights` but these has, the
    masks, and what students have of their own. Gradients come in the order of
    :meth:`Stack.gradients`, losses and numbers kind by kind.
    """

    def objective(products, bias, weight, output_bias, regression, masks, owns):
        weights = Weights([], bias, weight, output_bias, regression)
        return losses_of(kinds, outputs_of(weights, products, masks), regression, owns)

    differentiate = torch.func.grad(objective, argnums=(0, 1, 2, 3, 4), has_aux=True)

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        (*own, of_regression), counted = differentiate(*arguments)
        return *own, *of_regression, *counted

    return gradients
