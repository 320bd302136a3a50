"""The optimiser of a training, and its book: figures, weights worth keeping, state."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from kd.config.schema import Optim
from kd.errors import UserError
from kd.seeding import global_state, restore_global_state
from kd.training.threads import use_threads

PARTS = ("train", "val")
Figures = dict[str, list[float]]  # by TensorBoard's tag, one value per student


class Bookkeeper(LightningModule, ABC):
    """A module that trains one student, or many side by side, and keeps the book of it.

    Args:
        optim: the optimiser, its learning rate and schedule.
        students: how many train.
        checkpoint: which weights are kept, those of the ``last`` epoch or of the ``best`` by
            validation accuracy.

    ``history`` has the figures of every epoch, ``kept`` each student's weights of its best epoch so
    far, where these are wanted.
    """

    def __init__(self, optim: Optim, students: int = 1, checkpoint: str = "last") -> None:
        super().__init__()
        self.optim = optim
        self.students, self.checkpoint = students, checkpoint
        self.history: list[Figures] = []
        self.kept: list[dict[str, Tensor]] = [{}] * students
        # Sums over an epoch of losses and of right answers. Adding to them costs a few µs per step;
        # a logging call or a metric object per step would be felt beside so small a network.
        # No buffer: a callback that averages weights averages buffers too.
        self.sums = torch.zeros(len(PARTS), 2, students)  # of losses and of right answers
        self.samples: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.figures: Figures = {}  # of the epoch in hand
        self.spent, self.started = 0.0, time.perf_counter()
        self.restored: list[Tensor] = []  # states of the generators, until the training begins
        self.restored_global: list[Any] = []

    @abstractmethod
    def state(self, student: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network, a copy."""

    @abstractmethod
    def generators(self) -> list[torch.Generator]:
        """Everything that draws random numbers during the training."""

    def batches(self) -> int:
        """Of the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> dict[str, Any]:
        """The optimiser, and the schedule that moves its learning rate a batch at a time."""
        optimizer = make_optimizer(self.optim, self.parameters())
        if self.optim.schedule == "constant":
            return {"optimizer": optimizer}
        if self.optim.schedule == "onecycle":
            schedule = OneCycleLR(optimizer, max_lr=self.optim.lr, total_steps=self.batches())
        else:
            schedule = CosineAnnealingLR(optimizer, T_max=self.batches())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def note(
        self, part: str, losses: Tensor, right: Tensor, samples: int, batches: int = 1
    ) -> None:
        """Add batches to the sums of an epoch.

        Args:
            part: ``train`` or ``val``.
            losses: mean loss per student over a batch's samples, added up over the batches.
            right: number of right answers per student.
            samples: of a batch.
            batches: how many these are.
        """
        of_losses, of_right = self.sums[PARTS.index(part)]
        of_losses.add_(losses, alpha=samples)
        of_right.add_(right)
        self.samples[part] += samples * batches

    def close(self, part: str) -> None:
        """Turn an epoch's sums into figures: ``train/loss``, ``train/acc`` or those of ``val``."""
        sums = self.sums[PARTS.index(part)]
        means = (sums / max(1, self.samples[part])).tolist()
        for name, values in zip(("loss", "acc"), means, strict=True):
            self.figures[f"{part}/{name}"] = [seven_digits(value) for value in values]
        sums.zero_()
        self.samples[part] = 0

    def on_train_start(self) -> None:
        """Go on with the random numbers where an earlier attempt ended."""
        self.sums = self.sums.to(self.device)
        for generator, state in zip(self.generators(), self.restored, strict=False):
            generator.set_state(state.cpu())
        if self.restored_global:
            restore_global_state(self.restored_global)

    def on_train_epoch_start(self) -> None:
        """Note the learning rate that the epoch begins with."""
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.figures["train/lr"] = [seven_digits(rate)] * self.students

    def on_validation_epoch_end(self) -> None:
        """Note the validation's figures."""
        self.close("val")

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures, and keep the weights that are the best so far."""
        self.close("train")
        self.history.append(self.figures)
        self.figures = {}
        if self.checkpoint == "best":
            for student in range(self.students):
                if self.epoch_kept(student) == len(self.history):
                    self.kept[student] = self.state(student)

    def epoch_kept(self, student: int) -> int:
        """The epoch whose weights are kept, counted from 1; of equally good ones the first."""
        if self.checkpoint == "last":
            return len(self.history)
        accuracies = [figures["val/acc"][student] for figures in self.history]
        return 1 + accuracies.index(max(accuracies))

    def weights_kept(self, student: int) -> dict[str, Tensor]:
        """The weights of :meth:`epoch_kept`."""
        return self.kept[student] or self.state(student)

    def rows(self, student: int) -> list[dict[str, float]]:
        """The figures of one student, one row per epoch."""
        return [{tag: values[student] for tag, values in row.items()} for row in self.history]

    def seconds(self) -> float:
        """How long the training has taken, earlier attempts included."""
        return self.spent + time.perf_counter() - self.started

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming needs beside Lightning's own, in plain values."""
        checkpoint["book"] = {
            "history": self.history,
            "kept": self.kept,
            "generators": [generator.get_state() for generator in self.generators()],
            "global": global_state(),
            "seconds": self.seconds(),
            # Rounding depends on it: what goes on elsewhere goes on as it began.
            "threads": torch.get_num_threads(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where an earlier attempt ended."""
        book = checkpoint["book"]
        use_threads(book["threads"])
        self.history, self.kept, self.spent = book["history"], book["kept"], book["seconds"]
        self.restored, self.restored_global = book["generators"], book["global"]


def make_optimizer(optim: Optim, parameters: Iterable[Tensor]) -> Optimizer:
    """torch's optimiser of the settings; fused, it takes one pass over the parameters.

    A group's are its students' side by side, so it must work element by element.
    """
    shared: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name == "sgd":
        return SGD(parameters, momentum=optim.momentum, **shared)
    return {"adam": Adam, "adamw": AdamW}[optim.name](parameters, eps=optim.eps, **shared)


def seven_digits(figure: float) -> float:
    """A figure to float32's seven digits.

    >>> seven_digits(0.9685999751091003)
    0.9686
    """
    return float(f"{figure:.7g}")


def epoch_line(figures: dict[str, float], epoch: int, epochs: int) -> str:
    """How an epoch went, in a line of the log."""
    return (
        f"epoch {epoch}/{epochs}  train loss {figures['train/loss']:.4f} "
        f"acc {figures['train/acc']:.4f}  val loss {figures['val/loss']:.4f} "
        f"acc {figures['val/acc']:.4f}"
    )


def refuse_diverged(found: dict[str, float | Tensor], epoch: int) -> None:
    """Make sure that a training's figures, weights or logits are finite.

    Args:
        found: figures or tensors, by what they are called.
        epoch: that they are of, counted from 1.

    Raises:
        UserError: some are not.
    """
    odd = [
        f"{name} is {value}" if isinstance(value, float) else f"{name} are not finite"
        for name, value in found.items()
        if not torch.as_tensor(value).isfinite().all()
    ]
    if odd:
        raise UserError(
            f"training diverged: {' and '.join(odd)} in epoch {epoch}; try a smaller optim.lr"
        )
