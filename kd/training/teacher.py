"""The teacher of a distillation: found, loaded, frozen, and what it makes of the images."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd.config.schema import Config
from kd.data.module import EVAL_BATCH, Batches, ImageDataModule
from kd.errors import MissingTeacher, OutOfMemory, UserError, as_typed
from kd.files import COMMAND
from kd.models.base import MNIST, Task
from kd.models.custom import Source
from kd.models.network import Ensemble, Observed, build_model, probe
from kd.outputs import Outputs
from kd.training.checkpoint import UNKNOWN, Loaded, read_checkpoint
from kd.training.memory import free_bytes
from kd.training.run_folder import scan

log = logging.getLogger(__name__)


def find_teacher(config: Config, split: str, words: Sequence[str] = ()) -> list[Path]:
    """The checkpoints that a distillation learns from: several make an ensemble.

    ``teacher.checkpoint`` where it is given (a file, or a run's folder), else the study's complete
    teacher of ``teacher.seed``. Of several, those of the run's own split count, and of these the
    one whose folder says nothing but its seed.

    Args:
        config: of the distillation.
        split: the fingerprint of its data split.
        words: the command's words that a teacher's command must share, for the message.

    Raises:
        UserError: there is none, or more than one could be meant.
    """
    given = config.teacher.checkpoint
    if given is not None:
        paths = [Path(path) for path in (given if isinstance(given, list) else [given])]
        return [path / "model.ckpt" if path.is_dir() else path for path in paths]
    study, name = Path(config.output_dir) / config.study, f"teacher/seed={config.teacher.seed}"
    rows, refused = scan(study, [f"{name}*"])
    damaged = [f"{study}/{run}: {reason}" for run, reason in refused.items()]
    for said in damaged:  # one damaged teacher does not take the others along
        log.warning("left out: %s", said)
    mine = [row for row in rows if row["run"].split(",")[0] == name]
    fitting = [row for row in mine if row["data/fingerprint"] == split] or mine
    chosen = [row["run"] for row in fitting if row["run"] == name]
    chosen = chosen or [row["run"] for row in fitting]
    if not chosen and damaged:
        raise UserError(damaged[0])
    if not chosen:
        command = [COMMAND, "stage=teacher", *words]
        named = any(word.startswith(("study=", "debug=", "+experiment=")) for word in words)
        if config.study != "main" and not named:
            command.append(f"study={config.study}")
        if config.teacher.seed:
            command.append(f"seed={config.teacher.seed}")
        raise MissingTeacher(
            f"no complete teacher of seed {config.teacher.seed} in {study}/teacher; first run: "
            f"{' '.join(command)}"
        )
    if len(chosen) > 1:
        names = ", ".join(str(study / run) for run in chosen)
        seed = config.teacher.seed
        raise UserError(f"several teachers of seed={seed}: {names}; give teacher.checkpoint=FOLDER")
    return [study / chosen[0] / "model.ckpt"]


def load_teacher(
    paths: list[Path], split: str, task: Task = MNIST, source: Source | None = None
) -> Loaded:
    """The network of one checkpoint, or the ensemble of several; see :func:`read_checkpoint`."""
    found = [read_checkpoint(path, split, task, source) for path in paths]
    for path, loaded in zip(paths, found, strict=True):
        if loaded.split == UNKNOWN:
            log.warning(
                "%s: was not trained by kd, and its split is unknown: it may have seen this run's "
                "test images",
                path,
            )
    parts = [part for loaded in found for part in loaded.network.modules()]
    if source and source.target and not any(isinstance(part, Observed) for part in parts):
        raise UserError(
            f"teacher.model.target={source.target}: {paths[0]} holds a network of kd's own, which "
            "needs none; leave it out"
        )
    if len(found) == 1:
        return found[0]
    splits = {loaded.split for loaded in found}
    ensemble = Ensemble([loaded.network for loaded in found]).eval()
    return Loaded(ensemble, UNKNOWN if UNKNOWN in splits else split)


class FrozenTeacher(nn.Module):
    """A network that neither learns nor leaves evaluation mode.

    Args:
        network: its ``see`` takes images; its parameters lose ``requires_grad``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def see(self, images: Tensor) -> Outputs:
        """(batch, channels, height, width) → logits and what they come from, without gradient."""
        return self.network.see(images)


def check_method(config: Config, teacher: nn.Module, task: Task) -> tuple[int, int] | None:
    """Make sure that the method finds in both networks what it compares.

    Returns:
        the widths of the student's hidden representation and the teacher's, where the method
        compares these; else None.

    Raises:
        UserError: feature maps or hidden representations are missing, or do not fit each other.
    """
    kd = config.kd
    student = probe(build_model(config.model, config.seed, task), task)
    theirs = probe(FrozenTeacher(teacher), task)
    if kd.needs_maps and not theirs.maps:
        raise UserError(
            f"kd.method={kd.method}: compares feature maps, which the teacher has not; give a "
            "single network with maps, such as model=cnn, as teacher.checkpoint, or name them by "
            "teacher.model.map_layers"
        )
    if kd.needs_maps and len(student.maps) != len(theirs.maps):
        raise UserError(
            f"{_given(config, 'channels')}: kd.method={kd.method} compares block by block with the "
            f"teacher's {len(theirs.maps)}; here are {len(student.maps)}"
        )
    if kd.needs_hidden and theirs.hidden is None:
        raise UserError(
            f"kd.method={kd.method}: compares hidden representations, which the teacher has not; "
            "name the layer by teacher.model.hidden_layer=LAYER; an ensemble has none"
        )
    if kd.needs_hidden and student.hidden is None:
        raise UserError(
            f"kd.method={kd.method}: compares hidden representations; name the student's by "
            "model.hidden_layer=LAYER"
        )
    if not kd.needs_hidden:
        return None
    widths = student.hidden.shape[1], theirs.hidden.shape[1]
    if kd.needs_same_width and widths[0] != widths[1]:
        raise UserError(
            f"{_given(config, 'hidden')}: kd.method={kd.method} compares it unit by unit with the "
            f"teacher's hidden layer of {widths[1]}"
        )
    return widths


def _given(config: Config, name: str) -> str:
    """A setting of the student's network with its value; the network's name where it lacks it."""
    settings = config.model.shape()
    if name in settings:
        return f"model.{name}={as_typed(settings[name])}"
    return f"model={config.model.name}"


@torch.no_grad()
def teacher_outputs(teacher: nn.Module, data: ImageDataModule, hidden: bool) -> Outputs:
    """The frozen teacher's outputs for the whole pool: computed once, not once per epoch.

    Args:
        teacher: its ``see`` takes images.
        data: with the pool.
        hidden: whether the hidden representations are wanted too.

    Raises:
        UserError: it makes no finite numbers of them, or there is no room for these.
    """
    everything = torch.arange(len(data.pool.labels), device=data.device)
    frozen, outputs = FrozenTeacher(teacher).to(data.device), None
    for batch in Batches(data.pool, everything, EVAL_BATCH):
        logits, representations, _ = frozen.see(batch.images)
        seen = Outputs(logits, representations if hidden else None)
        outputs = outputs or room_for(seen, len(everything))
        outputs.logits[batch.indices] = seen.logits
        if hidden:
            outputs.hidden[batch.indices] = seen.hidden
    if outputs is None or not outputs.logits.isfinite().all():
        raise UserError("the teacher's logits are not finite; train it again")
    return outputs


def room_for(seen: Outputs, samples: int) -> Outputs:
    """Room for a teacher's outputs for so many samples, of which some have been seen.

    Raises:
        OutOfMemory: there is none.
    """
    width = seen.logits.shape[1] + (0 if seen.hidden is None else seen.hidden.shape[1])
    needed, free = samples * width * seen.logits.element_size(), free_bytes(seen.logits.device)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"the teacher's outputs for {samples:,} images take about {needed / 2**20:,.0f} MB, "
            f"and {free / 2**20:,.0f} MB are free; give fewer images, or data.views=none"
        )
    return seen.each(lambda part: part.new_empty(samples, part.shape[1]))


def needs_live_teacher(config: Config) -> bool:
    """Whether the teacher must see every batch, because its outputs for the pool are not enough."""
    return config.data.augment.active or config.kd.needs_maps
