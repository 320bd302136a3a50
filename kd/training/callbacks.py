"""What happens beside the training: state is saved, curves are drawn, progress is shown.

All but Lightning's own are ``Checkpoint`` callbacks because Lightning calls those after the
module's own hook, when the figures of the epoch are complete.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, Checkpoint
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from kd.config.schema import Config
from kd.training.book import Bookkeeper, epoch_line
from kd.training.loggers import Loggers
from kd.training.targets import make_all
from kd.training.unfinished import State

log = logging.getLogger(__name__)


def make_callbacks(config: Config, directory: Path) -> list[Callback]:
    """The callbacks of ``callbacks=…``.

    Raises:
        UserError: one cannot be made.
    """
    return [*make_all("callbacks", Callback, config, directory).values()]


class Record(Checkpoint):
    """Saves the training's state after every epoch, and tells the loggers of it.

    Args:
        state: of the training.
        loggers: of the wanted runs, each with the number of its student.
        overwrite: whether the command has ``overwrite=true``, which starts over each time.
        each: is called after every epoch with its number.
    """

    def __init__(
        self,
        state: State,
        loggers: Sequence[tuple[int, Loggers]],
        overwrite: bool = False,
        each: Callable[[int], None] | None = None,
    ) -> None:
        self.state, self.loggers, self.each = state, loggers, each
        self.overwrite, self.saved = overwrite, 0  # epochs

    def on_fit_start(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Begin with the settings and with what an earlier attempt has trained."""
        self.saved = len(pl_module.history)
        for _, loggers in self.loggers:
            loggers.begin()
        if pl_module.history:
            log.info("an earlier attempt ended after epoch %d: continuing", len(pl_module.history))
        for epoch in range(1, len(pl_module.history) + 1):
            self._draw(pl_module, epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Draw this epoch and save the state."""
        epoch = len(pl_module.history)
        self._draw(pl_module, epoch)
        if self.each:
            self.each(epoch)
        self.state.save(epoch, trainer.save_checkpoint)
        self.saved = epoch

    def _draw(self, module: Bookkeeper, epoch: int) -> None:
        row = module.history[epoch - 1]
        for student, loggers in self.loggers:
            of_student = {tag: values[student] for tag, values in row.items()}
            figures = {tag: value for tag, value in of_student.items() if value is not None}
            if figures:  # else it has ended
                loggers.draw(figures, epoch)

    def on_exception(
        self, trainer: Trainer, pl_module: Bookkeeper, exception: BaseException
    ) -> None:
        """Say what Ctrl-C leaves."""
        if not isinstance(exception, KeyboardInterrupt):
            return
        if not self.saved:
            log.warning("interrupted in the first epoch; the same command starts over")
            return
        after = f"after {self.saved} epoch{'s' * (self.saved != 1)}"
        without = " without overwrite=true" if self.overwrite else ""
        log.warning("interrupted %s; the same command%s continues there", after, without)


class ShowProgress(Checkpoint):
    """A bar in a terminal, a line per epoch in the log; without a bar the console has the lines.

    Args:
        every: steps between two moves of the bar; each step would slow the training of one student.
    """

    def __init__(self, every: int = 20) -> None:
        self.every = every
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Put up the bar."""
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console, transient=True)
            batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 0
            total, done = epochs * batches, trainer.current_epoch * batches
            first = f"epoch {trainer.current_epoch + 1}/{epochs}"
            self.task = self.bar.add_task(first, total=total, completed=done)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Move the bar now and then."""
        step = trainer.fit_loop.total_batch_idx + 1
        if self.bar and step % self.every == 0:
            self.bar.update(self.task, completed=step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Say how the epoch went."""
        epoch, epochs, students = len(pl_module.history), trainer.max_epochs, pl_module.students
        if students == 1:
            said = epoch_line(pl_module.rows(0)[-1], epoch, epochs or 0)
        else:
            found = [value for value in pl_module.history[-1]["val/acc"] if value is not None]
            best = f"best val acc {max(found):.4f}"
            said = f"epoch {epoch}/{epochs}  {len(found)} students  {best}"
        log.log(logging.DEBUG if self.bar else logging.INFO, said)
        if self.bar:
            self.bar.console.print(said, markup=False, highlight=False, soft_wrap=True)
            following = f"epoch {min(epoch + 1, epochs or 0)}/{epochs}"
            self.bar.update(self.task, description=following)

    def on_train_end(self, trainer: Trainer, pl_module: Bookkeeper) -> None:
        """Take the bar down."""
        if self.bar:
            self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: Bookkeeper, _: BaseException) -> None:
        """Take the bar down before the error is shown."""
        self.on_train_end(trainer, pl_module)
