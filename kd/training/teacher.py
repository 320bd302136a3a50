"""What a distillation asks of its teacher: does it suit the method, and what it makes of images."""

import torch
from torch import nn

from kd.config.schema import Config, UserError
from kd.data.module import EVAL_BATCH, Batches, MNISTDataModule
from kd.models.network import IMAGE_SHAPE, Seen, build_model
from kd.training.modules import FrozenTeacher


@torch.no_grad()
def check_method(config: Config, teacher: nn.Module) -> None:
    """Make sure that the method finds in both networks what it compares.

    Raises:
        UserError: feature maps or hidden representations are missing, or do not fit each other.
    """
    kd, blank = config.kd, torch.zeros(1, *IMAGE_SHAPE)
    student = build_model(config.model, config.seed).see(blank)
    taught = FrozenTeacher(teacher).see(blank)
    if kd.needs_maps and not taught.maps:
        raise UserError(
            f"kd.method={kd.method}: compares feature maps, which the teacher has not; give a "
            "single network of model=cnn as teacher.checkpoint"
        )
    if kd.needs_maps and len(student.maps) != len(taught.maps):
        raise UserError(
            f"model.channels={config.model.channels}: kd.method={kd.method} compares block by "
            f"block with the teacher's {len(taught.maps)}"
        )
    if kd.needs_hidden and taught.hidden is None:
        raise UserError(
            f"kd.method={kd.method}: compares hidden representations, which an ensemble has not; "
            "give one file as teacher.checkpoint"
        )
    if kd.needs_same_width and taught.hidden.shape != student.hidden.shape:
        raise UserError(
            f"model.hidden={config.model.hidden}: kd.method={kd.method} compares it unit by unit "
            f"with the teacher's hidden layer of {taught.hidden.shape[1]}"
        )


@torch.no_grad()
def teach(teacher: nn.Module, data: MNISTDataModule) -> Seen:
    """What the frozen teacher makes of the whole pool: once, not once an epoch.

    Raises:
        UserError: it makes no finite numbers of them.
    """
    everything = torch.arange(len(data.pool.labels), device=data.device)
    frozen = FrozenTeacher(teacher).to(data.device)
    batches = Batches(data.pool, everything, EVAL_BATCH)
    logits, hidden, _ = zip(*(frozen.see(images) for images, _, _ in batches), strict=True)
    seen = Seen(torch.cat(logits), None if hidden[0] is None else torch.cat(hidden))
    if not seen.logits.isfinite().all():
        raise UserError("the teacher's logits are not finite; train it again")
    return seen


def watches(config: Config) -> bool:
    """Whether the teacher sees every batch: what it makes of the pool is not enough then."""
    return config.data.augment.active or config.kd.needs_maps


def regressor_width(config: Config, taught: Seen) -> int | None:
    """How wide a regressor makes the student's hidden representation; None where none is needed."""
    if not config.kd.regresses or taught.hidden.shape[1] == config.model.hidden:
        return None
    return taught.hidden.shape[1]
