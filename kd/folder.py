"""A run's folder: is it complete, and of these settings; what makes way for a new attempt."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from omegaconf import OmegaConf

from kd.config import Config, UserError, flatten, relevant
from kd.files import file_hash, replacing

METRICS = "metrics.json"
EPOCHS = "epochs"  # the folder of every epoch's checkpoint, where these are kept


def write_metrics(directory: Path, content: dict[str, Any]) -> None:
    """Write a run's ``metrics.json``: from now on it is complete. NaN and infinity become null."""
    odd = {k for k, v in content.items() if isinstance(v, float) and not math.isfinite(v)}
    clean = {k: None if k in odd else v for k, v in content.items()}
    with replacing(directory / METRICS) as beside:
        beside.write_text(json.dumps(clean, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_metrics(directory: Path) -> dict[str, Any] | None:
    """The metrics of a run; None where it is not complete.

    Raises:
        UserError: ``metrics.json`` is there but cannot be read.
    """
    path = directory / METRICS
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); delete it to train again") from error


def is_complete(directory: Path) -> bool:
    """Whether a run has ended there."""
    return (directory / METRICS).exists()


def refuse_other_settings(config: Config, directory: Path, before: dict[str, Any]) -> None:
    """Make sure that the complete run in ``directory`` is the one the configuration asks for.

    Raises:
        UserError: naming the settings that differ, or the teacher if it was trained anew since.
    """
    path = directory / ".hydra" / "config.yaml"
    try:
        saved = flatten(OmegaConf.to_container(OmegaConf.load(path)))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); overwrite=true trains again") from error
    # What the run does not say, because the setting is younger, had its default.
    saved = flatten(Config(model=type(config.model)(), kd=type(config.kd)())) | saved
    differing = [
        f"{key} ({saved[key]} there, {value} here)"
        for key, value in relevant(config).items()
        if saved[key] != value
    ]
    if before["teacher/checkpoint"] and not differing:
        with contextlib.suppress(OSError):  # a complete run needs its teacher no more
            if before["teacher/sha256"] != hashes(before["teacher/checkpoint"].split(os.pathsep)):
                differing = ["the teacher (it was trained anew since)"]
    if config.keep_epochs and not (directory / EPOCHS).is_dir():
        differing.append("keep_epochs (false there, true here)")
    if differing:
        raise UserError(
            f"{directory}: holds a complete run of other settings: {', '.join(differing)}; "
            "give study=NEW to keep it, or overwrite=true to replace it"
        )


def hashes(paths: Iterable[Path | str]) -> str:
    """sha256 of the files, joined by colons."""
    return ":".join(file_hash(Path(path)) for path in paths)


def clear(directory: Path) -> None:
    """Remove what an earlier attempt left, its ``metrics.json`` first; its log is written over."""
    (directory / METRICS).unlink(missing_ok=True)
    for pattern in ("events.out.tfevents.*", "hparams.yaml", "model.ckpt", "predictions.npz"):
        for path in directory.glob(pattern):
            path.unlink()
    shutil.rmtree(directory / EPOCHS, ignore_errors=True)


def save_hydra(config: Config, hydra: HydraConf, folder: Path) -> None:
    """Write ``config.yaml``, ``hydra.yaml`` and ``overrides.yaml`` as Hydra does, resolved."""
    contents = {
        "config.yaml": OmegaConf.structured(config),
        "hydra.yaml": OmegaConf.create({"hydra": hydra}),
        "overrides.yaml": hydra.overrides.task,
    }
    for name, content in contents.items():
        with replacing(folder / name) as beside:
            beside.write_text(OmegaConf.to_yaml(content), encoding="utf-8")
