"""Saving and loading ``model.ckpt``: only tensors and plain values, with a digest of them."""

import dataclasses
import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from kd.config.schema import Config
from kd.errors import UserError
from kd.files import COMMAND, replacing
from kd.models import MODELS
from kd.models.base import Model
from kd.models.network import Network, build_model

FORMAT = 2  # 2: with a digest of its content


def save_checkpoint(
    path: Path, weights: dict[str, torch.Tensor], config: Config, split: str, epoch: int
) -> None:
    """Save a network with what is needed to rebuild it and to judge it as a teacher.

    Args:
        path: of the file; replaced at once.
        weights: the network's ``state_dict``.
        config: the run's configuration.
        split: the fingerprint of the data split it was trained on.
        epoch: the epoch the weights come from, counted from 1.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "stage": config.stage,
        "seed": config.seed,
        "model": config.model.shape(),
        "split": split,
        "epoch": epoch,
        "state_dict": {key: value.cpu() for key, value in weights.items()},
    }
    content["sha256"] = content_digest(content)
    with replacing(path) as beside:
        torch.save(content, beside)


def content_digest(content: dict[str, Any]) -> str:
    """sha256 of what a checkpoint holds, in hexadecimal: names, shapes and bytes of its tensors.

    torch's files have checksums that nobody checks on reading.
    """
    plain = {key: content[key] for key in sorted(content.keys() - {"state_dict", "sha256"})}
    summed = hashlib.sha256(repr(plain).encode())
    for name, tensor in sorted(content["state_dict"].items()):
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        summed.update(tensor.contiguous().numpy().tobytes())
    return summed.hexdigest()


def load_checkpoint(path: Path, split: str | None = None) -> Network:
    """Rebuild the network of a ``model.ckpt``, in evaluation mode.

    Args:
        path: the file. Only tensors and plain values are read from it: no code in it runs.
        split: the fingerprint of the data split in use; None accepts any.

    Raises:
        UserError: the file is missing, damaged, not a checkpoint of this project, of another
            architecture than it says, or its network was trained on another split.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check teacher.checkpoint")
    content = _read(path)
    try:
        network = build_model(_model_settings(content["model"]), seed=0)
        network.load_state_dict(content["state_dict"], strict=True)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: its weights do not fit the architecture it names "
            f"({content.get('model')}); train it again"
        ) from error
    if split is not None and content.get("split") != split:
        raise UserError(
            f"{path}: was trained on another data split ({content.get('split')}, this run has "
            f"{split}), so its training images may be this run's test images; use the same "
            "data.split and data.seed, or train a teacher with these"
        )
    return network.eval()


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, checked to be what was saved."""
    try:
        with warnings.catch_warnings():  # about odd pickles: the error below says it in our words
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(path) as archive:  # torch packs nothing: no file can swell
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise ValueError("packed in an unusual way")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the reader
        raise UserError(
            f"{path}: damaged, or holds more than tensors and plain values, which is not safe to "
            f"load; train the teacher again with {COMMAND} stage=teacher"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        older = "of an older version, which has no digest; train it again"
        other = "not a checkpoint of this project; give a run's model.ckpt"
        raise UserError(f"{path}: {older if found == 1 else other}")
    try:
        intact = content["sha256"] == content_digest(content)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError):
        intact = False
    if not intact:
        raise UserError(f"{path}: damaged (its digest does not match); train it again")
    return content


def _model_settings(saved: dict[str, Any]) -> Model:
    cls = MODELS[saved["name"]]
    sizes = {field.name for field in dataclasses.fields(cls)} & saved.keys()
    return cls(**{key: saved[key] for key in sizes})
