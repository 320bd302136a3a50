"""The LightningModule of many students: those of a sweep that train together.

The students of a group have one kind of network and differ in numbers: their seed, the numbers of
their method and of their optimiser, the width of an MLP's layer. They share work: the images of a
batch are gathered once per seed, and Python's and Lightning's overhead is paid once per step. What
a stack makes of the images is its own matter, see ``kd.sweeps.stacked``.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.data.module import Batch, Batches
from kd.methods.base import cross_entropy
from kd.metrics import count_right
from kd.models.network import Dropout, build_model, build_regressor
from kd.outputs import Outputs
from kd.sweeps.batches import KindBatches, Orders
from kd.sweeps.layout import (
    Draw,
    Lane,
    Numbered,
    Rows,
    draw_of,
    kinds_of,
    lane_of,
    share_of,
    width_of,
)
from kd.sweeps.network_stack import NetworkStack
from kd.sweeps.optimizers import OwnNumbers
from kd.sweeps.stack import Stack
from kd.sweeps.stacked import Members, Stacked
from kd.training.book import Bookkeeper
from kd.training.fit import ends_of
from kd.training.material import Material
from kd.training.teacher import FrozenTeacher, needs_live_teacher
from kd.training.threads import Threads, is_free, same_bits, using
from kd.training.tracing import can_compile, optimizer_step, traced

# Compiling takes up to 20 s and saves about 0.2 ms per batch and 0.01 ms more per student.
COMPILE_FROM = 2_000_000  # batches · (20 + students)
# A student that has ended still takes 0.1 ms per batch while it is in a stack that is compiled, and
# to compile a smaller one takes 20 s.
COMPILING = 200_000  # batches of a student in the same time


class GroupModule(Bookkeeper):
    """Trains the students of a group, each as it would be trained alone.

    Args:
        configs: of the students, those of one lane side by side.
        materials: of each.
    """

    def __init__(self, configs: Sequence[Config], materials: Sequence[Material]) -> None:
        super().__init__([ends_of(config) for config in configs])
        self.automatic_optimization = False  # one step of Lightning's is a chunk of batches
        self.configs, self.materials = list(configs), list(materials)
        lead = next((m for m in materials if m.teachers), materials[0])
        self.data, self.here = lead.data, lead.accelerator.device
        self.augments = configs[0].data.augment
        # In a dictionary, as in DistillModule a tuple: outside the module's own parameters.
        self.live_teachers = {
            tuple(m.teachers): FrozenTeacher(m.teacher).to(self.here)
            for config, m in zip(configs, materials, strict=True)
            if m.teachers and needs_live_teacher(config)
        }
        self.batches_of: dict[Lane, Batches] = {}
        for config, material in zip(configs, materials, strict=True):
            if (lane := lane_of(config)) not in self.batches_of:
                self.batches_of[lane] = material.data.training(config.seed)
        self.orders = Orders([*self.batches_of.values()])
        self.dropouts: dict[Draw, list[Dropout]] = {}
        self.passed = 0  # batches of the epoch, the one in hand included
        self.fill()

    def fill(self) -> None:
        """Make the stack of the counted students, with their initial weights."""
        configs = [self.configs[student] for student in self.counted]
        materials = [self.materials[student] for student in self.counted]
        lanes, draws, device = Numbered(), Numbered(), self.here
        lane_of_place = [lanes(lane_of(config)) for config in configs]
        networks = {}
        for config in configs:
            if (draw := draw_of(config)) not in networks:
                networks[draw] = build_model(config.model, config.seed, self.data.task).to(device)
                layers = [m for m in networks[draw].modules() if isinstance(m, Dropout)]
                self.dropouts.setdefault(draw, layers)
        draw_rows = Rows([draws(draw_of(config)) for config in configs], device)
        self.kinds = kinds_of(configs, materials)
        shared = configs, materials, lane_of_place, device
        self.of_kinds = [KindBatches(kind, *shared) for kind in self.kinds]
        order = [place for kind in self.kinds for place in kind.places]
        self.order = (
            None if order == sorted(order) else torch.tensor(order, device=device).argsort()
        )
        regressors = [
            [build_regressor(*k.regression, configs[p].seed).to(device) for p in k.places]
            if k.regression
            else []
            for k in self.kinds
        ]
        members: list[list[int]] = [[] for _ in lanes.all()]
        for place, lane in enumerate(lane_of_place):
            members[lane].append(place)
        built = [networks[draw_of(config)] for config in configs]
        dropouts = [self.dropouts[draw] for draw in draws.all()]
        shares = [share_of(config) for config in configs]
        self.stack = self._stack(
            Members(built, members, self.kinds, regressors, draw_rows, dropouts, shares)
        )
        self.fast: Callable[..., Sequence[Tensor]] | None = None  # for batches of full size
        self.compiles: bool | None = None  # not decided
        self.threads = Threads()
        self.follows: bool | None = None  # whether validation may follow the load too
        self.orders.batches = [self.batches_of[lane] for lane in lanes.all()]

    def _stack(self, members: Members) -> Stacked:
        """The stack that the network calls for."""
        if not self.configs[0].model.stacks:
            return NetworkStack(members, self.data.task)
        return Stack(members, width=max(map(width_of, self.configs)))

    def batches(self) -> int:
        """Of the whole training."""
        return max(ends.epochs for ends in self.ends) * self.batches_per_epoch

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return len(self.orders.batches[0])

    def configure_optimizers(self) -> Any:
        """Torch's own optimiser where all students agree in its numbers, else one of their own."""
        optims = [replace(config.optim, label_smoothing=0.0) for config in self.configs]
        epochs = [ends.epochs for ends in self.ends]
        if all(optim == optims[0] for optim in optims) and len(set(epochs)) == 1:
            return self.optimizers_of(optims[0])
        steps = [self.batches_per_epoch * count for count in epochs]
        counted = [(optims[student], steps[student]) for student in self.counted]
        return OwnNumbers(self.parameters(), self.stack.rows(), *zip(*counted, strict=True))

    def rates(self) -> list[float]:
        """The learning rates of the counted students."""
        (optimizer,) = self.trainer.optimizers
        return optimizer.rates() if isinstance(optimizer, OwnNumbers) else super().rates()

    def train_dataloader(self) -> Orders:
        """The training batches of all lanes."""
        return self.orders

    def val_dataloader(self) -> Batches:
        """The validation images."""
        return self.data.val_dataloader()

    def on_train_epoch_start(self) -> None:
        """Count the epoch's batches."""
        super().on_train_epoch_start()
        self.passed = 0

    def training_step(self, indices: Tensor, chunk: int) -> None:
        """A step of the optimiser for each batch of (batches, lanes, batch) indices."""
        full = indices.shape[-1] == self.orders.size
        with self.threads.piece(len(indices)) if full else nullcontext():
            self._steps(indices)

    def _steps(self, indices: Tensor) -> None:
        count, _, size = indices.shape
        labelled = size - self.orders.added
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        values = self.stack.values()
        counted = []
        for images, owns in self._batches(indices):
            if self.threads.free is None:
                self.threads.free = self._is_free_of_threads(values, images, owns)
            gradients, losses, right = self._step(values, images, owns)
            if isinstance(optimizer, OwnNumbers):
                optimizer.take(gradients)
            else:
                optimizer_step(optimizer, gradients)
            if schedule is not None:
                schedule.step()
            counted.append((losses, right))
        losses, right = (torch.stack(values).sum(0) for values in zip(*counted, strict=True))
        if self.order is not None:
            losses, right = losses[self.order], right[self.order]
        self.note("train", losses, right, labelled, batches=count)

    def _step(
        self, values: Any, images: Tensor, owns: list[dict[str, Any]]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Gradients, losses and counts of a batch."""
        arguments = self.stack.arguments(values, images, owns)
        *found, losses, right = self._differentiate(images.shape[1], arguments)
        return self.stack.gradients(images, found), losses, right

    def _is_free_of_threads(self, *batch: Any) -> bool:
        """Whether one thread gives a batch the same bits; views and live teachers it may not."""
        drawn = self.augments.active or self.live_teachers  # outside of what is compared
        if self.here.type != "cpu" or drawn or list(self.stack.buffers()):
            return False

        def step() -> list[Tensor]:
            gradients, *others = self._step(*batch)
            return [*gradients, *others]

        return is_free(step, self.stack.generators(self.here))

    def _batches(self, indices: Tensor) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
        """Each batch's images, (lanes, samples, pixels), and what else its losses take."""
        views = self.augments.active
        labels = [] if views else [kind.labels_of(indices) for kind in self.of_kinds]
        known = [{} if views else kind.known_of(indices) for kind in self.of_kinds]
        shares_of = self.orders.batches[0].shares
        for number, chosen in enumerate(indices):
            self.passed += 1
            epochs = len(self.history) + self.passed / self.batches_per_epoch
            if views:
                images, shares = self._view(chosen)
                seen = self._seen(images)
                owns = [
                    kind.own(kind.of_lanes(shares), kind.seen_of(seen), epochs)
                    for kind in self.of_kinds
                ]
            else:
                images, _ = self.data.pool.take(chosen.flatten())
                images = images.view(*chosen.shape, -1)
                seen = self._seen(images)
                owns = [
                    kind.own(
                        shares_of(labels[at][number]),
                        {name: part[number] for name, part in known[at].items()}
                        or kind.seen_of(seen),
                        epochs,
                    )
                    for at, kind in enumerate(self.of_kinds)
                ]
            yield self._centred(images), owns

    def _centred(self, images: Tensor) -> Tensor:
        """(…, pixels) → what the students see of them: the same mean is taken from all."""
        return images if self.data.mean is None else images - self.data.mean.flatten()

    def _view(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Views (lanes, samples, pixels) of these (lanes, batch) images, and their shares."""
        pairs = zip(self.orders.batches, chosen, strict=True)
        views = [batches.take(these) for batches, these in pairs]
        images, shares = (torch.stack(part) for part in zip(*views, strict=True))
        return images.flatten(2), shares

    def _seen(self, images: Tensor) -> dict[Any, Outputs]:
        """The live teachers' outputs (lanes, samples, …) for a batch's (lanes, samples, pixels)."""
        together = images.reshape(-1, *self.data.task.shape)
        return {
            name: live.see(together).each(lambda part: part.unflatten(0, images.shape[:2]))
            for name, live in self.live_teachers.items()
        }

    def _differentiate(self, size: int, arguments: tuple) -> Sequence[Tensor]:
        """Gradients, losses and counts; of a batch of full size by the fast function."""
        if size != self.orders.size * (1 + self.augments.extra):
            return self.stack.differentiate(*arguments)
        if self.fast is None:
            if self.compiles is None:  # else as the earlier attempt did
                left = self._left(self.counted)
                worth = self._is_worth_compiling(left, len(self.counted))
                self.compiles = worth and can_compile()
            self.fast = traced(self.stack.differentiate, arguments, self.compiles)
        return self.fast(*arguments)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch of the validation's to its sums."""
        if self.threads.free and self.follows is None:
            mine = self._validated(batch)
            with using(1):
                self.follows = same_bits(mine, self._validated(batch))
        follows = self.follows and self.threads.chosen
        with using(self.threads.chosen) if follows else nullcontext():
            losses, right, _ = self._validated(batch)
        self.note("val", losses, right, len(batch.labels))

    def _validated(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, numbers of right answers, and logits: sums may have the same bits by chance."""
        images = self._centred(batch.images.flatten(1))
        logits = self.stack.logits(images.expand(len(self.stack.lanes), -1, -1))
        labels = batch.labels.expand(len(self.counted), -1)
        losses = torch.func.vmap(cross_entropy)(logits.transpose(1, 2), labels)
        return losses, count_right(logits, labels, dim=1), logits

    def on_train_epoch_end(self) -> None:
        """Let students go that have ended, and make the stack smaller where that pays."""
        super().on_train_epoch_end()
        if 0 < len(self.live) < len(self.counted) and self._is_worth_shrinking():
            self._shrink()

    def _left(self, students: Sequence[int]) -> int:
        """How many batches the training still has, at most."""
        return self.batches_per_epoch * (
            max(self.ends[student].epochs for student in students) - len(self.history)
        )

    def _is_worth_shrinking(self) -> bool:
        """Whether a smaller stack saves more time than it takes to make; a rule, no measurement."""
        left, stay = self._left(self.live), len(self.live)
        costs = self.stack.remake * self._forms()
        if self._is_worth_compiling(left, stay):
            costs += COMPILING * self._forms()
        elif self.compiles:  # traced steps take longer
            costs += left * (2 + stay // 10)
        return left * (len(self.counted) - stay) >= costs

    def _forms(self) -> int:
        """How much longer tracing and compiling take than with one kind of students or a few."""
        return 1 + len(self.kinds) // 4

    def _is_worth_compiling(self, batches: int, students: int) -> bool:
        """Whether a training of so many batches wins more than compiling takes."""
        wins = batches * (20 + students) >= COMPILE_FROM * self._forms()
        return self.stack.compilable and wins

    def _shrink(self) -> None:
        """Leave out of the stack the students that have ended."""
        old, before = self.stack, self.counted
        self.counted = list(self.live)
        self.sums = self.sums[:, :, : len(self.counted)].clone()
        self.fill()
        places = [before.index(student) for student in self.counted]

        def move(tensors: Sequence[Tensor]) -> list[Tensor]:
            parts = old.taken_apart(tensors)
            names = {name for name, _ in parts}
            kept = {
                (name, new): parts[name, was]
                for new, was in enumerate(places)
                for name in names
                if (name, was) in parts
            }
            return self.stack.put_together(kept)

        optimizer: Any = self.trainer.optimizers[0]
        states = [optimizer.state[parameter] for parameter in old.parameters()]
        parameters = list(self.stack.parameters())
        values = move([parameter.detach() for parameter in old.parameters()])
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        for buffer, value in zip(self.stack.buffers(), old.buffers(), strict=True):
            buffer.copy_(value[places])
        optimizer.state = defaultdict(dict)
        for name in states[0]:
            found = [state[name] for state in states]
            whole = found[0].ndim == 0  # the number of steps, which is the same for all
            moved = [found[0].clone() for _ in parameters] if whole else move(found)
            for parameter, value in zip(parameters, moved, strict=True):
                optimizer.state[parameter][name] = value
        optimizer.param_groups[0]["params"] = parameters
        if isinstance(optimizer, OwnNumbers):
            optimizer.keep(places, self.stack.rows())

    def state(self, student: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network, a copy."""
        return self.stack.state(self.counted.index(student))

    def generators(self) -> list[torch.Generator]:
        """Those of each lane's batches, and of the dropout masks."""
        drawing = [
            generator for batches in self.orders.batches for generator in batches.generators()
        ]
        return [*drawing, *self.stack.generators(self.here)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whether the step is compiled: compiled ones round differently."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["book"]["compiles"] = self.compiles

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue as the earlier attempt did."""
        super().on_load_checkpoint(checkpoint)
        if len(self.counted) < self.students:
            self.fill()
        self.compiles = checkpoint["book"]["compiles"]
