"""Many students as tensors: their parameters stacked, the loss and its gradients for all at once.

Tensors of a stack have their students first, seed by seed, and the batch last: (students, hidden,
batch). That is the layout which the wide product gives, and in which sums over ten classes are
vector instructions across the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.config.schema import Config
from kd.methods.base import Distillation, cross_entropy, weighted_loss
from kd.metrics import count_right
from kd.models.base import Task
from kd.models.network import build_model, build_regressor, classify
from kd.outputs import Outputs
from kd.training.tracing import wide_product


class Weights(NamedTuple):
    """The parameters of a stack as they are, without a graph."""

    first: list[Tensor]  # a seed: (cells · hidden, pixels)
    bias: Tensor  # (students, hidden)
    weight: Tensor  # (students, classes, hidden)
    output_bias: Tensor  # (students, classes)
    regression: tuple[Tensor, ...]  # the regressors' weights and biases; empty without these

    def products(self, images: Tensor) -> Tensor:
        """(seeds, batch, pixels) → (students, hidden, batch), before the bias."""
        found = [wide_product(*pair) for pair in zip(self.first, images, strict=True)]
        together = found[0] if len(found) == 1 else torch.cat(found)
        return together.unflatten(0, self.bias.shape)


class Stack(nn.Module):
    """Students of the network ``mlp`` side by side; their outputs are those of ``kd.models``.

    Args:
        config: of any of the students.
        seeds: that give the students their initial weights and dropout masks.
        cells: how many students each seed has.
        device: where they live.
        task: what they are made for.
        widths: of their hidden representation, and what a regressor of each student's own takes it
            to; None has no regressors.
    """

    def __init__(
        self,
        config: Config,
        seeds: Sequence[int],
        cells: int,
        device: torch.device,
        task: Task,
        widths: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        networks = [build_model(config.model, seed, task).to(device) for seed in seeds]
        students = [network for network in networks for _ in range(cells)]
        stacked, _ = torch.func.stack_module_state(students)
        self.cells = cells
        # One tensor a seed, because its gradient is one product's result: a stack of all would
        # have to be put together from these at every step.
        self.first = nn.ParameterList(stacked["dense.weight"].detach().split(cells))
        self.bias = nn.Parameter(stacked["dense.bias"].detach())
        self.weight = nn.Parameter(stacked["output.weight"].detach())
        self.output_bias = nn.Parameter(stacked["output.bias"].detach())
        self.regressors = nn.ParameterList()  # none, or weights and biases
        if widths is not None:
            drawn = [build_regressor(*widths, seed).to(device) for seed in seeds]
            stacked, _ = torch.func.stack_module_state([r for r in drawn for _ in range(cells)])
            self.regressors.extend(value.detach() for value in stacked.values())
        self.dropouts = [network.dropout for network in networks]
        for dropout in self.dropouts:
            dropout.generator_on(device)

    def weights(self) -> Weights:
        """All parameters: they change with those of the stack."""
        first = [weight.detach().flatten(0, 1) for weight in self.first]
        rest = self.bias.detach(), self.weight.detach(), self.output_bias.detach()
        return Weights(first, *rest, tuple(value.detach() for value in self.regressors))

    def gradients(self, images: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        """Those of :meth:`parameters`, in their order, from what :func:`make_gradients` finds."""
        of_products, *of_rest = found
        parts = of_products.flatten(0, 1).chunk(len(self.first))
        of_first = [
            wide_product(part, batch.t()).view_as(weight)
            for weight, part, batch in zip(self.first, parts, images, strict=True)
        ]
        return [*of_rest[:3], *of_first, *of_rest[3:]]

    def masks(self, batches: int, batch_size: int) -> Sequence[Tensor | None]:
        """A batch's dropout masks, (seeds, hidden, batch), for each of the next batches.

        None where nothing is dropped.
        """
        if self.dropouts[0].share == 0:
            return [None] * batches
        shape, device = (batch_size, self.bias.shape[1]), self.bias.device
        drawn = [d.mask(shape, device) for _ in range(batches) for d in self.dropouts]
        return torch.stack(drawn).mT.contiguous().unflatten(0, (batches, -1)).unbind()

    def state(self, student: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network."""
        seed, cell = divmod(student, self.cells)
        state = {
            "dense.weight": self.first[seed][cell],
            "dense.bias": self.bias[student],
            "output.weight": self.weight[student],
            "output.bias": self.output_bias[student],
        }
        return {name: value.detach().clone() for name, value in state.items()}


def outputs_of(weights: "Weights", products: Tensor, masks: Tensor | None) -> Outputs:
    """Logits (students, classes, batch) and hidden representations (students, hidden, batch).

    Args:
        weights: of the students.
        products: (students, hidden, batch), of the first layers.
        masks: (seeds, hidden, batch), of all cells of a seed; None drops nothing.
    """

    def drop(hidden: Tensor) -> Tensor:
        if masks is None:
            return hidden
        by_seed = hidden.unflatten(0, (len(masks), -1))
        return (by_seed * masks.unsqueeze(1)).flatten(0, 1)

    return classify(
        products,
        dense=lambda products: products + weights.bias.unsqueeze(-1),
        dropout=drop,
        output=lambda kept: torch.baddbmm(weights.output_bias.unsqueeze(-1), weights.weight, kept),
    )


def make_gradients(
    kd: Distillation | None, smoothing: float = 0.0
) -> Callable[..., Sequence[Tensor]]:
    """The function that gives every student's gradients, then losses and numbers of right answers.

    It takes what each of :class:`Weights` but the first layers has, the products of these, the
    masks, and a dictionary of what each student has of its own: its labels (batch,) or shares
    (batch, classes), the teacher's outputs for the batch, its numbers of ``kd`` and the weights of
    labels and term. Gradients come in the order of :meth:`Stack.gradients`.

    Args:
        kd: the method; None trains on the labels alone.
        smoothing: of the labels, the same for all.
    """

    def loss(logits: Tensor, hidden: Tensor, own: dict[str, Any]) -> Tensor:
        if kd is None:
            return cross_entropy(logits, own["labels"], smoothing)
        teacher = Outputs(own["logits"], own.get("hidden"))
        term = replace(kd, **own["numbers"]).term(Outputs(logits, hidden), teacher, own["labels"])
        return weighted_loss(logits, own["labels"], term, own["loss_weights"], smoothing)

    def objective(products, bias, weight, output_bias, regression, masks, own):
        weights = Weights([], bias, weight, output_bias, regression)
        logits, hidden, _ = outputs_of(weights, products, masks)
        if regression:
            matrix, offset = regression
            hidden = torch.baddbmm(offset.unsqueeze(-1), matrix, hidden)
        losses = torch.func.vmap(loss)(logits.transpose(1, 2), hidden.transpose(1, 2), own)
        right = count_right(logits.detach(), own["labels"], dim=1)
        # No student's loss depends on another's weights: the gradient of the sum holds each one's.
        return losses.sum(), (losses.detach(), right)

    differentiate = torch.func.grad(objective, argnums=(0, 1, 2, 3, 4), has_aux=True)

    def gradients(*arguments: Any) -> tuple[Tensor, ...]:
        (*own, of_regression), counted = differentiate(*arguments)
        return *own, *of_regression, *counted

    return gradients
