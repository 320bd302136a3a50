"""Whether networks of one architecture train together: where that is faster.

It is measured once, and recorded in the study: the choice changes rounding, so that the same
command must find it again.
"""

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kd.config.schema import Config
from kd.files import lock, replacing
from kd.methods.base import cross_entropy
from kd.models.base import Task
from kd.models.network import build_model
from kd.sweeps.network_stack import plain_stack, why_not
from kd.training.book import make_optimizer
from kd.training.run_folder import LOCKS
from kd.training.tracing import optimizer_step, traced
from kd.training.unfinished import digest

log = logging.getLogger(__name__)

STACKS = "stacks.json"  # in the study's folder
MOST = 5  # students that are measured
ROUNDS = 5
SECONDS = 0.05  # of a round, at least; one step may take longer
BUDGET = 5.0  # seconds, after which no round begins

_refused: dict[str, str | None] = {}  # why networks cannot be stacked, by their settings


class Times(NamedTuple):
    """Milliseconds per student and step."""

    together: float
    alone: float


def why_apart(
    config: Config, task: Task, device: torch.device, study: Path, students: int
) -> str | None:
    """Why runs of these settings, which differ in numbers alone, train apart.

    Args:
        config: of one of them.
        task: what the networks are made for.
        device: where they train.
        study: its folder, where the choice is kept.
        students: how many would train together.

    Returns:
        None where they train together.
    """
    if config.model.stacks:
        return None
    name = f"model={config.model.name}"
    key = repr((config.model, task))
    if key not in _refused:
        _refused[key] = why_not(config.model, task)
    if _refused[key]:
        return f"{name} cannot be stacked: {_refused[key]}"
    if config.trainer.stack == "always":
        return None
    found = times_of(config, task, device, study, students)
    said = f"{found.together:.3g} ms per student and step together, {found.alone:.3g} alone"
    if found.together <= found.alone:
        log.info("%s trains together: %s", name, said)
        return None
    return f"{name} is slower together: {said} (trainer.stack=always stacks it)"


def times_of(config: Config, task: Task, device: torch.device, study: Path, students: int) -> Times:
    """The times that the study has recorded; measured, and recorded, where it has none."""
    what = {
        "model": config.model.shape(),
        "task": task,
        "batch": batch_of(config),
        "optimiser": config.optim.name,
        "device": device.type,
        "torch": torch.__version__,
    }
    key, path = digest(what), study / STACKS
    with lock(study / LOCKS / "stacks.lock"):
        known = recorded(path)
        if key not in known:
            found = measure(config, task, device, min(students, MOST))
            known[key] = {**found._asdict(), "what": what}
            with replacing(path) as beside:
                beside.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
        return Times(known[key]["together"], known[key]["alone"])


def recorded(path: Path) -> dict[str, Any]:
    """What a study's file says; nothing where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content.values():
            if not all(isinstance(entry[name], float) for name in Times._fields):
                raise ValueError("a time is no number")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("%s: cannot be read (%s); measured again", path, error)
        return {}
    return content


def batch_of(config: Config) -> int:
    """How many images a network sees at a step."""
    data = config.data
    return data.batch_size * (1 + data.unlabelled) * (1 + data.augment.extra)


def measure(config: Config, task: Task, device: torch.device, students: int) -> Times:
    """Time steps on the labels: forward, backward, optimiser.

    Args:
        config: of the students.
        task: what the networks are made for.
        device: where they train.
        students: how many.
    """
    runs = [run(config, task, device, students) for run in (_together, _alone)]
    counts, times = [], [list[float](), list[float]()]

    def timed(run: Callable[[], None], count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / count

    for run in runs:
        timed(run, 1)  # warms up
        counts.append(1 + int(SECONDS / timed(run, 1)))
    until = time.perf_counter() + BUDGET
    while not times[0] or (len(times[0]) < ROUNDS and time.perf_counter() < until):
        for run, count, found in zip(runs, counts, times, strict=True):
            found.append(1e3 * timed(run, count) / students)
    return Times(*map(statistics.median, times))


def _batch(config: Config, task: Task, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch_of(config), *task.shape, generator=draw)
    labels = torch.randint(task.classes, (len(images),), generator=draw)
    return images.to(device), labels.to(device)


def _alone(config: Config, task: Task, device: torch.device, students: int) -> Callable[[], None]:
    """A step of each student, one after another."""
    images, labels = _batch(config, task, device)
    networks = [build_model(config.model, seed, task).to(device) for seed in range(students)]
    optimizers = [make_optimizer(config.optim, network.parameters()) for network in networks]

    def run() -> None:
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            cross_entropy(network.see(images).logits, labels).backward()
            optimizer.step()

    return run


def _together(
    config: Config, task: Task, device: torch.device, students: int
) -> Callable[[], None]:
    """A step of all students at once."""
    images, labels = _batch(config, task, device)
    networks = [build_model(config.model, seed, task).to(device) for seed in range(students)]
    stack = plain_stack(networks, task)
    optimizer = make_optimizer(config.optim, stack.parameters())
    flat, own = images.flatten(1).unsqueeze(0), [{"labels": labels.expand(students, -1)}]

    @torch.no_grad()
    def arguments() -> tuple[Any, ...]:
        return stack.arguments(stack.values(), flat, own)

    step = traced(stack.differentiate, arguments())

    @torch.no_grad()
    def run() -> None:
        *found, _, _ = step(*arguments())
        optimizer_step(optimizer, stack.gradients(flat, found))

    return run
