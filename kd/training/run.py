"""One run, from configuration to ``metrics.json``."""

import contextlib
import functools
import logging
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from kd import metrics as fidelity
from kd.config.messages import explain
from kd.config.schema import PROJECT, Config, OutOfMemory, UserError, relevant, validate
from kd.data.module import Batches, MNISTDataModule, fingerprint
from kd.files import file_hash, replacing
from kd.models.network import (
    Network,
    Seen,
    build_model,
    build_regressor,
    count_parameters,
    layer_table,
)
from kd.sweeps.grouping import student_bytes
from kd.training.callbacks import KeepWeights, ShowProgress
from kd.training.checkpoint import find_teacher, load_teacher, save_checkpoint
from kd.training.logging import log_hyperparameters, set_up_logging, train_log
from kd.training.memory import available_bytes
from kd.training.modules import Classifier, DistillModule, StudentModule, TeacherModule
from kd.training.results import RESULTS, write_results
from kd.training.run_folder import (
    EPOCHS,
    METRICS,
    busy,
    clear,
    hashes,
    lock_run,
    read_metrics,
    refuse_other_settings,
    remove_empty,
    save_hydra,
    write_metrics,
)
from kd.training.teacher import check_method, regressor_width, teach, watches

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """What a run gives back: its metrics, and whether they were there already."""

    metrics: dict[str, Any]
    skipped: bool


class Accelerator(NamedTuple):
    """Where a run computes: Lightning's word for it, and torch's."""

    name: str
    device: torch.device


class Material(NamedTuple):
    """What a training needs, found and checked before a file of it is written."""

    accelerator: Accelerator
    data: MNISTDataModule
    teachers: list[Path]  # their checkpoints: none, one, or those of an ensemble
    teacher: nn.Module | None
    taught: Seen | None  # what the teacher makes of all samples of the pool


class Fitted(NamedTuple):
    """What a training gives: the weights it keeps, and how it went."""

    weights: dict[str, Tensor]
    epoch: int  # that the weights are of, counted from 1
    metrics: dict[str, float]  # of that epoch
    seconds: float
    logger: TensorBoardLogger


class Together(NamedTuple):
    """A run's share of a training that trained many students at once; see ``kd.fused``."""

    material: Material
    fitted: Fitted
    said: list[str]  # for its log
    error: str | None  # why it failed, alone of its group


def run(
    cfg: DictConfig,
    config: Config | None = None,
    together: Together | None = None,
    alone: str = "",
) -> Outcome:
    """Train, test and save what the configuration says, unless that is done already.

    Args:
        cfg: what Hydra composed.
        config: the same, checked already.
        together: its training, where that is over: only the rest is left to do.
        alone: why it does not train together with others of its sweep, for the log.

    Raises:
        UserError: the settings, the data, the teacher or the folder do not allow it.
    """
    config = config or validate(cfg)
    hydra = HydraConfig.get()
    # Our launcher says one line a run; under any other one, as alone, the run speaks for itself.
    quiet = hydra.mode == RunMode.MULTIRUN and "sweep_launcher" in hydra.launcher._target_
    set_up_logging(logging.WARNING if quiet else logging.INFO)
    directory = Path(hydra.runtime.output_dir)
    shown = directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory

    if (before := find_complete(config, directory)) is not None:
        return skip(before, shown, quiet)
    with contextlib.ExitStack() as held:
        write_log = held.enter_context(train_log())
        try:  # a run that is refused leaves nothing behind
            material = together.material if together else prepare(config, hydra.overrides.task)
            if together is None:  # else whoever trained it holds the folder
                held.enter_context(lock_run(directory))
            if (before := find_complete(config, directory)) is not None:
                return skip(before, shown, quiet)  # another process has been faster
        except Timeout as error:
            raise UserError(busy(shown)) from error
        finally:
            remove_empty(directory)
        write_log(directory)
        try:
            if together is None:
                clear(directory)
            save_hydra(config, hydra, directory / ".hydra")
            fitted = adopt(together) if together else fit(config, material, directory, quiet, alone)
            metrics = finish(config, material, fitted, directory)
        except Exception as error:
            log.debug("failed: %s", explain(error) or error, exc_info=error)
            raise
        write_metrics(directory, metrics)
        if not quiet:  # the launcher does so once, when its jobs are done
            write_results(directory.parents[1])
        log.info("test accuracy %.4f", metrics["test/acc"])
    log.info("results: %s  (to look at it: tensorboard --logdir %s)", shown, config.output_dir)
    return Outcome(metrics, skipped=False)


def find_complete(config: Config, directory: Path) -> dict[str, Any] | None:
    """The metrics of the run if it is complete and need not be trained again.

    Raises:
        UserError: it is a run of other settings, data or teacher, or ``data.files`` is wrong.
    """
    if config.overwrite:
        return None
    before = read_metrics(directory)
    if before is not None:
        if config.data.files is not None:  # they are checked whether they are needed or not
            MNISTDataModule(config.data, config.seed).prepare_data()
        refuse_other_settings(config, directory, before, fingerprint(config.data))
    return before


def skip(before: dict[str, Any], shown: Path, quiet: bool) -> Outcome:
    """Say that the run is complete, and see that the table of its study knows it."""
    table = shown.parents[1] / RESULTS
    if not quiet and (
        not table.exists() or table.stat().st_mtime_ns < (shown / METRICS).stat().st_mtime_ns
    ):
        write_results(table.parent)
    log.info(
        "skipped: complete already, test accuracy %.4f\nresults: %s", before["test/acc"], shown
    )
    return Outcome(before, skipped=True)


def prepare(config: Config, overrides: Iterable[str]) -> Material:
    """Find and check what a training needs, and have the teacher see the images.

    Raises:
        UserError: see :func:`find_material`.
    """
    material = find_material(config, overrides)
    if material.teacher is None:
        return material
    return material._replace(taught=teach(material.teacher, material.data))


def find_material(config: Config, overrides: Iterable[str]) -> Material:
    """Find and check the accelerator, the data and the teacher.

    Args:
        config: of the run.
        overrides: its words, for the message that names a teacher's command.

    Raises:
        UserError: one of them is not to be had, or does not fit.
    """
    accelerator = choose_accelerator(config.trainer.accelerator)
    needed, free = student_bytes(config), available_bytes()
    if free is not None and needed > free:
        raise OutOfMemory(
            f"a student needs about {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free; "
            "make data.batch_size or model.hidden smaller"
        )
    data = MNISTDataModule(config.data, config.seed, accelerator.device)
    data.prepare_data()
    data.setup()
    if config.stage != "distill":
        return Material(accelerator, data, [], None, None)
    shared = ["data", "output_dir=", "trainer.max_epochs="]
    if not config.data.augment.active:  # views are the student's matter, and who brings them
        shared.append("+experiment=")
    words = [
        word
        for word in overrides
        if word.startswith(tuple(shared)) and not word.startswith("data.augment")
    ]
    teachers = find_teacher(config, data.fingerprint, words)
    teacher = load_teacher(teachers, data.fingerprint)
    check_method(config, teacher)
    return Material(accelerator, data, teachers, teacher, None)


def fit(config: Config, material: Material, directory: Path, quiet: bool, alone: str) -> Fitted:
    """Train the network of one run, with Lightning's Trainer."""
    accelerator, data = material.accelerator, material.data
    network = build_model(config.model, config.seed)
    log.info("%s", describe_layers(network))
    samples = len(data.indices["train"])
    log.info("%s with %d images, %s", accelerator.device, samples, describe(config))
    if alone:
        log.info("trains alone: %s", alone)

    def save(weights: dict[str, Tensor], epoch: int) -> None:
        path = directory / EPOCHS / f"{epoch}.ckpt"
        save_checkpoint(path, weights, config, data.fingerprint, epoch)

    module = make_module(config, network, material)
    keep = KeepWeights(config.checkpoint, save if config.keep_epochs else None)
    callbacks = [keep] if quiet else [keep, ShowProgress()]
    logger = make_logger(directory)
    trainer = make_trainer(config, accelerator.name, logger, callbacks)
    started = time.perf_counter()
    trainer.fit(module, datamodule=data)
    return Fitted(keep.weights, keep.epoch, keep.metrics, time.perf_counter() - started, logger)


def adopt(together: Together) -> Fitted:
    """Say in this run's log how it went in its group.

    Raises:
        UserError: it failed there.
    """
    for line in together.said:
        log.info("%s", line)
    if together.error:
        raise UserError(together.error)
    return together.fitted


def finish(config: Config, material: Material, fitted: Fitted, directory: Path) -> dict[str, Any]:
    """Test the trained network once, save all but ``metrics.json``, and return that."""
    data = material.data
    network = build_model(config.model, config.seed).to(data.device)
    network.load_state_dict(fitted.weights)
    logits = predict(network, data.predict_dataloader()).cpu()
    refuse_infinite(fitted, logits)
    save_checkpoint(
        directory / "model.ckpt", fitted.weights, config, data.fingerprint, fitted.epoch
    )
    test = data.indices["test"]
    labels = data.pool.labels[test].cpu()
    with replacing(directory / "predictions.npz") as beside:
        with beside.open("wb") as file:
            np.savez(file, logits=logits.numpy(), labels=labels.numpy(), indices=test.cpu().numpy())
        predictions = file_hash(beside)

    metrics = fitted.metrics | evaluate(logits, labels) | {"time/fit_s": fitted.seconds}
    if material.taught is not None:
        metrics |= compare(logits, material.taught.logits[test].cpu())
    log_hyperparameters(fitted.logger, config, metrics)
    known = {
        "epochs": fitted.epoch,
        "data/fingerprint": data.fingerprint,
        "device": material.accelerator.device.type,
        "teacher/checkpoint": os.pathsep.join(map(str, material.teachers)) or None,
        "teacher/sha256": hashes(material.teachers) or None,
        "predictions/sha256": predictions,
    }
    return {**settings_of(config, network), **known, **metrics, **versions()}


def refuse_infinite(fitted: Fitted, logits: Tensor) -> None:
    """Make sure that a trained network is finite throughout.

    Raises:
        UserError: a weight, a loss or a logit is not finite.
    """
    found = {
        "weights": all(bool(weight.isfinite().all()) for weight in fitted.weights.values()),
        "losses": all(map(math.isfinite, fitted.metrics.values())),
        "test logits": bool(logits.isfinite().all()),
    }
    if odd := [name for name, finite in found.items() if not finite]:
        raise UserError(
            f"training diverged: {' and '.join(odd)} are not finite after epoch {fitted.epoch}; "
            "try a smaller optim.lr"
        )


def make_logger(directory: Path) -> TensorBoardLogger:
    """The run's curves, as TensorBoard's files in its ``directory``."""
    return TensorBoardLogger(directory, name="", version="", default_hp_metric=False)


def make_trainer(
    config: Config,
    accelerator: str,
    logger: TensorBoardLogger | None,
    callbacks: list[pl.Callback],
) -> pl.Trainer:
    """Lightning's Trainer without output of its own."""
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=config.trainer.max_epochs,
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,  # ShowProgress's costs less
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # nothing is logged by the step; a larger number only makes a warning
    )


def make_module(config: Config, network: Network, material: Material) -> Classifier:
    """The LightningModule of the stage."""
    if config.stage == "teacher":
        return TeacherModule(network, config.optim)
    if config.stage == "student":
        return StudentModule(network, config.optim)
    taught = None if watches(config) else material.taught
    width = regressor_width(config, material.taught)
    regressor = width and build_regressor(config.model.hidden, width, config.seed)
    return DistillModule(network, config.optim, material.teacher, config.kd, taught, regressor)


@torch.no_grad()
def predict(network: nn.Module, batches: Batches) -> Tensor:
    """The logits (samples, 10) of all batches, in evaluation mode."""
    network.eval()
    return torch.cat([network(images) for images, _, _ in batches])


def evaluate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``test/acc`` in [0, 1], ``test/loss`` (cross-entropy in nats) and ``test/ece`` in [0, 1]."""
    logits = logits.double()
    return {
        "test/acc": float(fidelity.accuracy(logits, labels)),
        "test/loss": float(F.cross_entropy(logits, labels)),
        "test/ece": float(fidelity.expected_calibration_error(logits, labels)),
    }


def compare(logits: Tensor, taught: Tensor) -> dict[str, float]:
    """Fidelity to the teacher on the test images."""
    student, teacher = logits.double(), taught.double()
    return {
        "fidelity/agreement": float(fidelity.agreement(student, teacher)),
        "fidelity/kl": float(fidelity.predictive_kl(student, teacher)),
    }


def choose_accelerator(wanted: str) -> Accelerator:
    """The accelerator of ``trainer.accelerator``; ``auto`` takes a GPU where there is one.

    Raises:
        UserError: a GPU is wanted and there is none.
    """
    # Adam's moments of weights that seldom have a gradient, those of the border's pixels, fade into
    # numbers so small that a CPU takes a hundred times as long for each: they count as 0.
    torch.set_flush_denormal(True)
    if not CUDAAccelerator.is_available():
        # torch's optimisers ask at every step whether a GPU is there, and without a driver each
        # answer takes a search for NVIDIA's library, a tenth of a student's step: answer for it.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif wanted != "cpu":
        return Accelerator("cuda", torch.device("cuda", 0))
    if wanted != "cpu" and MPSAccelerator.is_available():
        return Accelerator("mps", torch.device("mps", 0))
    if wanted == "gpu":
        raise UserError("trainer.accelerator=gpu: no GPU on this machine; use trainer=cpu or auto")
    return Accelerator("cpu", torch.device("cpu"))


def settings_of(config: Config, network: Network) -> dict[str, Any]:
    """What the run was, by TensorBoard's tags (``kd/T`` for ``kd.T``); null where it had none."""
    settings = {key.replace(".", "/"): value for key, value in relevant(config).items()}
    first = {
        "stage": config.stage,
        "study": config.study,
        "seed": config.seed,
        "data/seed": config.data.seed,
        "kd/method": None,
        "kd/T": None,
        "kd/alpha": None,
        "model/params": count_parameters(network),
    }
    chosen = {k: v if not isinstance(v, list) else str(v) for k, v in settings.items()}
    return {**first, **{k: v for k, v in chosen.items() if k != "teacher/checkpoint"}}


@functools.cache
def versions() -> dict[str, str | bool | None]:
    """Versions of what computed; and, in a git checkout, its commit and whether it was changed."""

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(PROJECT), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "version/python": platform.python_version(),
        "version/torch": torch.__version__,
        "version/lightning": pl.__version__,
        "git/commit": git("rev-parse", "HEAD"),
        "git/dirty": None if changes is None else bool(changes),
    }


def describe_layers(network: Network) -> str:
    """The layers as a table of plain text, as the talk shows them."""
    total = ("total", "", count_parameters(network))
    rows = [("layer", "output", "parameters"), *layer_table(network), total]
    return "\n".join(f"{name:<12} {shape:<22} {count:>10}" for name, shape, count in rows)


def describe(config: Config) -> str:
    """The run in half a line."""
    said = f"stage={config.stage} seed={config.seed} epochs={config.trainer.max_epochs}"
    if config.stage == "distill":
        said += f" kd={config.kd.method} T={config.kd.T} alpha={config.kd.alpha}"
    return said
