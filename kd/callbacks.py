"""What happens beside the training: weights are kept, progress is shown.

Both are ``Checkpoint`` callbacks because Lightning calls those after the module's own hook, when
the figures of the epoch are complete.
"""

import logging
import math

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from kd.config import UserError

log = logging.getLogger(__name__)


def epoch_metrics(trainer: Trainer) -> dict[str, float]:
    """The figures of the epoch that has just ended: ``train/loss``, ``val/acc``, …"""
    # To float32's seven digits: 0.9686 is kept as 0.9686, not as 0.9685999751091003.
    figures = {key: float(value) for key, value in trainer.callback_metrics.items() if "/" in key}
    return {key: float(f"{value:.7g}") for key, value in figures.items()}


class KeepWeights(Checkpoint):
    """Keeps the network's weights of the last epoch, or of the best by validation accuracy.

    Args:
        which: ``last`` or ``best``; of equally good epochs the first one is best.

    After the training ``weights`` is the ``state_dict``, ``epoch`` its epoch, counted from 1, and
    ``metrics`` that epoch's figures.
    """

    def __init__(self, which: str) -> None:
        self.which = which
        self.epoch = 0
        self.weights: dict[str, Tensor] = {}
        self.metrics: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep this epoch's weights if they are the ones wanted so far."""
        metrics = epoch_metrics(trainer)
        if not math.isfinite(metrics["train/loss"]):
            raise UserError(
                f"training diverged: train/loss is {metrics['train/loss']} in epoch "
                f"{trainer.current_epoch + 1}; try a smaller optim.lr"
            )
        if self.which == "last" or metrics["val/acc"] > self.metrics.get("val/acc", -1):
            self.epoch, self.metrics = trainer.current_epoch + 1, metrics
            state = pl_module.network.state_dict()
            self.weights = {key: value.detach().clone() for key, value in state.items()}

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Say what Ctrl-C leaves, which Lightning turns into a silent exit with status 1."""
        if isinstance(exception, KeyboardInterrupt):
            log.warning("interrupted; complete runs are kept, and the same command goes on there")


class ShowProgress(Checkpoint):
    """A bar in a terminal, a line an epoch in the log; without a bar the console has the lines."""

    EVERY = 20  # steps between two moves of the bar

    def __init__(self) -> None:
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put up the bar."""
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console, transient=True)
            total = trainer.max_epochs * trainer.num_training_batches
            self.task = self.bar.add_task("epoch 1", total=total)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Move the bar now and then: each step would slow the training."""
        if self.bar and trainer.global_step % self.EVERY == 0:
            self.bar.update(self.task, completed=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how the epoch went."""
        figures = epoch_metrics(trainer)
        done, total = trainer.current_epoch + 1, trainer.max_epochs
        said = (
            f"epoch {done}/{total}  train loss {figures['train/loss']:.4f} "
            f"acc {figures['train/acc']:.4f}  val loss {figures['val/loss']:.4f} "
            f"acc {figures['val/acc']:.4f}"
        )
        log.log(logging.DEBUG if self.bar else logging.INFO, said)
        if self.bar:
            said = f"epoch {min(done + 1, total)}/{total}  val acc {figures['val/acc']:.4f}"
            self.bar.update(self.task, description=said)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bar down."""
        if self.bar:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, _: BaseException) -> None:
        """Take the bar down before the error is shown."""
        self.on_train_end(trainer, pl_module)
