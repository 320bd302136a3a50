"""The optimiser of a training, and its book: figures, weights worth keeping, state."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from math import isfinite
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from kd.config.schema import Optim
from kd.errors import UserError
from kd.seeding import global_state, restore_global_state
from kd.training.threads import use_threads

PARTS = ("train", "val")
# By TensorBoard's tag, one value per student; None of those that do not train any more.
Figures = dict[str, list[float | None]]


class Ends(NamedTuple):
    """When a student's training ends, and which of its weights are kept."""

    epochs: int = 1_000_000  # at most
    checkpoint: str = "last"  # or best, by validation accuracy
    patience: int | None = None  # epochs without a better validation loss


TO_THE_END = Ends()  # of the Trainer's epochs


class Bookkeeper(LightningModule, ABC):
    """A module that trains one student, or many side by side, and keeps the book of it.

    Args:
        ends: of each student.

    ``history`` has the figures of every epoch, ``kept`` each student's weights of its best epoch so
    far, or of its last, ``live`` the students that continue training.
    """

    def __init__(self, ends: Sequence[Ends]) -> None:
        super().__init__()
        self.ends = ends
        self.history: list[Figures] = []
        self.kept: list[dict[str, Tensor]] = [{}] * len(ends)
        self.live = list(range(len(ends)))
        self.counted = list(self.live)  # the students that batches are counted of
        # After an epoch: who is to leave before the end, and has no result.
        self.dismiss: Callable[[], Collection[int]] = tuple
        self.dismissed: list[int] = []
        # Sums over an epoch of losses and of right answers. Adding to them costs a few µs per step;
        # a logging call or a metric object per step would be felt beside so small a network.
        # No buffer: a callback that averages weights averages buffers too.
        self.sums = torch.zeros(len(PARTS), 2, len(ends))  # of losses and of right answers
        self.samples: dict[str, int] = dict.fromkeys(PARTS, 0)
        self.figures: Figures = {}  # of the epoch in hand
        self.spent, self.started = [0.0] * len(ends), time.perf_counter()  # seconds
        self.restored: list[Tensor] = []  # states of the generators, until the training begins
        self.restored_global: list[Any] = []

    @property
    def students(self) -> int:
        """How many there are, those that have ended included."""
        return len(self.ends)

    @abstractmethod
    def state(self, student: int) -> dict[str, Tensor]:
        """The ``state_dict`` of one student's network, a copy."""

    @abstractmethod
    def generators(self) -> list[torch.Generator]:
        """Everything that draws random numbers during the training."""

    def batches(self) -> int:
        """Of the whole training."""
        return int(self.trainer.estimated_stepping_batches)

    def optimizers_of(self, optim: Optim) -> dict[str, Any]:
        """For Lightning: the optimiser, and the schedule that moves its rate a batch at a time."""
        optimizer = make_optimizer(optim, self.parameters())
        schedule = make_schedule(optimizer, optim, self.batches())
        if schedule is None:
            return {"optimizer": optimizer}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rates(self) -> list[float]:
        """The learning rates of the counted students."""
        return [self.trainer.optimizers[0].param_groups[0]["lr"]] * len(self.counted)

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
            self.figures[f"{part}/{name}"] = self._by_student(values)
        sums.zero_()
        self.samples[part] = 0

    def _by_student(self, values: Sequence[float]) -> list[float | None]:
        """Values of the counted students as those of all."""
        found = dict(zip(self.counted, map(seven_digits, values), strict=True))
        live = set(self.live)
        return [found[s] if s in live else None for s in range(self.students)]

    def on_train_start(self) -> None:
        """Continue where an earlier attempt ended; not at all if that was after the last epoch."""
        self.sums = self.sums.to(self.device)
        for generator, state in zip(self.generators(), self.restored, strict=False):
            generator.set_state(state.cpu())
        if self.restored_global:
            restore_global_state(self.restored_global)
        self._stop_without_students()

    def on_train_epoch_start(self) -> None:
        """Note the learning rates that the epoch begins with."""
        self.figures["train/lr"] = self._by_student(self.rates())

    def on_validation_epoch_end(self) -> None:
        """Note the validation's figures."""
        self.close("val")

    def on_train_epoch_end(self) -> None:
        """Note the epoch's figures and the weights worth keeping, and let students go."""
        self.close("train")
        self.history.append(self.figures)
        self.figures = {}
        now = time.perf_counter()
        for student in self.live:
            self.spent[student] += (now - self.started) / len(self.live)
        self.started = now
        going_on = [student for student in self.live if not self._has_ended(student)]
        let_go = self.dismiss()
        staying = [student for student in going_on if student not in let_go]
        self.dismissed += [student for student in going_on if student in let_go]
        # Those that end with the training have the weights that it ends with: a callback may have
        # averaged them.
        leaving = set(self.live).difference(staying) if staying else set[int]()
        for student in set(self.live).difference(self.dismissed):
            looks = self.ends[student].checkpoint == "best" or student in leaving
            if looks and self.epoch_kept(student) == len(self.history):
                self.kept[student] = self.state(student)
        self.live = staying
        self._stop_without_students()

    def _stop_without_students(self) -> None:
        if not self.live:
            self.trainer.should_stop = True

    def _has_ended(self, student: int) -> bool:
        """Whether a student's training is over: it has had its epochs or patience, or diverged."""
        ends, losses = self.ends[student], self.column("val/loss", student)
        if len(losses) >= ends.epochs or not isfinite(self.column("train/loss", student)[-1]):
            return True
        if ends.patience is None:
            return False
        return not isfinite(losses[-1]) or len(losses) - losses.index(min(losses)) > ends.patience

    def column(self, tag: str, student: int) -> list[float]:
        """A figure of one student, one value per epoch that it trained."""
        found = (row[tag][student] for row in self.history)
        return [value for value in found if value is not None]

    def epoch_kept(self, student: int) -> int:
        """The epoch whose weights are kept, counted from 1; of equally good ones the first."""
        accuracies = self.column("val/acc", student)
        if self.ends[student].checkpoint == "last":
            return len(accuracies)
        return 1 + accuracies.index(max(accuracies))

    def weights_kept(self, student: int) -> dict[str, Tensor]:
        """The weights of :meth:`epoch_kept`."""
        return self.kept[student] or self.state(student)

    def rows(self, student: int) -> list[dict[str, float]]:
        """The figures of one student, one row per epoch that it trained."""
        columns = {tag: self.column(tag, student) for tag in self.history[-1]}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what resuming needs beside Lightning's own, in plain values."""
        checkpoint["book"] = {
            "history": self.history,
            "kept": self.kept,
            "generators": [generator.get_state() for generator in self.generators()],
            "global": global_state(),
            "spent": self.spent,
            "live": self.live,
            "counted": self.counted,
            "dismissed": self.dismissed,
            # Rounding depends on it: what resumes on another machine resumes as it began.
            "threads": torch.get_num_threads(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue where an earlier attempt ended."""
        book = checkpoint["book"]
        use_threads(book["threads"])
        self.history, self.kept, self.spent = book["history"], book["kept"], book["spent"]
        self.live, self.counted = book["live"], book["counted"]
        self.dismissed = book["dismissed"]
        self.sums = torch.zeros(len(PARTS), 2, len(self.counted))
        self.restored, self.restored_global = book["generators"], book["global"]


def make_optimizer(optim: Optim, parameters: Iterable[Tensor]) -> Optimizer:
    """torch's optimiser of the settings; fused, it takes one pass over the parameters.

    A group's are its students' side by side, so it must work element by element.
    """
    shared: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay, "fused": True}
    if optim.name == "sgd":
        return SGD(parameters, momentum=optim.momentum, **shared)
    beta1, beta2 = optim.betas
    kind = {"adam": Adam, "adamw": AdamW}[optim.name]
    return kind(parameters, betas=(beta1, beta2), eps=optim.eps, **shared)


def make_schedule(optimizer: Optimizer, optim: Optim, steps: int) -> LRScheduler | None:
    """torch's schedule of the settings over so many steps; None leaves the rate alone."""
    if optim.schedule == "constant":
        return None
    if optim.schedule == "onecycle":
        return OneCycleLR(optimizer, max_lr=optim.lr, total_steps=steps)
    return CosineAnnealingLR(optimizer, T_max=steps)


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
