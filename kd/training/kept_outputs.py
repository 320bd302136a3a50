"""What a teacher makes of the images, kept in the study for its next commands.

``<study>/.teacher_outputs/NAME.safetensors`` has the outputs for a whole pool. The name stands for
all that their bits depend on, and a digest in the file for that and for what it holds. Whatever
does not match is computed again: no run depends on these files.
"""

import contextlib
import logging
import platform
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kd.data.mapped import Made, made_once
from kd.data.module import ImageDataModule
from kd.files import replacing
from kd.models.network import Observed
from kd.outputs import Outputs
from kd.training.checkpoint import content_digest
from kd.training.run_folder import hashes
from kd.training.teacher import teacher_outputs
from kd.training.unfinished import digest, version

log = logging.getLogger(__name__)

FOLDER = ".teacher_outputs"
MOST_FILES = 4  # of a study: those that were used last
MOST_BYTES = 2**26  # of a file


def known_outputs(
    study: Path, checkpoints: list[Path], teacher: nn.Module, data: ImageDataModule, hidden: bool
) -> Outputs:
    """The teacher's outputs for the whole pool: those that are kept, or computed and kept.

    On other devices than a CPU they take no time worth saving. Of a network of other code it is not
    known what its outputs depend on. Both are computed.

    Args:
        study: the folder of the run's study.
        checkpoints: of the teacher.
        teacher: the network.
        data: with the pool.
        hidden: whether the hidden representations are wanted too.

    Raises:
        UserError: see :func:`kd.training.teacher.teacher_outputs`.
    """
    if data.device.type != "cpu" or any(isinstance(part, Observed) for part in teacher.modules()):
        return teacher_outputs(teacher, data, hidden)
    key: dict[str, Any] = {
        "teacher": hashes(checkpoints),
        "images": data.pool.digest,
        "hidden": hidden,
        # Rounding depends on these.
        "version": version(),
        "threads": torch.get_num_threads(),
        "machine": [platform.node(), torch.backends.cpu.get_cpu_capability()],
    }
    path = study / FOLDER / f"{digest(key)}.safetensors"

    def make() -> Made:
        if (found := _read(path, key, len(data.pool.labels))) is not None:
            log.debug("the teacher's outputs are those of %s", path)
            return Made(_tensors(found))
        outputs = teacher_outputs(teacher, data, hidden)
        # Without room the next command computes them again; safetensors has an error of its own.
        with contextlib.suppress(OSError, SafetensorError):
            _write(path, key, outputs)
        return Made(_tensors(outputs))

    return _outputs(made_once(["teacher_outputs", key], make).tensors)


def _tensors(outputs: Outputs) -> dict[str, Tensor]:
    hidden = {} if outputs.hidden is None else {"hidden": outputs.hidden}
    return {"logits": outputs.logits, **hidden}


def _outputs(tensors: dict[str, Tensor]) -> Outputs:
    return Outputs(tensors["logits"], tensors.get("hidden"))


def _read(path: Path, key: dict[str, Any], samples: int) -> Outputs | None:
    """The outputs that a file holds; None if it is not there, damaged, or of something else."""
    try:
        with safe_open(path, framework="pt") as file:
            # Copied, for the file may be removed or damaged while they are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get("sha256")
        if told != _digest(key, tensors):
            raise ValueError("its digest does not match")
        outputs = _outputs(tensors)
        if len(outputs.logits) != samples or (outputs.hidden is not None) != key["hidden"]:
            raise ValueError("it holds other outputs")
        path.touch()
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        log.warning("%s: cannot be used (%s); computing the teacher's outputs again", path, error)
        return None
    return outputs


def _write(path: Path, key: dict[str, Any], outputs: Outputs) -> None:
    """Keep outputs, and remove the files that have not been used for longest."""
    tensors = _tensors(outputs)
    if sum(tensor.nbytes for tensor in tensors.values()) > MOST_BYTES:
        return
    with replacing(path) as beside:
        save_file(tensors, beside, {"sha256": _digest(key, tensors)})
    by_use = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in by_use[MOST_FILES:]:  # what a killed process left is among them
        file.unlink(missing_ok=True)


def _digest(key: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    return content_digest({**key, "state_dict": tensors})
