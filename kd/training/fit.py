"""The training of one run, with Lightning's Trainer."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.model_summary import ModelSummary
from torch import Tensor

from kd.config.schema import Config, relevant
from kd.data.module import MNISTDataModule
from kd.models.network import build_model, build_regressor, count_parameters
from kd.training import unfinished
from kd.training.book import Bookkeeper, use_threads
from kd.training.callbacks import KeepEpochs, Record, ShowProgress, StopDiverged
from kd.training.checkpoint import save_checkpoint
from kd.training.curves import Curves
from kd.training.material import Accelerator, Material
from kd.training.modules import Classifier, DistillModule, StudentModule, TeacherModule
from kd.training.run_folder import EPOCHS, clear, hashes
from kd.training.teacher import needs_live_teacher, regressor_width

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What a training gives: the weights it keeps, and how it went."""

    weights: dict[str, Tensor]
    epoch: int  # that the weights are of, counted from 1
    rows: list[dict[str, float]]  # the figures, one row per epoch
    seconds: float
    curves: Curves


class Share(NamedTuple):
    """A run's share of a training that trains many students at once.

    Whoever makes it has cleared the run's folder, and holds its lock.
    """

    material: Material
    train: Callable[[], Trained]


def fit(config: Config, material: Material, directory: Path, quiet: bool = False) -> Trained:
    """Train the network of one run, or go on where an earlier attempt was ended.

    Args:
        config: of the run.
        material: data and teacher.
        directory: of the run, which the caller holds the lock of.
        quiet: shows no progress.
    """
    accelerator, data = material.accelerator, material.data
    study, name = directory.parents[1], unfinished.name_of(directory)
    settings = digest(config, material)
    if config.overwrite:
        unfinished.forget(study, name)
    before = unfinished.saved(study, name, settings)
    clear(directory, resumed=before is not None)
    module = make_module(config, material)
    log.info("%s", ModelSummary(module, max_depth=-1))
    images, parameters = len(data.indices["train"]), count_parameters(module.network)
    said = f"{accelerator.device} with {images} images, {parameters} parameters"
    log.info("%s, %s", said, in_short(config))

    def keep_epoch(epoch: int) -> None:
        path = directory / EPOCHS / f"{epoch}.ckpt"
        save_checkpoint(path, module.state(), config, data.fingerprint, epoch)

    def save(epoch: int, write: Callable[[Path], None]) -> None:
        unfinished.save(study, name, settings, epoch, write)

    curves = Curves(directory)
    callbacks: list[pl.Callback] = [StopDiverged()]
    if config.keep_epochs:
        callbacks.append(KeepEpochs(keep_epoch))
    callbacks.append(Record(save, [(0, curves)]))
    if not quiet:
        callbacks.append(ShowProgress())
    train(config, accelerator, module, callbacks, before, data)
    return share_of(module, 0, curves)


def train(
    config: Config,
    accelerator: Accelerator,
    module: Bookkeeper,
    callbacks: list[pl.Callback],
    before: Path | None,
    data: MNISTDataModule | None = None,
) -> None:
    """Have Lightning train a module, without output of Lightning's own.

    Args:
        config: of the run, or of any of the group.
        accelerator: that it trains on.
        module: of one student, or of many.
        callbacks: what happens beside the training.
        before: the state to go on from; None begins anew.
        data: has the batches; None where the module has them.
    """
    trainer = make_trainer(config, accelerator.name, callbacks)
    threads = torch.get_num_threads()
    try:
        trainer.fit(module, datamodule=data, ckpt_path=before, weights_only=True)
    finally:
        use_threads(threads)


def make_trainer(config: Config, accelerator: str, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Lightning's Trainer without output of its own."""
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=config.trainer.max_epochs,
        logger=False,  # Record draws the curves, those of an earlier attempt too
        callbacks=callbacks,
        enable_checkpointing=True,
        enable_progress_bar=False,  # ShowProgress's costs less
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def share_of(module: Bookkeeper, student: int, curves: Curves) -> Trained:
    """What a trained module has to give of one of its students."""
    return Trained(
        weights=module.weights_kept(student),
        epoch=module.epoch_kept(student),
        rows=module.rows(student),
        seconds=module.seconds() / module.students,
        curves=curves,
    )


def make_module(config: Config, material: Material) -> Classifier:
    """The LightningModule of the stage."""
    network = build_model(config.model, config.seed)
    if config.stage == "teacher":
        return TeacherModule(network, config.optim, config.checkpoint)
    if config.stage == "student":
        return StudentModule(network, config.optim, config.checkpoint)
    outputs = material.teacher_outputs
    width = regressor_width(config, outputs)
    regressor = width and build_regressor(config.model.hidden, width, config.seed)
    return DistillModule(
        network,
        config.optim,
        material.teacher,
        config.kd,
        None if needs_live_teacher(config) else outputs,
        regressor,
        config.checkpoint,
    )


def digest(config: Config, material: Material) -> str:
    """What stands for all that the state of a training depends on."""
    data, teachers = material.data.fingerprint, hashes(material.teachers)
    return unfinished.digest([unfinished.version(), relevant(config), data, teachers])


def in_short(config: Config) -> str:
    """The run in half a line."""
    said = f"stage={config.stage} seed={config.seed} epochs={config.trainer.max_epochs}"
    if config.stage == "distill":
        said += f" kd={config.kd.method} T={config.kd.T} alpha={config.kd.alpha}"
    return said
