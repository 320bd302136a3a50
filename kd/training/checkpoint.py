"""Saving and loading ``model.ckpt``: only tensors and plain values, with a digest of them."""

import dataclasses
import hashlib
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kd.config.schema import Config
from kd.errors import MissingTeacher, UserError, shown
from kd.files import COMMAND, replacing
from kd.models import MODELS
from kd.models._given import GIVEN, given
from kd.models.base import MNIST, Task
from kd.models.custom import Source, build_source, words_for
from kd.models.network import Centred, build_model, load_weights, weights_of
from kd.seeding import generator, isolated

FORMAT = 2  # 2: with a digest of its content
UNKNOWN = "unknown"  # the split of a network that kd has not trained
NESTED = ("state_dict", "model_state_dict", "model")  # where others keep a state_dict


def save_checkpoint(
    path: Path,
    weights: dict[str, torch.Tensor],
    config: Config,
    split: str,
    epoch: int,
    task: Task = MNIST,
    mean: torch.Tensor | None = None,
) -> None:
    """Save a network with what is needed to rebuild it and to judge it as a teacher.

    Args:
        path: of the file; replaced at once.
        weights: the network's ``state_dict``.
        config: the run's configuration.
        split: the fingerprint of the data split it was trained on.
        epoch: the epoch the weights come from, counted from 1.
        task: what the network was made for.
        mean: the image that it sees images minus; None sees them as they are.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "stage": config.stage,
        "seed": config.seed,
        "model": config.model.shape(),
        "shape": list(task.shape),
        "classes": task.classes,
        "split": split,
        "epoch": epoch,
        "state_dict": {key: value.cpu() for key, value in weights.items()},
    }
    if mean is not None:
        content["mean"] = mean.cpu()
    content["sha256"] = content_digest(content)
    with replacing(path) as beside:
        torch.save(content, beside)


def content_digest(content: dict[str, Any]) -> str:
    """sha256 of what a checkpoint holds, in hexadecimal: names, shapes and bytes of its tensors.

    torch's files have checksums that nobody checks on reading.
    """
    plain = {key: content[key] for key in sorted(content.keys() - {"state_dict", "mean", "sha256"})}
    summed = hashlib.sha256(repr(plain).encode())
    beside = [("mean", content["mean"])] if "mean" in content else []
    for name, tensor in [*sorted(content["state_dict"].items()), *beside]:
        summed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        as_bytes = tensor.contiguous().reshape(-1).view(torch.uint8)  # NumPy has no bfloat16
        summed.update(as_bytes.numpy().tobytes())
    return summed.hexdigest()


class Loaded(NamedTuple):
    """A network that was read from a file."""

    network: Any  # nn.Module with a method ``see``, in evaluation mode
    split: str  # the fingerprint of the data split that it was trained on, or UNKNOWN


def load_checkpoint(path: Path, split: str | None = None, trusted: bool = False) -> Any:
    """Rebuild the network of a ``model.ckpt``, in evaluation mode; see :func:`read_checkpoint`.

    Args:
        path: the file.
        split: as in :func:`read_checkpoint`.
        trusted: import the code that the file names, where its network is not kd's own.
    """
    source = source_of(_read(path)["model"]) if trusted else None
    return read_checkpoint(path, split, source=source).network


def source_of(saved: dict[str, Any]) -> Source:
    """What names a network's code, of the settings that shape it."""
    named: dict[str, Any] = {
        field.name: saved.get(field.name) for field in dataclasses.fields(Source)
    }
    return Source(**named)


def read_facts(path: Path) -> dict[str, Any]:
    """What a ``model.ckpt`` says of its network besides the weights: stage, seed, sizes, split.

    Raises:
        UserError: the file is missing, damaged, or no checkpoint of this project.
    """
    return {k: v for k, v in _read(path).items() if k not in ("state_dict", "mean")}


def read_checkpoint(
    path: Path, split: str | None = None, task: Task | None = None, source: Source | None = None
) -> Loaded:
    """Rebuild the network of a ``model.ckpt``, or of a ``state_dict``, in evaluation mode.

    It takes plain images, whether it was trained with ``data.centre`` or not.

    Args:
        path: the file. Only tensors and plain values are read from it; what it names is not
            imported.
        split: the fingerprint of the data split in use; None accepts any.
        task: what the network is used for; None takes what the file says.
        source: names a network that is not kd's own, and a ``state_dict``'s; None for no such.

    Raises:
        UserError: the file is missing, damaged, of another architecture than it says, or its
            network was trained on another split, or is of other code that ``source`` does not name.
    """
    if not path.is_file():
        raise MissingTeacher(f"{path}: no such checkpoint; check teacher.checkpoint")
    named = source is not None and source.target is not None
    content = _read(path, plain=named)
    if "format" not in content:
        return Loaded(_load_plain(path, content, task or MNIST, source or Source()), UNKNOWN)
    saved = content.get("model")
    try:
        own = Task(tuple(content.get("shape", MNIST.shape)), content.get("classes", MNIST.classes))
        other = split is not None and content.get("split") != split
        if other or (task is not None and own != task):
            raise UserError(f"{path}: {_of_other_data(content, str(split), own, task)}")
        with isolated(generator(content["seed"], "weights").initial_seed()):
            network = rebuild(path, content["model"], own, source)
        load_weights(network, content["state_dict"])
        if (mean := content.get("mean")) is not None:
            network = Centred(network, mean.reshape(own.shape))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if named and isinstance(saved, dict):
            raise UserError(
                f"{path}: does not fit the network that teacher.model gives; it was "
                f"trained as {words_for('teacher.model', saved)}"
            ) from error
        raise UserError(
            f"{path}: its weights do not fit the architecture it names ({saved}); train it again"
        ) from error
    return Loaded(network.eval(), str(content.get("split")))


def _of_other_data(content: dict[str, Any], split: str, own: Task, task: Task | None) -> str:
    """Say why a network that was trained on other images cannot be used."""
    if task is not None and own != task:
        there, here = (f"{' × '.join(map(str, t.shape))}, {t.classes} classes" for t in (own, task))
        return (
            f"was trained on images of {there}, this run's are {here}; train a teacher on the same "
            "data"
        )
    return (
        f"was trained on another data split ({content.get('split')}, this run has {split}), so its "
        "training images may be this run's test images; use the same data, data.split and "
        "data.seed, or train a teacher with these"
    )


def rebuild(path: Path, saved: dict[str, Any], task: Task, source: Source | None) -> Any:
    """Build the network that a file describes; one of other code only as ``source`` says.

    Args:
        path: of the file, for messages.
        saved: the settings that shape the network.
        task: what it is made for.
        source: names a network that is not kd's own; None for no such.

    Raises:
        UserError: it is of other code, which ``source`` does not name.
    """
    cls = MODELS[saved["name"]]
    if not issubclass(cls, Source):
        sizes = {field.name for field in dataclasses.fields(cls)} & saved.keys()
        return build_model(cls(**{key: saved[key] for key in sizes}), seed=0, task=task)
    if source is not None and source.target is not None:
        if source.target == saved["target"]:  # what is not said again is as it was
            source = Source(**{k: v or saved[k] for k, v in dataclasses.asdict(source).items()})
        return build_source(source, task, "teacher.model")
    if saved["target"] in given:  # this very process was handed its code
        return build_source(source_of(saved), task)
    if str(saved["target"]).startswith(GIVEN):
        raise UserError(
            f"{path}: its network was handed over in Python, and cannot be rebuilt here"
        )
    raise UserError(
        f"{path}: its network is of other code, which nothing imports unasked; name it again: "
        f"{words_for('teacher.model', saved)} (stage=report and stage=export take trust_code=true)"
    )


def _load_plain(path: Path, content: dict[str, Any], task: Task, source: Source) -> Any:
    """Load a ``state_dict`` that kd has not saved into the network that ``source`` names."""
    network = build_source(source, task, "teacher.model")
    weights = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), content)
    if all(str(name).startswith("module.") for name in weights):  # as DataParallel names them
        weights = {str(name).removeprefix("module."): value for name, value in weights.items()}
    try:
        load_weights(network, weights)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{path}: does not fit teacher.model.target={source.target}: {misfit(network, weights)}"
        ) from error
    return network.eval()


def misfit(network: Any, weights: dict[Any, Any]) -> str:
    """Name the first weight that a file lacks, has too many or in another shape, and how many."""
    wanted = weights_of(network)
    lacks = [f"lacks {name}" for name in wanted if name not in weights]
    more = [
        f"holds {shown(name)}, which the network lacks" for name in weights if name not in wanted
    ]
    other = [
        f"{name} is {tuple(weights[name].shape)} there, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if hasattr(weights.get(name), "shape") and weights[name].shape != wanted[name].shape
    ]
    found = other + lacks + more or ["its values are no tensors"]
    return found[0] + (f", and {len(found) - 1} more" if len(found) > 1 else "")


def _read(path: Path, plain: bool = False) -> dict[str, Any]:
    """The content of a checkpoint, checked to be what was saved.

    Args:
        path: the file.
        plain: whether it may be a ``state_dict`` of other code, which has no digest.
    """
    try:
        with warnings.catch_warnings():  # about odd pickles: the error below says it in our words
            warnings.simplefilter("ignore")
            if not plain or zipfile.is_zipfile(path):  # older files of others are no archives
                with zipfile.ZipFile(path) as archive:  # torch packs nothing: no file can swell
                    if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                        raise ValueError("packed in an unusual way")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the reader
        if plain:
            raise UserError(
                f"{path}: is damaged, or holds more than tensors and plain values, which is not "
                "safe to load; save it by torch.save(network.state_dict(), PATH)"
            ) from error
        raise UserError(
            f"{path}: damaged, or holds more than tensors and plain values, which is not safe to "
            f"load; train the teacher again with {COMMAND} stage=teacher"
        ) from error
    found = content.get("format") if isinstance(content, dict) else None
    if plain and isinstance(content, dict) and "format" not in content:
        return content
    if found != FORMAT:
        older = "of an older version, which has no digest; train it again"
        other = (
            "not a checkpoint of this project; give a run's model.ckpt, or name the network of a "
            "state_dict by teacher.model.target"
        )
        raise UserError(f"{path}: {older if found == 1 else other}")
    try:
        intact = content["sha256"] == content_digest(content)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError):
        intact = False
    if not intact:
        raise UserError(f"{path}: damaged (its digest does not match); train it again")
    return content
