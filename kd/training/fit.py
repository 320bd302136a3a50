"""The training of one run, with Lightning's Trainer."""

import logging
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary
from rich.console import Console
from torch import Tensor

from kd.config.schema import Config, relevant
from kd.data.module import Chunks, ImageDataModule
from kd.errors import UserError
from kd.models.mlp import MLP
from kd.models.network import build_model, build_regressor, count_parameters
from kd.seeding import generator, isolated
from kd.training.book import Bookkeeper, Ends, refuse_diverged
from kd.training.callbacks import Record, ShowProgress
from kd.training.checkpoint import save_checkpoint
from kd.training.controls import lessons
from kd.training.loggers import Loggers
from kd.training.material import Accelerator, Material
from kd.training.modules import Classifier, DistillModule, StudentModule, TeacherModule
from kd.training.run_folder import EPOCHS, clear
from kd.training.teacher import needs_live_teacher
from kd.training.threads import use_threads, using
from kd.training.unfinished import State, forget, name_of, version

log = logging.getLogger(__name__)

SMALL = 8_000_000  # parameters · images of a batch


class Trained(NamedTuple):
    """What a training gives: the weights it keeps, and how it went."""

    weights: dict[str, Tensor]
    epoch: int  # that the weights are of, counted from 1
    rows: list[dict[str, float]]  # the figures, one row per epoch
    seconds: float
    loggers: Loggers  # that are still to be told of the test


class Share(NamedTuple):
    """A run's training, or its share of one that trains many students at once.

    Whoever makes it holds the lock of the run's folder; ``train`` has cleared that.
    """

    material: Material
    train: Callable[[], Trained]


def fit(
    config: Config,
    material: Material,
    directory: Path,
    loggers: Loggers,
    more: Sequence[pl.Callback] = (),
    quiet: bool = False,
) -> Trained:
    """Train the network of one run, or continue where an earlier attempt ended.

    Args:
        config: of the run.
        material: data and teacher.
        directory: of the run, which the caller holds the lock of.
        loggers: of the run.
        more: callbacks of the user's own.
        quiet: shows no progress.
    """
    study, data = directory.parents[1], material.data
    state = State(study, name_of(directory), material.digest(config, [version(), relevant(config)]))
    if config.overwrite:
        forget(study, state.name)
    before = state.saved()
    clear(directory, resumed=before is not None)
    module = make_module(config, material)
    summary = str(ModelSummary(module, max_depth=3))
    fits = max(map(len, summary.splitlines())) <= Console().width
    log.log(logging.INFO if fits else logging.DEBUG, "%s", summary)  # train.log has it anyway
    images, parameters = len(data.indices["train"]), count_parameters(module.network)
    log.info("%d images, %d parameters, on %s", images, parameters, material.accelerator.device)

    def look(epoch: int) -> None:
        refuse_diverged({"train/loss": module.column("train/loss", 0)[-1]}, epoch)
        if config.keep_epochs:
            path = directory / EPOCHS / f"{epoch}.ckpt"
            told = config, data.fingerprint, epoch, data.task, data.mean
            save_checkpoint(path, module.state(), *told)

    callbacks = [*more, Record(state, [(0, loggers)], config.overwrite, look)]
    if not quiet:  # before Record, so that the bar is gone when that tells of Ctrl-C
        shown = ShowProgress(every=1) if in_chunks(config) else ShowProgress()
        callbacks.insert(len(more), shown)
    with using(threads_for(config, parameters)):
        train(config, material.accelerator, module, callbacks, before, data)
    if not module.history:
        raise UserError(f"callbacks=[{','.join(config.callbacks)}]: ended the training at once")
    return share_of(module, 0, loggers)


def in_chunks(config: Config) -> bool:
    """Whether Lightning hands over many batches at a time; the results are the same bits.

    Callbacks want to be called for every batch, and mixed precision is Lightning's own, which keeps
    a network's rounded weights from one batch of a chunk to the next.
    """
    return not config.callbacks and config.trainer.precision == "32"


def train(
    config: Config,
    accelerator: Accelerator,
    module: Bookkeeper,
    callbacks: Sequence[pl.Callback],
    before: Path | None = None,
    data: ImageDataModule | None = None,
) -> None:
    """Have Lightning train a module, without output of Lightning's own.

    Args:
        config: of the run, or of any of the group.
        accelerator: that it trains on.
        module: of one student, or of many.
        callbacks: what happens beside the training.
        before: the state to resume from; None starts over.
        data: has the batches; None where the module has them.
    """
    trainer = pl.Trainer(
        accelerator=accelerator.name,
        devices=1,
        max_epochs=max(ends.epochs for ends in module.ends),
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        logger=False,  # Record tells the loggers, of an earlier attempt too
        callbacks=list(callbacks),
        enable_progress_bar=False,  # ShowProgress's costs less
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    batches: dict[str, Any] = {"datamodule": data}
    if data is not None and in_chunks(config):
        module.automatic_optimization = False  # else Lightning takes one step per chunk
        batches = {"train_dataloaders": Chunks(data.train_dataloader())}
        batches["val_dataloaders"] = data.val_dataloader()
    threads, device = torch.get_num_threads(), accelerator.device
    # Code that knows nothing of our generators draws from global ones: they begin with the seed.
    with isolated(generator(config.seed, "dropout").initial_seed(), device):
        pressed = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(module, **batches, ckpt_path=before, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C, which it ignores from then on
            if not isinstance(stop.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, pressed)
            raise KeyboardInterrupt from None
        finally:
            use_threads(threads)


def share_of(module: Bookkeeper, student: int, loggers: Loggers) -> Trained:
    """What a trained module has to give of one of its students."""
    kept = module.weights_kept(student), module.epoch_kept(student)
    return Trained(*kept, module.rows(student), module.spent[student], loggers)


def threads_for(config: Config, parameters: int) -> int:
    """How many threads a single network trains with: one for a small MLP, else all.

    A second one gains a tenth there, and where another process keeps its core busy, it makes the
    training four times as slow. A fixed rule, because rounding depends on the number.
    """
    small = isinstance(config.model, MLP) and parameters * config.data.batch_size < SMALL
    return 1 if small else torch.get_num_threads()


def ends_of(config: Config) -> Ends:
    """When the training of one student ends."""
    return Ends(config.trainer.max_epochs, config.checkpoint, config.trainer.patience)


def make_module(config: Config, material: Material) -> Classifier:
    """The LightningModule of the stage."""
    task = material.data.task
    network = material.data.centred(build_model(config.model, config.seed, task))
    ends = ends_of(config)
    if config.stage != "distill":
        module = TeacherModule if config.stage == "teacher" else StudentModule
        return module(network, config.optim, ends, task)
    widths = material.regression
    regressor = build_regressor(*widths, config.seed) if widths else None
    outputs = None if needs_live_teacher(config) else lessons(config, material)
    taught = material.teacher, config.kd, outputs
    return DistillModule(network, config.optim, *taught, regressor, ends, task)
