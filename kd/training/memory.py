"""How much memory students take."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from kd.config.schema import Config
from kd.data.module import EVAL_BATCH
from kd.errors import OutOfMemory
from kd.memory import available_bytes
from kd.models.base import Task
from kd.models.network import build_model, count_parameters, probe

OF_GPU = 0.7  # share of a GPU's free memory that a group may take


def student_bytes(config: Config, task: Task) -> int:
    """About how much memory a student of a group takes, in bytes."""
    network = build_model(config.model, seed=0, task=task)
    # weights, gradient, Adam's two moments, the weights kept, and those of a group's file
    values = 6 * count_parameters(network)
    batch = config.data.batch_size * (1 + config.data.augment.extra)
    batch *= 1 + config.data.unlabelled
    _, hidden, maps = probe(network, task)
    width = 0 if hidden is None else hidden.shape[1]
    each = 4 * width + 8 * task.classes + 4 * sum(found.numel() for found in maps)
    of_step = 0 if config.model.stacks else 2 * batch * kept_values(network, task)
    values += max(of_step, max(batch, EVAL_BATCH) * each)
    if config.stage == "distill":
        values += config.kd.cubes * batch**3
    return 4 * values


def kept_values(network: Any, task: Task) -> int:
    """How many values a network keeps of an image until it has differentiated."""
    found: dict[int, int] = {}
    own = {value.data_ptr() for value in network.parameters()}

    def note(value: Tensor) -> Tensor:
        if value.data_ptr() not in own:
            found[value.data_ptr()] = value.numel()
        return value

    was_training = network.training
    network.eval()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        outputs = network.see(torch.rand(2, *task.shape, generator=torch.Generator()))
    network.train(was_training)
    del outputs  # till here what is kept has addresses of its own
    return sum(found.values()) // 2


def bytes_of_each(configs: Iterable[Config], task: Task) -> list[int]:
    """What :func:`student_bytes` says of students that differ in width and method."""
    known: dict[tuple[str, int], int] = {}
    found = []
    for config in configs:
        key = repr(config.model.shape()), config.kd.cubes if config.stage == "distill" else 0
        if key not in known:
            known[key] = student_bytes(config, task)
        found.append(known[key])
    return found


def free_bytes(device: torch.device) -> int | None:
    """How much memory a device has left; None where nobody knows."""
    if device.type != "cuda":
        return available_bytes()
    free, _ = torch.cuda.mem_get_info(device)
    return free


def room_for_group(config: Config, device: torch.device) -> int:
    """How many bytes the students of a group may take.

    On a GPU that is most of what is free; on a CPU ``trainer.group_mb``, for the cache's sake.
    """
    if device.type != "cuda":
        return config.trainer.group_mb * 2**20
    return int(OF_GPU * (free_bytes(device) or 0))


def refuse_too_large(configs: Sequence[Config], task: Task, device: torch.device) -> None:
    """Make sure that students fit in the memory that is free, before any of it is taken.

    Raises:
        OutOfMemory: they do not.
    """
    needed, free = sum(bytes_of_each(configs, task)), free_bytes(device)
    if free is None or needed <= free:
        return
    who, advice = f"a group of {len(configs)} students", ""
    if len(configs) == 1:
        who, advice = "a student", "; make data.batch_size or model.hidden smaller"
    raise OutOfMemory(
        f"{who} needs about {needed / 2**20:.0f} MB and {free / 2**20:.0f} MB are free{advice}"
    )
