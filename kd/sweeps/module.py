"""The LightningModule of many students: the seeds and cells of a sweep, trained together.

The students of a group have one architecture and differ in numbers: their seed, and the sweepable
numbers of ``conf/kd`` (a cell). A group is a grid, every seed with every cell, and so can share
work: the images of a batch are gathered once per seed and meet the first layers of all its cells in
one wide matrix product, and Python's and Lightning's overhead is paid once per step.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.data.module import CHUNK, Batch, Batches, ImageDataModule
from kd.fields import sweepable_names
from kd.methods.base import SCHEDULED, cross_entropy, loss_weights_at
from kd.metrics import count_right
from kd.outputs import Outputs
from kd.sweeps.plan import Cell
from kd.sweeps.stack import Stack, make_gradients, outputs_of
from kd.training.book import Bookkeeper
from kd.training.material import Material
from kd.training.teacher import FrozenTeacher, needs_live_teacher
from kd.training.tracing import can_compile, optimizer_step, traced

# Compiling takes up to 20 s and saves about 0.2 ms per batch and 0.01 ms more per student.
COMPILE_FROM = 2_000_000  # batches · (20 + students)


class Orders:
    """The training batches of several seeds, as indices into the pool.

    Yields (batches, seeds, batch), up to ``CHUNK`` batches in the order that each seed has alone;
    a smaller batch at an epoch's end comes by itself.
    """

    def __init__(self, data: ImageDataModule, seeds: Sequence[int]) -> None:
        self.batches = [data.training(seed) for seed in seeds]
        first = self.batches[0]
        self.added, self.size = first.added, first.batch_size + first.added
        self.full, left = divmod(first.samples, first.batch_size)
        self.left = left + self.added if left else 0

    def __len__(self) -> int:
        """How many chunks an epoch has."""
        return -(-self.full // CHUNK) + (self.left > 0)

    def __iter__(self) -> Iterator[Tensor]:
        """One epoch."""
        order = torch.stack([batches.epoch() for batches in self.batches])
        full, left = order.split([self.full * self.size, self.left], dim=1)
        if self.full:
            yield from full.unflatten(1, (-1, self.size)).transpose(0, 1).contiguous().split(CHUNK)
        if self.left:
            yield left.unsqueeze(0)


class GroupModule(Bookkeeper):
    """Trains every student of a grid of seeds and cells, each as it would be trained alone.

    Args:
        config: of any of them.
        seeds: the grid's rows.
        cells: the grid's columns.
        material: data and teacher, which all have in common.
    """

    def __init__(
        self, config: Config, seeds: Sequence[int], cells: Sequence[Cell], material: Material
    ) -> None:
        super().__init__(config.optim, len(seeds) * len(cells), config.checkpoint)
        self.automatic_optimization = False  # one step of Lightning's is a chunk of batches
        self.config, self.seeds, self.cells = config, list(seeds), list(cells)
        self.data = material.data
        device = material.accelerator.device
        self.kd = config.kd if config.stage == "distill" else None
        task, widths = self.data.task, material.regression
        self.stack = Stack(config, seeds, len(cells), device, task, widths)
        self.orders = Orders(self.data, seeds)
        self.gradients = make_gradients(self.kd, config.optim.label_smoothing)
        self.fast: Callable[..., Sequence[Tensor]] | None = None  # for batches of full size
        self.compiles: bool | None = None  # not decided
        self.passed = 0  # batches of the epoch, the one in hand included
        self.stacked: dict[str, Tensor] = {}  # numbers of the method, one value per student
        if self.kd:
            self._take_teacher(self.kd, material)

    def _take_teacher(self, kd: Any, material: Material) -> None:
        """Note each student's numbers of the method, and what the teacher makes of the images."""
        device = material.accelerator.device
        self.methods = [dataclasses.replace(kd, **dict(cell)) for cell in self.cells]
        self.methods *= len(self.seeds)
        self.stacked = {
            name: torch.tensor([getattr(method, name) for method in self.methods], device=device)
            for name in sweepable_names(kd)
            if name not in SCHEDULED
        }
        self.loss_weights: tuple[Tensor, ...] = ()
        self.scheduled = any(m.warmup_epochs or m.stop_epoch for m in self.methods)
        live = needs_live_teacher(self.config)
        # In a list, as in DistillModule: outside the module's own parameters.
        self.live = [FrozenTeacher(material.teacher).to(device)] if live else []
        self.teacher_outputs = None if live else material.teacher_outputs

    @property
    def handled(self) -> set[str]:
        """The settings in which the students may differ."""
        names = {*self.stacked, *SCHEDULED} if self.kd else set()
        return {"seed", *(f"kd.{name}" for name in names)}

    def batches(self) -> int:
        """Of the whole training."""
        return self.config.trainer.max_epochs * len(self.orders.batches[0])

    def train_dataloader(self) -> Orders:
        """The training batches of all seeds."""
        return self.orders

    def val_dataloader(self) -> Batches:
        """The validation images."""
        return self.data.val_dataloader()

    def on_fit_start(self) -> None:
        """Compile the step where the training is long enough to win more than that costs."""
        if self.compiles is None:  # else as the earlier attempt did
            self.compiles = self.batches() * (20 + self.students) >= COMPILE_FROM and can_compile()

    def on_train_epoch_start(self) -> None:
        """Count the epoch's batches."""
        super().on_train_epoch_start()
        self.passed = 0

    def training_step(self, indices: Tensor, chunk: int) -> None:
        """A step of the optimiser for each batch of (batches, seeds, batch) indices."""
        count, _, size = indices.shape
        labelled = size - self.orders.added
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        schedule: Any = self.lr_schedulers()
        weights = self.stack.weights()
        masks = self.stack.masks(count, size * (1 + self.config.data.augment.extra))
        counted = []
        for (images, own), mask in zip(self._batches(indices), masks, strict=True):
            arguments = weights.products(images), *weights[1:], mask, own
            *found, losses, right = self._differentiate(size, arguments)
            optimizer_step(optimizer, self.stack.gradients(images, found))
            if schedule is not None:
                schedule.step()
            counted.append((losses, right))
        losses, right = (torch.stack(values).sum(0) for values in zip(*counted, strict=True))
        self.note("train", losses, right, labelled, batches=count)

    def _batches(self, indices: Tensor) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Each batch's images, (seeds, samples, pixels), and what else its losses take."""
        images_of, shares_of = self.data.taught, self.orders.batches[0].shares
        labels = images_of.labels[indices]
        if self.kd and self.teacher_outputs:
            known = self._compared(self.teacher_outputs.at(indices))
        for number, chosen in enumerate(indices):
            self.passed += 1
            if self.config.data.augment.active:
                images, shares = self._view(chosen)
                own = {"labels": self._labels(shares)}
            else:
                images, _ = images_of.take(chosen.flatten())
                images = images.view(*chosen.shape, -1)
                own = {"labels": self._labels(shares_of(labels[number]))}
            if self.kd:
                if self.teacher_outputs:
                    teacher = {name: values[number] for name, values in known.items()}
                else:
                    teacher = self._compared(self._see(images))
                own |= {name: self._per_student(values).mT for name, values in teacher.items()}
                own |= {"numbers": self.stacked, "loss_weights": self._loss_weights()}
            yield images, own

    def _view(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Views (seeds, samples, pixels) of these (seeds, batch) images, and their shares."""
        pairs = zip(self.orders.batches, chosen, strict=True)
        views = [batches.take(these) for batches, these in pairs]
        images, shares = (torch.stack(part) for part in zip(*views, strict=True))
        return images.flatten(2), shares

    def _see(self, images: Tensor) -> Outputs:
        """The teacher's outputs (seeds, samples, width) for images that it has not seen."""
        logits, hidden, _ = self.live[0].see(images.reshape(-1, *self.data.task.shape))
        seeds_first = images.shape[:2]
        hidden = None if hidden is None else hidden.unflatten(0, seeds_first)
        return Outputs(logits.unflatten(0, seeds_first), hidden)

    def _compared(self, teacher: Outputs) -> dict[str, Tensor]:
        """What the method compares of the teacher's outputs, in the layout of a stack."""
        parts = {"logits": teacher.logits}
        if teacher.hidden is not None:
            parts["hidden"] = teacher.hidden
        return {name: _batch_last(part) for name, part in parts.items()}

    def _loss_weights(self) -> tuple[Tensor, ...]:
        """Of labels and term, (students,) each, for the batch in hand."""
        if not self.loss_weights or self.scheduled:
            epochs = len(self.history) + self.passed / len(self.orders.batches[0])
            found = zip(*(loss_weights_at(kd, epochs) for kd in self.methods), strict=True)
            self.loss_weights = tuple(torch.tensor(part, device=self.device) for part in found)
        return self.loss_weights

    def _differentiate(self, size: int, arguments: tuple) -> Sequence[Tensor]:
        """Gradients, losses and counts; of a batch of full size by the fast function."""
        if size != self.orders.size:
            return self.gradients(*arguments)
        if self.fast is None:
            self.fast = traced(self.gradients, arguments, bool(self.compiles))
        return self.fast(*arguments)

    def _labels(self, labels: Tensor) -> Tensor:
        """(seeds, batch) class numbers, or shares (seeds, batch, classes), → those per student."""
        if labels.ndim == 2:
            return self._per_student(labels)
        return self._per_student(_batch_last(labels)).mT

    def _per_student(self, values: Tensor) -> Tensor:
        """(seeds, …) → (students, …)."""
        return values.unsqueeze(1).expand(-1, len(self.cells), *values.shape[1:]).flatten(0, 1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch of the validation's to its sums."""
        labels = batch.labels
        shared = batch.images.flatten(1).expand(len(self.seeds), -1, -1)
        weights = self.stack.weights()
        logits = outputs_of(weights, weights.products(shared), masks=None).logits
        labels = labels.expand(self.students, -1)
        losses = torch.func.vmap(cross_entropy)(logits.transpose(1, 2), labels)
        self.note("val", losses, count_right(logits, labels, dim=1), labels.shape[1])

    def state(self, student: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network, a copy."""
        return self.stack.state(student)

    def generators(self) -> list[torch.Generator]:
        """Those of each seed's batches and dropout masks."""
        drawing = [
            generator for batches in self.orders.batches for generator in batches.generators()
        ]
        return [*drawing, *(dropout.generator_on(self.device) for dropout in self.stack.dropouts)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add whether the step is compiled: compiled ones round differently."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["book"]["compiles"] = self.compiles

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on as the earlier attempt did."""
        super().on_load_checkpoint(checkpoint)
        self.compiles = checkpoint["book"]["compiles"]


def _batch_last(values: Tensor) -> Tensor:
    """(…, batch, width) → (…, width, batch), the layout of a stack."""
    return values.mT.contiguous()
