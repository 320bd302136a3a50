"""Many networks of one architecture as tensors, whatever its layers: by ``torch.func``.

Parameters and buffers have their students first. The network's own forward is mapped over them, so
that students come out as they would alone: batch norm has each student's batch and running
statistics, and dropout the masks of each student's own generator.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd.errors import reason
from kd.models.base import Model, Task
from kd.models.network import Dropout, build_model, weights_of
from kd.outputs import Outputs
from kd.seeding import global_state, isolated
from kd.sweeps.layout import Kind, Rows
from kd.sweeps.stacked import Members, Places, Stacked, losses_of


class Values(NamedTuple):
    """A stack's tensors as they are, without a graph; students first."""

    weights: list[Tensor]
    regression: list[Tensor]
    kept: list[Tensor]  # buffers, and parameters that are not trained


class Seeing(nn.Module):
    """A network whose forward gives all that ``see`` gives, as a dictionary of tensors."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network: Any = network

    def forward(self, images: Tensor) -> dict[str, Any]:
        """(batch, channels, height, width) → logits, and what there is of the others."""
        logits, hidden, maps = self.network.see(images)
        found = {"logits": logits, "maps": maps}
        return found if hidden is None else found | {"hidden": hidden}


class Template:
    """A network that stands for all of a stack: its code runs, on the tensors that it is given.

    Args:
        network: is copied.
        task: what it is made for.
    """

    def __init__(self, network: nn.Module, task: Task) -> None:
        self.seeing, self.task = Seeing(copy.deepcopy(network)), task
        self.layers = [m for m in self.seeing.modules() if isinstance(m, Dropout)]
        self.wanted: dict[int, list[tuple[int, torch.Size]]] = {}  # masks by the size of a batch

    @contextmanager
    def _masks(self, take: Any) -> Iterator[None]:
        """Have the dropout layers ask ``take(layer's number, shape)`` for their masks."""
        before = [layer.share for layer in self.layers]
        for number, layer in enumerate(self.layers):
            layer.share = layer.share or 0.5  # another student's is not 0
            layer.mask = lambda shape, device, number=number: take(number, shape)
        try:
            yield
        finally:
            for layer, share in zip(self.layers, before, strict=True):
                layer.share = share
                del layer.mask

    def calls(self, batch: int) -> list[tuple[int, torch.Size]]:
        """Which dropout layers ask for masks of which shape, in the order in which they do."""
        if not self.layers:
            return []
        if batch not in self.wanted:
            found: list[tuple[int, torch.Size]] = []
            device = next(self.seeing.parameters()).device

            def note(number: int, shape: torch.Size) -> Tensor:
                found.append((number, shape))
                return torch.ones(shape, device=device)

            state = {n: v.clone() for n, v in self.seeing.state_dict().items()}
            self.seeing.train()
            with torch.no_grad(), self._masks(note):
                self.seeing(torch.zeros(batch, *self.task.shape, device=device))
            self.seeing.load_state_dict(state)
            self.wanted[batch] = found
        return self.wanted[batch]

    def see(
        self, named: dict[str, Tensor], images: Tensor, masks: Sequence[Tensor] | None
    ) -> dict[str, Any]:
        """What one student sees; ``named`` then has its buffers after the step.

        Args:
            named: parameters and buffers.
            images: (batch, channels, height, width).
            masks: of dropout, in the order of :meth:`calls`; None is evaluation mode.
        """
        self.seeing.train(masks is not None)
        if masks is None:
            return torch.func.functional_call(self.seeing, named, (images,))
        given = iter(masks)
        with self._masks(lambda number, shape: next(given)):
            return torch.func.functional_call(self.seeing, named, (images,))


class NetworkStack(Stacked):
    """Students of any network side by side.

    Args:
        members: the students, of one architecture; their dropout may differ.
        task: what the networks are made for.
    """

    compilable, remake = False, 500

    def __init__(self, members: Members, task: Task) -> None:
        super().__init__(members)
        seeing = [Seeing(network) for network in members.networks]
        # In a tuple, as DistillModule's teacher: outside the module's own parameters.
        self._template = (Template(members.networks[0], task),)
        weights, buffers = (
            {n: torch.stack([tensor_of(s, n) for s in seeing]).contiguous() for n in names}
            for names in names_of(seeing[0], task, self.kinds)
        )
        self.names, self.kept_names = list(weights), list(buffers)
        self.weights = nn.ParameterList(weights.values())
        for number, value in enumerate(buffers.values()):
            self.register_buffer(f"kept{number}", value)
        self.stack_regressors(members.regressors)
        lane_of = {place: lane for lane, places in enumerate(self.lanes) for place in places}
        lanes = [lane_of[place] for place in range(self.size)]
        self.lane_rows = Rows(lanes, self.weights[0].device)

    @property
    def template(self) -> Template:
        """The network that stands for all."""
        return self._template[0]

    def slots(self) -> list[tuple[str, Places]]:
        """See :meth:`Stacked.slots`."""
        each = [(place, 1) for place in range(self.size)]
        return [(name, each) for name in self.names] + self.regressor_slots()

    def values(self) -> Values:
        """See :meth:`Stacked.values`."""
        regression = [value.detach() for value in self.regressors]
        return Values([w.detach() for w in self.weights], regression, list(self.buffers()))

    def masks(self, batch: int) -> list[Tensor]:
        """A batch's dropout masks, (students, …) each, as each student's layers draw them."""
        drawn: list[list[Tensor]] = []
        device = self.weights[0].device
        for layers in self.dropouts:
            drawn.append([])
            for number, shape in self.template.calls(batch):
                layer = layers[number]
                ones = layer.share == 0
                drawn[-1].append(
                    torch.ones(shape, device=device) if ones else layer.mask(shape, device)
                )
        return [self.draws.take(torch.stack(masks)) for masks in zip(*drawn, strict=True)]

    def arguments(self, values: Values, images: Tensor, owns: Sequence[dict[str, Any]]) -> tuple:
        """See :meth:`Stacked.arguments`."""
        return *values, self._of_lanes(images), self.masks(images.shape[1]), owns

    def _of_lanes(self, images: Tensor) -> Tensor:
        """(lanes, batch, pixels) → (students, batch, …); of a single lane (batch, …) for all."""
        shaped = images.unflatten(2, self.template.task.shape)
        return shaped[0] if len(self.lanes) == 1 else self.lane_rows.take(shaped)

    def _see(
        self,
        weights: Sequence[Tensor],
        kept: Sequence[Tensor],
        images: Tensor,
        masks: Sequence[Tensor] | None,
    ) -> tuple[Outputs, list[Tensor]]:
        """The outputs in a stack's layout, and what is kept, after the step."""

        def one(weights, kept, images, masks):
            kept = dict(zip(self.kept_names, [value.clone() for value in kept], strict=True))
            named = dict(zip(self.names, weights, strict=True)) | kept
            found = self.template.see(named, images, masks)
            return found, [named[name] for name in self.kept_names]

        own_images = 0 if images.ndim == 5 else None
        dims = 0, 0, own_images, None if masks is None else 0
        mapped = torch.func.vmap(one, in_dims=dims)
        found, kept = mapped(list(weights), list(kept), images, masks)
        hidden = found["hidden"].mT if "hidden" in found else None
        return Outputs(found["logits"].mT, hidden, tuple(found["maps"])), kept

    def differentiate(self, *arguments: Any) -> Sequence[Tensor]:
        """See :meth:`Stacked.differentiate`."""

        def objective(weights, regression, kept, images, masks, owns):
            outputs, kept = self._see(weights, kept, images, masks)
            total, counted = losses_of(self.kinds, outputs, regression, owns)
            return total, (kept, counted)

        differentiated = torch.func.grad(objective, argnums=(0, 1), has_aux=True)
        (of_weights, of_regression), (kept, counted) = differentiated(*arguments)
        return *of_weights, *of_regression, *kept, *counted

    def gradients(self, images: Tensor, found: Sequence[Tensor]) -> list[Tensor]:
        """See :meth:`Stacked.gradients`."""
        count = len(self.weights) + len(self.regressors)
        for buffer, value in zip(self.buffers(), found[count:], strict=True):
            buffer.copy_(value)
        # A fused optimiser goes through memory as it lies: gradients must lie as parameters do.
        return [gradient.contiguous() for gradient in found[:count]]

    def logits(self, images: Tensor) -> Tensor:
        """See :meth:`Stacked.logits`."""
        weights, _, kept = self.values()
        return self._see(weights, kept, self._of_lanes(images), None)[0].logits

    def state(self, place: int) -> dict[str, Tensor]:
        """See :meth:`Stacked.state`."""
        seeing = self.template.seeing
        names = [*self.names, *self.kept_names]
        with torch.no_grad():
            for name, values in zip(names, [*self.weights, *self.buffers()], strict=True):
                tensor_of(seeing, name).copy_(values[place])
        return weights_of(seeing.network)


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """A parameter or buffer by its name, without a graph."""
    owner, _, last = name.rpartition(".")
    return getattr(module.get_submodule(owner), last).detach()


def names_of(seeing: Seeing, task: Task, kinds: Sequence[Kind]) -> tuple[list[str], list[str]]:
    """The names of the parameters that are trained, and those of all else that has values.

    A parameter that no loss depends on is left as it is, by an optimiser's decay too.
    """
    device = next(seeing.parameters()).device
    before = seeing.training
    found = seeing.eval()(torch.rand(2, *task.shape, device=device))
    seeing.train(before)
    seen = [found["logits"]]
    if any(kind.width is not None for kind in kinds):
        seen.append(found["hidden"])
    if any(kind.maps for kind in kinds):
        seen += found["maps"]
    named = {name: p for name, p in seeing.named_parameters() if p.requires_grad}
    total = torch.stack([part.sum() for part in seen]).sum()
    grads = torch.autograd.grad(total, [*named.values()], allow_unused=True)
    trained = [name for name, grad in zip(named, grads, strict=True) if grad is not None]
    kept = [name for name, _ in seeing.named_parameters() if name not in trained]
    return trained, kept + [name for name, _ in seeing.named_buffers()]


def plain_stack(networks: Sequence[Any], task: Task) -> NetworkStack:
    """A stack of students that are trained on the labels alone, all on the same images."""
    places = list(range(len(networks)))
    kinds = [Kind(None, None, None, places)]
    dropouts = [[m for m in n.modules() if isinstance(m, Dropout)] for n in networks]
    rows = Rows(places, next(networks[0].parameters()).device)
    shares = [layers[0].share if layers else 0.0 for layers in dropouts]
    return NetworkStack(Members(networks, [places], kinds, [[]], rows, dropouts, shares), task)


def why_not(model: Model, task: Task) -> str | None:
    """Why networks of these settings cannot be stacked; None where they can."""
    networks = [build_model(model, seed, task) for seed in (0, 1)]
    images = torch.rand(4, *task.shape, generator=torch.Generator().manual_seed(0))
    own = [{"labels": torch.zeros(2, 4, dtype=torch.long)}]
    with isolated(0):
        attributes = [_attributes(network.train()) for network in networks]
        before = torch.get_rng_state(), global_state()
        alone = [network.see(images).logits for network in networks]
        if not torch.equal(torch.get_rng_state(), before[0]) or global_state() != before[1]:
            return "draws from global random generators while it trains, as torch's Dropout does"
        if [_attributes(network) for network in networks] != attributes:
            return "changes attributes of its own, which are no buffers, while it trains"
        networks = [build_model(model, seed, task) for seed in (0, 1)]  # masks begin anew
        stack = plain_stack(networks, task)
        try:
            arguments = stack.arguments(stack.values(), images.flatten(1).unsqueeze(0), own)
            stack.differentiate(*arguments)
            outputs, _ = stack._see(arguments[0], arguments[2], *arguments[3:5])
        except Exception as error:  # whatever the user's own code raises
            return f"torch.func.vmap cannot map it: {reason(error)}"
    apart = (outputs.logits.mT - torch.stack(alone)).norm()
    if not apart <= 1e-3 * torch.stack(alone).norm():
        return "gives other logits under torch.func.vmap"
    return None


def _attributes(network: nn.Module) -> str:
    """The plain values among the attributes of a network's layers."""
    usual = vars(nn.Module()).keys()
    return repr(
        {
            f"{name}.{key}": value
            for name, layer in network.named_modules()
            for key, value in vars(layer).items()
            if key not in usual and isinstance(value, bool | int | float | str | list | dict)
        }
    )
