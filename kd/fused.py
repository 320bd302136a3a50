"""Many students in one training run: the seeds and cells of a sweep, stacked.

The students of a group have one architecture and differ in numbers: their seed, and the numbers of
``conf/kd`` (a cell). A group is a grid, every seed with every cell, and so can share work: the
images of a batch are gathered once a seed and meet the first layers of all its cells in one wide
matrix product, and Python's and Lightning's overhead is paid once a step.

Tensors of a stack have their students first, seed by seed, and the batch last: (students, hidden,
batch). That is the layout which the wide product gives, and in which sums over ten classes are
vector instructions across the batch.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.lr_scheduler import CosineAnnealingLR

from kd.callbacks import ShowProgress, diverged, epoch_line, seven_digits
from kd.checkpoint import replacing
from kd.config import PLACES, Config, Distillation, flatten, relevant
from kd.data import EVAL_BATCH, Batch, Batches, MNISTDataModule
from kd.logs import set_up_logging
from kd.losses import cross_entropy, method_loss
from kd.models import CLASSES, build_model, count_parameters
from kd.modules import make_adam
from kd.run import Fitted, Material, Together, clear, hashes, make_logger, make_trainer, prepare
from kd.seeding import generator

log = logging.getLogger(__name__)

# Why the jobs of other networks run one by one. Measured by benchmarks/sweep.py --teachers: the
# convolutions of stacked networks are grouped ones, which take longer on a CPU than one by one.
FUSABLE_MODEL = "mlp"
CHUNK = 25  # batches that Lightning hands over at a time: its own cost a step is then not felt
# Compiling takes 5 to 20 s and saves about 0.01 ms of every step of every student.
COMPILE_FROM = 1_000_000


# ------------------------------------------------------------------ which jobs train together


UNFINISHED = "unfinished"  # the folder in a study for the files of groups that are in training


def plan(
    configs: Sequence[Config], studies: Iterable[Path] = ()
) -> tuple[list[list[int]], dict[int, str]]:
    """Which jobs of a sweep train together.

    Args:
        configs: of the jobs that are to be trained.
        studies: the folders of their studies. Where an earlier attempt left a group unfinished, a
            job without company may be the last one missing of it, and makes a group by itself.

    Returns:
        groups of indices into ``configs``, each the full grid of some seeds and cells that fits in
        ``trainer.group_mb``; and, by index, why the others train alone.
    """
    kin: dict[str, list[int]] = {}
    for index, config in enumerate(configs):
        kin.setdefault(_in_common(config), []).append(index)
    groups: list[list[int]] = []
    alone: dict[int, str] = {}
    least = 1 if any(any((study / UNFINISHED).glob("*.ckpt")) for study in studies) else 2
    for indices in kin.values():
        config = configs[indices[0]]
        if config.model.name != FUSABLE_MODEL:
            reason = f"model={config.model.name} is no faster in a stack"
            alone |= dict.fromkeys(indices, reason)
            continue
        jobs: dict[tuple[int, Cell], list[int]] = {}
        for index in indices:
            jobs.setdefault((configs[index].seed, cell_of(configs[index])), []).append(index)
        for seeds, cells in _grids(jobs, student_bytes(config), config.trainer.group_mb * 2**20):
            members = [job for seed in seeds for cell in cells for job in jobs[seed, cell]]
            if len(members) >= least:
                groups.append(members)
            else:
                alone[members[0]] = "no other job fits beside it"
    return groups, alone


Cell = tuple[tuple[str, float], ...]


def cell_of(config: Config) -> Cell:
    """The numbers of a student's method, as (name, value); none without a teacher.

    At alpha = 1 the others play no part. There they are the defaults, so that jobs which differ in
    them alone share one student, and have its results to the last bit.
    """
    if config.stage != "distill":
        return ()
    kd = config.kd if config.kd.alpha < 1 else type(config.kd)(alpha=1.0)
    names = [field.name for field in dataclasses.fields(kd) if field.type is float]
    return tuple((name, getattr(kd, name)) for name in names)


def _in_common(config: Config) -> str:
    """What students must have in common to train together, as a text."""
    own = {"seed"} | {f"kd.{name}" for name, _ in cell_of(config)}
    shared = relevant(config) | {k: v for k, v in flatten(config).items() if k in PLACES}
    return json.dumps({key: value for key, value in shared.items() if key not in own})


def _grids(
    jobs: Iterable[tuple[int, Cell]], each: int, limit: int
) -> Iterator[tuple[Sequence[int], Sequence[Cell]]]:
    """Cover the (seed, cell) pairs with full grids of at most ``limit`` bytes, ``each`` a pair."""
    cells_of: dict[int, list[Cell]] = {}
    for seed, cell in jobs:
        cells_of.setdefault(seed, []).append(cell)
    seeds_of: dict[tuple[Cell, ...], list[int]] = {}
    for seed, cells in cells_of.items():
        seeds_of.setdefault(tuple(sorted(cells)), []).append(seed)
    most = max(1, limit // each)
    for cells, seeds in seeds_of.items():
        for some_cells in _parts(cells, most):
            for some_seeds in _parts(seeds, max(1, most // len(some_cells))):
                yield some_seeds, some_cells


def _parts(items: Sequence, most: int) -> Iterator[Sequence]:
    """Split into as few parts as possible, of about equal length."""
    count = -(-len(items) // most)
    for part in range(count):
        yield items[part * len(items) // count : (part + 1) * len(items) // count]


def student_bytes(config: Config) -> int:
    """About how much memory a student of a group takes, in bytes."""
    parameters = count_parameters(build_model(config.model, seed=0))
    # weights, gradient, Adam's two moments, the weights kept, and those of a group's file
    values = 6 * parameters
    values += max(config.data.batch_size, EVAL_BATCH) * (4 * config.model.hidden + 8 * CLASSES)
    return 4 * values


# ------------------------------------------------------------------ the stack and its loss


def wide_product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T``: (rows, width), (columns, width) → (rows, columns).

    On a CPU by oneDNN: torch's own choice there, MKL, is half as fast on AMD's processors.
    """
    if left.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return F.linear(left, right)


class Stack(nn.Module):
    """Students of the network ``mlp`` side by side; the formulas are those of ``kd.models``.

    Args:
        config: of any of the students.
        seeds: that give the students their initial weights and dropout masks.
        cells: how many students each seed has.
        device: where they live.
    """

    def __init__(
        self, config: Config, seeds: Sequence[int], cells: int, device: torch.device
    ) -> None:
        super().__init__()
        networks = [build_model(config.model, seed).to(device) for seed in seeds]
        students = [network for network in networks for _ in range(cells)]
        stacked, _ = torch.func.stack_module_state(students)
        self.cells = cells
        # One tensor a seed, because its gradient is one product's result: a stack of all would
        # have to be put together from these at every step.
        self.first = nn.ParameterList(stacked["dense.weight"].detach().split(cells))
        self.bias = nn.Parameter(stacked["dense.bias"].detach())
        self.weight = nn.Parameter(stacked["output.weight"].detach())
        self.output_bias = nn.Parameter(stacked["output.bias"].detach())
        self.dropouts = [network.dropout for network in networks]
        for seed, dropout in zip(seeds, self.dropouts, strict=True):
            dropout.generator = generator(seed, "dropout", device)

    def rest(self) -> tuple[Tensor, Tensor, Tensor]:
        """What follows the first product, without its graph: the arguments of :func:`classify`."""
        return self.bias.detach(), self.weight.detach(), self.output_bias.detach()

    def products(self, images: Tensor) -> Tensor:
        """(seeds, batch, pixels) → (students, hidden, batch), before the bias."""
        found = [
            wide_product(weight.detach().flatten(0, 1), batch)
            for weight, batch in zip(self.first, images, strict=True)
        ]
        together = found[0] if len(found) == 1 else torch.cat(found)
        return together.unflatten(0, (-1, self.first[0].shape[1]))

    def set_gradients(self, images: Tensor, gradients: Sequence[Tensor]) -> None:
        """From the gradient of :meth:`products` and those of :meth:`rest`, all parameters'."""
        of_products, *of_rest = gradients
        parts = of_products.flatten(0, 1).chunk(len(self.first))
        for weight, part, batch in zip(self.first, parts, images, strict=True):
            weight.grad = wide_product(part, batch.t().contiguous()).view_as(weight)
        self.bias.grad, self.weight.grad, self.output_bias.grad = of_rest

    def masks(self, batch_size: int) -> Tensor | None:
        """The next dropout masks, (seeds, hidden, batch); None where nothing is dropped."""
        if self.dropouts[0].share == 0:
            return None
        shape = (batch_size, self.bias.shape[1])
        masks = [dropout.mask(shape, self.bias.device) for dropout in self.dropouts]
        return torch.stack(masks).transpose(1, 2).contiguous()

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


def classify(
    products: Tensor, bias: Tensor, weight: Tensor, output_bias: Tensor, masks: Tensor | None
) -> Tensor:
    """Logits (students, classes, batch) from the first layers' products.

    Args:
        products: (students, hidden, batch).
        bias: (students, hidden).
        weight: (students, classes, hidden).
        output_bias: (students, classes).
        masks: (seeds, hidden, batch), of all cells of a seed; None drops nothing.
    """
    hidden = F.relu(products + bias.unsqueeze(-1))
    if masks is not None:
        by_seed = hidden.unflatten(0, (len(masks), -1))
        hidden = (by_seed * masks.unsqueeze(1)).flatten(0, 1)
    return torch.baddbmm(output_bias.unsqueeze(-1), weight, hidden)


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many answers are right: (students, classes, batch), (students, batch) → (students,)."""
    # argmax gives the same in thirty times the time
    return (logits.max(dim=1).indices == labels).sum(dim=1)


def make_gradients(kd: Distillation | None) -> Callable[..., Any]:
    """The function that gives every student's gradients, losses and number of right answers.

    It takes the arguments of :func:`classify`, and a dictionary of what each student has of its
    own: its labels (batch,), the teacher's logits (batch, classes), and its numbers of ``kd``.

    Args:
        kd: the method; None trains on the labels alone.
    """

    def loss(logits: Tensor, own: dict[str, Tensor]) -> Tensor:
        labels, taught, numbers = own["labels"], own.get("taught"), own.get("numbers")
        if kd is None:
            return cross_entropy(logits, labels)
        return method_loss(logits, taught, labels, type(kd)(**{**vars(kd), **numbers}))

    def objective(
        products: Tensor,
        bias: Tensor,
        weight: Tensor,
        output_bias: Tensor,
        masks: Tensor | None,
        own: dict[str, Tensor],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logits = classify(products, bias, weight, output_bias, masks)
        losses = torch.func.vmap(loss)(logits.transpose(1, 2), own)
        right = count_correct(logits.detach(), own["labels"])
        # No student's loss depends on another's weights: the gradient of the sum holds each one's.
        return losses.sum(), (losses.detach(), right)

    return torch.func.grad(objective, argnums=(0, 1, 2, 3), has_aux=True)


# ------------------------------------------------------------------ their training


class Orders:
    """The training batches of several seeds, as indices into the pool.

    Yields (seeds, samples of ``CHUNK`` batches): each row in the order that its seed has alone.
    """

    def __init__(self, data: MNISTDataModule, seeds: Sequence[int]) -> None:
        size = data.config.batch_size
        self.batches = [
            Batches(data.pool, data.indices["train"], size, generator(seed, "order"))
            for seed in seeds
        ]
        self.size = size * CHUNK

    def __len__(self) -> int:
        """How many chunks an epoch has."""
        return -(-len(self.batches[0].indices) // self.size)

    def __iter__(self) -> Iterator[Tensor]:
        """One epoch."""
        yield from torch.stack([batches.epoch() for batches in self.batches]).split(self.size, 1)


class FusedModule(LightningModule):
    """Trains every student of a grid of seeds and cells, each as it would be trained alone.

    Args:
        config: of any of them.
        seeds: the grid's rows.
        cells: the grid's columns.
        material: data and teacher, which all have in common.
        settings: whatever else they have in common, as :func:`settings_of` gives it.

    ``history`` has the figures of every epoch, a list a student; ``kept`` the weights of the best
    epoch by validation accuracy, where the configuration wants these.
    """

    def __init__(
        self,
        config: Config,
        seeds: Sequence[int],
        cells: Sequence[Cell],
        material: Material,
        settings: str,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.automatic_optimization = False  # one step of Lightning's is a chunk of batches
        self.config, self.seeds, self.cells = config, list(seeds), list(cells)
        self.data, self.taught = material.data, material.taught
        device = material.accelerator.device
        self.stack = Stack(config, seeds, len(cells), device)
        self.orders = Orders(self.data, seeds)
        kd = config.kd if config.stage == "distill" else None
        self.gradients = make_gradients(kd)
        self.traced: Callable[..., Any] | None = None
        self.compiles = False
        numbers = [dict(cell) for _ in seeds for cell in cells]
        self.numbers = {
            name: torch.tensor([student[name] for student in numbers], device=device)
            for name in numbers[0]
        }
        self.students = len(numbers)
        self.sums = {
            part: torch.zeros(2, self.students, device=device) for part in ("train", "val")
        }
        self.history: list[dict[str, list[float]]] = []
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
        left = self.steps() - len(self.history) * len(self.orders.batches[0])
        compiler = os.environ.get("CXX") or shutil.which("g++")
        self.compiles = left * self.students >= COMPILE_FROM and bool(compiler)

    def on_train_epoch_start(self) -> None:
        """Note the learning rate that the epoch begins with."""
        self.rate = self.optimizers().param_groups[0]["lr"]

    def training_step(self, indices: Tensor, chunk: int) -> None:
        """Train on one chunk of batches, (seeds, samples)."""
        for batch in indices.split(self.config.data.batch_size, dim=1):
            self._train(batch)

    def _train(self, indices: Tensor) -> None:
        """One step of Adam on one batch a seed, (seeds, batch)."""
        found, labels = self.data.pool.take(indices.flatten())
        images = found.view(*indices.shape, -1)
        own: dict[str, Any] = {"labels": self._each(labels.view(indices.shape))}
        if self.taught is not None:
            # (seeds, classes, batch) in memory, like the students' logits
            taught = self.taught[indices].transpose(1, 2).contiguous()
            own |= {"taught": self._each(taught).transpose(1, 2), "numbers": self.numbers}
        size = indices.shape[1]
        arguments = self.stack.products(images), *self.stack.rest(), self.stack.masks(size), own
        gradients, (losses, right) = self._differentiate(size, arguments)
        self.stack.set_gradients(images, gradients)
        adam, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        adam.step()
        adam.zero_grad()
        if schedule is not None:
            schedule.step()
        self.sums["train"][0].add_(losses, alpha=size)
        self.sums["train"][1].add_(right)

    def _differentiate(self, size: int, arguments: tuple) -> tuple:
        """The gradients; of a batch of full size by the step as traced or compiled."""
        if size != self.config.data.batch_size:
            return self.gradients(*arguments)
        if self.traced is None:
            self.traced = self._trace(arguments)
        return self.traced(*arguments)

    def _trace(self, arguments: tuple) -> Callable[..., Any]:
        """The step for arguments of these shapes, without what ``torch.func`` costs at every call.

        Traced once to plain tensor operations, it takes half the time; compiled, a quarter.
        """
        if self.compiles:
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            compiled = torch.compile(self.gradients, dynamic=False)
            try:
                compiled(*arguments)
                return compiled
            except Exception as error:  # whatever it lacks here: the traced step needs nothing
                log.info("not compiled: %s", str(error).strip().split("\n")[0])
        return make_fx(self.gradients)(*arguments)

    def _each(self, values: Tensor) -> Tensor:
        """(seeds, …) → (students, …)."""
        return values.unsqueeze(1).expand(-1, len(self.cells), *values.shape[1:]).flatten(0, 1)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Add one batch of the validation's to its sums."""
        images, labels, _ = batch
        shared = images.flatten(1).expand(len(self.seeds), -1, -1)
        logits = classify(self.stack.products(shared), *self.stack.rest(), masks=None)
        labels = labels.expand(self.students, -1)
        losses = torch.func.vmap(cross_entropy)(logits.transpose(1, 2), labels)
        self.sums["val"][0].add_(losses, alpha=labels.shape[1])
        self.sums["val"][1].add_(count_correct(logits, labels))

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures, and keep the weights that are the best so far."""
        figures = {"train/lr": [seven_digits(self.rate)] * self.students}
        for part, sums in self.sums.items():
            losses, accuracies = (sums / len(self.data.indices[part])).tolist()
            figures[f"{part}/loss"] = [seven_digits(loss) for loss in losses]
            figures[f"{part}/acc"] = [seven_digits(accuracy) for accuracy in accuracies]
            sums.zero_()
        best = self.best()
        self.history.append(figures)
        if self.config.checkpoint == "best":
            for student, (before, now) in enumerate(zip(best, self.best(), strict=True)):
                if now != before:
                    self.kept[student] = self.stack.state(student)

    def best(self) -> list[int]:
        """Each student's best epoch by validation accuracy, the first of equals, counted from 1."""
        columns = zip(*(figures["val/acc"] for figures in self.history), strict=True)
        found = [1 + max(range(len(c)), key=lambda epoch: c[epoch]) for c in columns]
        return found or [0] * self.students

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a group's file needs beside Lightning's own, in plain values."""
        checkpoint["group"] = {
            "seeds": self.seeds,
            "cells": [[list(number) for number in cell] for cell in self.cells],
            "settings": self.settings,
            "history": self.history,
            "kept": self.kept,
            "orders": [batches.order.get_state() for batches in self.orders.batches],
            "dropout": [dropout.generator.get_state() for dropout in self.stack.dropouts],
            "seconds": self.seconds(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the group was."""
        saved = checkpoint["group"]
        self.history, self.kept, self.spent = saved["history"], saved["kept"], saved["seconds"]
        for batches, state in zip(self.orders.batches, saved["orders"], strict=True):
            batches.order.set_state(state.cpu())
        for dropout, state in zip(self.stack.dropouts, saved["dropout"], strict=True):
            dropout.generator.set_state(state.cpu())

    def seconds(self) -> float:
        """How long the training has taken, earlier attempts included."""
        return self.spent + time.perf_counter() - self.started


class Record(Checkpoint):
    """Draws the students' curves while they train, and writes the group's file every epoch.

    Args:
        loggers: of the wanted runs, each with the number of its student.
        file: the group's, from which a later attempt goes on.
    """

    def __init__(self, loggers: Sequence[tuple[int, TensorBoardLogger]], file: Path) -> None:
        self.loggers, self.file = loggers, file

    def on_fit_start(self, trainer: Trainer, pl_module: FusedModule) -> None:
        """Draw what an earlier attempt has trained."""
        if pl_module.history:
            log.info("an earlier attempt ended after epoch %d: going on", len(pl_module.history))
        for epoch in range(len(pl_module.history)):
            self._draw(pl_module.history[epoch], epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: FusedModule) -> None:
        """Draw this epoch and save the group."""
        self._draw(pl_module.history[-1], len(pl_module.history))
        with replacing(self.file) as beside:
            trainer.save_checkpoint(beside)

    def _draw(self, figures: dict[str, list[float]], epoch: int) -> None:
        for student, logger in self.loggers:
            logger.log_metrics({tag: values[student] for tag, values in figures.items()}, epoch)

    def on_exception(self, trainer: Trainer, pl_module: FusedModule, error: BaseException) -> None:
        """Say what Ctrl-C leaves, which Lightning turns into a silent exit with status 1."""
        if isinstance(error, KeyboardInterrupt):
            log.warning(
                "interrupted after %d epochs; the same command goes on there",
                len(pl_module.history),
            )


class GroupProgress(ShowProgress):
    """The bar, or the lines, of a group."""

    EVERY = 1

    def describe(self, trainer: Trainer, pl_module: FusedModule) -> str:
        """How many students train, and the best validation accuracy so far."""
        best = max(max(figures["val/acc"]) for figures in pl_module.history)
        return f"{pl_module.students} students  best val acc {best:.4f}"

    def line(self, trainer: Trainer, pl_module: FusedModule) -> str:
        """The same, for the log."""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        return f"{epoch}  {self.describe(trainer, pl_module)}"


# ------------------------------------------------------------------ a group from start to end


class Trained(NamedTuple):
    """What a group's training gives: each job's share, and the group's file to remove at last."""

    shares: list[Together]
    file: Path


def train_group(
    configs: Sequence[Config], directories: Sequence[Path], overrides: Iterable[str]
) -> Trained:
    """Train the students of one group, or go on where an earlier attempt was ended.

    Args:
        configs: of its jobs, as :func:`plan` grouped them.
        directories: of their runs.
        overrides: the words of one of them, for messages.

    Raises:
        UserError: the accelerator, the data or the teacher is not to be had.
    """
    set_up_logging(logging.INFO)
    config = configs[0]
    material = prepare(config, overrides)
    wanted = [(config.seed, cell_of(config)) for config in configs]
    settings = settings_of(config, material)
    folder = directories[0].parents[1] / UNFINISHED
    before = find_unfinished(folder, settings, wanted)
    if before:
        file, seeds, cells = before
    else:
        seeds, cells = (list(dict.fromkeys(part)) for part in zip(*wanted, strict=True))
        file = folder / f"{_digest([settings, seeds, cells])}.ckpt"
    for directory in directories:
        clear(directory)

    module = FusedModule(config, seeds, cells, material, settings)
    grid = [(seed, cell) for seed in seeds for cell in cells]
    students = [grid.index(pair) for pair in wanted]
    loggers = [make_logger(directory) for directory in directories]
    device = material.accelerator.device
    log.info("%d students train together on %s: %s", len(grid), device, describe(config))
    record = Record(list(zip(students, loggers, strict=True)), file)
    trainer = make_trainer(config, material.accelerator.name, None, [record, GroupProgress()])
    trainer.fit(module, ckpt_path=file if before else None, weights_only=True)
    seconds = module.seconds() / len(grid)
    epochs = module.best() if config.checkpoint == "best" else [len(module.history)] * len(grid)

    shares = []
    for student, logger in record.loggers:
        rows = [{t: values[student] for t, values in row.items()} for row in module.history]
        weights = module.kept[student] or module.stack.state(student)
        epoch = epochs[student]
        fitted = Fitted(weights, epoch, rows[epoch - 1], seconds, logger)
        lines = [f"trained together with {len(grid) - 1} other students, on {device}"]
        lines += [epoch_line(row, number, len(rows)) for number, row in enumerate(rows, 1)]
        errors = (diverged(row["train/loss"], number) for number, row in enumerate(rows, 1))
        shares.append(Together(material, fitted, lines, next(filter(None, errors), None)))
    return Trained(shares, file)


def settings_of(config: Config, material: Material) -> str:
    """A digest of all that the students of a group share and that their results depend on."""
    return _digest([_in_common(config), material.data.fingerprint, hashes(material.teachers)])


def _digest(values: list) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def find_unfinished(
    folder: Path, settings: str, wanted: Iterable[tuple[int, Cell]]
) -> tuple[Path, list[int], list[Cell]] | None:
    """The file of a group that has the wanted students among its own, its seeds and cells.

    A group that was ended between two of its runs goes on as it was, the complete ones included:
    rounding depends on the size of the stack, and the results are to be those of one attempt.
    """
    for path in sorted(folder.glob("*.ckpt")):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["group"]
        except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, OSError, TypeError):
            continue  # not one of ours
        cells = [tuple((name, value) for name, value in cell) for cell in saved["cells"]]
        grid = {(seed, cell) for seed in saved["seeds"] for cell in cells}
        if saved["settings"] == settings and grid.issuperset(wanted):
            return path, saved["seeds"], cells
    return None


def discard(file: Path) -> None:
    """Remove a group's file, and its folder with the last one."""
    file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or gone
        file.parent.rmdir()


def describe(config: Config) -> str:
    """The group in half a line."""
    said = f"stage={config.stage} epochs={config.trainer.max_epochs}"
    return f"{said} kd={config.kd.method}" if config.stage == "distill" else said
