"""What happens beside the training: weights are kept, curves drawn, progress is shown.

All are ``Checkpoint`` callbacks because Lightning calls those after the module's own hook, when
the figures of the epoch are complete.
"""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from kd.config.schema import UserError

log = logging.getLogger(__name__)


def seven_digits(figure: float) -> float:
    """A figure to float32's seven digits: 0.9686 is kept as 0.9686, not as 0.9685999751091003."""
    return float(f"{figure:.7g}")


def epoch_metrics(trainer: Trainer) -> dict[str, float]:
    """The figures of the epoch that has just ended: ``train/loss``, ``val/acc``, …"""
    figures = {key: float(value) for key, value in trainer.callback_metrics.items() if "/" in key}
    return {key: seven_digits(value) for key, value in figures.items()}


def epoch_line(figures: dict[str, float], epoch: int, epochs: int) -> str:
    """How an epoch went, in a line of the log."""
    return (
        f"epoch {epoch}/{epochs}  train loss {figures['train/loss']:.4f} "
        f"acc {figures['train/acc']:.4f}  val loss {figures['val/loss']:.4f} "
        f"acc {figures['val/acc']:.4f}"
    )


def diverged(loss: float, epoch: int) -> str | None:
    """What to say of an epoch's training loss that is no number; None of one that is."""
    if math.isfinite(loss):
        return None
    return f"training diverged: train/loss is {loss} in epoch {epoch}; try a smaller optim.lr"


class KeepWeights(Checkpoint):
    """Keeps the network's weights of the last epoch, or of the best by validation accuracy.

    Args:
        which: ``last`` or ``best``; of equally good epochs the first one is best.
        each: is given every epoch's ``state_dict`` and its number besides.

    After the training ``weights`` is the ``state_dict``, ``epoch`` its epoch, counted from 1, and
    ``metrics`` that epoch's figures.
    """

    def __init__(
        self, which: str, each: Callable[[dict[str, Tensor], int], None] | None = None
    ) -> None:
        self.which, self.each = which, each
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.metrics: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this epoch's weights if they are the ones wanted so far."""
        metrics = epoch_metrics(trainer)
        if error := diverged(metrics["train/loss"], trainer.current_epoch + 1):
            raise UserError(error)
        state = pl_module.network.state_dict()
        if self.each:
            self.each(state, trainer.current_epoch + 1)
        if self.which == "last" or metrics["val/acc"] > self.metrics.get("val/acc", -1):
            self.epoch, self.metrics = trainer.current_epoch + 1, metrics
            self.weights = {key: value.detach().clone() for key, value in state.items()}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say what Ctrl-C leaves, which Lightning turns into a silent exit with status 1."""
        if isinstance(exception, KeyboardInterrupt):
            log.warning("interrupted; complete runs are kept, and the same command goes on there")


class ShowProgress(Checkpoint):
    """A bar in a terminal, a line an epoch in the log; without a bar the console has the lines."""

    EVERY = 20  # steps between two moves of the bar: each step would slow the training

    def __init__(self) -> None:
        self.bar: Progress | None = None

    def describe(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """How the training stands, beside the bar."""
        return f"val acc {epoch_metrics(trainer)['val/acc']:.4f}"

    def line(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """How the epoch went, for the log."""
        return epoch_line(epoch_metrics(trainer), trainer.current_epoch + 1, trainer.max_epochs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put up the bar."""
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console, transient=True)
            total = trainer.max_epochs * trainer.num_training_batches
            done = trainer.current_epoch * trainer.num_training_batches
            epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
            self.task = self.bar.add_task(epoch, total=total, completed=done)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Move the bar now and then."""
        step = trainer.fit_loop.total_batch_idx + 1
        if self.bar and step % self.EVERY == 0:
            self.bar.update(self.task, completed=step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went."""
        log.log(logging.DEBUG if self.bar else logging.INFO, self.line(trainer, pl_module))
        if self.bar:
            epoch = min(trainer.current_epoch + 2, trainer.max_epochs)
            said = f"epoch {epoch}/{trainer.max_epochs}  {self.describe(trainer, pl_module)}"
            self.bar.update(self.task, description=said)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar down."""
        if self.bar:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, _: BaseException) -> None:
        """Take the bar down before the error is shown."""
        self.on_train_end(trainer, pl_module)


class Record(Checkpoint):
    """Draws the students' curves while they train, and saves the group every epoch.

    Args:
        loggers: of the wanted runs, each with the number of its student.
        save: keeps the group's state after an epoch, given its number and what writes the file.
    """

    def __init__(
        self,
        loggers: Sequence[tuple[int, TensorBoardLogger]],
        save: Callable[[int, Callable[[Path], None]], None],
    ) -> None:
        self.loggers, self.save = loggers, save

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw what an earlier attempt has trained."""
        if pl_module.history:
            log.info("an earlier attempt ended after epoch %d: going on", len(pl_module.history))
        for epoch in range(len(pl_module.history)):
            self._draw(pl_module.history[epoch], epoch + 1)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw this epoch and save the group."""
        self._draw(pl_module.history[-1], len(pl_module.history))
        self.save(len(pl_module.history), trainer.save_checkpoint)

    def _draw(self, figures: dict[str, list[float]], epoch: int) -> None:
        for student, logger in self.loggers:
            logger.log_metrics({tag: values[student] for tag, values in figures.items()}, epoch)
            logger.experiment.flush()  # to be seen now, not after the two minutes of its buffer

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, error: BaseException
    ) -> None:
        """Say what Ctrl-C leaves, which Lightning turns into a silent exit with status 1."""
        if isinstance(error, KeyboardInterrupt):
            log.warning(
                "interrupted after %d epochs; the same command goes on there",
                len(pl_module.history),
            )


class GroupProgress(ShowProgress):
    """The bar, or the lines, of a group."""

    EVERY = 1

    def describe(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """How many students train, and the best validation accuracy so far."""
        best = max(max(figures["val/acc"]) for figures in pl_module.history)
        return f"{pl_module.students} students  best val acc {best:.4f}"

    def line(self, trainer: Trainer, pl_module: LightningModule) -> str:
        """The same, for the log."""
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        return f"{epoch}  {self.describe(trainer, pl_module)}"
