"""Many students in one training run: the seeds and cells of a sweep, together.

The students of a group have one architecture and differ in numbers: their seed, and the numbers of
``conf/kd`` (a cell). A group is a grid, every seed with every cell, and so can share work: the
images of a batch are gathered once a seed and meet the first layers of all its cells in one wide
matrix product, and Python's and Lightning's overhead is paid once a step.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from kd.config.schema import Config, OutOfMemory
from kd.data.module import Batch, Batches, MNISTDataModule
from kd.methods.base import weights_at
from kd.methods.losses import cross_entropy
from kd.metrics import count_right
from kd.models.network import IMAGE_SHAPE
from kd.sweeps import unfinished
from kd.sweeps.grouping import cell_of, in_common, student_bytes
from kd.sweeps.stack import Stack, make_gradients, see
from kd.sweeps.tracing import can_compile, traced
from kd.sweeps.unfinished import Cell, Planned
from kd.training.callbacks import GroupProgress, Record, diverged, epoch_line, seven_digits
from kd.training.logging import set_up_logging
from kd.training.memory import available_bytes
from kd.training.modules import FrozenTeacher, adam_step, make_adam
from kd.training.run import (
    Fitted,
    Material,
    Together,
    make_logger,
    make_trainer,
    prepare,
)
from kd.training.run_folder import clear, hashes
from kd.training.teacher import regressor_width, watches

log = logging.getLogger(__name__)

CHUNK = 25  # batches that Lightning hands over at a time: its own cost a step is then not felt
# Compiling takes up to 20 s and saves about 0.2 ms a batch and 0.01 ms more for each student.
COMPILE_FROM = 2_000_000  # batches · (20 + students)


class Orders:
    """The training batches of several seeds, as indices into the pool.

    Yields (batches, seeds, batch), up to ``CHUNK`` batches in the order that each seed has alone;
    a smaller batch at an epoch's end comes by itself.
    """

    def __init__(self, data: MNISTDataModule, seeds: Sequence[int]) -> None:
        self.batches = [data.training(seed) for seed in seeds]
        self.size = data.config.batch_size
        self.full, self.left = divmod(len(self.batches[0].indices), self.size)

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


class FusedModule(LightningModule):
    """Trains every student of a grid of seeds and cells, each as it would be trained alone.

    Args:
        config: of any of them.
        seeds: the grid's rows.
        cells: the grid's columns.
        material: data and teacher, which all have in common.

    ``history`` has the figures of every epoch, a list a student; ``kept`` the weights of the best
    epoch by validation accuracy, where the configuration wants these.
    """

    def __init__(
        self,
        config: Config,
        seeds: Sequence[int],
        cells: Sequence[Cell],
        material: Material,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # one step of Lightning's is a chunk of batches
        self.config, self.seeds, self.cells = config, list(seeds), list(cells)
        self.data = material.data
        device = material.accelerator.device
        self.kd = config.kd if config.stage == "distill" else None
        width = self.kd and regressor_width(config, material.taught)
        self.stack = Stack(config, seeds, len(cells), device, width)
        self.orders = Orders(self.data, seeds)
        self.gradients = make_gradients(self.kd)
        self.fast: Callable[..., Sequence[Tensor]] | None = None  # for batches of full size
        self.compiles: bool | None = None  # not decided
        self.students = len(seeds) * len(cells)
        self.known: dict[str, Tensor] = {}  # what the teacher makes of the pool
        if self.kd:
            self.methods = [dataclasses.replace(self.kd, **dict(cell)) for cell in cells]
            self.methods *= len(seeds)
            names = [f.name for f in dataclasses.fields(self.kd) if f.type is float]
            self.numbers = {
                name: torch.tensor([getattr(kd, name) for kd in self.methods], device=device)
                for name in names
            }
            self.weights: tuple[Tensor, ...] = ()
            self.scheduled = any(kd.warmup_epochs or kd.stop_epoch for kd in self.methods)
            self.compared = ["logits", "hidden"] if self.kd.needs_hidden else ["logits"]
            # In a tuple, as in DistillModule: outside the module's own parameters.
            self.watching = (FrozenTeacher(material.teacher).to(device),) if watches(config) else ()
            if not self.watching:
                self.known = {name: getattr(material.taught, name) for name in self.compared}
        self.sums = {
            part: torch.zeros(2, self.students, device=device) for part in ("train", "val")
        }
        self.history: list[dict[str, list[float]]] = []
        self.passed = 0  # batches of the epoch, the one in hand included
        self.kept: list[dict[str, Tensor]] = [{}] * self.students
        self.spent, self.started = 0.0, time.perf_counter()

    def configure_optimizers(self) -> dict:
        """Adam over the whole stack, with the schedule of a single run."""
        adam = make_adam(self.stack.parameters(), self.config.optim)
        if self.config.optim.schedule == "constant":
            return {"optimizer": adam}
        schedule = CosineAnnealingLR(adam, T_max=self.steps())
        return {"optimizer": adam, "lr_scheduler": {"scheduler": schedule}}

    def steps(self) -> int:
        """Batches of the whole training."""
        return self.config.trainer.max_epochs * len(self.orders.batches[0])

    def train_dataloader(self) -> Orders:
        """The training batches of all seeds."""
        return self.orders

    def val_dataloader(self) -> Batches:
        """The validation images."""
        return self.data.val_dataloader()

    def on_fit_start(self) -> None:
        """Compile the step where the training is long enough to win more than that costs."""
        if (
            self.compiles is None
        ):  # else as an earlier attempt did: compiled steps round differently
            worth = self.steps() * (20 + self.students)
            self.compiles = worth >= COMPILE_FROM and can_compile()

    def on_train_epoch_start(self) -> None:
        """Note the learning rate that the epoch begins with."""
        self.rate = self.optimizers().param_groups[0]["lr"]

    def training_step(self, indices: Tensor, chunk: int) -> None:
        """A step of Adam for each batch of (batches, seeds, batch) indices."""
        count, _, size = indices.shape
        adam, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        weights = self.stack.weights()
        masks = self.stack.masks(count, size * (1 + self.config.data.augment.extra))
        counted = []
        for (images, own), mask in zip(self._look(indices), masks, strict=True):
            arguments = weights.products(images), *weights[1:], mask, own
            *found, losses, right = self._differentiate(size, arguments)
            adam_step(adam, self.stack.gradients(images, found))
            if schedule is not None:
                schedule.step()
            counted.append((losses, right))
        losses, right = (torch.stack(values).sum(0) for values in zip(*counted, strict=True))
        self.sums["train"][0].add_(losses, alpha=size)
        self.sums["train"][1].add_(right)

    def _look(self, indices: Tensor) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Each batch's images, (seeds, samples, pixels), and what else its losses take."""
        labels = self.data.pool.labels[indices]
        known = {name: _batch_last(values[indices]) for name, values in self.known.items()}
        for number, chosen in enumerate(indices):
            self.passed += 1
            if self.config.data.augment.active:
                images, shares = self._view(chosen)
                own = {"labels": self._each(_batch_last(shares)).mT}
            else:
                # index_select copies whole images: a third of the time that images[chosen] takes
                images = self.data.pool.images.index_select(0, chosen.flatten())
                images = images.view(*chosen.shape, -1)
                own = {"labels": self._each(labels[number])}
            if self.kd:
                taught = {name: values[number] for name, values in known.items()}
                taught = taught or self._watch(images)
                own |= {name: self._each(values).mT for name, values in taught.items()}
                own |= {"numbers": self.numbers, "weights": self._weights()}
            yield images, own

    def _view(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Views (seeds, samples, pixels) of these (seeds, batch) images, and their shares."""
        pairs = zip(self.orders.batches, chosen, strict=True)
        views = [batches.take(these) for batches, these in pairs]
        images, shares = (torch.stack(part) for part in zip(*views, strict=True))
        return images.flatten(2), shares

    def _watch(self, images: Tensor) -> dict[str, Tensor]:
        """What the teacher makes of images that it has not seen, (seeds, width, samples)."""
        seen = self.watching[0].see(images.reshape(-1, *IMAGE_SHAPE))
        parts = {name: getattr(seen, name) for name in self.compared}
        shape = images.shape[:2]
        return {name: _batch_last(part.unflatten(0, shape)) for name, part in parts.items()}

    def _weights(self) -> tuple[Tensor, ...]:
        """Of labels and term, (students,) each, for the batch in hand."""
        if not self.weights or self.scheduled:
            epochs = len(self.history) + self.passed / len(self.orders.batches[0])
            found = zip(*(weights_at(kd, epochs) for kd in self.methods), strict=True)
            self.weights = tuple(torch.tensor(part, device=self.device) for part in found)
        return self.weights

    def _differentiate(self, size: int, arguments: tuple) -> Sequence[Tensor]:
        """Gradients, losses and counts; of a batch of full size by the fast function."""
        if size != self.config.data.batch_size:
            return self.gradients(*arguments)
        if self.fast is None:
            self.fast = traced(self.gradients, arguments, self.compiles)
        return self.fast(*arguments)

    def _each(self, values: Tensor) -> Tensor:
        """(seeds, …) → (students, …)."""
        return values.unsqueeze(1).expand(-1, len(self.cells), *values.shape[1:]).flatten(0, 1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch of the validation's to its sums."""
        images, labels, _ = batch
        shared = images.flatten(1).expand(len(self.seeds), -1, -1)
        weights = self.stack.weights()
        logits, *_ = see(weights.products(shared), *weights[1:4], masks=None)
        labels = labels.expand(self.students, -1)
        losses = torch.func.vmap(cross_entropy)(logits.transpose(1, 2), labels)
        self.sums["val"][0].add_(losses, alpha=labels.shape[1])
        self.sums["val"][1].add_(count_right(logits, labels, dim=1))

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures, and keep the weights that are the best so far."""
        figures = {"train/lr": [seven_digits(self.rate)] * self.students}
        for part, sums in self.sums.items():
            losses, accuracies = (sums / len(self.data.indices[part])).tolist()
            figures[f"{part}/loss"] = [seven_digits(loss) for loss in losses]
            figures[f"{part}/acc"] = [seven_digits(accuracy) for accuracy in accuracies]
            sums.zero_()
        self.history.append(figures)
        self.passed = 0
        if self.config.checkpoint == "best":
            for student, epoch in enumerate(self.best()):
                if epoch == len(self.history):
                    self.kept[student] = self.stack.state(student)

    def best(self) -> list[int]:
        """Each student's best epoch by validation accuracy, the first of equals, counted from 1."""
        columns = zip(*(figures["val/acc"] for figures in self.history), strict=True)
        return [1 + accuracies.index(max(accuracies)) for accuracies in columns]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a group's file needs beside Lightning's own, in plain values."""
        checkpoint["group"] = {
            "history": self.history,
            "kept": self.kept,
            "generators": [generator.get_state() for generator in self.generators()],
            "seconds": self.seconds(),
            # Rounding depends on both: what goes on elsewhere goes on as it began.
            "compiles": self.compiles,
            "threads": torch.get_num_threads(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the group was."""
        saved = checkpoint["group"]
        self.compiles = saved["compiles"]
        use_threads(saved["threads"])
        self.history, self.kept, self.spent = saved["history"], saved["kept"], saved["seconds"]
        for generator, state in zip(self.generators(), saved["generators"], strict=True):
            generator.set_state(state.cpu())

    def generators(self) -> list[torch.Generator]:
        """Everything that draws random numbers during the training."""
        drawing = [(batches.order, batches.views) for batches in self.orders.batches]
        views = [views.generator for _, views in drawing if views]
        masks = [dropout.generator for dropout in self.stack.dropouts]
        return [order for order, _ in drawing] + views + masks

    def seconds(self) -> float:
        """How long the training has taken, earlier attempts included."""
        return self.spent + time.perf_counter() - self.started


def _batch_last(values: Tensor) -> Tensor:
    """(…, batch, width) → (…, width, batch), the layout of a stack."""
    return values.mT.contiguous()


def train_group(
    planned: Planned,
    lead: Config,
    configs: Sequence[Config],
    directories: Sequence[Path],
    overrides: Iterable[str],
) -> list[Together]:
    """Train the students of one group, or go on where an earlier attempt was ended.

    Args:
        planned: its seeds and cells.
        lead: a configuration with the settings that its students share.
        configs: of the jobs that want one of its students each.
        directories: of their runs, which the caller holds the locks of.
        overrides: the words of one of them, for messages.

    Returns:
        each job's share.

    Raises:
        UserError: the accelerator, the data or the teacher is not to be had.
    """
    set_up_logging(logging.INFO)
    refuse_too_large(planned, lead)
    material = prepare(lead, overrides)
    settings = settings_of(lead, material)
    study = directories[0].parents[1]
    before = unfinished.saved(study, planned, settings)
    for directory in directories:
        clear(directory)

    module = FusedModule(lead, planned.seeds, planned.cells, material)
    grid = [(seed, cell) for seed in planned.seeds for cell in planned.cells]
    students = [grid.index((config.seed, cell_of(config, lead))) for config in configs]
    loggers = [make_logger(directory) for directory in directories]
    device = material.accelerator.device
    log.info("%d students train together on %s: %s", len(grid), device, describe(lead))
    record = Record(
        list(zip(students, loggers, strict=True)),
        lambda epoch, write: unfinished.save(study, planned, settings, epoch, write),
    )
    trainer = make_trainer(lead, material.accelerator.name, None, [record, GroupProgress()])
    threads = torch.get_num_threads()
    try:
        trainer.fit(module, ckpt_path=before, weights_only=True)
    finally:
        use_threads(threads)
        for logger in loggers:  # an open file and a thread each, until the run is finished
            with contextlib.suppress(OSError):  # what could not be written was said before
                logger.experiment.close()
    seconds = module.seconds() / len(grid)
    epochs = module.best() if lead.checkpoint == "best" else [len(module.history)] * len(grid)

    shares = []
    without_teacher = material._replace(teachers=[], teacher=None, taught=None)
    for config, (student, logger) in zip(configs, record.loggers, strict=True):
        rows = [{t: values[student] for t, values in row.items()} for row in module.history]
        weights = module.kept[student] or module.stack.state(student)
        epoch = epochs[student]
        fitted = Fitted(weights, epoch, rows[epoch - 1], seconds, logger)
        lines = [f"trained together with {len(grid) - 1} other students, on {device}"]
        lines += [epoch_line(row, number, len(rows)) for number, row in enumerate(rows, 1)]
        errors = (diverged(row["train/loss"], number) for number, row in enumerate(rows, 1))
        own = material if config.stage == "distill" else without_teacher
        shares.append(Together(own, fitted, lines, next(filter(None, errors), None)))
    return shares


def use_threads(count: int) -> None:
    """Have torch use so many threads; where it does already, its pool is left alone."""
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def refuse_too_large(planned: Planned, lead: Config) -> None:
    """Make sure that a group fits in the memory that is free, before any of it is taken.

    Raises:
        OutOfMemory: it does not.
    """
    students, free = len(planned.seeds) * len(planned.cells), available_bytes()
    needed = students * student_bytes(lead)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"a group of {students} students needs about {needed / 2**20:.0f} MB and "
            f"{free / 2**20:.0f} MB are free"
        )


def settings_of(config: Config, material: Material) -> str:
    """A digest of all that the students of a group share and that their results depend on."""
    data, teachers = material.data.fingerprint, hashes(material.teachers)
    return unfinished.digest([in_common(config), data, teachers])


def describe(config: Config) -> str:
    """The group in half a line."""
    said = f"stage={config.stage} epochs={config.trainer.max_epochs}"
    return f"{said} kd={config.kd.method}" if config.stage == "distill" else said
