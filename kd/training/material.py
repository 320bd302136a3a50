"""What a training needs: accelerator, data and teacher, found before a file is written."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pytorch_lightning.accelerators import CUDAAccelerator, MPSAccelerator
from torch import Tensor, nn

from kd.config.schema import Config
from kd.data.bank import SHIFTS
from kd.data.module import ImageDataModule
from kd.errors import UserError, reason
from kd.models.base import Task
from kd.models.custom import Source
from kd.models.network import build_model
from kd.seeding import isolated
from kd.training.kept_outputs import known_outputs
from kd.training.memory import refuse_too_large
from kd.training.own_code import code_digests
from kd.training.run_folder import hashes
from kd.training.teacher import check_method, find_teacher, load_teacher, needs_live_teacher
from kd.training.unfinished import digest

# How the words of a distillation begin that are about what its student alone trains on.
STUDENTS = ("data.augment", "data.views", "data.train_size", "data.unlabelled", "data.label_noise")
STUDENTS += ("data.omit", "data.centre")


class Accelerator(NamedTuple):
    """Where a run computes: Lightning's word for it, and torch's."""

    name: str
    device: torch.device


class Material(NamedTuple):
    """What a training needs."""

    accelerator: Accelerator
    data: ImageDataModule
    teachers: list[Path]  # their checkpoints: none, one, or those of an ensemble
    teacher: Any = None  # nn.Module, of a distillation
    teacher_split: str | None = None  # the fingerprint of the split that it was trained on
    teacher_outputs: Any = None  # Outputs, of it for all samples of the pool
    # The widths of the hidden representations that the method compares, student's and teacher's;
    # and those that a regressor takes to each other.
    widths: tuple[int, int] | None = None
    regression: tuple[int, int] | None = None

    def digest(self, config: Config, settings: Any) -> str:
        """What stands for all that a training's state depends on.

        Args:
            config: of the training; its method and networks may be of the user's own code.
            settings: that count.
        """
        parts = self.data.fingerprint, hashes(self.teachers)
        return digest([settings, code_digests(config), *parts])


def prepare(config: Config, words: Iterable[str] = ()) -> Material:
    """Find and check what a training needs, the teacher's outputs among it.

    Raises:
        UserError: see :func:`find_material`.
    """
    return with_outputs(find_material(config, words), config)


def with_outputs(material: Material, config: Config) -> Material:
    """Add what a run's teacher, if it has one, makes of the images.

    Raises:
        UserError: the teacher makes no finite numbers of them.
    """
    if material.teacher is None:
        return material
    study, hidden = Path(config.output_dir, config.study), config.kd.needs_hidden
    data = material.data.without_views() if needs_live_teacher(config) else material.data
    outputs = known_outputs(study, material.teachers, material.teacher, data, hidden)
    return material._replace(teacher_outputs=outputs)


def find_material(config: Config, words: Iterable[str] = ()) -> Material:
    """Find and check the accelerator, the data and the teacher.

    Args:
        config: of the run.
        words: of its command, for the message that names a teacher's command.

    Raises:
        UserError: one of them is not to be had, or does not fit.
    """
    accelerator = choose_accelerator(config.trainer.accelerator)
    check_precision(config.trainer.precision, accelerator)
    limit = config.trainer.limit_batches
    data = ImageDataModule(config.data, config.seed, accelerator.device, limit)
    data.prepare_data()
    data.setup()
    refuse_too_large([config], data.task, accelerator.device)
    check_custom(config, data.task)
    refuse_single_image(config, data)
    refuse_wide_shift(config, data.task)
    if config.stage != "distill":
        return Material(accelerator, data, [])
    refuse_two_classes(config, data.task)
    shared = ("data", "output_dir=", "study=", "trainer.max_epochs=", "debug=")
    # Views are the student's matter, and who brings them.
    if not (config.data.augment.active or SHIFTS[config.data.views]):
        shared += ("+experiment=",)
    plain = [word.removeprefix("+") if word.startswith("+debug=") else word for word in words]
    told = [w for w in plain if w.startswith(shared) and not w.startswith(STUDENTS)]
    teachers = find_teacher(config, data.fingerprint, told)
    teacher, split = load_teacher(teachers, data.fingerprint, data.task, config.teacher.model)
    widths = check_method(config, teacher, data.task)
    regresses = config.kd.regresses and widths is not None and widths[0] != widths[1]
    regression = widths if regresses else None
    return Material(accelerator, data, teachers, teacher, split, None, widths, regression)


def check_custom(config: Config, task: Task) -> None:
    """Make sure that a network of other code can be trained and saved.

    Raises:
        UserError: it gives no logits in training mode, has nothing to train, or keeps in its
            ``state_dict`` what is no tensor.
    """
    if not isinstance(config.model, Source):
        return
    said = f"model.target={config.model.target}"
    network = build_model(config.model, config.seed, task)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UserError(f"{said}: has no parameters to train")
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(f"{said}: {name} in its state_dict is no tensor, and cannot be saved")
    with isolated(config.seed), torch.no_grad():
        try:
            logits = network.see(torch.rand(4, *task.shape)).logits
        except Exception as error:  # whatever the user's own code raises
            raise UserError(f"{said}: fails in training mode: {reason(error)}") from error
    if getattr(logits, "shape", None) != (4, task.classes):
        kind = type(logits).__name__
        raise UserError(f"{said}: gives a {kind} in training mode, not logits (4, {task.classes})")
    if logits.min() >= 0 and torch.allclose(logits.sum(1), torch.ones(4), atol=1e-3):
        raise UserError(f"{said}: gives probabilities, not logits; leave out its softmax")


def refuse_single_image(config: Config, data: ImageDataModule) -> None:
    """Make sure that batch norm, where the network has some, never meets an image by itself.

    Raises:
        UserError: a batch of the training has one image.
    """
    batches = data.train_dataloader()
    last = batches.samples % batches.batch_size or batches.batch_size
    if last + batches.added > 1:
        return
    network = build_model(config.model, config.seed, data.task)
    if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules()):
        raise UserError(
            f"data.batch_size={config.data.batch_size}: leaves a batch of one image of "
            f"{len(batches.indices)}, which batch norm cannot take; give another size"
        )


def refuse_wide_shift(config: Config, task: Task) -> None:
    """Make sure that views do not move images out of sight.

    Raises:
        UserError: they are moved by more than half their smaller side.
    """
    shift, (_, height, width) = config.data.augment.shift, task.shape
    if shift > (most := min(height, width) / 2):
        raise UserError(
            f"data.augment.shift={shift:g}: moves images of {height} × {width} out of sight; give "
            f"at most {most:g}"
        )
    if SHIFTS[config.data.views] > most:
        raise UserError(
            f"data.views={config.data.views}: moves images of {height} × {width} out of sight; "
            "leave it out"
        )


def refuse_two_classes(config: Config, task: Task) -> None:
    """Make sure that there are wrong classes to tell from each other.

    Raises:
        UserError: there is only one, and the teacher's logits would stay as they are.
    """
    if (control := config.teacher.control) != "none" and task.classes == 2:
        raise UserError(
            f"teacher.control={control}: is about the wrong classes of an image, and with two "
            "classes there is one; leave it out"
        )


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


def check_precision(wanted: str, accelerator: Accelerator) -> None:
    """Make sure that the accelerator computes in ``trainer.precision``.

    Raises:
        UserError: it does not.
    """
    able = {
        "cpu": lambda: True,
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
    }
    if wanted == "bf16" and not able.get(accelerator.name, lambda: False)():
        raise UserError(
            f"trainer.precision=bf16: this machine's {accelerator.name} does not compute in it; "
            "use trainer.precision=32 or trainer=cpu"
        )
