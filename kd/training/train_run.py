"""One run that is not complete yet: trained, tested and saved, ``metrics.json`` last."""

import contextlib
import functools
import json
import logging
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from kd import metrics as measures
from kd.config.messages import explain
from kd.config.schema import Config, relevant
from kd.data.module import Batches, ImageDataModule
from kd.data.pool import remember
from kd.errors import as_typed
from kd.files import INSTALLED, PROJECT, file_hash, replacing
from kd.models.network import build_model, count_parameters, load_weights
from kd.training import run_folder, unfinished
from kd.training.book import refuse_diverged
from kd.training.callbacks import make_callbacks
from kd.training.checkpoint import save_checkpoint
from kd.training.complete import Outcome, as_shown, find_alone, find_complete, skip
from kd.training.fit import Share, Trained, fit, threads_for
from kd.training.loggers import Loggers
from kd.training.logging import train_log
from kd.training.material import Material, prepare
from kd.training.own_code import code_digests
from kd.training.threads import using

log = logging.getLogger(__name__)


def train_run(
    config: Config,
    directory: Path,
    hydra: DictConfig | None,
    share: Share | None,
    note: str,
    quiet: bool,
) -> Outcome:
    """Do what :func:`kd.training.run.execute` does for a run that is not complete.

    Raises:
        UserError: the settings, the data, the teacher or the folder do not allow it.
    """
    shown = as_shown(directory)
    words = hydra.overrides.task if hydra else ()
    with contextlib.ExitStack() as held, train_log() as write_log:
        try:  # a run that is refused leaves nothing behind
            if share is None:
                loggers, callbacks = Loggers(config, directory), make_callbacks(config, directory)
                material = prepare(config, words)
                held.callback(run_folder.hold(directory).release)
                held.enter_context(loggers)
                parts = config, material, directory, loggers, callbacks, quiet
                share = Share(material, functools.partial(fit, *parts))
            if (before := find_complete(config, directory)) is not None:
                return skip(before, directory, quiet)  # another process has been faster
        finally:
            run_folder.remove_empty(directory)
        write_log(directory)
        if note:
            log.info("%s", note)
        try:
            run_folder.save_hydra(config, hydra, directory / ".hydra")
            alone = None
            if config.stage == "distill":
                alone = find_alone(config, directory.parents[1], words)
            metrics = finish(config, share.material, share.train(), directory, alone)
        except Exception as error:
            log.debug("failed: %s", explain(error) or error, exc_info=error)
            raise
        if not quiet:
            remember([config.data], directory.parents[1])
            run_folder.write_results(directory.parents[1])
        log.info("test accuracy %.4f", metrics["test/acc"])
    drawn = f"  (to look at it: tensorboard --logdir {shown.parents[1]})"
    log.info("results: %s%s", shown, drawn if "tensorboard" in config.logger else "")
    return Outcome(metrics, skipped=False)


def finish(
    config: Config,
    material: Material,
    trained: Trained,
    directory: Path,
    alone: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Test the trained network once, save all, ``metrics.json`` last, and return its content.

    Args:
        config: of the run.
        material: data and teacher.
        trained: the network.
        directory: of the run.
        alone: the metrics of the student alone, which the loggers learn the gain over.
    """
    tested = assess(config, material, trained)
    found = metrics_of(config, material, trained, tested)
    save_run(config, material.data, trained, tested, found, directory, alone)
    return found


class Tested(NamedTuple):
    """What a trained network makes of the test images."""

    network: nn.Module
    logits: Tensor  # (images, classes)
    labels: Tensor  # (images,)
    indices: Tensor  # (images,), their numbers in the pool
    figures: dict[str, float]  # by TensorBoard's tags


def save_run(
    config: Config,
    data: ImageDataModule,
    trained: Trained,
    tested: Tested,
    found: dict[str, Any],
    directory: Path,
    alone: dict[str, Any] | None = None,
) -> None:
    """Write the files of a run, ``metrics.json`` last.

    Args:
        config: of the run.
        data: that it has trained on.
        trained: the network.
        tested: what it makes of the test images.
        found: the metrics, which get the digests of the files.
        directory: of the run.
        alone: see :func:`finish`.
    """
    told = config, data.fingerprint, trained.epoch, data.task, data.mean
    save_checkpoint(directory / "model.ckpt", trained.weights, *told)
    with replacing(directory / "predictions.npz") as beside:
        with beside.open("wb") as file:
            logits, labels, indices = (tensor.numpy() for tensor in tested[1:4])
            np.savez(file, logits=logits, labels=labels, indices=indices)
        predictions = file_hash(beside)
    gain = {"test/gain": tested.figures["test/acc"] - alone["test/acc"]} if alone else {}
    trained.loggers.finish(trained.rows, tested.figures | gain)
    found["history/sha256"] = run_folder.write_history(directory, trained.rows)
    found["predictions/sha256"] = predictions
    run_folder.write_metrics(directory, found)
    unfinished.forget(directory.parents[1], unfinished.name_of(directory))


def assess(config: Config, material: Material, trained: Trained) -> Tested:
    """Test the trained network, once.

    Raises:
        UserError: it has diverged.
    """
    data = material.data
    network = data.centred(build_model(config.model, config.seed, data.task)).to(data.device)
    load_weights(network, trained.weights)
    with using(threads_for(config, count_parameters(network))):
        logits = predict(network, data.predict_dataloader()).cpu()
    figures = trained.rows[trained.epoch - 1]
    weights = torch.cat([weight.flatten() for weight in trained.weights.values()])
    refuse_diverged({"weights": weights, "test logits": logits, **figures}, trained.epoch)
    indices = data.indices["test"]
    labels = data.pool.labels[indices].cpu()
    tested = evaluate(logits, labels) | {"time/fit_s": trained.seconds}
    if material.teacher_outputs is not None:
        tested |= fidelity(logits, material.teacher_outputs.logits[indices].cpu())
    return Tested(network, logits, labels, indices.cpu(), tested)


def metrics_of(
    config: Config, material: Material, trained: Trained, tested: Tested
) -> dict[str, Any]:
    """What ``metrics.json`` says of a run, but for the digests of its files."""
    data = material.data
    named = data.pool.names != (*map(str, range(data.task.classes)),)
    known = {
        "epochs": trained.epoch,
        "history/sha256": None,
        "data/fingerprint": data.fingerprint,
        "images/shape": "x".join(map(str, data.task.shape)),
        "images/classes": data.task.classes,
        "images/names": json.dumps(data.pool.names, ensure_ascii=False) if named else None,
        "device": material.accelerator.device.type,
        **code_digests(config),
        "teacher/checkpoint": os.pathsep.join(map(str, material.teachers)) or None,
        "teacher/split": material.teacher_split,
        "teacher/sha256": run_folder.hashes(material.teachers) or None,
        "predictions/sha256": None,
    }
    figures = trained.rows[trained.epoch - 1] | tested.figures
    return {**tags_of(config, tested.network), **known, **figures, **versions()}


@torch.no_grad()
def predict(network: nn.Module, batches: Batches) -> Tensor:
    """The logits (samples, classes) of all batches, in evaluation mode."""
    network.eval()
    return torch.cat([network(batch.images) for batch in batches])


def evaluate(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """``test/acc`` in [0, 1], ``test/loss`` (cross-entropy in nats) and ``test/ece`` in [0, 1]."""
    logits = logits.double()
    return {
        "test/acc": float(measures.accuracy(logits, labels)),
        "test/loss": float(F.cross_entropy(logits, labels)),
        "test/ece": float(measures.expected_calibration_error(logits, labels)),
    }


def fidelity(logits: Tensor, teacher_logits: Tensor) -> dict[str, float]:
    """Fidelity to the teacher on the test images."""
    student, teacher = logits.double(), teacher_logits.double()
    return {
        "fidelity/agreement": float(measures.agreement(student, teacher)),
        "fidelity/kl": float(measures.predictive_kl(student, teacher)),
    }


def tags_of(config: Config, network: nn.Module) -> dict[str, Any]:
    """What the run was, by TensorBoard's tags (``kd/T`` for ``kd.T``); null where it had none."""
    first = {
        **{"stage": config.stage, "study": config.study, "seed": config.seed},
        "tags": ",".join(config.tags) or None,
        "data/seed": config.data.seed,
        **dict.fromkeys(("kd/method", "kd/T", "kd/alpha")),
        "model/params": count_parameters(network),
    }
    settings = {key.replace(".", "/"): value for key, value in relevant(config).items()}
    settings.pop("teacher/checkpoint", None)
    settings["callbacks"] = as_typed(config.callbacks) if config.callbacks else None
    return first | {
        key: (str(value) if value else None) if isinstance(value, list | dict) else value
        for key, value in settings.items()
    }


@functools.cache
def versions() -> dict[str, str | bool | None]:
    """Versions of what computed; and, in a git checkout, its commit and whether it was changed."""

    def git(*words: str) -> str | None:
        if INSTALLED:
            return None
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
